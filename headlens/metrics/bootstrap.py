"""Bootstrap intervals over images from counters of every image, at almost no cost.

On an accelerator one histogram of 65,536 bins for every image and variant serves both: summed over images it gives the
values, its bins put together by 64 the bootstrap over images. All pixels of a bin count as tied, which is exact for
bins with a single value, and within ``PixelMetrics.bounds`` of 65,536 bins for others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from headlens.devices import one_thread
from headlens.errors import MetricError
from headlens.metrics.binning import Binning
from headlens.metrics.checks import checked_scores, same_shape
from headlens.metrics.curve import Groups
from headlens.metrics.streaming import in_lanes, where_float64
from headlens.metrics.truth import FIXED_POINT, Truth

AT_ONCE = 32  # replicates: their counters stay in the cache
BINS, TOGETHER = 2**16, 2**6


class Histograms(NamedTuple):
    """Of B images over K bins in falling order: pixels [B, K] int32, hits [B, K] int32, weight [B, K] int64."""

    pixels: Tensor
    hits: Tensor
    weight: Tensor

    @classmethod
    def of(cls, maps: Tensor, truth: Truth, binning: Binning) -> Histograms:
        """All images at once; shares of regions are added up in fixed point, in any order to the same bits."""
        shape = (len(maps), binning.slots)
        at = in_lanes(binning.slots - 1 - binning.place(maps.flatten(1)).long(), binning.slots)

        def counted(where: Tensor, what: Tensor) -> Tensor:
            empty = torch.zeros(shape[0] * shape[1], dtype=what.dtype, device=maps.device)
            return empty.scatter_add_(0, where, what.expand(where.shape)).view(shape)

        hits, one = at[truth.index], torch.ones((), dtype=torch.int32, device=maps.device)
        return cls(counted(at, one), counted(hits, one), counted(hits, truth.weight))


@dataclass(frozen=True)
class PerImage:
    """Counters over K bins of the score, in falling order, image by image: 25 kB for each image at 1,024 bins.

    Args:
        negatives, hits: [B, K] float64: pixels without and with a defect.
        weight: [B, K] float64: 1 / area of the region, summed over defect pixels.
        regions: [B] float64.

    >>> maps, masks = torch.rand(20, 8, 8), torch.rand(20, 8, 8) < 0.2
    >>> PerImage.of(maps, Truth.of(masks)).bootstrap(replicates=500)["auroc"].shape
    torch.Size([500])
    """

    negatives: Tensor
    hits: Tensor
    weight: Tensor
    regions: Tensor

    @classmethod
    def of(
        cls, maps: Tensor, truth: Truth, bins: int = 2**10, score_range: tuple[float, float] | None = None
    ) -> PerImage:
        """Counts maps [B, H, W].

        Args:
            maps: higher is more anomalous.
            truth: of their masks.
            bins: number of bins over ``score_range``.
            score_range: scores outside share one bin on either side. When None it is 0 to 1, and none may be outside.

        Raises:
            MetricError: a NaN or infinite score, or one outside of 0 to 1 where no range is given.
            ShapeError: shapes that differ.
        """
        same_shape(maps, truth.shape, "maps and masks", 3)
        maps, truth = checked_scores(maps, "maps"), truth.to(maps.device)
        if score_range is None and maps.numel() and not 0 <= float(maps.min()) <= float(maps.max()) <= 1:
            raise MetricError(
                f"scores from {float(maps.min()):.4g} to {float(maps.max()):.4g}: those outside of 0 to 1 would be "
                "read as tied; give their range as score_range="
            )
        binning = Binning(bins, *(score_range or (0.0, 1.0))).checked()
        if maps.device.type != "cpu":
            counts, device = Histograms.of(maps, truth, binning), where_float64(maps.device)
            pixels, hits, weight, regions = (part.to(device).double() for part in (*counts, truth.each))
            return cls(pixels - hits, hits, weight / FIXED_POINT, regions)
        pixels, hits, weight = (maps.new_zeros(len(maps), binning.slots, dtype=torch.float64) for _ in range(3))
        regions = maps.new_zeros(len(maps), dtype=torch.float64)
        for image, scores in enumerate(maps.flatten(1)):
            at = binning.slots - 1 - binning.place(scores).long()
            rows = slice(truth.starts[image], truth.starts[image + 1])
            hit = at[truth.index[rows] - image * len(at)]
            share = 1 / truth.area_at[rows].double()
            pixels[image] = torch.bincount(at, minlength=binning.slots)
            hits[image] = torch.bincount(hit, minlength=binning.slots)
            weight[image] = torch.bincount(hit, share, minlength=binning.slots)
            regions[image] = share.sum().round()
        return cls(pixels - hits, hits, weight, regions)

    @classmethod
    def joined(cls, parts: Sequence[PerImage]) -> PerImage:
        """Of all images of ``parts``, in their order."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))

    @one_thread()
    def metrics(self, times: Tensor) -> dict[str, Tensor]:
        """AUROC, AP, F1max and AUPRO with each image counted ``times`` [R, B] times; [R] float64 each, on the CPU.

        All pixels of a bin count as tied.
        """
        parts = []
        some = self.hits.sum(0) > 0
        at_once = AT_ONCE if self.hits.device.type == "cpu" else len(times)
        for block in times.double().to(self.hits.device).split(at_once):
            share = (block @ self.weight[:, some]) / (block @ self.regions)[:, None]
            groups = Groups.of_bins(block @ self.hits, block @ self.negatives, some, weight=share)
            parts.append(groups.metrics())
        return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}

    def bootstrap(self, replicates: int = 1000, seed: int = 0) -> dict[str, Tensor]:
        """The metrics of ``replicates`` sets of B images drawn with replacement; [replicates] float64 each.

        The draws depend only on ``seed`` and B: with the same seed the replicates of two variants of the same images
        are paired, and ``a["ap"] - b["ap"]`` is a sample of their difference.

        Raises:
            MetricError: no image, or no replicate.
        """
        count = len(self.regions)
        if not count or replicates < 1:
            raise MetricError(f"{replicates} replicates of {count} images; expected at least one of each")
        drawn = torch.randint(count, (replicates, count), generator=torch.Generator().manual_seed(seed))
        times = torch.zeros(replicates, count, dtype=torch.float64)
        times.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        return self.metrics(times)


