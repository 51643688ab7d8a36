"""The local stream, head weights and gates, against plain loops; and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from headlens.backbone import LocalStream, VisionPlan
from headlens.backbone.blocks import Attention
from headlens.errors import ShapeError
from tests.backbone.models import close

VARIANTS = [("vv",), ("qq",), ("kk",), ("qk",), ("qq", "kk", "vv"), ("qq", "vv")]


def attend(block, x: Tensor, pairs, weight: Tensor) -> Tensor:
    """What the heads write, head by head and matrix by matrix, from the weights in TransformerLens's layout."""
    attn, normed, total = block.attn, block.ln1(x), block.attn.b_O.expand_as(x).clone()
    bias = attn.qkv.bias.view(3, attn.heads, attn.d_head)
    for head in range(attn.heads):
        q, k, v = (normed @ matrix[head] + bias[i, head] for i, matrix in enumerate((attn.W_Q, attn.W_K, attn.W_V)))
        of = {"q": q, "k": k, "v": v}
        for a, b in pairs:
            pattern = (of[a] @ of[b].transpose(1, 2) / attn.d_head**0.5).softmax(-1)
            total += weight[head] * (pattern @ v) @ attn.W_O[head]
    return total


@pytest.fixture
def w() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {s: 2 * torch.rand(4, 4, dtype=torch.float64, generator=generator) for s in ("global", "local")}


@pytest.mark.parametrize("pairs", VARIANTS)
@pytest.mark.parametrize("mlp", [False, True])
def test_beside(ours, images, w, pairs, mlp):
    tower, start = ours.vision, 1
    x, y, expected = tower.embed(images), None, {}
    for layer, block in enumerate(tower.blocks):
        if layer == start:
            y = x
        if layer >= start:
            y = y + attend(block, x, pairs, w["local"][layer])
            y = y + block.mlp(block.ln2(y)) if mlp else y
        x = x + attend(block, x, ("qk",), w["global"][layer])
        x = x + block.mlp(block.ln2(x))
        expected[layer] = tower.readout((x if layer < start else y)[:, 1:])
    local = LocalStream(start=start, attention=pairs, mlp=mlp)
    out = tower(images, VisionPlan(range(4), local, w))
    close(out.embedding, tower.readout(x[:, 0]))
    for layer in range(4):
        close(out.patches[layer], expected[layer])


@pytest.mark.parametrize("pairs", VARIANTS)
@pytest.mark.parametrize("mlp", [False, True])
def test_replace(ours, images, w, pairs, mlp):
    tower, start = ours.vision, 2
    x, expected = tower.embed(images), {}
    for layer, block in enumerate(tower.blocks):
        x = x + attend(block, x, pairs if layer >= start else ("qk",), w["global"][layer])
        x = x + block.mlp(block.ln2(x)) if mlp or layer < start else x
        expected[layer] = tower.readout(x[:, 1:])
    local = LocalStream(start=start, attention=pairs, mode="replace", mlp=mlp)
    out = tower(images, VisionPlan(range(4), local, {"global": w["global"]}))
    close(out.embedding, tower.readout(x[:, 0]))
    for layer in range(4):
        close(out.patches[layer], expected[layer])


def test_the_local_stream_never_feeds_back(ours, images, w):
    plain = ours.vision(images)
    for weight in (w["local"], 0 * w["local"]):
        out = ours.vision(images, VisionPlan((3,), LocalStream(start=0), {"local": weight}))
        assert torch.equal(out.embedding, plain.embedding)


def test_taps_are_tensors_of_their_own(ours, images):
    """AnomalyCLIP's multi-layer reading once returned the same tensor for every layer."""
    for local in (None, LocalStream(start=1)):
        patches = ours.vision(images, VisionPlan((0, 1, 2, 3), local)).patches
        for a in range(4):
            for b in range(a):
                assert patches[a].data_ptr() != patches[b].data_ptr()
                assert not torch.allclose(patches[a], patches[b])


def test_summed_matrices_have_rows_that_sum_to_their_number(ours, images):
    for pairs in VARIANTS:
        name, plan = "blocks.3.attn.hook_local_pattern", VisionPlan(local=LocalStream(1, pairs))
        pattern = ours.vision.run_with_cache(images, plan, names_filter=name)[1][name]
        close(pattern.sum(-1), torch.full_like(pattern[..., 0], len(pairs)))


def test_the_last_global_tap_is_open_clips_last_layer(ours, theirs, images):
    tokens = theirs.visual.forward_intermediates(images, indices=1, normalize_intermediates=True, output_fmt="NLC")
    out = ours.vision(images, VisionPlan((3,)))
    close(out.patches[3], tokens["image_intermediates"][0] @ theirs.visual.proj)


