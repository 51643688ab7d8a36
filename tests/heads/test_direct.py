"""Identities 3 to 6 on the real detector, both streams, head weights that are not 1; and the planted truth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from headlens.backbone import load
from headlens.detectors.methods.headclip import HeadCLIP, HeadCLIPConfig
from headlens.detectors.precision import at_precision
from headlens.errors import ConfigError, IdentityError, ShapeError
from headlens.heads.clean import clean_forward
from headlens.heads.contributions import contributions
from headlens.heads.direct import check, check_streams, head_maps, image_parts, source_maps, tap_parts
from headlens.heads.exactness import held
from tests.backbone.models import close
from tests.heads.oracles import cached, hooked
from tests.heads.plans import PLANS

READERS = [
    {},
    {"local_start": -1, "streams": ("global",)},
    {"local_start": 2, "taps": (0, 3)},
    {"local_start": 0, "cls_norm": False},
    {"class_aware": True},
]


@torch.no_grad()
def test_3_the_cache_is_what_the_hooked_tower_passes_through(detector, images):
    _, cache = cached(detector, images)
    clean = clean_forward(detector, images)
    blocks = detector.backbone.vision.blocks
    for layer in range(4):
        close(clean.x[layer], cache["resid_pre", layer])
        rows = slice(0, 1) if layer == 3 else slice(None)  # of the last block only CLS is read
        close(clean.mid[layer], cache["resid_mid", layer][:, rows])
        close(clean.wrote("global", layer), cache["z", layer][:, rows])
        if layer >= 1:
            close(clean.y[layer], cache[f"blocks.{layer}.hook_local_resid_post"])
            close(clean.wrote("local", layer), cache[f"blocks.{layer}.attn.hook_local_z"])
    # The residual streams are the sums of all that was written into them, head by head.
    total = clean.x[0]
    for layer, block in enumerate(blocks):
        total = total[:, : clean.mid[layer].shape[1]]
        total = total + torch.einsum("bthd,hdm->btm", clean.wrote("global", layer), block.attn.W_O) + block.attn.b_O
        total = total + (clean.x[layer + 1] - clean.mid[layer])
        close(total, clean.x[layer + 1])
    total = clean.x[1]
    for layer, block in list(enumerate(blocks))[1:]:
        total = total + torch.einsum("bthd,hdm->btm", clean.wrote("local", layer), block.attn.W_O) + block.attn.b_O
        close(total, clean.y[layer])


@torch.no_grad()
@pytest.mark.parametrize("changes", READERS)
def test_4_and_6_parts_are_the_margins(changes, make, images):
    detector = make(**changes)
    categories = ["screw", "bottle_cap", "screw"]
    clean = clean_forward(detector, images, categories)
    prediction = hooked(detector, images, [], categories)
    parts = image_parts(clean)
    assert parts.heads["global"].shape == (3, 4, 4)
    close(parts.total, prediction.image_margin)
    for tap, margin in prediction.tap_margins.items():
        close(tap_parts(clean, tap).total, margin.flatten(1))
        check(tap_parts(clean, tap), clean.margins.taps[tap], "tap", torch.float64)


@torch.no_grad()
def test_4_a_heads_part_is_its_result_through_the_frozen_readout(detector, images):
    """Built the long way: a D-sized result for each head, centred, scaled, projected, divided by the norm."""
    _, cache = cached(detector, images)
    vision, text = detector.backbone.vision, detector.text()[0]
    u = (text[1] - text[0]).double() / 0.07

    def part(result, stream):
        scale = (stream.var(-1, unbiased=False, keepdim=True) + vision.ln_final.eps).sqrt()
        norm = vision.readout(stream).norm(dim=-1)
        centred = result - result.mean(-1, keepdim=True)
        return (centred / scale * vision.ln_final.weight) @ vision.proj @ u / norm

    clean = clean_forward(detector, images)
    parts, post = image_parts(clean), cache["resid_post", 3][:, 0]
    for layer in range(4):
        for head in range(4):
            result = cache["result", layer][:, 0, head]
            close(parts.heads["global"][:, layer, head], part(result, post))
    parts, post = tap_parts(clean, 3), cache["blocks.3.hook_local_resid_post"][:, 1:]
    assert (parts.layers["global"], parts.layers["local"]) == (range(1), range(1, 4))
    for head in range(4):
        close(parts.heads["global"][:, :, 0, head], part(cache["result", 0][:, 1:, head], post))
        close(parts.heads["local"][:, :, 1, head], part(cache["blocks.2.attn.hook_local_result"][:, 1:, head], post))


@torch.no_grad()
def test_5_attention_rows_sum_to_one_and_source_maps_to_the_heads_part(detector, images):
    _, cache = cached(detector, images)
    clean = clean_forward(detector, images)
    parts = image_parts(clean)
    for layer in range(4):
        rows = cache["pattern", layer].sum(-1)
        close(rows, torch.ones_like(rows))
        close(source_maps(clean, layer).sum(-1), parts.heads["global"][:, layer])
    with pytest.raises(ShapeError, match=r"layer 4 does not exist; layers are 0\.\.3"):
        source_maps(clean, 4)


@torch.no_grad()
def test_11_one_image_at_a_time(detector, images):
    together = tap_parts(clean_forward(detector, images), 3)
    for row in range(3):
        alone = tap_parts(clean_forward(detector, images[row : row + 1]), 3)
        for stream, own in alone.heads.items():
            close(own[0], together.heads[stream][row])
        close(alone.rest[0], together.rest[row])


@torch.no_grad()
def test_in_float32_on_the_embedded_backbone():
    detector = HeadCLIP(load("mini"), HeadCLIPConfig())
    images = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    clean = clean_forward(detector, images)
    check(image_parts(clean), clean.margins.image, "image margin", torch.float32)
    for tap, margin in clean.margins.taps.items():
        check(tap_parts(clean, tap), margin, "tap", torch.float32)
        close(tap_parts(clean, tap).total, detector(images).tap_margins[tap].flatten(1), 1e-4)


@torch.no_grad()
def test_sums_that_are_off_are_told(detector, images):
    clean = clean_forward(detector, images)
    with pytest.raises(IdentityError, match=r"parts of the image margin miss it by 0\.001"):
        check(image_parts(clean), clean.margins.image + 0.001, "image margin", torch.float64)


@torch.no_grad()
def test_maps_keep_rows_and_columns(detector, images):
    maps = head_maps(detector, images)
    clean = clean_forward(detector, images)
    assert maps[3]["local"].shape == (3, 3, 4, 4, 5)
    close(maps[3]["local"][1, 2, 3].flatten(), tap_parts(clean, 3).heads["local"][1, :, 2, 3])
    with pytest.raises(ShapeError, match="tap 2 is not read; taps are 1, 3"):
        tap_parts(clean, 2)


def test_over_a_data_set(make, pictures):
    detector = make(torch.float32)
    result = contributions(detector, pictures, batch=5, check_sums=True)
    frame = result.frame
    sums = frame.groupby(["image", "metric"])[["value", "baseline"]].agg({"value": "sum", "baseline": "first"})
    assert len(sums) == len(pictures) * 3
    assert (sums["value"] - sums["baseline"]).abs().max() < 1e-3
    own = frame[(frame["kind"] == "head") & (frame["metric"] == "tap_margin_3") & (frame["stream"] == "local")]
    assert set(own["layer"]) == {1, 2, 3}
    assert result.provenance["backbone"]["name"] == "tiny"


@torch.no_grad()
@pytest.mark.parametrize("pooling", [0.0, 0.5])
@pytest.mark.parametrize("name", PLANS)
def test_parts_are_the_margins_whatever_the_plan(planned, images, name, pooling):
    detector = planned(name, score_pooling=pooling)
    clean, margins = clean_forward(detector, images), detector.margins(images)
    check_streams(clean, torch.float64)
    parts, read = image_parts(clean), clean.plan.streams if pooling else ("global",)
    close(parts.total, margins.image, 1e-12)
    close(sum(heads.sum((-2, -1)) for heads in parts.heads.values()) + parts.rest, parts.total, 1e-12)
    assert set(parts.heads) == set(read) and parts.layers["global"] == range(4)
    for tap, margin in margins.taps.items():
        parts = tap_parts(clean, tap)
        close(parts.total, margin, 1e-12)
        assert parts.layers == {stream: layers for stream, layers in clean.plan.writers(tap).items() if layers}
        assert {part.layer for part in parts.terms if part.kind == "mlp" and part.stream == "local"} == {
            layer for layer in parts.layers.get("local", ()) if clean.plan.has_mlp("local", layer)
        }


@torch.no_grad()
@pytest.mark.parametrize("pooling", [0.0, 0.5])
def test_parts_under_adapters_are_what_is_left_of_them_behind_those(planned, images, pooling):
    """Built the long way up: what a head writes, through both adapters as they are at their tokens, then read."""
    detector = planned("both adapters", score_pooling=pooling)
    clean, text = clean_forward(detector, images), detector.text()[0]
    vision, patches, margins = detector.backbone.vision, clean.patches, clean.margins
    u, norm = (text[1] - text[0]).double() / 0.07, vision.ln_final

    def read(written, tokens):
        centred = written - written.mean(-1, keepdim=True)
        scale = (tokens.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
        return centred / scale * norm.weight @ vision.proj @ u / vision.readout(tokens).norm(dim=-1)

    def risen(stream, layer, head, to):
        z = clean.wrote(stream, layer)[:, :, head]
        written = z @ vision.blocks[layer].attn.W_O[head]
        for block in range(layer, to):
            adapter = clean.plan.adapter(stream, block)
            if adapter is not None:
                written = adapter.push(clean.written[stream, block][:, : written.shape[1]], written)
        return written

    for head in range(4):
        of_cls = read(risen("global", 1, head, 4)[:, 0], clean.x[-1][:, 0])
        of_patches = read(risen("local", 1, head, 4)[:, patches], clean.y[3][:, patches])
        parts = tap_parts(clean, 3)
        close(parts.heads["local"][:, :, 0, head], of_patches)
        rests = [value for part, value in parts.terms.items() if part.kind == "adapter"]
        assert len(rests) == 3 and torch.stack(rests).abs().max() < 1e-12  # nothing in them is no product with x
        effect = image_parts(clean).heads["global"][:, 1, head]
        if not pooling:
            close(effect, of_cls)
            continue
        features = clean.features
        weight, weights = clean.reading.weights(features, margins.taps)
        close(effect, weight * of_cls)  # of the global stream's patches those below block 1 are read alone
        first = read(risen("local", 1, head, 2)[:, patches], clean.y[1][:, patches])
        close(image_parts(clean).heads["local"][:, 0, head], (weights[3] * of_patches + weights[1] * first).sum(1))


@torch.no_grad()
@pytest.mark.parametrize("name", ["adapters", "local adapters"])
def test_a_stream_changed_behind_the_plans_back_is_told_by_its_term(planned, images, name):
    """A sum cannot tell: what is not known to the plan would be in the part of an MLP, or of nobody."""
    clean = clean_forward(planned(name), images)
    plan = replace(clean.plan, adapters={})
    ignorant = replace(clean, reading=replace(clean.reading, plan=plan), written={})
    if name == "adapters":
        close(image_parts(ignorant).total, clean.margins.image)
        assert not torch.allclose(image_parts(ignorant).heads["global"][:, 1], image_parts(clean).heads["global"][:, 1])
    term = {
        "adapters": "global stream after the MLP of layer 0",
        "local adapters": "local stream after the attention of layer 1",
    }[name]
    with pytest.raises(IdentityError, match=f"the {term} is not what that writes: it is off by"):
        check_streams(ignorant, torch.float64)


@torch.no_grad()
def test_wrong_heads_and_wrong_adapters_are_told_by_their_term(planned, images):
    clean = clean_forward(planned("both adapters"), images)
    z = {**clean.z, "global": [2 * heads if layer == 1 else heads for layer, heads in enumerate(clean.z["global"])]}
    with pytest.raises(IdentityError, match="global stream after the attention of layer 1"):
        check_streams(replace(clean, z=z), torch.float64)
    written = {**clean.written, ("local", 3): clean.y[3]}
    with pytest.raises(IdentityError, match=r"local stream after the (attention|adapter) of layer 3"):
        check_streams(replace(clean, written=written), torch.float64)


class Opaque:
    """An adapter that is not a linear map of anything."""

    def __call__(self, x):
        return x + x.tanh()


class Undecided(Opaque):
    def pull(self, x, covector):
        return None


@torch.no_grad()
@pytest.mark.parametrize("pooling", [0.0, 0.5])
@pytest.mark.parametrize("adapter", [Opaque(), Undecided()])
def test_the_stream_below_an_adapter_without_pull_is_one_part(planned, images, adapter, pooling):
    detector = planned({"adapters": {"global": {1: adapter}, "local": {2: adapter}}}, score_pooling=pooling)
    clean = clean_forward(detector, images)
    parts = image_parts(clean)
    close(parts.total, clean.margins.image, 1e-12)
    kinds = {part.kind for part in parts.terms}
    assert "below" in kinds and ("embedding" in kinds) == bool(pooling)  # tap 1 lies below the local adapter
    assert parts.layers["global"] == (range(4) if pooling else range(2, 4))
    parts = tap_parts(clean, 3)
    close(parts.total, clean.margins.taps[3], 1e-12)
    assert parts.layers == {"local": range(3, 4)} and "embedding" not in {part.kind for part in parts.terms}
    if pooling:  # the local adapter stands in the way of block 2, at one tap, and of no other
        heads = image_parts(clean).heads["local"]
        assert not heads[:, 1].any() and heads[:, 0].all() and heads[:, 2].all()
    with pytest.raises(ConfigError, match=r"layer 1 of the global stream have no direct effect.*'below'.*ablate"):
        source_maps(clean, 1)


@torch.no_grad()
def test_where_cls_is_pooled_with_patches_a_source_map_is_its_share(make, images):
    clean = clean_forward(make(score_pooling=0.5), images)
    alone = clean_forward(make(), images)
    features = clean.features
    weight, _ = clean.reading.weights(features, clean.margins.taps)
    for layer in range(4):
        close(source_maps(clean, layer), weight[:, None, None] * source_maps(alone, layer))
        if layer:  # patches read the global stream's first layer alone
            close(source_maps(clean, layer).sum(-1), image_parts(clean).heads["global"][:, layer])


def test_what_is_held_is_written_down(make, planned, pictures):
    assert held(make()) == ["layer norm scale", "embedding norm"]
    pooled = make(cls_norm=False, score_pooling=0.5)
    assert held(pooled) == ["layer norm scale", "embedding norm", "pooling weights"]
    assert held(pooled, of=["patches"]) == ["layer norm scale", "embedding norm"]
    assert held(make(cls_norm=False), of=["image"]) == ["embedding norm"]
    detector = planned("adapters", torch.float32)
    result = contributions(planned({"adapters": {"global": {1: Opaque()}}}, torch.float32), pictures, check_sums=True)
    assert held(detector) == result.provenance["held"] == ["layer norm scale", "embedding norm", "adapters"]
    assert "layer norm scale, embedding norm, adapters" in result._repr_html_()
    below = result.frame[result.frame["kind"] == "below"]
    assert set(below["metric"]) == {"image_margin"} and below["head"].isna().all()


@torch.no_grad()
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["as it is", "local MLP"])
def test_in_half_precision_parts_are_as_fine_as_the_streams(planned, images, name, precision):
    with at_precision(planned(name, torch.float32, score_pooling=0.5), precision) as detector:
        clean, dtype = clean_forward(detector, images.float()), getattr(torch, precision)
        check_streams(clean, dtype)
        for what, parts, margin in [
            ("image margin", image_parts(clean), clean.margins.image),
            *((f"tap {tap}", tap_parts(clean, tap), margin) for tap, margin in clean.margins.taps.items()),
        ]:
            check(parts, margin, what, dtype)
            assert parts.total.dtype == torch.float32
