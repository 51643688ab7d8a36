"""Identities 3 to 6 on the real detector, both streams, head weights that are not 1; and the planted truth."""

from __future__ import annotations

import pytest
import torch

from headlens.backbone import load
from headlens.detectors.methods.headclip import HeadCLIP, HeadCLIPConfig
from headlens.errors import ConfigError, IdentityError, ShapeError
from headlens.heads.clean import clean_forward
from headlens.heads.contributions import contributions
from headlens.heads.direct import check, head_maps, image_parts, source_maps, tap_parts
from tests.backbone.models import close
from tests.heads.oracles import cached, hooked

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
        close(alone.mlps[0], together.mlps[row])


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


def test_mixed_image_features_are_refused(detector, images):
    object.__setattr__(detector.config, "score_pooling", 0.5)
    with pytest.raises(ConfigError, match=r"score_pooling is 0\.5"):
        clean_forward(detector, images)
