"""The local stream put together from what its heads read, against the tower itself."""

from __future__ import annotations

import pytest
import torch

from headlens.detectors.detector import Detector
from headlens.detectors.methods.headclip import HeadCLIP
from headlens.detectors.methods.headclip_features import assemble, local_parts
from headlens.detectors.methods.registry import preset
from headlens.detectors.stages import TrainingConfig
from tests.tiny import SMALL

CASES = {
    "taps": {},
    "below the stream": {"taps": (0, 1, 2), "local_start": 1},
    "no local tap": {"taps": (0,), "local_start": 2},
    "another attention": {"local_attention": ("qq", "kk", "vv")},
    "softmax": {"head_weights": "softmax"},
    "raw CLS": {"cls_norm": False},
}


def weighted(clip, **changes) -> Detector:
    detector = HeadCLIP(clip, preset("headclip", **(SMALL | {"streams": ("local",)} | changes)), seed=1)
    with torch.no_grad():
        detector.weights.raw["local"].normal_(1, 0.5, generator=torch.Generator().manual_seed(2))
    return detector


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_parts_are_the_tower(changes, clip, images):
    detector = weighted(clip, **changes)
    vision, reading = detector.backbone.vision, detector.reading(images)
    parts = local_parts(vision, reading, images)
    assembled, expected = assemble(vision, reading, parts), reading.features(detector.see(images, reading))
    torch.testing.assert_close(assembled.cls, expected.cls)
    assert assembled.taps.keys() == expected.taps.keys() and parts.size == images.shape[2:]
    for tap, tokens in expected.taps.items():
        torch.testing.assert_close(assembled.taps[tap], tokens)


def test_gradients_are_the_towers(clip, images):
    detector, gradients = weighted(clip), []
    vision, reading = detector.backbone.vision, detector.reading(images)
    parts = local_parts(vision, reading, images)
    for features in (assemble(vision, reading, parts), reading.features(detector.see(images, reading))):
        loss = detector.score(reading.margins(features), parts.size).anomaly_map.square().sum()
        gradients.append(torch.autograd.grad(loss, list(detector.weights.parameters()), retain_graph=True))
    assert gradients[1][0].abs().sum() > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "weighted_heads"),
    [({}, True), ({"head_weights": "none"}, False), ({"streams": ("global", "local")}, None)],
)
def test_what_training_keeps_of_an_image_is_what_it_cannot_change(changes, weighted_heads, clip, images):
    detector = HeadCLIP(clip, preset("headclip", **(SMALL | changes)), seed=1)
    (stage,) = detector.stages(TrainingConfig())
    if weighted_heads is None:
        assert stage.keep is None and stage.see_features is None
        return
    parts = stage.keep(images)
    assert bool(parts.z) == (parts.start is not None) == weighted_heads
    expected, prediction = stage.see(images, ()), stage.see_features(parts, ["object"] * len(images))
    torch.testing.assert_close(prediction.anomaly_map, expected.anomaly_map)
    torch.testing.assert_close(prediction.image_margin, expected.image_margin)
