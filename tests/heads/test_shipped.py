"""Identities 3 to 11 once more, on a detector that ships: trained head weights, all 24 x 16 heads, float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from headlens.backbone import VisionPlan
from headlens.data import Preprocess
from headlens.data.procedural import World
from headlens.heads import Head, clean_forward, gate_gradients, heads_of, single_heads, source_maps
from headlens.heads.direct import image_parts, tap_parts
from headlens.heads.importance import target
from headlens.heads.measuring import measure
from headlens.heads.response import respond
from headlens.heads.variants import Variant
from headlens.training.run import load_run
from tests.backbone.models import close
from tests.heads.oracles import cached, hooked, naive

SOME = [Head("global", 3, 5), Head("global", 18, 7), Head("global", 23, 10), Head("local", 5, 4), Head("local", 18, 2)]


@pytest.fixture(scope="module")
def detector():
    return load_run("mini-industrial", dtype=torch.float64).detector.requires_grad_(False)


@pytest.fixture(scope="module")
def images():
    preprocess = Preprocess(56)
    world = World("procedural:industrial", per_category=2, size=56)
    seen = torch.stack([world[number].image for number in (0, 3)])
    return preprocess.normalise(seen).double()


@pytest.fixture(scope="module")
def clean(detector, images):
    return clean_forward(detector, images)


def test_3_4_and_6_parts_are_the_residual_streams_the_embedding_and_the_margins(detector, images, clean):
    assert (detector.head_weights()["local"][5:] != 1).all()
    _, cache = cached(detector, images)
    close(clean.x[23], cache["resid_pre", 23])
    for tap in detector.plan.taps:
        close(clean.y[tap], cache[f"blocks.{tap}.hook_local_resid_post"])
        close(tap_parts(clean, tap).total, clean.margins.taps[tap])
    prediction = hooked(detector, images, [])
    close(image_parts(clean).total, prediction.image_margin)
    close(clean.margins.taps[17], prediction.tap_margins[17].flatten(1))


def test_5_attention_rows_sum_to_one_and_source_maps_to_heads_parts(detector, images, clean):
    _, cache = cached(detector, images)
    for name in ("hook_pattern", "hook_local_pattern"):
        rows = cache[f"blocks.20.attn.{name}"].sum(-1)
        close(rows, torch.ones_like(rows))
    close(source_maps(clean, 20).sum(-1), image_parts(clean).heads["global"][:, 20])


@torch.no_grad()
def test_7_five_ways_to_switch_a_head_off(detector, images, clean):
    variants = single_heads(SOME)
    wavefront = measure(clean, [*variants, *single_heads(heads_of(detector, [4, 12], [0, 1]))])
    for row, (head, variant) in enumerate(zip(SOME, variants, strict=True)):
        by_hook = naive(detector, images, variant, "zero")
        restarted = measure(clean, [variant])
        gates = {stream: torch.ones(1, 24, 16, dtype=torch.float64) for stream in ("global", "local")}
        gates[head.stream][:, head.layer, head.head] = 0
        weights = {stream: torch.ones(24, 16, dtype=torch.float64) for stream in ("global", "local")}
        weights["local"] = detector.head_weights()["local"].double().clone()
        weights[head.stream][head.layer, head.head] = 0
        reading = detector.reading(images)
        weighed = replace(reading, plan=replace(reading.plan, head_weights=weights))
        outputs = detector.see(images, reading, gates), detector.see(images, weighed)
        ways = [detector.score(reading.margins(reading.features(out)), (56, 56)) for out in outputs]
        for way in ways:
            close(way.image_margin, by_hook.image_margin)
            close(way.anomaly_map, by_hook.anomaly_map)
        for way, own in ((wavefront, row), (restarted, 0)):
            close(way.image_margin[own], by_hook.image_margin)
            close(way.joint_score[own], by_hook.joint_score)


def test_8_and_9_gate_gradients(detector, images):
    _, gradients = gate_gradients(detector, images, "joint_margin")
    for head in SOME:
        ends = []
        for step in (-1e-5, 1e-5):
            gates = {stream: torch.ones(2, 24, 16, dtype=torch.float64) for stream in ("global", "local")}
            gates[head.stream][:, head.layer, head.head] += step
            ends.append(target(detector, images, "joint_margin", gates=gates))
        close(gradients[head.stream][:, head.layer, head.head], (ends[1] - ends[0]) / 2e-5, 1e-6)
    # Along the gates of one layer from half to whole: with 24 layers, from nothing would take hundreds of nodes.
    nodes, shares = np.polynomial.legendre.leggauss(24)

    def at(value: float) -> dict[str, torch.Tensor]:
        gates = {stream: torch.ones(1, 24, 16, dtype=torch.float64) for stream in ("global", "local")}
        gates["global"][:, 20] = value
        return gates

    total = torch.zeros(2, dtype=torch.float64)
    for node, share in zip(0.75 + nodes / 4, shares / 4, strict=True):
        total += share * gate_gradients(detector, images, "image_margin", at=at(float(node)))[1]["global"][:, 20].sum(1)
    both = [{stream: own.expand(2, -1, -1) for stream, own in at(value).items()} for value in (0.5, 1.0)]
    ends = [target(detector, images, "image_margin", gates=gates) for gates in both]
    close(total, ends[1] - ends[0], 1e-9)


@torch.no_grad()
def test_10_and_11_nothing_ablated_nothing_changed_and_images_are_by_themselves(detector, images, clean):
    vision = detector.backbone.vision
    plain = vision(images)
    ones = {"global": torch.ones(24, 16), "local": torch.ones(24, 16)}
    gates = {stream: torch.ones(1, 24, 16) for stream in ones}
    plan = VisionPlan((23,), detector.plan.local)
    weighed = vision(images, replace(plan, head_weights=ones), gates=gates)
    close(weighed.embedding, plain.embedding)
    close(weighed.patches[23], vision(images, plan).patches[23])
    nothing = respond(clean, [Variant("none", ())])
    close(nothing.image[0], clean.margins.image)
    close(nothing.taps[23][0], clean.margins.taps[23])
    alone = clean_forward(detector, images[1:])
    close(alone.margins.image, clean.margins.image[1:])
    close(alone.margins.taps[5], clean.margins.taps[5][1:])
    assert not any(point._forward_hooks or point._backward_hooks for point in vision.hook_dict.values())
