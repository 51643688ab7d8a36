"""Identities 2 to 8, 10 and 11 of the per-head algebra, float64, on the tiny model with head weights that are not 1.

Nothing here reads the model's intermediate sums back from itself where a plain loop can say what they should be.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from headlens.backbone import LocalStream, VisionPlan
from tests.backbone.models import close

LOCAL = LocalStream(start=1)
TAPS = (1, 2, 3)
L, H = 4, 4


@pytest.fixture
def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {s: 0.5 + torch.rand(L, H, dtype=torch.float64, generator=generator) for s in ("global", "local")}


@pytest.fixture
def plan(weights) -> VisionPlan:
    return VisionPlan(TAPS, LOCAL, weights)


@pytest.fixture
def run(ours, images, plan):
    """Output and a cache of everything, patterns and head results included."""
    return ours.vision.run_with_cache(images, plan, names_filter=lambda _: True)


def folded(tower) -> tuple[Tensor, Tensor]:
    """LayerNorm and projection as one map Ĝ [D, d_e] and one constant β proj [d_e], scale left out."""
    g = tower.ln_final.weight[:, None] * tower.proj
    return g - g.mean(0), tower.ln_final.bias @ tower.proj


def scale(tower, x: Tensor) -> Tensor:
    """The LayerNorm scale of tokens [..., D], [..., 1]."""
    return (x.var(-1, unbiased=False, keepdim=True) + tower.ln_final.eps).sqrt()


def test_2_head_results_and_bias_are_the_attention_output(ours, run):
    _, cache = run
    for layer, block in enumerate(ours.vision.blocks):
        close(cache["result", layer].sum(2) + block.attn.b_O, cache["attn_out", layer])
        if layer >= LOCAL.start:
            results = cache[f"blocks.{layer}.attn.hook_local_result"]
            close(results.sum(2) + block.attn.b_O, cache[f"blocks.{layer}.hook_local_attn_out"])


def test_2_heads_cannot_be_cut_from_the_attention_output(ours, images):
    """After the output projection the heads are mixed: zeroing a head's channels there does not switch it off."""

    def cut(out, hook):
        return torch.cat([torch.zeros_like(out[..., :8]), out[..., 8:]], -1)

    gate = torch.ones(1, L, H, dtype=torch.float64)
    gate[:, 2, 0] = 0
    off = ours.vision(images, gates={"global": gate}).embedding
    assert not torch.allclose(ours.vision(images).embedding, off)
    assert not torch.allclose(
        ours.vision.run_with_hooks(images, fwd_hooks=[("blocks.2.hook_attn_out", cut)]).embedding, off
    )
    by_z = ours.vision.run_with_hooks(
        images, fwd_hooks=[("blocks.2.attn.hook_z", lambda z, hook: cut(z.flatten(2), hook).view_as(z))]
    )
    close(by_z.embedding, off)


def test_3_embedding_and_parts_are_the_residual_stream_in_both_streams(run):
    _, cache = run
    x = cache["hook_embed"].clone()
    y = None
    for layer in range(L):
        close(cache["resid_pre", layer], x)
        if layer == LOCAL.start:
            y = x.clone()
        x = x + cache["attn_out", layer] + cache["mlp_out", layer]
        close(cache["resid_post", layer], x)
        if y is not None:
            y = y + cache[f"blocks.{layer}.hook_local_attn_out"]
            close(cache[f"blocks.{layer}.hook_local_resid_post"], y)


def test_4_direct_effects_are_the_image_embedding_and_the_cosine(ours, run):
    out, cache = run
    tower = ours.vision
    g_hat, constant = folded(tower)
    sigma = scale(tower, cache["resid_post", L - 1][:, 0])
    parts = [cache["hook_embed"][:, 0]]
    for layer, block in enumerate(tower.blocks):
        parts += list(cache["result", layer][:, 0].unbind(1))  # one head each
        parts += [block.attn.b_O.expand_as(parts[0]), cache["mlp_out", layer][:, 0]]
    effects = torch.stack([part @ g_hat / sigma for part in parts])
    close(effects.sum(0) + constant, out.embedding)

    text = torch.nn.functional.normalize(torch.randn(20, dtype=torch.float64), dim=0)
    norm = out.embedding.norm(dim=-1)
    cosine = torch.nn.functional.cosine_similarity(out.embedding, text, dim=-1)
    close(((effects.sum(0) + constant) @ text) / norm, cosine)