def test_one_image_may_meet_many_gates(ours, images):
    gates = torch.rand(5, 4, 4, dtype=torch.float64)
    plan = VisionPlan((0, 3), LocalStream(start=1))
    many = ours.vision(images[:1], plan, gates={"global": gates, "local": gates})
    repeated = ours.vision(images[:1].expand(5, -1, -1, -1), plan, gates={"global": gates, "local": gates})
    close(many.embedding, repeated.embedding)
    close(many.patches[3], repeated.patches[3])


def test_taps_may_come_in_a_tensor(ours, images):
    assert set(ours.vision(images, VisionPlan(torch.tensor([0, 2]))).patches) == {0, 2}


def test_float32_weights_on_a_half_precision_tower_and_under_autocast(ours, images, w):
    plan = VisionPlan((3,), LocalStream(start=1), w)
    exact = ours.vision(images, plan)
    plan = replace(plan, head_weights={stream: weight.float() for stream, weight in w.items()})
    low = copy.deepcopy(ours.vision).bfloat16()(images, plan)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = copy.deepcopy(ours.vision).float()(images.float(), plan)
    for out in (low, mixed):
        close(out.embedding.double(), exact.embedding, 0.1)
        close(out.patches[3].double(), exact.patches[3], 0.1)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"plan": VisionPlan((4,))}, r"taps: block 4 does not exist; blocks are 0\.\.3"),
        ({"plan": VisionPlan((-1,))}, "block -1"),
        ({"plan": VisionPlan(local=LocalStream(start=9))}, "local stream start: block 9"),
        ({"gates": {"global": torch.ones(4, 4)}}, r"gates\['global'\] has shape \(4, 4\); expected \[B, L, H\]"),
        ({"gates": {"global": torch.ones(3, 4, 5)}}, r"\(3, 4, 5\)"),
        (
            {"plan": VisionPlan(head_weights={"global": torch.ones(5, 4)})},
            r"\(5, 4\); expected \[L, H\] with L, H = \(4, 4\)",
        ),
        ({"plan": VisionPlan(head_weights={"lokal": torch.ones(4, 4)})}, "stream 'lokal' does not exist"),
        ({"plan": VisionPlan(head_weights={"local": torch.ones(4, 4)})}, "there is no local stream"),
        ({"gates": {"global": torch.ones(2, 4, 4)}}, r"gates\['global'\] holds 2 gates for a batch of 3 images"),
        ({"gates": torch.ones(3, 4, 4)}, "gates is Tensor; expected a dict"),
        ({"plan": VisionPlan(head_weights=torch.ones(4, 4))}, "head_weights is Tensor; expected a dict"),
        ({"taps": (3,)}, "no option 'taps': it is a field of the plan"),
        ({"local_resid": torch.ones(3, 17, 32)}, "goes with start_at"),
        ({"start_at": 5}, r"start_at=5 does not exist"),
        ({"start_at": 1}, r"residual stream \[B, T, 32\]"),
    ],
)
def test_what_does_not_fit_is_named(ours, images, options, message):
    with pytest.raises(ShapeError, match=message):
        ours.vision(images, **options)


def test_a_restart_above_the_start_needs_the_local_stream(ours, images):
    plan = VisionPlan(local=LocalStream(start=1))
    x = ours.vision.run_with_cache(images, names_filter="blocks.2.hook_resid_pre")[1]["resid_pre", 2]
    with pytest.raises(ShapeError, match="local_resid must have the shape"):
        ours.vision(x, plan, start_at=2)
    with pytest.raises(ShapeError, match="no local stream is running"):
        ours.vision(x, plan, start_at=1, local_resid=x)


@pytest.mark.parametrize("bad", [(), "vv", ("vq",), ("vv", "xx")])
def test_attention_that_is_none(bad):
    with pytest.raises(ShapeError, match="local attention"):
        LocalStream(attention=bad)
    with pytest.raises(ShapeError, match="mode 'besides'"):
        LocalStream(mode="besides")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_a_gpu_repeats_single_queries_to_the_bit():
    attn, draw = Attention(1024, 16), torch.Generator("cuda").manual_seed(0)
    k, v = torch.randn(2, 288, 1370, 16, 64, device="cuda", dtype=torch.bfloat16, generator=draw)
    first, *others = [attn.mix(k[:, :1], k, v) for _ in range(50)]
    assert all(torch.equal(own, first) for own in others)
    q, k, v = k[:2, :1].double(), k[:2].double(), v[:2].double()
    exact = torch.einsum("bhqk,bkhd->bqhd", attn.pattern(q, k, v, ("qk",)), v)
    torch.testing.assert_close(first[:2].double(), exact, rtol=2**-7, atol=2**-7)  # a unit in the last place