def histograms(maps: Tensor, truth: Truth, score_range: tuple[float, float]) -> Histograms:
    """Counts maps [B, H, W] on the device of ``truth``.

    Raises:
        MetricError: a NaN or infinite score.
        ShapeError: shapes that differ.
    """
    same_shape(maps, truth.shape, "maps and masks", 3)
    return Histograms.of(checked_scores(maps, "maps"), truth, Binning(BINS, *score_range).checked())


def joined_metrics(
    parts: Iterable[Histograms], regions: Tensor, times: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One variant's metrics, [] each, and their replicates, [R] each; float64 on the CPU.

    Args:
        parts: of all its images, asked for one after the other: 1 MB an image, of which 25 kB are held.
        regions: [B] float64, of each image.
        times: [R, B], how often each image is drawn.
    """
    sums: list[Tensor] = []
    each: list[list[Tensor]] = []
    for part in parts:
        total = [fine.sum(0) for fine in part]
        sums = [a.add_(b) for a, b in zip(sums, total, strict=True)] if sums else total
        each.append([_coarse(fine) for fine in part])
    pixels, hits, weight = sums
    some = hits > 0
    share = weight[some] / (regions.sum() * FIXED_POINT)
    whole = Groups.of_bins(hits, pixels - hits, some, weight=share)
    pixels, hits, weight = (torch.cat(column) for column in zip(*each, strict=True))
    values = {name: value.cpu() for name, value in whole.metrics().items()}
    return values, PerImage(pixels - hits, hits, weight / FIXED_POINT, regions).metrics(times)


def _coarse(fine: Tensor) -> Tensor:
    """[B, K] to [B, K'] float64: the outer two bins as they are, all others by 64."""
    inner = fine[:, 1:-1].unflatten(1, (-1, TOGETHER)).sum(2)
    return torch.cat([fine[:, :1], inner, fine[:, -1:]], 1).double()
