"""Identity 7 and the sweep against the plain hook loop: every kind, both streams, every head, groups."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from headlens.backbone import LocalStream
from headlens.heads.clean import clean_forward, targets
from headlens.heads.closed_form import LocalTaps
from headlens.heads.direct import tap_parts
from headlens.heads.replacement import mean_heads
from headlens.heads.response import respond
from headlens.heads.variants import Head, Variant, cumulative, heads_of, shuffled, single_heads, whole_layers
from tests.backbone.models import close
from tests.heads.oracles import cached, hooked, naive, stand_ins

KINDS = ("zero", "mean", "resample", "revert")


def replacement_of(detector, images, clean, kind):
    if kind == "mean":
        return mean_heads([clean_forward(detector, images[:2]), clean_forward(detector, images[2:])])
    return clean_forward(detector, images.roll(1, 0)).z if kind == "resample" else None


def matches(detector, images, variants, kind, found, clean, categories=None):
    instead = stand_ins(cached(detector, images)[1], kind) if kind in ("mean", "resample") else None
    before = hooked(detector, images, [], categories).anomaly_map
    for row, variant in enumerate(variants):
        expected = naive(detector, images, variant, kind, instead, categories)
        close(found.image[row], expected.image_margin)
        for tap, own in expected.tap_margins.items():
            close(found.taps[tap][row], own.flatten(1))
        one = type(found)(found.image[row], {tap: own[row] for tap, own in found.taps.items()})
        read = targets(clean.scoring, one, clean.grid, clean.size, clean.maps)
        close(read.joint_score, expected.joint_score)
        close(read.joint_margin, expected.joint_score.logit())
        larger = torch.maximum(expected.anomaly_map.sum((1, 2)), before.sum((1, 2)))
        moved = (expected.anomaly_map - before).abs().sum((1, 2)) / larger
        close(read.map_change, moved)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_every_head_is_as_the_plain_hook_loop_has_it(kind, detector, images):
    clean = clean_forward(detector, images)
    variants = single_heads(heads_of(detector))
    assert len(variants) == 16 + 12
    found = respond(clean, variants, kind, replacement_of(detector, images, clean, kind))
    matches(detector, images, variants, kind, found, clean)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_groups_in_both_streams_are_as_the_plain_hook_loop_has_them(kind, detector, images):
    clean = clean_forward(detector, images)
    heads = heads_of(detector)
    variants = whole_layers(heads) + cumulative(shuffled(heads, seed=5), [2, 9, 28])
    found = respond(clean, variants, kind, replacement_of(detector, images, clean, kind))
    matches(detector, images, variants, kind, found, clean)


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        {"local_start": -1, "streams": ("global",)},
        {"local_start": 2, "taps": (0, 2)},
        {"local_start": 0, "taps": (3,), "cls_norm": False, "pool": "top", "top": 0.1},
        {"class_aware": True, "alpha": 0.0},
    ],
)
def test_whatever_the_detector_reads(changes, make, images):
    detector = make(**changes)
    categories = ["screw", "bottle_cap", "screw"]
    clean = clean_forward(detector, images, categories)
    heads = heads_of(detector)
    variants = single_heads(heads[::3]) + whole_layers(heads) + cumulative(shuffled(heads), [4])
    matches(detector, images, variants, "zero", respond(clean, variants), clean, categories)


@torch.no_grad()
def test_wavefront_is_restart_is_gate_zero_is_head_weight_zero(detector, images):
    vision, weights = detector.backbone.vision, detector.head_weights()
    clean = clean_forward(detector, images)
    variants = single_heads(heads_of(detector))
    wave = respond(clean, variants)
    for row, variant in enumerate(variants):
        alone = respond(clean, [variant])
        (head,) = variant.heads
        close(wave.image[row], alone.image[0])
        off = {stream: weight.clone() for stream, weight in weights.items()}
        off[head.stream][head.layer, head.head] = 0
        gates = {stream: torch.ones(3, 4, 4, dtype=torch.float64) for stream in weights}
        gates[head.stream][:, head.layer, head.head] = 0
        by_weight = vision(images, replace(detector.plan, head_weights=off), hooked=False)
        by_gate = vision(images, detector.plan, gates=gates, hooked=False)
        close(by_weight.embedding, by_gate.embedding)
        reading = detector.reading(images)
        margins = reading.margins(reading.features(by_weight))
        close(alone.image[0], margins.image)
        for tap, expected in margins.taps.items():
            close(wave.taps[tap][row], alone.taps[tap][0])
            close(alone.taps[tap][0], expected)


@torch.no_grad()
def test_a_head_that_writes_nothing_and_a_weight_that_is_one_have_effect_zero(detector, images):
    detector.weights.raw["global"][2, 1] = 1.0
    detector.weights.raw["local"][2, 1] = 1.0
    for layer in (0, 3):
        detector.backbone.vision.blocks[layer].attn.qkv.weight[2 * 32 + 8 : 2 * 32 + 16] = 0  # V of head 1
        detector.backbone.vision.blocks[layer].attn.qkv.bias[2 * 32 + 8 : 2 * 32 + 16] = 0
    clean = clean_forward(detector, images)
    silent = [Head("global", 0, 1), Head("global", 3, 1), Head("local", 3, 1)]
    for kind, heads in (("zero", silent), ("revert", [Head("global", 2, 1), Head("local", 2, 1)])):
        found = respond(clean, [*single_heads(heads), *single_heads([Head("global", 1, 0)])], kind)
        assert torch.equal(found.image[:-1], clean.margins.image.expand(len(heads), -1))
        for tap, own in clean.margins.taps.items():
            assert torch.equal(found.taps[tap][:-1], own.expand(len(heads), -1, -1))
        assert (found.image[-1] != clean.margins.image).all()


@torch.no_grad()
def test_ablating_nothing_changes_nothing_but_by_rounding(make, images):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        detector = make(dtype)
        clean = clean_forward(detector, images.to(dtype))
        found = respond(clean, [Variant("none", ()), *single_heads([Head("global", 1, 0)])])
        close(found.image[0], clean.margins.image, tolerance)
        for tap, own in clean.margins.taps.items():
            close(found.taps[tap][0], own, tolerance)


@torch.no_grad()
def test_the_mean_of_one_image_is_its_own_cls(detector, images):
    """In the last block only CLS is read: its mean over one image replaces it by itself."""
    clean = clean_forward(detector, images[:1])
    last = single_heads(heads_of(detector, [3], streams=("global",)))
    found = respond(clean, last, "mean", mean_heads([clean]))
    close(found.image, clean.margins.image.expand(4, -1), 1e-12)


@torch.no_grad()
def test_reverting_every_head_is_the_detector_without_weights(detector, images):
    clean = clean_forward(detector, images)
    found = respond(clean, [Variant("all", tuple(heads_of(detector)))], "revert")
    for stream, raw in detector.weights.raw.items():
        layers = slice(None) if stream == "global" else slice(1, None)
        raw[layers] = 1.0
    expected = clean_forward(detector, images).margins
    close(found.image[0], expected.image)
    for tap, own in expected.taps.items():
        close(found.taps[tap][0], own)


def mean_attention(q, k, v):
    """Every token attends to all alike."""
    return torch.full((q.shape[0], q.shape[2], q.shape[1], k.shape[1]), 1 / k.shape[1], dtype=v.dtype)


@torch.no_grad()
@pytest.mark.parametrize("attention", [("qq", "kk", "vv"), mean_attention])
def test_any_local_attention(attention, detector, images, monkeypatch):
    plan = replace(detector.plan, local=LocalStream(1, attention))
    monkeypatch.setattr(type(detector), "plan", property(lambda self: plan))
    clean = clean_forward(detector, images)
    variants = single_heads(heads_of(detector)[::3])
    matches(detector, images, variants, "zero", respond(clean, variants), clean)
    for layer in (1, 3):
        expected = respond(clean, single_heads(heads_of(detector, [layer], streams=("local",))))
        close(LocalTaps(clean).margins(layer)[3], expected.taps[3])
    close(tap_parts(clean, 3).total, clean.margins.taps[3])
