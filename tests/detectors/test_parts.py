"""The local stream put together from what its heads read, against the tower itself."""

from __future__ import annotations

import pytest
import torch

from headlens.detectors.detector import Detector
from headlens.detectors.methods.headclip import HeadCLIP
from headlens.detectors.methods.headclip_features import assemble, local_parts
from headlens.detectors.methods.registry import preset
from headlens.errors import ConfigError
from tests.detectors.test_headclip import SMALL

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
    own, expected = assemble(detector, local_parts(detector, images)), detector.features(images)
    torch.testing.assert_close(own.cls, expected.cls)
    assert own.patches.keys() == expected.patches.keys() and own.size == expected.size
    for tap, tokens in expected.patches.items():
        torch.testing.assert_close(own.patches[tap], tokens)


def test_gradients_are_the_towers(clip, images):
    detector, found = weighted(clip), []
    for features in (assemble(detector, local_parts(detector, images)), detector.features(images)):
        loss = detector.score(features, detector.text()[0]).anomaly_map.square().sum()
        found.append(torch.autograd.grad(loss, list(detector.weights.parameters())))
    assert found[1][0].abs().sum() > 0
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("changes", [{"streams": ("global", "local")}, {"head_weights": "none"}])
def test_other_detectors_have_no_such_parts(changes, clip, images):
    detector = HeadCLIP(clip, preset("headclip", **(SMALL | changes)))
    with pytest.raises(ConfigError, match="local stream weighted alone"):
        local_parts(detector, images)
