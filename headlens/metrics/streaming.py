"""Pixel metrics in fixed memory: counters over bins of the score, which add up over batches and over ranks.

What the counters cannot know is the order of the pixels inside a bin. That bounds each metric from both sides, for any
order and any ties; a bin that only ever held one value is a tie, and its part is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headlens.devices import one_thread
from headlens.errors import MetricError
from headlens.metrics.binning import Binning
from headlens.metrics.checks import checked_scores, same_shape
from headlens.metrics.curve import AUPRO_LIMIT, Groups, bounds
from headlens.metrics.truth import FIXED_POINT, Truth

AT_ONCE = 4  # maps enlarged before they are counted: few enough to stay in the cache
MOST_REGIONS = 2**63 // FIXED_POINT - 1


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
        pixels, hits, weight = (torch.zeros(slots, dtype=torch.int64, device=device) for _ in range(3))
        low = torch.full((slots,), torch.inf, dtype=torch.float32, device=device)
        return cls(pixels, hits, weight, pixels.new_zeros(()), low, -low)

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
        device = where_float64(self.pixels.device)
        pixels, hits, weight, tied = (
            part.to(device).flip(0) for part in (self.pixels, self.hits, self.weight, self.tied)
        )
        regions, some = self.regions.to(device).double(), hits > 0
        share = weight[some] / (regions * FIXED_POINT)
        limits = bounds(Groups.of_bins(hits, pixels - hits, some, tied[some], share), limit)
        rounding = hits.sum() / (2 * regions * FIXED_POINT)  # of the weights: half a unit for every defect pixel
        lower, upper = limits["aupro"]
        limits["aupro"] = (lower - rounding).clamp(min=0), (upper + rounding).clamp(max=1)
        return {name: (low.cpu(), high.cpu()) for name, (low, high) in limits.items()}


def values(certified: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """One value from each certificate: the middle, and of F1max the lower end, which a threshold attains."""
    return {name: low if name == "f1max" else (low + high) / 2 for name, (low, high) in certified.items()}


def tally(
    counters: Counters,
    maps: Tensor,
    truth: Truth,
    binning: Binning,
    enlarge: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Counts ``maps`` [B, H, W] float32, or what ``enlarge`` makes of ``maps`` [B, ...], into ``counters``.

    All on one device.

    Raises:
        MetricError: a NaN or infinite score; nothing has been counted then.
        ShapeError: enlarged maps of another shape than the masks.
    """
    at_once = AT_ONCE if enlarge else max(1, len(maps))
    added = Counters.empty(binning.slots, maps.device)  # of all maps, or of none where one of them is bad
    lanes = _Lanes(len(maps), truth, binning) if maps.device.type == "cpu" else None
    for first in range(0, len(maps), at_once):
        large = maps
        if enlarge is not None:  # in the caller's thread, whose modes of torch are meant
            with one_thread():  # torch's threads would go on waiting for work while ours count
                large = enlarge(maps[first : first + at_once]).detach()
            same_shape(large, (min(at_once, len(maps) - first), *truth.shape[1:]), "enlarged maps and masks", 3)
        if large.is_complex():
            checked_scores(large, "maps")
        if lanes is not None:
            lanes.count(large.float(), first)
        else:
            part = truth if enlarge is None else truth.images(first, first + at_once)
            _tally_on_device(added, large.float(), part, binning)
    if lanes is not None:
        lanes.add_to(added)
    added.regions.add_(truth.regions)
    if truth.regions + int(counters.regions) > MOST_REGIONS:
        raise MetricError(f"more than {MOST_REGIONS} regions: their weights would not fit the counters")
    counters.add(added)


