"""The read-out-only path of local heads against the path that builds every token."""

from __future__ import annotations

import pytest
import torch

from headlens.backbone import load
from headlens.detectors.methods.headclip import HeadCLIP
from headlens.detectors.readout import Readout
from headlens.heads.clean import clean_forward
from headlens.heads.closed_form import LocalTaps, applies
from headlens.heads.response import respond
from headlens.heads.variants import heads_of, single_heads
from tests.backbone.models import close
from tests.heads.test_response import KINDS, replacement_of


@torch.no_grad()
def test_folded_is_layer_norm_and_projection(detector, images):
    vision = detector.backbone.vision
    tokens = clean_forward(detector, images).tapped(1)
    for readout in (Readout.of(vision), Readout.of(vision, norm=False)):
        folded = readout.folded
        close(tokens @ folded.matrix / folded.scale(tokens) + folded.bias, readout(tokens))
    close(Readout.of(vision)(tokens), vision.readout(tokens))


@torch.no_grad()
def test_a_local_stream_that_is_not_linear_or_is_pooled_needs_forwards(make, images):
    assert applies(make().reading(images))
    assert not applies(make(score_pooling=0.5).reading(images))
    assert not applies(make(local_start=-1, streams=("global",)).reading(images))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changes", [{}, {"class_aware": True, "taps": (0, 2, 3)}])
def test_local_heads_need_no_forward(kind, changes, make, images):
    detector = make(**changes)
    clean = clean_forward(detector, images, ["screw", "bottle_cap", "screw"])
    replacement = replacement_of(detector, images, clean, kind)
    for layer in range(1, 4):
        found = LocalTaps(clean).margins(layer, kind, replacement)
        expected = respond(clean, single_heads(heads_of(detector, [layer], streams=("local",))), kind, replacement)
        close(expected.image, clean.margins.image.expand(4, -1), 1e-15)
        for tap, own in expected.taps.items():
            close(found[tap], own)


@torch.no_grad()
def test_in_float32_on_the_embedded_backbone():
    detector = HeadCLIP(load("mini"))
    images = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    clean = clean_forward(detector, images)
    found = LocalTaps(clean).margins(10)
    expected = respond(clean, single_heads(heads_of(detector, [10], streams=("local",))))
    for tap, own in expected.taps.items():
        close(found[tap], own, 1e-4)
