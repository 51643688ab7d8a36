"""Pixel metrics of ablated maps by their unit: against exact metrics, wherever the maps lie."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from headlens.errors import MetricError
from headlens.heads.effects import draws, of_pixels
from headlens.maps import upsample
from headlens.metrics import PixelMetrics, Truth
from headlens.metrics.table import PIXEL

SIZE = (32, 32)
ENLARGE = partial(upsample, size=SIZE, sigma=1.0)


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
        metric.update(ENLARGE(grid), truth)
        rows.append(metric.compute())
    return {name: np.array([float(row[name.removeprefix("pixel_")]) for row in rows]) for name in PIXEL}


@pytest.mark.parametrize(
    ("scale", "shift"), [(1.0, 0.0), (100.0, 0.0), (1.0, -50.0), (1e-4, 0.0), (1e-4, 3.0), (1e6, 1e7)]
)
def test_maps_of_logits_are_measured_wherever_they_lie(scale, shift, measured):
    margins, truth, times = measured
    grids = scale * margins + shift
    effects = of_pixels(grids, ENLARGE, truth, times, PIXEL, "logit")
    for name, values in exact(grids, truth).items():
        assert effects[name].baseline == pytest.approx(values[0], abs=2e-3)
        assert effects[name].value == pytest.approx(values[1:], abs=2e-3)
    plain = of_pixels(margins, ENLARGE, truth, times, PIXEL, "logit")
    for name in PIXEL:  # replicates are of 1,024 bins
        assert effects[name].replicates == pytest.approx(plain[name].replicates, abs=5e-3, nan_ok=True)


def test_probabilities_that_nothing_but_float32_tells_from_0_are_ranked(measured):
    margins, truth, times = measured
    grids = (2 * margins - 60).sigmoid()
    assert grids.min() > 1e-38 and grids.max() < 1e-20
    effects = of_pixels(grids, ENLARGE, truth, times, PIXEL)
    for name, values in exact(grids, truth).items():
        assert effects[name].baseline == pytest.approx(values[0], abs=2e-3)


@pytest.mark.parametrize("unit", ["probability", "logit"])
def test_constant_maps_are_one_tie(unit, measured):
    _, truth, times = measured
    effects = of_pixels(
        torch.full((2, 5, 8, 8), 0.3), lambda maps: maps.new_full((len(maps), *SIZE), 0.3), truth, times, PIXEL, unit
    )
    assert effects["pixel_auroc"].baseline == effects["pixel_auroc"].value[0] == 0.5


def test_maps_of_another_unit_are_an_error(measured):
    margins, truth, times = measured
    with pytest.raises(MetricError, match=r"the anomaly map, whole or ablated, gives values from .* calls them prob"):
        of_pixels(margins, ENLARGE, truth, times, PIXEL)
    margins = margins.clone()
    margins[1, 0, 0, 0] = torch.nan
    with pytest.raises(MetricError, match="not a number, or infinite"):
        of_pixels(margins, ENLARGE, truth, times, PIXEL, "logit")
