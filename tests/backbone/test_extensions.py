"""What methods add to the towers without editing them: adapters and extra tokens; left empty they change nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from headlens.backbone import LocalStream, TextExtensions, VisionPlan
from headlens.errors import ShapeError
from tests.backbone.models import close

LOCAL = LocalStream(start=1)
TAPS = (1, 3)
PLAN = VisionPlan(TAPS, LOCAL)


def same(a, b) -> None:
    assert torch.equal(a.embedding, b.embedding)
    assert all(torch.equal(a.patches[tap], b.patches[tap]) for tap in TAPS)


def adapter(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(width, width, bias=False, dtype=torch.float64)


def test_empty_extensions_change_nothing(ours, theirs, images, tokens):
    plain = ours.vision(images, PLAN)
    close(plain.embedding, theirs.encode_image(images))
    none = torch.zeros(0, 32, dtype=torch.float64)
    empty = replace(PLAN, adapters={"global": {}, "local": {}}, tokens={0: none, 2: none})
    for hooked in (True, False):
        out = ours.vision(images, empty, hooked=hooked)
        close(out.embedding, plain.embedding)
        assert all(torch.allclose(out.patches[tap], plain.patches[tap], atol=1e-12) for tap in TAPS)
    for text in (TextExtensions(), TextExtensions({}, None), TextExtensions({1: lambda x: x})):
        close(ours.text(tokens, extensions=text), theirs.encode_text(tokens))


@pytest.mark.parametrize("hooked", [True, False])
@pytest.mark.parametrize("block", [0, 2, 3])
def test_residual_adapters_after_vision_blocks(ours, images, block, hooked):
    """AA-CLIP's: mixed into the stream after a block, so the next block reads what the adapter made."""
    tower, added = ours.vision, adapter(32)

    def mix(x):
        return 0.9 * x + 0.1 * added(x) + x.mean(1, keepdim=True)  # tokens mix, so none may be left out

    def by_hook(x, hook):
        return mix(x)

    expected = tower.run_with_hooks(images, PLAN, fwd_hooks=[(f"blocks.{block}.hook_resid_post", by_hook)])
    out = tower(images, replace(PLAN, adapters={"global": {block: mix}}), hooked=hooked)
    close(out.embedding, expected.embedding)
    assert not torch.allclose(out.embedding, tower(images).embedding)
    for tap in TAPS:
        close(out.patches[tap], expected.patches[tap])

    unchanged = replace(PLAN, adapters={"global": {block: lambda x: x}, "local": {2: lambda y: y}})
    same(tower(images, unchanged), tower(images, PLAN))


def test_residual_adapters_of_the_local_stream(ours, images):
    tower = ours.vision
    doubled = tower(images, replace(PLAN, adapters={"local": {3: lambda y: 2 * y}}))
    hook = ("blocks.3.hook_local_resid_post", lambda y, hook: 2 * y)
    expected = tower.run_with_hooks(images, PLAN, fwd_hooks=[hook])
    same(doubled, expected)
    assert torch.equal(doubled.embedding, tower(images).embedding)


@pytest.mark.parametrize("hooked", [True, False])
def test_extra_vision_tokens_replaced_per_block(ours, images, hooked):
    """AdaCLIP's visual prompts: appended before a block, overwritten before the next, kept behind the last."""
    tower = ours.vision
    first, second = torch.randn(2, 32, dtype=torch.float64), torch.randn(3, 3, 32, dtype=torch.float64)
    x = tower.embed(images)
    y = None
    for number, block in enumerate(tower.blocks):
        if number == 1:
            x = torch.cat([x[:, :17], first.expand(3, -1, -1)], 1)
            y = x
        if number == 2:
            x, y = torch.cat([x[:, :17], second], 1), torch.cat([y[:, :17], second], 1)
        x, y = block(x, y, local=LOCAL if number >= 1 else None)
    out = tower(images, replace(PLAN, tokens={1: first, 2: second}), hooked=hooked)
    close(out.embedding, tower.readout(x[:, 0]))
    close(out.patches[3], tower.readout(y[:, 1:17]))
    assert out.patches[1].shape == out.patches[3].shape == (3, 16, 20)
    assert not torch.allclose(out.embedding, tower(images).embedding)


def test_extra_tokens_survive_a_restart(ours, images):
    tower = ours.vision
    plan = VisionPlan(TAPS, tokens={1: torch.randn(2, 32, dtype=torch.float64)})
    whole, cache = tower.run_with_cache(images, plan)
    for start in (0, 1, 2, 3):  # before they enter, where they enter, and after
        again = tower(cache["resid_pre", start], plan, start_at=start)
        close(again.embedding, whole.embedding)
        close(again.patches[3], whole.patches[3])

    tokens = {1: torch.randn(2, 32, dtype=torch.float64), 2: torch.randn(3, 32, dtype=torch.float64)}
    plan = VisionPlan(TAPS, LocalStream(0, mlp=True), tokens=tokens)
    whole, cache = tower.run_with_cache(images, plan)
    for start in (1, 2, 3):
        y = cache[f"blocks.{start - 1}.hook_local_resid_post"]
        again = tower(cache["resid_pre", start], plan, start_at=start, local_resid=y)
        close(again.embedding, whole.embedding)
        close(again.patches[3], whole.patches[3])


