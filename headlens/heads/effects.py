"""From scores of every variant to effects with intervals: means over images, and metrics, which rank and may not move.

Per category, then unweighted over categories. Intervals are paired bootstraps over the images of each category: the
same draws serve all variants and metrics, so an interval is that of a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor

from headlens import metrics
from headlens.errors import ConfigError
from headlens.metrics.bootstrap import PerImage, histograms, joined_metrics
from headlens.metrics.curve import Groups
from headlens.metrics.table import IMAGE, PIXEL
from headlens.metrics.truth import Truth
from headlens.units import Unit, check_unit, logit

METRICS = IMAGE + PIXEL
MAPS_AT_ONCE = 128


@dataclass(frozen=True)
class Effects:
    """What V variants do to one quantity in one category.

    Args:
        value, effect: [V].
        baseline: the whole detector's value.
        magnitude: [V], the mean absolute effect over images; of a metric, the absolute effect.
        replicates: [R, V], of the effect.
    """

    value: np.ndarray
    baseline: float
    effect: np.ndarray
    magnitude: np.ndarray
    replicates: np.ndarray

    @classmethod
    def undefined(cls, variants: int, replicates: int) -> Effects:
        """Of a metric that has nothing to be computed from."""
        nothing = np.full(variants, np.nan)
        return cls(nothing, np.nan, nothing, nothing, np.full((replicates, variants), np.nan))


def check_metrics(names: Sequence[str]) -> None:
    """Raises ConfigError for a metric that does not exist."""
    if unknown := [name for name in names if name not in METRICS]:
        raise ConfigError(f"unknown metric {unknown[0]!r}: there are {', '.join(METRICS)}")


def draws(images: int, replicates: int, seed: int, category: str) -> Tensor:
    """How often each of ``images`` is drawn in every replicate, [R, images] float64; by seed and category alone."""
    number = int.from_bytes(sha256(f"{seed}/{category}".encode()).digest()[:7], "big")
    drawn = torch.randint(images, (replicates, images), generator=torch.Generator().manual_seed(number))
    times = torch.zeros(replicates, images, dtype=torch.float64)
    return times.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))


def of_images(values: Tensor, baseline: Tensor, times: Tensor) -> Effects:
    """Means over images of a continuous quantity: values [V, n], baseline [n], times [R, n]."""
    values, baseline = values.double(), baseline.double()
    change = values - baseline
    return Effects(
        values.mean(1).numpy(),
        float(baseline.mean()),
        change.mean(1).numpy(),
        change.abs().mean(1).numpy(),
        (times @ change.T / times.sum(1, keepdim=True)).numpy(),
    )


def of_ranks(scores: Tensor, labels: Tensor, times: Tensor, names: Sequence[str]) -> dict[str, Effects]:
    """Image metrics of scores [V + 1, n], the baseline's first, by labels [n] bool; names as ``image_auroc``."""
    names = [name for name in names if name in IMAGE]
    if not names:
        return {}
    short = [name.removeprefix("image_") for name in names]
    measured = metrics.image_metrics(scores, labels)
    drawn = [_rank_replicates(row, labels, times) for row in scores]
    return {
        name: _differences(measured[key].numpy(), torch.stack([replicate[key] for replicate in drawn], 1).numpy())
        for name, key in zip(names, short, strict=True)
    }


def _rank_replicates(scores: Tensor, labels: Tensor, times: Tensor) -> dict[str, Tensor]:
    """AUROC, AP and F1max of scores [n] for images counted ``times`` [R, n] over, [R] each."""
    levels, place = scores.unique(return_inverse=True)
    place = len(levels) - 1 - place  # falling
    hits, others = (
        times.new_zeros(len(times), len(levels)).index_add_(1, place[which], times[:, which])
        for which in (labels, ~labels)
    )
    return Groups.of_bins(hits, others, torch.ones(len(levels), dtype=torch.bool)).metrics()


