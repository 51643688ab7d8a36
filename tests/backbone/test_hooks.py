"""The hook points: what they are called, when they fire, and that they leave nothing behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformer_lens import ActivationCache
from transformer_lens.hook_points import HookPoint

from headlens.backbone import LocalStream, VisionPlan
from headlens.backbone.blocks import HookedLayerNorm
from headlens.backbone.hooks import hooked
from headlens.errors import HeadlensError, ShapeError
from tests.backbone.models import close

PLAN = VisionPlan(taps=(3,), local=LocalStream(start=2))
EVERYWHERE = {
    *(f"hook_resid_{place}" for place in ("pre", "mid", "post")),
    *("hook_attn_out", "hook_mlp_out"),
    *(f"attn.hook_{what}" for what in ("q", "k", "v", "z", "pattern", "result")),
}
BESIDE = {"hook_local_attn_out", "hook_local_resid_post"} | {
    f"attn.hook_local_{what}" for what in ("z", "pattern", "result")
}


def listeners(tower: nn.Module) -> int:
    return sum(
        len(point.fwd_hooks) + len(point.bwd_hooks) + len(point._forward_hooks) + len(point._backward_hooks)
        for point in tower.modules()
        if isinstance(point, HookPoint)
    )


def test_the_names_of_the_design(ours, images):
    _, cache = ours.vision.run_with_cache(images, PLAN, names_filter=lambda _: True)
    expected = {"hook_embed", "ln_final.hook_scale"}
    for layer in range(4):
        expected |= {f"blocks.{layer}.{name}" for name in EVERYWHERE | (BESIDE if layer >= 2 else set())}
    assert set(cache.keys()) == expected


def test_shapes(ours, images):
    _, cache = ours.vision.run_with_cache(images, PLAN, names_filter=lambda _: True)
    assert isinstance(cache, ActivationCache)
    for name in ("q", "k", "v", "z"):
        assert cache[name, 3].shape == (3, 17, 4, 8)
    assert cache["blocks.3.attn.hook_local_z"].shape == (3, 17, 4, 8)
    assert cache["pattern", 3].shape == cache["blocks.3.attn.hook_local_pattern"].shape == (3, 4, 17, 17)
    assert cache["result", 3].shape == (3, 17, 4, 32)
    assert cache["resid_pre", 0].shape == cache["hook_embed"].shape == (3, 17, 32)
    assert cache["ln_final.hook_scale"].shape == (3, 17, 1)


def test_patterns_and_results_exist_only_when_asked_for(ours, images):
    _, cache = ours.vision.run_with_cache(images, PLAN)
    assert not any(name.endswith(("pattern", "result")) for name in cache)
    assert "blocks.3.attn.hook_local_z" in cache
    _, cache = ours.vision.run_with_cache(images, names_filter="blocks.1.attn.hook_pattern")
    assert set(cache.keys()) == {"blocks.1.attn.hook_pattern"}


@pytest.mark.parametrize("filter_of", [list, tuple, set])
def test_names_filter_takes_any_collection(ours, images, filter_of):
    names = ["blocks.0.attn.hook_z", "hook_embed"]
    _, cache = ours.vision.run_with_cache(images, names_filter=filter_of(names))
    assert set(cache.keys()) == set(names)


def test_transformer_lens_decompositions_work(ours, images):
    """Its cache finds blocks, configuration and weights where it expects them."""
    out, cache = ours.vision.run_with_cache(images)
    stack, labels = cache.get_full_resid_decomposition(expand_neurons=False, return_labels=True)
    assert "L3H2" in labels
    close(stack.sum(0), cache["resid_post", 3])
    close(cache.decompose_resid().sum(0), cache["resid_post", 3])
    cache.compute_head_results()
    assert cache.stack_head_results().shape == (16, 3, 17, 32)
    # Its own LayerNorm treatment: centred, divided by the cached scale; weight and bias are left to the caller.
    scaled = cache.apply_ln_to_stack(cache.decompose_resid()).sum(0)[:, 0]
    close((scaled * ours.vision.ln_final.weight + ours.vision.ln_final.bias) @ ours.vision.proj, out.embedding)


def test_a_hook_may_replace_what_it_sees(ours, images):
    tower, plain = ours.vision, ours.vision(images)

    def even(pattern, hook):
        return torch.full_like(pattern, 1 / pattern.shape[-1])

    out = tower.run_with_hooks(images, fwd_hooks=[("blocks.1.attn.hook_pattern", even)])
    assert not torch.allclose(out.embedding, plain.embedding)
    frozen = tower.run_with_hooks(images, fwd_hooks=[("ln_final.hook_scale", lambda s, hook: 2 * s)])
    constant = ours.vision.ln_final.bias @ ours.vision.proj
    close(frozen.embedding, constant + (plain.embedding - constant) / 2)
    dropped = tower.run_with_hooks(images, fwd_hooks=[("blocks.3.attn.hook_result", lambda r, hook: 0 * r)])
    none = torch.ones(1, 4, 4, dtype=torch.float64)
    none[:, 3] = 0
    close(dropped.embedding, tower(images, gates={"global": none}).embedding)
    local_pattern = tower.run_with_hooks(images, PLAN, fwd_hooks=[("blocks.2.attn.hook_local_pattern", even)])
    assert not torch.allclose(local_pattern.patches[3], tower(images, PLAN).patches[3])
    close(local_pattern.embedding, plain.embedding)


def test_a_hook_where_the_local_stream_begins_changes_both_streams(ours, images):
    doubled = ours.vision.run_with_hooks(images, PLAN, fwd_hooks=[("blocks.2.hook_resid_pre", lambda x, hook: 2 * x)])
    x = ours.vision.run_with_cache(images, names_filter="blocks.2.hook_resid_pre")[1]["resid_pre", 2]
    again = ours.vision(2 * x, PLAN, start_at=2)
    close(doubled.embedding, again.embedding)
    close(doubled.patches[3], again.patches[3])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_looking_at_the_scale_changes_nothing_in_half_precision(dtype):
    norm = HookedLayerNorm(64, 1e-5).to(dtype)
    x = torch.randn(2, 5, 64).to(dtype)
    x[..., 3] = 400
    plain = norm(x)
    norm.hook_scale.add_hook(lambda scale, hook: None)
    close(norm(x).float(), plain.float(), 0.01)


def test_captured_heads_cost_their_own_size_and_no_more(ours, images):
    _, cache = ours.vision.run_with_cache(images, names_filter=lambda name: name.endswith("hook_z"))
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in cache.values()}
    assert sum(held.values()) == 4 * 3 * 17 * 32 * 8  # layers, images, tokens, channels, bytes
    assert ours.vision(images).cls.untyped_storage().nbytes() == 3 * 32 * 8


def test_plain_torch_hooks_are_seen_too(ours, images):
    """Captum attaches its own, to modules."""
    point, seen = ours.vision.blocks[2].attn.hook_pattern, []
    handle = point.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    ours.vision(images)
    handle.remove()
    ours.vision(images)
    assert seen == [(3, 4, 17, 17)]


def test_nothing_is_left_behind(ours, images):
    tower = ours.vision

    def fails(tensor, hook):
        raise RuntimeError("on purpose")

    before = tower(images).embedding
    tower.run_with_cache(images, names_filter=lambda _: True)
    for attempt in (
        lambda: tower.run_with_hooks(images, fwd_hooks=[("blocks.2.attn.hook_z", fails)]),
        lambda: tower.run_with_cache(images[:, :2]),
        lambda: tower.run_with_cache(images, names_filter="blocks.9.attn.hook_z"),
    ):
        with pytest.raises((RuntimeError, HeadlensError)):
            attempt()
        assert listeners(tower) == 0
    assert torch.equal(tower(images).embedding, before)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in ours.parameters())


def test_hooks_of_an_outer_context_survive_an_inner_run(ours, images):
    tower, seen = ours.vision, []
    with tower.hooks([("hook_embed", lambda x, hook: seen.append(1))]):
        tower.run_with_cache(images)
        tower(images)
    assert len(seen) == 2
    assert listeners(tower) == 0


def test_the_fast_path_calls_no_hook(ours, images):
    seen = []
    with ours.vision.hooks([(lambda _: True, lambda x, hook: seen.append(hook.name))]):
        ours.vision(images, PLAN, hooked=False)
    assert seen == []


def test_what_can_never_fire_is_said(ours, images):
    hook = ("hook_embed", lambda x, hook: None)
    with pytest.raises(HeadlensError, match="hooked=False calls no hook point"):
        ours.vision.run_with_cache(images, hooked=False)
    with pytest.raises(HeadlensError, match="hooked=False calls no hook point"):
        ours.vision.run_with_hooks(images, fwd_hooks=[hook], hooked=False)
    with pytest.raises(HeadlensError, match=r"blocks\.1\.attn\.hook_local_z was not reached"):
        ours.vision.run_with_cache(images, names_filter="blocks.1.attn.hook_local_z", plan=PLAN)
    assert listeners(ours.vision) == 0


@pytest.mark.parametrize("call", ["cache", "hooks"])
def test_a_wrong_name_is_named_with_its_neighbours(ours, images, call):
    with pytest.raises(HeadlensError, match=r"blocks\.30\.attn\.hook_z.*near it.*layers are 0\.\.3"):
        if call == "cache":
            ours.vision.run_with_cache(images, names_filter=["blocks.30.attn.hook_z"])
        else:
            ours.vision.run_with_hooks(images, fwd_hooks=[("blocks.30.attn.hook_z", lambda x, hook: None)])


def test_the_text_tower_has_the_same_hooks(ours, tokens):
    out, cache = ours.text.run_with_cache(tokens, names_filter=lambda _: True)
    close(out, ours.text(tokens))
    pattern = cache["pattern", 2]
    assert pattern.shape == (3, 3, 16, 16)
    close(pattern.sum(-1), torch.ones_like(pattern[..., 0]))
    assert not pattern.triu(1).any(), "text attention looks back only"
    close(cache["result", 1].sum(2) + ours.text.blocks[1].attn.b_O, cache["attn_out", 1])
    close(cache.decompose_resid().sum(0), cache["resid_post", 3])


NEAR = r"blocks\.3\.hook_resid_pst'; near it: blocks\.3\.hook_resid_post"
HABITS = {
    "return_cache_object": (lambda t, x: t.run_with_cache(x, return_cache_object=False), "returns an ActivationCache"),
    "stop_at_layer": (lambda t, x: t.run_with_cache(x, stop_at_layer=2), "names_filter='blocks.3.hook_resid_pre'"),
    "stop_at_layer, called": (lambda t, x: t(x, stop_at_layer=2), "all blocks are run"),
    "stop_at_layer, hooks": (lambda t, x: t.run_with_hooks(x, stop_at_layer=2), "all blocks are run"),
    "start_at_layer": (lambda t, x: t(x, start_at_layer=2), "start_at=3 resumes"),
    "incl_bwd": (lambda t, x: t.run_with_cache(x, incl_bwd=True), "an output is not a scalar"),
    "return_type": (lambda t, x: t(x, return_type="logits"), "always the same"),
    "an option misspelt": (lambda t, x: t(x, hookd=False), "no option 'hookd': near it: hooked"),
    "an option of nothing": (lambda t, x: t(x, zzz=1), "no option 'zzz': there are "),
    "add_hook": (lambda t, x: t.add_hook("blocks.3.hook_resid_pst", print), NEAR),
    "add_perma_hook": (lambda t, x: t.add_perma_hook("blocks.3.hook_resid_pst", print), NEAR),
    "add_caching_hooks": (lambda t, x: t.add_caching_hooks("blocks.3.hook_resid_pst"), NEAR),
    "get_caching_hooks": (lambda t, x: t.get_caching_hooks(["blocks.3.hook_resid_pst"]), NEAR),
    "a module": (lambda t, x: t.add_hook("blocks.3", print), r"'blocks\.3'; near it: blocks\.3\.attn\.hook_q"),
    "a filter of nothing": (
        lambda t, x: t.run_with_cache(x, names_filter=lambda n: "mlp.hook_post" in n),
        "selects no hook",
    ),
    "hooks of nothing": (lambda t, x: t.hooks([(lambda n: False, print)]), "selects no hook point"),
    "a filter that is none": (lambda t, x: t.run_with_cache(x, names_filter=3), "3 names no hook point"),
    "hooks that are no pairs": (lambda t, x: t.hooks(["hook_embed"]), "hooks are pairs of a name and a function"),
    "remove_batch_dim": (lambda t, x: t.run_with_cache(x, remove_batch_dim=True), "a batch of one, and this one has 3"),
    "the cache, misspelt": (
        lambda t, x: t.run_with_cache(x)[1]["resid_pst", 3],
        r"similar names: blocks\.3\.hook_resid_post",
    ),
    "the cache, patterns": (
        lambda t, x: t.run_with_cache(x)[1]["pattern", 3],
        "stored only if names_filter",
    ),
    "the cache, left out": (
        lambda t, x: t.run_with_cache(x, names_filter="hook_embed")[1]["z", 3],
        "names_filter excluded it",
    ),
}


@pytest.mark.parametrize("habit", list(HABITS))
@pytest.mark.parametrize("tower", ["vision", "text"])
def test_habits_of_transformer_lens_get_one_line_that_says_what_there_is(ours, images, tokens, tower, habit):
    own, (ask, message) = getattr(ours, tower), HABITS[habit]
    with pytest.raises(ShapeError, match=message) as error:
        ask(own, images if tower == "vision" else tokens)
    assert "\n" not in str(error.value)
    assert not hooked(own)


def test_what_a_cache_lacks_is_a_key_error_too(ours, images):
    """TransformerLens and its users catch those."""
    _, cache = ours.vision.run_with_cache(images)
    with pytest.raises(KeyError):
        cache["resid_pst", 3]


def test_options_that_prompts_do_not_have(ours, tokens):
    with pytest.raises(ShapeError, match="no option 'contxt': near it: context"):
        ours.encode_text(tokens, contxt={})