def test_5_attention_rows_sum_to_one_and_source_tokens_to_the_head(ours, run, weights):
    _, cache = run
    g_hat, _ = folded(ours.vision)
    direction = g_hat @ torch.randn(20, dtype=torch.float64)
    for layer, block in enumerate(ours.vision.blocks):
        pattern, v = cache["pattern", layer], cache["v", layer]
        close(pattern.sum(-1), torch.ones_like(pattern[..., 0]))
        # u_h = W_O^h Ĝ u: one number for each source token, no D-sized tensor.
        u = torch.einsum("hdm,m->hd", block.attn.W_O, direction)
        token_map = pattern[:, :, 0] * torch.einsum("bthd,hd->bht", v, u)
        weight = weights["global"][layer]
        close(token_map.sum(-1) * weight, torch.einsum("bhm,m->bh", cache["result", layer][:, 0], direction))


def test_6_per_head_maps_and_rest_are_the_tap_margin_map(ours, run):
    out, cache = run
    tower = ours.vision
    g_hat, constant = folded(tower)
    margin = torch.randn(20, dtype=torch.float64)
    for tap in TAPS:
        y = cache[f"blocks.{tap}.hook_local_resid_post"]
        sigma = scale(tower, y)[..., 0]
        rest = cache["resid_pre", LOCAL.start] @ (g_hat @ margin)
        heads = []
        for layer in range(LOCAL.start, tap + 1):
            attn = tower.blocks[layer].attn
            u = torch.einsum("hdm,me,e->hd", attn.W_O, g_hat, margin)
            heads.append(torch.einsum("bthd,hd->bht", cache[f"blocks.{layer}.attn.hook_local_z"], u))
            rest = rest + attn.b_O @ (g_hat @ margin)
        maps = torch.cat(heads, 1) / sigma[:, None]  # [B, heads, T]
        total = maps.sum(1) + rest / sigma + constant @ margin
        close(total[:, 1:], out.patches[tap] @ margin)
        normed = out.patches[tap] / out.patches[tap].norm(dim=-1, keepdim=True)
        close(total[:, 1:] / out.patches[tap].norm(dim=-1), normed @ margin)


@pytest.mark.parametrize("layer, head", [(0, 0), (1, 3), (2, 1), (3, 2)])
def test_7_five_ways_to_switch_a_global_head_off(ours, images, plan, run, layer, head):
    tower = ours.vision

    def zero(z, hook):
        z = z.clone()
        z[:, :, head] = 0
        return z

    by_hook = tower.run_with_hooks(images, plan, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zero)])
    gate = torch.ones(1, L, H, dtype=torch.float64)
    gate[:, layer, head] = 0
    by_gate = tower(images, plan, gates={"global": gate})
    none = {**plan.head_weights, "global": plan.head_weights["global"] * gate[0]}
    by_weight = tower(images, replace(plan, head_weights=none))
    by_restart = restart(tower, run[1], layer, head, plan)
    by_wavefront = wavefront(tower, run[1], plan.head_weights["global"])[layer][head]

    assert not torch.allclose(by_hook.embedding, run[0].embedding), "switching a head off must do something"
    for other in (by_gate, by_weight, by_restart):
        close(other.embedding, by_hook.embedding)
        for tap in other.patches:
            close(other.patches[tap], by_hook.patches[tap])
    close(by_wavefront, by_hook.embedding)


def restart(tower, cache, layer, head, plan):
    """Leave the head out of its block's sum, go on from the residual stream after that block."""
    block, above = tower.blocks[layer], layer + 1
    mid = cache["resid_mid", layer] - cache["z", layer][:, :, head] @ block.attn.W_O[head]
    y = cache[f"blocks.{layer}.hook_local_resid_post"] if LOCAL.start < above else None
    return tower(mid + block.mlp(block.ln2(mid)), plan, start_at=above, local_resid=y)


def wavefront(tower, cache, weights) -> list[Tensor]:
    """All heads of all layers in one walk over the blocks; embeddings [layer][head] of [B, d_e]."""
    state = cache["hook_embed"][:0]  # grows by H variants a block
    for layer, block in enumerate(tower.blocks):
        q, k, v = block.attn.project(block.ln1(state))
        state = state + block.attn(q, k, v, weight=weights[None, layer])[0]
        removed = torch.einsum("bthd,hdm->hbtm", cache["z", layer], block.attn.W_O)
        state = torch.cat([state, (cache["resid_mid", layer] - removed).flatten(0, 1)])
        state = state + block.mlp(block.ln2(state))
    return tower.readout(state[:, 0]).unflatten(0, (L, H, -1))


@pytest.mark.parametrize("layer, head", [(1, 0), (2, 3), (3, 1)])
def test_7_a_local_head_costs_a_readout(ours, images, plan, run, layer, head):
    """It feeds nothing but the taps above it: subtracting it there is the exact ablation."""
    tower, (_, cache) = ours.vision, run
    gate = torch.ones(1, L, H, dtype=torch.float64)
    gate[:, layer, head] = 0
    clean = tower(images, plan)
    ablated = tower(images, plan, gates={"local": gate})
    assert torch.equal(ablated.embedding, clean.embedding)
    contribution = cache[f"blocks.{layer}.attn.hook_local_z"][:, :, head] @ tower.blocks[layer].attn.W_O[head]
    for tap in TAPS:
        y = cache[f"blocks.{tap}.hook_local_resid_post"]
        y = y - contribution if layer <= tap else y
        close(ablated.patches[tap], tower.readout(y[:, 1:]))


