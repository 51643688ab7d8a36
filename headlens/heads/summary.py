"""Scores of all variants of all images to frames: image by image, and summed up with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from headlens import parallel
from headlens.data import Batch, DataSet, Record
from headlens.detectors.detector import Detector
from headlens.devices import one_thread
from headlens.heads.effects import Effects, draws, of_images, of_pixels, of_ranks, over_categories
from headlens.heads.response import Kind
from headlens.heads.variants import Variant
from headlens.metrics import Truth
from headlens.metrics.table import MEAN
from headlens.results import ordered, per_image

CONTINUOUS = {
    "image_margin": "image_margin",
    "joint_margin": "joint_margin",
    "joint_score": "joint_score",
    "anomaly_map": "map_change",
}
"""Measured in every image, and where from. ``anomaly_map``: the relative L1 distance from the whole detector's map."""


@dataclass(frozen=True)
class Known:
    """What is known of an image: its record, and the truth of its mask, where there is one."""

    record: Record
    truth: Truth | None


def known_of(part: Batch) -> list[Known]:
    """Of every image in a batch; of masks no more is kept than where their pixels are."""
    masks = part.masks if isinstance(part.masks, Tensor) else [None] * len(part)
    return [
        Known(record, Truth.of(mask[None]) if mask is not None and bool(has) else None)
        for record, mask, has in zip(part.records, masks, part.has_mask, strict=True)
    ]


def packed(known: Sequence[Known]) -> dict[str, np.ndarray]:
    """What is known of images but their records, as arrays that can travel to other ranks."""
    truths = [image.truth for image in known if image.truth is not None]
    arrays = {"outlined": np.array([image.truth is not None for image in known])}
    if truths:
        whole = Truth.joined(truths)
        arrays |= {f"truth_{name}": getattr(whole, name).numpy() for name in ("index", "region", "area")}
        arrays["truth_shape"] = np.array(whole.shape)
    return arrays


def unpacked(records: Sequence[Record], arrays: Mapping[str, np.ndarray]) -> list[Known]:
    """What ``packed`` was given, of images with these records.

    >>> mask = torch.zeros(1, 4, 4)
    >>> mask[0, :2] = 1
    >>> wall = [Record(f"wall/{i}", "wall", True) for i in range(2)]
    >>> known = unpacked(wall, packed([Known(wall[0], None), Known(wall[1], Truth.of(mask))]))
    >>> known[0].truth, known[1].truth.area
    (None, tensor([8]))
    """
    outlined = arrays["outlined"]
    if not outlined.any():
        return [Known(record, None) for record in records]
    whole = Truth(
        tuple(arrays["truth_shape"].tolist()),
        *(torch.from_numpy(arrays[f"truth_{name}"]) for name in ("index", "region", "area")),
    )
    place = np.cumsum(outlined).tolist()  # the image's place among those with an outline, from 1
    return [
        Known(record, whole.images(at - 1, at) if has else None)
        for record, has, at in zip(records, outlined, place, strict=True)
    ]


def keys_of(variants: Sequence[Variant], kind: Kind) -> pd.DataFrame:
    """Stream, layer, head, variant, order, heads (how many), kind of V variants; probes have 0 and kind ``none``."""
    rows = [
        (
            variant.stream if variant.heads else variant.name.partition("/")[2] or "global",
            variant.layer,
            variant.head,
            variant.name,
            variant.order,
            len(variant.heads),
            kind if variant.heads else "none",
        )
        for variant in variants
    ]
    keys = pd.DataFrame(rows, columns=["stream", "layer", "head", "variant", "order", "heads", "kind"])
    return keys.astype({"layer": "Int64", "head": "Int64"})


def images_frame(
    data: DataSet, known: Sequence[Known], keys: pd.DataFrame, scores: Mapping[str, Tensor]
) -> pd.DataFrame:
    """A row for each of N images, quantity and variant; scores [V + 1, N], the whole detector's first."""
    every = pd.concat([keys.assign(metric=metric) for metric in CONTINUOUS], ignore_index=True)
    each = [scores[source] for source in CONTINUOUS.values()]
    value = torch.cat([rows[1:] for rows in each]).T  # (N, K)
    baseline = torch.cat([rows[:1].expand(len(keys), -1) for rows in each]).T
    records = [image.record for image in known]
    return per_image(data, records, every, value=value, baseline=baseline, effect=value - baseline)


@one_thread()  # tensors are small: torch's threads would wait for each other, and for those that count pixels
def category_effects(
    detector: Detector,
    known: Sequence[Known],
    scores: Mapping[str, Tensor],
    metrics: Sequence[str],
    replicates: int,
    seed: int,
    size: int,
    grids: Callable[[Sequence[int]], Tensor] | None = None,
) -> dict[str, dict[str, Effects]]:
    """``{category: {quantity or metric: effects of V variants}}``.

    Args:
        detector: how maps are enlarged, and where.
        known: N images.
        scores: [V + 1, N] of each continuous quantity.
        metrics: which.
        replicates, seed: of the bootstrap.
        size: of the anomaly maps, a square.
        grids: for pixel metrics: numbers of n images to their patch maps [·, n, rows, columns], those of the whole
            detector and of this rank's share of the variants: metrics are shared among ranks by variants.
    """
    effects: dict[str, dict[str, Effects]] = {}
    ranked: dict[str, dict[str, Effects]] = {}  # of this rank's variants
    joint = parallel.current().rows(scores["joint_score"])

    def enlarge(maps: Tensor) -> Tensor:
        return detector.scoring.enlarge(maps, (size, size))

    for category in dict.fromkeys(image.record.category for image in known):
        here = [i for i, image in enumerate(known) if image.record.category == category]
        times = draws(len(here), replicates, seed, category)
        effects[category] = {
            name: of_images(scores[s][1:, here], scores[s][0, here], times) for name, s in CONTINUOUS.items()
        }
        of_metrics: dict[str, Effects] = {}
        labelled = [j for j, i in enumerate(here) if known[i].record.anomalous is not None]
        if labelled:
            at = [here[j] for j in labelled]
            labels = torch.tensor([known[i].record.anomalous is True for i in at])
            of_metrics |= of_ranks(joint[:, at], labels, times[:, labelled], metrics)
        masked = [(j, truth) for j, i in enumerate(here) if (truth := known[i].truth) is not None]
        if masked and grids is not None:
            maps = grids([here[j] for j, _ in masked])
            truth = Truth.joined([truth for _, truth in masked]).to(detector.device)
            at_masked = times[:, [j for j, _ in masked]]
            of_metrics |= of_pixels(maps, enlarge, truth, at_masked, metrics, detector.scoring.unit)
        undefined = Effects.undefined(len(joint) - 1, replicates)
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

    def joined(key: str, baseline: float) -> Effects:
        return Effects(baseline=baseline, **{field: whole(f"{key}/{field}") for field in fields})

    return {c: {m: joined(f"{c}/{m}", ranked[c][m].baseline) for m in ranked[c]} for c in ranked}


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
