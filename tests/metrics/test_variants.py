"""Metrics of a sweep as a GPU counts them, against those that are counted map by map."""

from __future__ import annotations

import torch

from headlens.metrics import PerImage, PixelMetrics, Truth
from headlens.metrics.bootstrap import histograms, joined_metrics


def test_they_are_the_metrics_of_all_images_and_of_images_drawn_again():
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(9, 40, 50, dtype=torch.bool)
    for i in range(1, 9):
        masks[i, 3 * i : 3 * i + 7, 10:24] = True
        masks[i, 35:38, 2:5] = i > 4
    maps = torch.randn(9, 40, 50, generator=generator) + masks
    maps[::3] = maps[::3].round()  # ties
    truth, span = Truth.of(masks), (-4.0, 5.0)
    times = torch.randint(3, (20, 9), generator=generator).double()
    parts = [(slice(0, 4), truth.images(0, 4)), (slice(4, 9), truth.images(4, 9))]
    regions = torch.cat([some.each for _, some in parts]).double()
    assert regions.tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 2]
    counted = [histograms(maps[rows], some, span) for rows, some in parts]
    found, replicates = joined_metrics(counted, regions, times)

    exact = PixelMetrics()
    exact.update(maps, truth)
    expected = PerImage.of(maps, truth, score_range=span).metrics(times)
    for name, value in exact.compute().items():
        assert abs(float(found[name] - value)) < 1e-5, name
        # Bins of two counts may differ by the pixels that lie next to an edge.
        assert float((replicates[name] - expected[name]).abs().max()) < 1e-3, name
