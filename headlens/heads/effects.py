"""From scores of every variant to effects with intervals: means over images, and metrics, which rank and may not move.

Per category, then unweighted over categories. Intervals are paired bootstraps over the images of each category: the
same draws serve all variants and metrics, so an interval is that of a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from headlens import metrics, parallel
from headlens.data import Batch, DataSet, Record
from headlens.detectors.detector import Detector
from headlens.detectors.scoring import Scoring
from headlens.devices import one_thread
from headlens.errors import ConfigError
from headlens.heads.response import Kind
from headlens.heads.variants import Variant
from headlens.metrics import Truth
from headlens.metrics.bootstrap import PerImage, histograms, joined_metrics
from headlens.metrics.curve import Groups
from headlens.metrics.table import IMAGE, MEAN, PIXEL
from headlens.printing import unknown_name
from headlens.results import ordered, per_image
from headlens.units import check_unit, logit

METRICS = IMAGE + PIXEL
MAPS_AT_ONCE = 128
CONTINUOUS = {name: name for name in ("image_margin", "joint_margin", "joint_score")} | {"anomaly_map": "map_change"}
"""Measured in every image, and where from. ``anomaly_map``: the relative L1 distance from the whole detector's map.

Of a detector without maps that is not among the scores, and nothing is said of it.
"""


@dataclass(frozen=True)
class Effects:
    """What V variants do to one quantity in one category.

    Args:
        value, effect: [V].
        baseline: the whole detector's value.
        magnitude: [V], the mean absolute effect over images; of a metric, the absolute effect.
        replicates: [R, V], of the effect.
        whole: [R], replicates of the baseline, from the same draws.
    """

    value: np.ndarray
    baseline: float
    effect: np.ndarray
    magnitude: np.ndarray
    replicates: np.ndarray
    whole: np.ndarray


def check_metrics(names: Sequence[str]) -> None:
    """Raises ConfigError for a metric that does not exist."""
    if unknown := [name for name in names if name not in METRICS]:
        raise ConfigError(unknown_name("metric", unknown[0], METRICS))


def draws(images: int, replicates: int, seed: int, category: str) -> Tensor:
    """How often each of ``images`` is drawn in every replicate, [R, images] float64; by seed and category alone."""
    number = int.from_bytes(sha256(f"{seed}/{category}".encode()).digest()[:7], "big")
    drawn = torch.randint(images, (replicates, images), generator=torch.Generator().manual_seed(number))
    times = torch.zeros(replicates, images, dtype=torch.float64)
    return times.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))


def of_images(values: Tensor, baseline: Tensor, times: Tensor) -> Effects:
    """Means over images of a continuous quantity: values [V, n], baseline [n], times [R, n]."""
    values, baseline = values.double(), baseline.double()
    change, drawn = values - baseline, times.sum(1, keepdim=True)
    return Effects(
        values.mean(1).numpy(),
        float(baseline.mean()),
        change.mean(1).numpy(),
        change.abs().mean(1).numpy(),
        (times @ change.T / drawn).numpy(),
        (times @ baseline / drawn[:, 0]).numpy(),
    )


def of_ranks(scores: Tensor, labels: Tensor, times: Tensor, names: Sequence[str]) -> dict[str, Effects]:
    """Image metrics of scores [V + 1, n], the baseline's first, by labels [n] bool; names as ``image_auroc``."""
    names = [name for name in names if name in IMAGE]
    if not names:
        return {}
    measured = metrics.image_metrics(scores, labels)
    drawn = [_rank_replicates(row, labels, times) for row in scores]

    def effects(key: str) -> Effects:
        return _differences(measured[key].numpy(), torch.stack([replicate[key] for replicate in drawn], 1).numpy())

    return {name: effects(name.removeprefix("image_")) for name in names}


