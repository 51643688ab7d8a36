"""Pixel metrics of many variants of the same images' maps on an accelerator, where a sweep makes them.

One histogram of 65,536 bins for every image and variant serves both: summed over images it gives the values, its bins
put together by 64 the bootstrap over images. All pixels of a bin are read as tied, which is exact for bins that are one
value, and within ``PixelMetrics.bounds`` of 65,536 bins for others.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from headlens.metrics.binning import Binning
from headlens.metrics.bootstrap import Histograms, PerImage
from headlens.metrics.checks import checked_scores, same_shape
from headlens.metrics.curve import AUPRO_LIMIT, Groups, bounds
from headlens.metrics.truth import FIXED_POINT, Truth

BINS, TOGETHER = 2**16, 2**6


def histograms(maps: Tensor, truth: Truth, score_range: tuple[float, float]) -> Histograms:
    """Counts maps [B, H, W] on the device of ``truth``.

    Raises:
        MetricError: a NaN or infinite score.
        ShapeError: shapes that differ.
    """
    same_shape(maps, truth.shape, "maps and masks", 3)
    return Histograms.of(checked_scores(maps, "maps"), truth, Binning(BINS, *score_range).checked())


def joined_metrics(
    parts: Iterable[Histograms], regions: Tensor, times: Tensor, limit: float = AUPRO_LIMIT
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One variant's metrics, [] each, and their replicates, [R] each; float64 on the CPU.

    Args:
        parts: of all its images, asked for one after the other: 1 MB an image, of which 25 kB are held.
        regions: [B] float64, of each image.
        times: [R, B], how often each image is drawn.
        limit: the false positive rate up to which AUPRO integrates.
    """
    sums: list[Tensor] = []
    each: list[list[Tensor]] = []
    for part in parts:
        total = [fine.sum(0) for fine in part]
        sums = [a.add_(b) for a, b in zip(sums, total, strict=True)] if sums else total
        each.append([_coarse(fine) for fine in part])
    pixels, hits, weight = sums
    through, some = (pixels - hits).cumsum(0), hits > 0
    whole = Groups(
        hits=hits[some],
        above=(through - (pixels - hits))[some],
        through=through[some],
        negatives=through[-1],
        tied=torch.ones(1, dtype=torch.bool, device=hits.device),
        weight=weight[some] / (regions.sum() * FIXED_POINT),
    )
    values = {name: low.cpu() for name, (low, _) in bounds(whole, limit).items()}
    pixels, hits, weight = (torch.cat(column) for column in zip(*each, strict=True))
    return values, PerImage(pixels - hits, hits, weight / FIXED_POINT, regions).metrics(times, limit)


def _coarse(fine: Tensor) -> Tensor:
    """[B, K] to [B, K'] float64: the outer two bins as they are, all others by 64."""
    inner = fine[:, 1:-1].unflatten(1, (-1, TOGETHER)).sum(2)
    return torch.cat([fine[:, :1], inner, fine[:, -1:]], 1).double()
