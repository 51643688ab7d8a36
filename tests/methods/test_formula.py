"""Predictions against the formula of HeadCLIP and its kin, written down apart from the package, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F

from headlens.detectors import PRESETS, HeadCLIPConfig
from tests.backbone.models import close
from tests.methods.cases import CASES, SIZES, images, preset_of
from tests.methods.formula import predicted, smooth

READINGS = {
    "as it is": {},
    "wide Gaussian": {"sigma": 60.0},
    "no Gaussian": {"sigma": 0.0},
    "top tenth": {"alpha": 0.3, "pool": "top", "top": 0.1},
    "map alone": {"alpha": 1.0, "temperature": 0.2},
    "half of the patches": {"score_pooling": 0.5, "cls_norm": False},
}


HEADCLIPS = [name for name in CASES if isinstance(PRESETS[preset_of(name)], HeadCLIPConfig)]


@torch.no_grad()
@pytest.mark.parametrize("case", HEADCLIPS)
@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("size", SIZES)
def test_a_prediction_is_its_formula(detector, reading, size):
    detector, given = detector.with_config(**READINGS[reading]), images(size)
    out = detector.backbone.vision(given, detector.plan)
    expected = predicted(detector.backbone.vision, out, detector.text()[0], detector.config, size)
    found = detector(given)
    for name in ("anomaly_map", "image_score", "joint_score", "image_margin"):
        close(getattr(found, name), getattr(expected, name), 1e-12)
    assert found.tap_margins.keys() == expected.tap_margins.keys()
    for tap, margins in expected.tap_margins.items():
        close(found.tap_margins[tap], margins, 1e-12)


@pytest.mark.parametrize("sigma", [0.0, 0.3, 2.0, 9.0])
def test_the_formula_smooths_as_scipy_does(sigma):
    maps = torch.rand(2, 4, 5, dtype=torch.float64)
    large = F.interpolate(maps[:, None], (32, 40), mode="bilinear", align_corners=False)[:, 0].numpy()
    radius = min(round(4 * sigma), 31)
    theirs = [scipy.ndimage.gaussian_filter(one, sigma, mode="mirror", radius=radius) for one in large]
    close(
        smooth(maps, (32, 40), sigma), torch.from_numpy(np.stack(theirs)) if radius else torch.from_numpy(large), 1e-12
    )