def _rank_replicates(scores: Tensor, labels: Tensor, times: Tensor) -> dict[str, Tensor]:
    """AUROC, AP and F1max of scores [n] for images counted ``times`` [R, n] over, [R] each."""
    levels, place = scores.unique(return_inverse=True)
    place = len(levels) - 1 - place  # falling
    hits, others = (
        times.new_zeros(len(times), len(levels)).index_add_(1, place[which], times[:, which])
        for which in (labels, ~labels)
    )
    return Groups.of_bins(hits, others, torch.ones(len(levels), dtype=torch.bool)).metrics()


def of_pixels(grids: Tensor, scoring: Scoring, truth: Truth, times: Tensor, names: Sequence[str]) -> dict[str, Effects]:
    """Pixel metrics of anomaly maps, the baseline's first; names as ``pixel_aupro``. Counted where ``truth`` is.

    Values come from 65,536 bins of the logit, replicates from 1,024: over the baseline's range and some more, and as
    far as a variant's maps go beyond it.

    Args:
        grids: [V + 1, n, ...], patch maps of ``scoring``, anywhere; some of one variant are enlarged at a time.
        scoring: how they become maps of the masks' size.
        truth: of the n masks.
        times: [R, n].
        names: which.

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
    ends, unit = scoring.bounds(grids.float()), scoring.unit
    check_unit(float(ends[0].min()), float(ends[1].max()), unit, "the anomaly map, whole or ablated,")

    def logits(maps: Tensor) -> Tensor:
        return logit(maps.float()) if unit == "probability" else maps.float()

    lows, highs = (logits(end).tolist() for end in ends)
    room = 0.1 * (highs[0] - lows[0])
    room += 0.1 if unit == "probability" else 1e-6 * max(abs(lows[0]), abs(highs[0])) + 1e-30  # of any scale
    for grid, low, high in zip(grids, lows, highs, strict=True):
        span = (min(low, lows[0] - room), max(high, highs[0] + room))
        maps = ((logits(scoring.enlarge(grid[rows].to(device), truth.shape[1:])), some) for rows, some in parts)
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
    whole = replicates[:, 0]
    return Effects(values[1:], float(values[0]), effect, np.abs(effect), replicates[:, 1:] - whole[:, None], whole)


def defined_mean(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of arrays of one shape, entry by entry, over those where it is defined (not NaN).

    >>> defined_mean([np.array([1.0, np.nan, np.nan]), np.array([3.0, 5.0, np.nan])]).tolist()
    [2.0, 5.0, nan]
    """
    stacked = np.stack(arrays)
    defined = ~np.isnan(stacked)
    total, count = np.where(defined, stacked, 0).sum(0), defined.sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def over_categories(parts: Sequence[Effects], level: float = 0.95) -> dict[str, np.ndarray]:
    """Unweighted means over categories of value, baseline, effect and magnitude, [V] each, and the interval's ends.

    Categories where a metric is undefined are left out; where it is undefined in all, so is the mean. ``n`` says how
    many are in a mean, and ``of`` how many there are.
    """
    replicates = defined_mean([part.replicates for part in parts])  # [R, V]
    known = ~np.isnan(replicates).all(0)
    ends = np.full((2, replicates.shape[1]), np.nan)
    if known.any():
        ends[:, known] = np.nanquantile(replicates[:, known], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {
        "value": defined_mean([part.value for part in parts]),
        "baseline": defined_mean([np.full_like(part.value, part.baseline) for part in parts]),
        "effect": defined_mean([part.effect for part in parts]),
        "magnitude": defined_mean([part.magnitude for part in parts]),
        "low": ends[0],
        "high": ends[1],
        "n": sum((~np.isnan(part.value)).astype(int) for part in parts),
        "of": np.full(replicates.shape[1], len(parts)),
    }


def truths_of(part: Batch) -> list[Truth | None]:
    """Of the masks of a batch, where its images have any: no more than where their pixels are."""
    masks = part.masks if isinstance(part.masks, Tensor) else [None] * len(part)
    pairs = zip(masks, part.has_mask, strict=True)
    return [Truth.of(mask[None]) if mask is not None and bool(has) else None for mask, has in pairs]


def packed(truths: Sequence[Truth | None]) -> dict[str, np.ndarray]:
    """The truths of images as arrays that can travel to other ranks."""
    arrays = {"outlined": np.array([truth is not None for truth in truths])}
    if known := [truth for truth in truths if truth is not None]:
        whole = Truth.joined(known)
        arrays |= {f"truth_{name}": getattr(whole, name).numpy() for name in ("index", "region", "area")}
        arrays["truth_shape"] = np.array(whole.shape)
    return arrays


def unpacked(arrays: Mapping[str, np.ndarray]) -> list[Truth | None]:
    """What ``packed`` was given.

    >>> mask = torch.zeros(1, 4, 4)
    >>> mask[0, :2] = 1
    >>> without, truth = unpacked(packed([None, Truth.of(mask)]))
    >>> without, truth.area
    (None, tensor([8]))
    """
    outlined = arrays["outlined"]
    if not outlined.any():
        return [None] * len(outlined)
    numbers = (torch.from_numpy(arrays[f"truth_{name}"]) for name in ("index", "region", "area"))
    whole = Truth(tuple(arrays["truth_shape"].tolist()), *numbers)
    place = np.cumsum(outlined).tolist()  # the image's place among those with an outline, from 1
    return [whole.images(at - 1, at) if has else None for has, at in zip(outlined, place, strict=True)]


def keys_of(variants: Sequence[Variant], kind: Kind) -> pd.DataFrame:
    """Stream, layer, head, variant, order, heads (how many), kind of V variants; probes have 0 and kind ``none``."""
    columns = {
        "stream": [each.stream if each.heads else each.name.partition("/")[2] or "global" for each in variants],
        "layer": [each.layer for each in variants],
        "head": [each.head for each in variants],
        "variant": [each.name for each in variants],
        "order": [each.order for each in variants],
        "heads": [len(each.heads) for each in variants],
        "kind": [kind if each.heads else "none" for each in variants],
    }
    keys = pd.DataFrame(columns)
    return keys.astype({"layer": "Int64", "head": "Int64"})


def images_frame(
    data: DataSet, records: Sequence[Record], keys: pd.DataFrame, scores: Mapping[str, Tensor]
) -> pd.DataFrame:
    """A row for each of N images, quantity and variant; scores [V + 1, N], the whole detector's first."""
    known = {metric: scores[source] for metric, source in CONTINUOUS.items() if source in scores}
    every = pd.concat([keys.assign(metric=metric) for metric in known], ignore_index=True)
    each = list(known.values())
    value = torch.cat([rows[1:] for rows in each]).T  # (N, K)
    baseline = torch.cat([rows[:1].expand(len(keys), -1) for rows in each]).T
    return per_image(data, records, every, value=value, baseline=baseline, effect=value - baseline)


@one_thread()  # tensors are small: torch's threads would wait for each other, and for those that count pixels
def category_effects(
    detector: Detector,
    records: Sequence[Record],
    truths: Sequence[Truth | None],
    scores: Mapping[str, Tensor],
    metrics: Sequence[str],
    replicates: int,
    seed: int,
    grids: Callable[[Sequence[int]], Tensor] | None = None,
) -> dict[str, dict[str, Effects]]:
    """``{category: {quantity or metric: effects of V variants}}``.

    Args:
        detector: how maps are enlarged, and where.
        records: of N images.
        truths: of their masks; None where there is none.
        scores: [V + 1, N] of each continuous quantity.
        metrics: which.
        replicates, seed: of the bootstrap.
        grids: for pixel metrics: numbers of n images to their patch maps [·, n, ...], those of the whole
            detector and of this rank's share of the variants: metrics are shared among ranks by variants.
    """
    effects: dict[str, dict[str, Effects]] = {}
    ranked: dict[str, dict[str, Effects]] = {}  # of this rank's variants
    joint = parallel.current().rows(scores["joint_score"])
    nothing = np.full(len(joint) - 1, np.nan)  # of a metric that has nothing to be computed from
    undefined = Effects(
        nothing, np.nan, nothing, nothing, np.tile(nothing, (replicates, 1)), np.full(replicates, np.nan)
    )

    for category in dict.fromkeys(record.category for record in records):
        here = [i for i, record in enumerate(records) if record.category == category]
        times = draws(len(here), replicates, seed, category)
        effects[category] = {
            name: of_images(scores[s][1:, here], scores[s][0, here], times)
            for name, s in CONTINUOUS.items()
            if s in scores
        }
        of_metrics: dict[str, Effects] = {}
        if labelled := [j for j, i in enumerate(here) if records[i].anomalous is not None]:
            at = [here[j] for j in labelled]
            labels = torch.tensor([records[i].anomalous is True for i in at])
            of_metrics |= of_ranks(joint[:, at], labels, times[:, labelled], metrics)
        masked = [(j, truth) for j, i in enumerate(here) if (truth := truths[i]) is not None]
        if masked and grids is not None:
            maps = grids([here[j] for j, _ in masked])
            truth = Truth.joined([truth for _, truth in masked]).to(detector.device)
            at_masked = times[:, [j for j, _ in masked]]
            of_metrics |= of_pixels(maps, detector.scoring, truth, at_masked, metrics)
        ranked[category] = {name: of_metrics.get(name, undefined) for name in metrics}
    return {category: effects[category] | of_metrics for category, of_metrics in _of_all_ranks(ranked).items()}


def _of_all_ranks(ranked: Mapping[str, Mapping[str, Effects]]) -> dict[str, dict[str, Effects]]:
    """Effects of each rank's share of the variants to those of all."""
    fields = ("value", "effect", "magnitude", "replicates")  # variants are their last axis
    flat = {f"{c}/{m}": effects for c, metrics in ranked.items() for m, effects in metrics.items()}
    parts = parallel.current().each({f"{key}/{f}": getattr(e, f) for key, e in flat.items() for f in fields})

    def whole(name: str) -> np.ndarray:
        pieces = [part[name] for part in parts]
        array = np.empty((*pieces[0].shape[:-1], sum(piece.shape[-1] for piece in pieces)))
        for rank, piece in enumerate(pieces):
            array[..., rank :: len(pieces)] = piece
        return array

    def joined(key: str) -> Effects:  # the baseline is on each rank
        arrays: dict[str, Any] = {field: whole(f"{key}/{field}") for field in fields}
        return replace(flat[key], **arrays)

    return {c: {m: joined(f"{c}/{m}") for m in ranked[c]} for c in ranked}


def summarised(data: DataSet, keys: pd.DataFrame, effects: Mapping[str, Mapping[str, Effects]]) -> pd.DataFrame:
    """Rows for every category and, first, for their mean (category ``mean``), for every quantity and variant.

    Of each quantity the variants come in the order of their magnitude in it, the largest first.
    """
    probe = (keys["kind"] == "none").to_numpy()
    # Local heads by themselves are measured by read-out, all others by restart: each way has its own noise.
    ways = np.where(keys["stream"].eq("local") & keys["head"].notna(), "local", "global")
    frames = []
    for category in (MEAN, *effects):
        parts = list(effects.values()) if category == MEAN else [effects[category]]
        numbers = {metric: over_categories([each[metric] for each in parts]) for metric in parts[0]}
        for metric, columns in numbers.items():
            order = np.argsort(-columns["magnitude"], kind="stable")  # undefined ones last
            order = order[~probe[order]]
            floor = dict(zip(keys["stream"][probe], columns["magnitude"][probe], strict=True))
            rows = keys.assign(category=category, metric=metric, **columns)
            rows = rows.assign(noise=[floor.get(way, np.nan) for way in ways])
            frames.append(rows.iloc[order])
    frame = pd.concat(frames, ignore_index=True).assign(domain=data.domain, dataset=data.name)
    return ordered(frame)
