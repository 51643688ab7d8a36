"""A detector and V changes of it on every image of a data set: their scores, and what each change does to metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from headlens.data import Batch, DataSet, Record
from headlens.detectors.detector import Detector
from headlens.errors import ConfigError
from headlens.heads.clean import Targets
from headlens.heads.effects import Effects, category_effects, check_metrics, packed, truths_of, unpacked
from headlens.heads.sweep import finite, sweep
from headlens.metrics.table import PIXEL
from headlens.parallel import Arrays

Changed = Callable[[Detector, Batch, Tensor], tuple[Targets, Targets]]
"""The detector as it computes, a batch and its normalised images to scores [B] before, and [V, B] after V changes."""
_SCORES = ("image_margin", "joint_score", "map_change")


@dataclass(frozen=True)
class Scored:
    """What V changes of a detector do on N images.

    Args:
        records: of the images that were read.
        scores: ``{quantity: [V + 1, N]}``, those of the detector before a change first.
        effects: ``{category: {quantity or metric: effects of the changes}}``.
        provenance: of a result.
    """

    records: list[Record]
    scores: dict[str, Tensor]
    effects: dict[str, dict[str, Effects]]
    provenance: dict[str, Any]


def scored(
    detector: Detector,
    data: DataSet,
    changed: Changed,
    *,
    metrics: Sequence[str],
    replicates: int,
    seed: int,
    **options: Any,
) -> Scored:
    """Scores every image before and after each change, and measures what the changes do.

    Args:
        detector: which.
        data: the images.
        changed: the scores of a batch.
        metrics: names from ``headlens.metrics.table``; pixel metrics store patch maps.
        replicates: number of bootstrap replicates.
        seed: of the bootstrap.
        options: of ``sweep``: ``what``, how images are read, and settings that finished parts must agree on.

    Raises:
        ConfigError: an unknown metric; no replicate.
        DataError: no image could be read.
        RunError: the folder for finished parts holds something else, or cannot be written.
    """
    check_metrics(metrics)
    if replicates < 1:
        raise ConfigError(f"replicates is {replicates}; an interval needs 1 at least, and is coarse below 100")
    pixels = bool(set(metrics) & set(PIXEL)) and detector.reads_map
    names = [*_SCORES, "patch_map"] if pixels else _SCORES

    def measured(lowered: Detector, part: Batch, images: Tensor) -> Arrays:
        before, after = changed(lowered, part, images)
        # Scores [V + 1, B], patch maps [V + 1, B, ...]; the first row is the detector before any change.
        pairs = {name: (getattr(before, name)[None], getattr(after, name)) for name in names}
        return finite({name: torch.cat(pair).cpu().numpy() for name, pair in pairs.items()})

    options |= {"truth": lambda part: packed(truths_of(part)), "waits": ("patch_map",)}
    swept = sweep(detector, data, measured, seed=seed, pixel_metrics=pixels, **options)
    truths = [truth for part in swept.parts for truth in unpacked(part.arrays)]
    scores = {name: swept.joined(name) for name in _SCORES if detector.reads_map or name != "map_change"}
    scores["joint_margin"] = detector.scoring.joint_margin(scores["joint_score"])
    maps = partial(swept.of_images, "patch_map") if pixels else None
    effects = category_effects(detector, swept.records, truths, scores, metrics, replicates, seed, maps)
    return Scored(swept.records, scores, effects, swept.provenance | {"replicates": replicates})