def of_pixels(
    grids: Tensor,
    enlarge: Callable[[Tensor], Tensor],
    truth: Truth,
    times: Tensor,
    names: Sequence[str],
    unit: Unit = "probability",
) -> dict[str, Effects]:
    """Pixel metrics of anomaly maps, the baseline's first; names as ``pixel_aupro``. Counted where ``truth`` is.

    Values come from 65,536 bins of the logit, replicates from 1,024: over the baseline's range and some more, and as
    far as a variant's maps go beyond it.

    Args:
        grids: [V + 1, n, rows, columns], anywhere; some maps of one variant are enlarged at a time.
        enlarge: what makes maps [m, h, w] of [m, rows, columns], by averaging: none leaves the range of its grid.
        truth: of the n masks.
        times: [R, n].
        names: which.
        unit: of the maps.

    Raises:
        MetricError: maps that are not of this unit, or not finite.
    """
    names = [name for name in names if name in PIXEL]
    if not names:
        return {}
    values: dict[str, list[float]] = {name: [] for name in names}
    drawn: dict[str, list[Tensor]] = {name: [] for name in names}
    device, count = truth.index.device, grids.shape[1]
    parts = [(slice(i, i + MAPS_AT_ONCE), truth.images(i, i + MAPS_AT_ONCE)) for i in range(0, count, MAPS_AT_ONCE)]
    regions = torch.cat([some.each.double() for _, some in parts]) if device.type == "cuda" else None
    ends = [end(grids.float().flatten(1), 1) for end in (torch.amin, torch.amax)]
    check_unit(float(ends[0].min()), float(ends[1].max()), unit, "the anomaly map, whole or ablated,")

    def logits(maps: Tensor) -> Tensor:
        return logit(maps.float()) if unit == "probability" else maps.float()

    lows, highs = (logits(end).tolist() for end in ends)
    room = 0.1 * (highs[0] - lows[0])
    room += 0.1 if unit == "probability" else 1e-6 * max(abs(lows[0]), abs(highs[0])) + 1e-30  # of any scale
    for grid, low, high in zip(grids, lows, highs, strict=True):
        span = (min(low, lows[0] - room), max(high, highs[0] + room))
        maps = ((logits(enlarge(grid[rows].to(device))), some) for rows, some in parts)
        if regions is not None:
            counted = (histograms(large, some, span) for large, some in maps)
            measured, replicates = joined_metrics(counted, regions, times)
        else:
            metric, each = metrics.PixelMetrics(mode="streaming", score_range=span, sync_on_compute=False), []
            for large, some in maps:
                metric.update(large, some)
                each.append(PerImage.of(large, some, score_range=span))
            measured, replicates = metric.compute(), PerImage.joined(each).metrics(times)
        for name in names:
            short = name.removeprefix("pixel_")
            values[name].append(float(measured[short]))
            drawn[name].append(replicates[short])
    return {name: _differences(np.array(values[name]), torch.stack(drawn[name], 1).numpy()) for name in names}


def _differences(values: np.ndarray, replicates: np.ndarray) -> Effects:
    """Of metrics [V + 1] and their replicates [R, V + 1], the baseline's first."""
    effect = values[1:] - values[0]
    return Effects(values[1:], float(values[0]), effect, np.abs(effect), replicates[:, 1:] - replicates[:, :1])


def over_categories(parts: Sequence[Effects], level: float = 0.95) -> dict[str, np.ndarray]:
    """Unweighted means over categories of value, baseline, effect and magnitude, [V] each, and the interval's ends.

    Categories where a metric is undefined are left out; where it is undefined in all, so is the mean. ``n`` says how
    many are in a mean, and ``of`` how many there are.
    """

    def mean(arrays: Sequence[np.ndarray]) -> np.ndarray:
        stacked = np.stack(arrays)
        defined = ~np.isnan(stacked)
        total, count = np.where(defined, stacked, 0).sum(0), defined.sum(0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    replicates = mean([part.replicates for part in parts])  # [R, V]
    known = ~np.isnan(replicates).all(0)
    ends = np.full((2, replicates.shape[1]), np.nan)
    if known.any():
        ends[:, known] = np.nanquantile(replicates[:, known], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {
        "value": mean([part.value for part in parts]),
        "baseline": mean([np.full_like(part.value, part.baseline) for part in parts]),
        "effect": mean([part.effect for part in parts]),
        "magnitude": mean([part.magnitude for part in parts]),
        "low": ends[0],
        "high": ends[1],
        "n": sum((~np.isnan(part.value)).astype(int) for part in parts),
        "of": np.full(replicates.shape[1], len(parts)),
    }