def test_8_gate_gradient_is_gradient_times_activation_and_a_finite_difference(ours, images, plan):
    tower = ours.vision
    gates = {s: torch.ones(3, L, H, dtype=torch.float64, requires_grad=True) for s in ("global", "local")}
    direction = torch.randn(20, dtype=torch.float64)

    def score(gates):
        out = tower(images, plan, gates=gates)
        return out.embedding @ direction + sum(out.patches[t].tanh().sum((1, 2)) for t in TAPS)

    seen = {}
    with tower.hooks([(lambda name: name.endswith("_z"), lambda z, hook: seen.update({hook.name: z}))]):
        total = score(gates).sum()
    gradients = dict(zip(gates, torch.autograd.grad(total, gates.values(), retain_graph=True), strict=True))
    by_name = dict(zip(seen, torch.autograd.grad(total, seen.values()), strict=True))
    for stream, prefix, start in (("global", "hook_z", 0), ("local", "hook_local_z", LOCAL.start)):
        for layer in range(start, L):
            name = f"blocks.{layer}.attn.{prefix}"
            close(gradients[stream][:, layer], (by_name[name] * seen[name]).sum((1, 3)), 1e-9)
    assert not gradients["local"][:, : LOCAL.start].any()

    step = 1e-6
    for stream, layer, head in (("global", 0, 1), ("global", 3, 2), ("local", 2, 0)):
        plus, minus = ({s: g.detach().clone() for s, g in gates.items()} for _ in range(2))
        plus[stream][:, layer, head] += step
        minus[stream][:, layer, head] -= step
        difference = (score(plus) - score(minus)) / (2 * step)
        close(gradients[stream][:, layer, head], difference, 1e-7)
    assert all(parameter.grad is None for parameter in tower.parameters())


def test_10_ones_are_plain_clip(ours, theirs, images):
    ones = {s: torch.ones(L, H, dtype=torch.float64) for s in ("global", "local")}
    gates = {s: torch.ones(3, L, H, dtype=torch.float64) for s in ones}
    weighted = ours.vision(images, VisionPlan(TAPS, LOCAL, ones), gates=gates)
    plain = ours.vision(images, VisionPlan(TAPS, LOCAL))
    assert torch.equal(weighted.embedding, plain.embedding)
    assert all(torch.equal(weighted.patches[t], plain.patches[t]) for t in TAPS)
    close(plain.embedding, theirs.encode_image(images))


def test_10_no_heads_leave_the_bias(ours, images):
    nothing = VisionPlan(head_weights={"global": torch.zeros(L, H, dtype=torch.float64)})
    _, cache = ours.vision.run_with_cache(images, nothing, names_filter=lambda n: "attn_out" in n)
    for layer, block in enumerate(ours.vision.blocks):
        close(cache["attn_out", layer], block.attn.b_O.expand_as(cache["attn_out", layer]))


def test_11_one_image_is_as_good_as_many(ours, images, plan):
    together = ours.vision(images, plan)
    for i in range(len(images)):
        alone = ours.vision(images[i : i + 1], plan)
        close(alone.embedding, together.embedding[i : i + 1])
        for tap in TAPS:
            close(alone.patches[tap], together.patches[tap][i : i + 1])


def test_gates_are_per_image(ours, images):
    gates = torch.ones(3, L, H, dtype=torch.float64)
    gates[1, 2, 3] = 0
    gated, plain = ours.vision(images, gates={"global": gates}).embedding, ours.vision(images).embedding
    close(gated[[0, 2]], plain[[0, 2]])
    assert not torch.allclose(gated[1], plain[1])


@pytest.mark.parametrize("start", [0, 1, 2, 3])
@pytest.mark.parametrize("local", [None, LOCAL, LocalStream(start=2, mode="replace", attention=("kk",), mlp=True)])
def test_restart_from_any_block(ours, images, weights, start, local):
    tower, plan = ours.vision, VisionPlan(TAPS, local, {"global": weights["global"]})
    whole, cache = tower.run_with_cache(images, plan)
    running = local is not None and local.mode == "beside" and local.start < start
    y = cache[f"blocks.{start - 1}.hook_local_resid_post"] if running else None
    again = tower(cache["resid_pre", start], plan, start_at=start, local_resid=y)
    close(again.embedding, whole.embedding)
    assert set(again.patches) == {tap for tap in TAPS if tap >= start}
    for tap, patches in again.patches.items():
        close(patches, whole.patches[tap])