def _tally_on_device(counters: Counters, maps: Tensor, truth: Truth, binning: Binning) -> None:
    scores, slots = checked_scores(maps, "maps").flatten(1), binning.slots
    if not scores.numel():
        return
    # Every image has counters of its own, which are added up in the end: fewer threads wait for the same one.
    at = in_lanes(binning.place(scores).long(), slots)
    scores = scores.flatten()

    def lanes(value: float, dtype: torch.dtype) -> Tensor:
        return torch.full((len(maps) * slots,), value, dtype=dtype, device=maps.device)

    one = torch.ones((), dtype=torch.int32, device=maps.device).expand(at.shape)
    counters.pixels.add_(lanes(0, torch.int32).scatter_add_(0, at, one).view(-1, slots).sum(0))
    low, high = (
        lanes(empty, torch.float32).scatter_reduce_(0, at, scores, way).view(-1, slots)
        for empty, way in ((torch.inf, "amin"), (-torch.inf, "amax"))
    )
    torch.minimum(counters.low, low.amin(0), out=counters.low)
    torch.maximum(counters.high, high.amax(0), out=counters.high)
    hits = binning.place(scores[truth.index]).long()
    counters.hits.scatter_add_(0, hits, torch.ones_like(hits))
    counters.weight.scatter_add_(0, hits, truth.weight)


def in_lanes(bins: Tensor, slots: int) -> Tensor:
    """Numbers of bins [B, P] to places in B rows of ``slots`` counters, [B P]."""
    return bins.add_(torch.arange(len(bins), device=bins.device)[:, None] * slots).flatten()


def where_float64(device: torch.device) -> torch.device:
    """``device``, or the CPU where that has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


class _Lanes:
    """Counters of a few threads, on the CPU. All are allocated here: a thread would keep what it allocates."""

    def __init__(self, images: int, truth: Truth, binning: Binning) -> None:
        from headlens.metrics.kernels import LANES, threads_for

        self.truth, self.binning, self.each = truth, binning, truth.shape[1] * truth.shape[2]
        self.bins = binning.constants(np.float32)
        slots, kind = binning.slots, np.int32 if images * self.each < 2**31 else np.int64
        count = max(1, min(images, threads_for(images * self.each)))
        self.pixels = [np.zeros(LANES * slots, kind) for _ in range(count)]
        self.value = [np.full(slots, np.inf, np.float32) for _ in range(count)]
        self.hits, self.weight = ([np.zeros(slots, np.int64) for _ in range(count)] for _ in range(2))

    def count(self, maps: Tensor, first: int) -> None:
        """Counts ``maps`` [n, H, W], the images from ``first`` on."""
        from headlens.metrics.kernels import count_bins, count_hits, in_threads

        index, share, starts = self.truth.index.numpy(), self.truth.weight.numpy(), self.truth.starts
        scores, spaced = (each.reshape(len(maps), -1).numpy() for each in (maps, self.binning.spaced(maps)))
        threads = len(self.pixels)

        def work(thread: int) -> bool:
            for i in range(len(scores) * thread // threads, len(scores) * (thread + 1) // threads):
                if not count_bins(scores[i], spaced[i], self.bins, self.pixels[thread], self.value[thread]):
                    return False
                image = first + i
                part = slice(starts[image], starts[image + 1])
                before, hits, weight = image * self.each, self.hits[thread], self.weight[thread]
                count_hits(spaced[i], index[part], before, share[part], self.bins, hits, weight)
            return True

        if not all(in_threads(work, range(threads))):
            checked_scores(maps, "maps")

    def add_to(self, counters: Counters) -> None:
        """Adds all that was counted."""
        pixels, hits, weight = (getattr(counters, name).numpy() for name in ("pixels", "hits", "weight"))
        low, high = counters.low.numpy(), counters.high.numpy()
        for thread, value in enumerate(self.value):
            for lane in self.pixels[thread].reshape(-1, len(value)):
                pixels += lane
            hits += self.hits[thread]
            weight += self.weight[thread]
            np.minimum(low, np.where(np.isnan(value), -np.inf, value), out=low)  # NaN: several values, infinity: none
            np.maximum(high, np.where(np.isnan(value), np.inf, np.where(value == np.inf, -np.inf, value)), out=high)
