"""Pixel metrics in fixed memory: counters over bins of the score, which add up over batches and over ranks.

What the counters cannot know is the order of the pixels inside a bin. That bounds each metric from both sides, for any
order and any ties; a bin that only ever held one value is a tie, and its part is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headlens.metrics.binning import Binning
from headlens.metrics.checks import checked_scores
from headlens.metrics.curve import AUPRO_LIMIT, Groups, bounds
from headlens.metrics.threads import one_thread
from headlens.metrics.truth import FIXED_POINT, Truth

BLOCK = 2**16  # pixels at a time: half a megabyte of positions


@dataclass(frozen=True)
class Counters:
    """Sums over pixels, for every bin of a binning (K of them, the outer two included). ``tally`` adds in place.

    Args:
        pixels, hits: [K] int64: all pixels, and those with a defect.
        weight: [K] int64: ``FIXED_POINT / area of the region`` summed over defect pixels.
        regions: [] int64.
        low, high: [K] float32: equal where a bin is one tied value; infinity and its negative while it is empty. Where
            they differ, they only say that.
    """

    pixels: Tensor
    hits: Tensor
    weight: Tensor
    regions: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def empty(cls, slots: int, device: torch.device | str | None = None) -> Counters:
        """Nothing counted yet, in ``slots`` bins."""

        def filled(value: float, dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.full(shape, value, dtype=dtype, device=device)

        return cls(
            pixels=filled(0, torch.int64, slots),
            hits=filled(0, torch.int64, slots),
            weight=filled(0, torch.int64, slots),
            regions=filled(0, torch.int64),
            low=filled(torch.inf, torch.float32, slots),
            high=filled(-torch.inf, torch.float32, slots),
        )

    @one_thread()
    def add(self, other: Counters) -> None:
        """Adds other counters over the same bins, in place."""
        for name in ("pixels", "hits", "weight", "regions"):
            getattr(self, name).add_(getattr(other, name))
        torch.minimum(self.low, other.low, out=self.low)
        torch.maximum(self.high, other.high, out=self.high)

    @property
    def tied(self) -> Tensor:
        """[K] bool: bins that are one value, or empty."""
        return self.low >= self.high

    def bounds(self, limit: float = AUPRO_LIMIT) -> dict[str, tuple[Tensor, Tensor]]:
        """Certified lower and upper limits of AUROC, AP, F1max and AUPRO, float64 on the CPU."""
        pixels, hits, weight, tied = (part.cpu().flip(0) for part in (self.pixels, self.hits, self.weight, self.tied))
        through = (pixels - hits).cumsum(0)
        regions, some = self.regions.cpu().double(), hits > 0
        groups = Groups(
            hits=hits[some],
            above=(through - (pixels - hits))[some],
            through=through[some],
            negatives=through[-1],
            tied=tied[some],
            weight=weight[some] / (regions * FIXED_POINT),
        )
        found = bounds(groups, limit)
        rounding = hits.sum() / (2 * regions * FIXED_POINT)  # of the weights: half a unit for every defect pixel
        lower, upper = found["aupro"]
        return {**found, "aupro": (lower - rounding, upper + rounding)}


def values(certified: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """One value from each certificate: the middle, and of F1max the lower end, which a threshold attains."""
    return {name: low if name == "f1max" else (low + high) / 2 for name, (low, high) in certified.items()}


def tally(counters: Counters, maps: Tensor, truth: Truth, binning: Binning) -> None:
    """Counts ``maps`` [B, H, W] float32 into ``counters``, all on one device.

    Raises:
        MetricError: a NaN or infinite score; nothing has been counted then.
    """
    scores = checked_scores(maps, "maps").flatten()
    if maps.device.type == "cpu":
        _tally_on_cpu(counters, scores, truth, binning)
    else:
        _tally_on_device(counters, scores, truth, binning)
    counters.regions.add_(truth.regions)


def _tally_on_device(counters: Counters, scores: Tensor, truth: Truth, binning: Binning) -> None:
    at = binning.place(scores).long()
    hits = at[truth.index]
    counters.pixels.scatter_add_(0, at, torch.ones_like(at))
    counters.hits.scatter_add_(0, hits, torch.ones_like(hits))
    counters.weight.scatter_add_(0, hits, truth.weight)
    counters.low.scatter_reduce_(0, at, scores, "amin")
    counters.high.scatter_reduce_(0, at, scores, "amax")


@one_thread()
def _tally_on_cpu(counters: Counters, scores: Tensor, truth: Truth, binning: Binning) -> None:
    """The same, block by block: what is worked out on the way stays in the cache."""
    index, weight = truth.index.numpy(), truth.weight
    low, high = counters.low.numpy(), counters.high.numpy()
    # One look-up tells whether a pixel breaks a tie: the bin's value, infinity while empty, NaN once mixed.
    value = np.where(low < high, np.float32(np.nan), low)
    one = torch.ones(BLOCK, dtype=torch.int64)
    for start in range(0, len(scores), BLOCK):
        block = scores[start : start + BLOCK].numpy()
        at = binning.place(block).astype(np.int64)
        counters.pixels.scatter_add_(0, torch.from_numpy(at), one[: len(at)])
        known = value.take(at)
        if len(news := np.flatnonzero((known < block) | (known > block))):
            where, what = at[news], block[news]
            counters.low.scatter_reduce_(0, torch.from_numpy(where), torch.from_numpy(what), "amin")
            counters.high.scatter_reduce_(0, torch.from_numpy(where), torch.from_numpy(what), "amax")
            value[where] = np.where(low[where] < high[where], np.float32(np.nan), what)
        first, last = np.searchsorted(index, (start, start + len(at)))
        if first < last:
            hits = torch.from_numpy(at[index[first:last] - start])
            counters.hits.scatter_add_(0, hits, one[: len(hits)])
            counters.weight.scatter_add_(0, hits, weight[first:last])
