"""The same numbers wherever the maps are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from headlens.maps import upsample
from headlens.metrics import ImageMetrics, PerImage, PixelMetrics, Truth, cflow200, image_metrics

pytestmark = pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator")


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    masks = F.interpolate((torch.rand(8, 1, 5, 6, generator=generator) < 0.2).float(), (50, 60))[:, 0].bool()
    maps = torch.rand(8, 50, 60, generator=generator) * 0.7 + 0.3 * masks
    maps[::2] = (maps[::2] * 20).round() / 20
    return maps, masks


@pytest.mark.parametrize(
    "options",
    [
        {"cflow200": True},
        {"mode": "streaming"},
        {"mode": "streaming", "bins": 50},
        {"mode": "streaming", "unit": "logit"},
    ],
)
def test_pixel_metrics(case, options):
    device = torch.accelerator.current_accelerator()
    here, there = PixelMetrics(**options), PixelMetrics(**options).to(device)
    for maps, masks in zip(*(part.split(3) for part in case), strict=True):
        here.update(maps, masks)
        there.update(maps.to(device), masks.to(device))
    expected, found = here.compute(), there.compute()
    for name in expected:
        assert abs(float(expected[name]) - float(found[name])) < 1e-12, name
    for name, ends in here.bounds().items():
        assert all(abs(float(a) - float(b)) < 1e-12 for a, b in zip(ends, there.bounds()[name], strict=True))


def test_the_rest(case):
    maps, masks = case
    device = torch.accelerator.current_accelerator()
    truth = Truth.of(masks)
    there = Truth.of(masks.to(device))
    assert torch.equal(there.index.cpu(), truth.index) and there.images(2, 5).to("cpu").shape == (3, 50, 60)
    assert abs(float(cflow200(maps.to(device), there)) - float(cflow200(maps, truth))) < 1e-12
    here, moved = PerImage.of(maps, truth), PerImage.of(maps.to(device), there)
    assert torch.equal(here.hits, moved.hits.cpu()) and torch.equal(here.negatives, moved.negatives.cpu())
    scores, labels = maps.flatten(1).mean(1), torch.arange(len(maps)) % 3 == 0
    there_too, known = image_metrics(scores.to(device), labels), image_metrics(scores, labels)
    assert all(abs(float(there_too[name]) - float(known[name])) < 1e-12 for name in known)
    metric = ImageMetrics().to(device)
    metric.update(scores.to(device), labels.to(device))
    assert all(abs(float(value) - float(known[name])) < 1e-12 for name, value in metric.compute().items())
    grid = torch.rand(2, 7, 9)
    torch.testing.assert_close(upsample(grid.to(device), (98, 126)).cpu(), upsample(grid, (98, 126)), rtol=0, atol=5e-7)