@pytest.mark.parametrize("hooked", [True, False])
def test_taps_are_raw_and_patches_are_read_out(ours, images, hooked):
    """APRIL-GAN and AA-CLIP read raw patches by maps of their own."""
    tower = ours.vision
    for local, name in ((LOCAL, "hook_local_resid_post"), (None, "hook_resid_post")):
        plan = VisionPlan(TAPS, local)
        out = tower(images, plan, hooked=hooked)
        _, cache = tower.run_with_cache(images, plan)
        assert set(out.tapped) == set(out.patches) == set(TAPS)
        for tap in TAPS:
            close(out.tapped[tap], cache[f"blocks.{tap}.{name}"][:, 1:])
            close(out.patches[tap], nn.LayerNorm.forward(tower.ln_final, out.tapped[tap]) @ tower.proj)
        close(out.cls, cache["resid_post", 3][:, 0])


@pytest.mark.parametrize("mode", ["beside", "replace"])
@pytest.mark.parametrize("hooked", [True, False])
def test_another_attention_matrix_in_the_local_stream(ours, images, mode, hooked):
    """Crane+ reads patches through another network's similarities: any function of q, k, v, or of neither."""
    tower = ours.vision

    def values(q, k, v):
        return (torch.einsum("bqhd,bkhd->bhqk", v, v) * v.shape[-1] ** -0.5).softmax(-1)

    given = tower(images, VisionPlan(TAPS, LocalStream(1, values, mode)), hooked=hooked)
    built_in = tower(images, VisionPlan(TAPS, LocalStream(1, ("vv",), mode)), hooked=hooked)
    for tap in TAPS:
        close(given.patches[tap], built_in.patches[tap])
    close(given.embedding, built_in.embedding)

    local = LocalStream(1, lambda q, k, v: torch.eye(17).to(v).expand(3, 4, 17, 17), mode)
    identity = tower(images, VisionPlan(local=local))
    assert torch.equal(identity.embedding, ours.vision(images).embedding) == (mode == "beside")


def test_a_replaced_text_projection_and_text_adapters(ours, tokens):
    """AA-CLIP's text side."""
    tower, head, added = ours.text, nn.Linear(24, 20, dtype=torch.float64), adapter(24)
    _, cache = tower.run_with_cache(tokens)
    ends = cache["resid_post", 3][torch.arange(3), tokens.argmax(1)]
    replaced = tower(tokens, extensions=TextExtensions(projection=head))
    close(replaced, head(nn.LayerNorm.forward(tower.ln_final, ends)))
    close(tower(tokens, extensions=TextExtensions(projection=lambda e: e @ tower.proj)), tower(tokens))

    adapted = tower(tokens, extensions=TextExtensions(adapters={1: lambda x: x + added(x)}))
    by_hook = tower.run_with_hooks(tokens, fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook: x + added(x))])
    close(adapted, by_hook)
    assert not torch.allclose(adapted, tower(tokens))


def test_gradients_reach_what_is_learned_and_nothing_else(ours, images):
    added, projection = adapter(32), nn.Linear(32, 5, dtype=torch.float64)
    tokens = nn.Parameter(torch.randn(2, 32, dtype=torch.float64))
    plan = replace(PLAN, adapters={"global": {0: added}}, tokens={1: tokens})
    out = ours.vision(images, plan, hooked=False)
    (out.embedding.sum() + projection(out.tapped[3]).square().sum()).backward()
    for learned in (added.weight, tokens, projection.weight):
        assert learned.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in ours.parameters())


def test_an_attention_function_of_another_shape_is_named(ours, images):
    local = LocalStream(1, lambda q, k, v: (v @ v.transpose(-1, -2)).softmax(-1))
    with pytest.raises(ShapeError, match=r"made \(3, 17, 4, 4\).*expected \[B, H, T, T\] = \(3, 4, 17, 17\)"):
        ours.vision(images, VisionPlan(local=local))


@pytest.mark.parametrize(
    "plan, message",
    [
        (VisionPlan(adapters={"globl": {}}), "stream 'globl' does not exist"),
        (VisionPlan(adapters={"global": {4: nn.Identity()}}), "global adapters: block 4"),
        (VisionPlan(adapters={"local": {2: nn.Identity()}}), "there is no local stream"),
        (VisionPlan(adapters={"global": {2: lambda x: x[:, 1:]}}), r"made \(3, 16, 32\) of a residual stream"),
        (VisionPlan(tokens={7: torch.ones(2, 32)}), "extra tokens: block 7"),
        (VisionPlan(tokens={0: torch.ones(2, 4, 32)}), r"\(2, 4, 32\); expected \[n, 32\] or \[3, n, 32\]"),
        (VisionPlan(tokens={0: torch.ones(2, 31)}), r"extra tokens have shape \(2, 31\)"),
    ],
)
def test_additions_that_do_not_fit_are_named(ours, images, plan, message):
    with pytest.raises(ShapeError, match=message):
        ours.vision(images, plan)
    with pytest.raises(ShapeError, match="text adapters: block 9"):
        ours.text(torch.tensor([[1, 63]]), extensions=TextExtensions(adapters={9: nn.Identity()}))
