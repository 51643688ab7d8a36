"""Pixel metrics of ablated maps by their unit: against exact metrics, wherever the maps lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from headlens.detectors import Scoring
from headlens.errors import MetricError
from headlens.heads.effects import draws, of_pixels
from headlens.metrics import PixelMetrics, Truth
from headlens.metrics.table import PIXEL

SIZE = (32, 32)
SIGMA = 518 / 32  # one pixel at that size
MARGINS, PROBABILITIES = Scoring("mean margin", SIGMA), Scoring("mean of probabilities", SIGMA)


@pytest.fixture(scope="module")
def measured():
    """Margins [3, 5, 8, 8] of a detector and two variants, higher on the masks; the masks' truth; draws."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(5, *SIZE, dtype=torch.bool)
    for number in range(3):
        masks[number, 4 : 12 + 4 * number, 6:20] = True
    signal = torch.nn.functional.avg_pool2d(masks.float(), 4)
    margins = torch.randn(3, 5, 8, 8, generator=generator) + signal * torch.tensor([2.0, 1.0, 0.2])[:, None, None, None]
    return margins, Truth.of(masks), draws(5, 20, 0, "nut")


def exact(grids, truth):
    rows = []
    for grid in grids:
        metric = PixelMetrics()
        metric.update(MARGINS.enlarge(grid, SIZE), truth)
        rows.append(metric.compute())
    return {name: np.array([float(row[name.removeprefix("pixel_")]) for row in rows]) for name in PIXEL}


@pytest.mark.parametrize(
    ("scale", "shift"), [(1.0, 0.0), (100.0, 0.0), (1.0, -50.0), (1e-4, 0.0), (1e-4, 3.0), (1e6, 1e7)]
)
def test_maps_of_logits_are_measured_wherever_they_lie(scale, shift, measured):
    margins, truth, times = measured
    grids = scale * margins + shift
    effects = of_pixels(grids, MARGINS, truth, times, PIXEL)
    for name, values in exact(grids, truth).items():
        assert effects[name].baseline == pytest.approx(values[0], abs=2e-3)
        assert effects[name].value == pytest.approx(values[1:], abs=2e-3)
    plain = of_pixels(margins, MARGINS, truth, times, PIXEL)
    for name in PIXEL:  # replicates are of 1,024 bins
        assert effects[name].replicates == pytest.approx(plain[name].replicates, abs=5e-3, nan_ok=True)


def test_probabilities_that_nothing_but_float32_tells_from_0_are_ranked(measured):
    margins, truth, times = measured
    grids = (2 * margins - 60).sigmoid()
    assert grids.min() > 1e-38 and grids.max() < 1e-20
    effects = of_pixels(grids, PROBABILITIES, truth, times, PIXEL)
    for name, values in exact(grids, truth).items():
        assert effects[name].baseline == pytest.approx(values[0], abs=2e-3)


class Constant(Scoring):
    """Enlarges without rounding."""

    def enlarge(self, maps, size):
        return maps.new_full((len(maps), *size), 0.3)


@pytest.mark.parametrize("fuse", ["mean of probabilities", "mean margin"])
def test_constant_maps_are_one_tie(fuse, measured):
    _, truth, times = measured
    effects = of_pixels(torch.full((2, 5, 8, 8), 0.3), Constant(fuse), truth, times, PIXEL)
    assert effects["pixel_auroc"].baseline == effects["pixel_auroc"].value[0] == 0.5


def test_maps_of_another_unit_are_an_error(measured):
    margins, truth, times = measured
    with pytest.raises(MetricError, match=r"the anomaly map, whole or ablated, gives values from .* calls them prob"):
        of_pixels(margins, PROBABILITIES, truth, times, PIXEL)
    margins = margins.clone()
    margins[1, 0, 0, 0] = torch.nan
    with pytest.raises(MetricError, match="not a number, or infinite"):
        of_pixels(margins, MARGINS, truth, times, PIXEL)


def test_taps_fused_at_pixels_are_measured_as_they_are_shown(measured):
    margins, truth, times = measured
    scoring = Scoring(sigma=0.0, fuse_at="pixels", corners=True)
    taps = torch.stack([8 * margins, -2 * margins.flip(1) - 3], 2)  # [3, 5, 2, 8, 8]
    effects = of_pixels(taps, scoring, truth, times, PIXEL)
    large = [F.interpolate(taps[:, :, tap], SIZE, mode="bilinear", align_corners=True) for tap in (0, 1)]
    for row, maps in enumerate((large[0].sigmoid() + large[1].sigmoid()) / 2):
        metric = PixelMetrics()
        metric.update(maps, truth)
        for name, value in metric.compute().items():
            found = effects[f"pixel_{name}"]
            assert [found.baseline, *found.value][row] == pytest.approx(float(value), abs=2e-3)
