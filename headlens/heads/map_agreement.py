"""``map_agreement``: do two detectors' heads draw the same regions? Rank correlations of their maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from torch import Tensor

from headlens import html, plots
from headlens.data import Batch, DataSet, as_set
from headlens.detectors.detector import Detector, HasDetector, detector_of
from headlens.detectors.scoring import check_map
from headlens.errors import ConfigError, ShapeError
from headlens.heads.clean import CleanRun, clean_forward
from headlens.heads.direct import tap_parts
from headlens.heads.exactness import check_unhooked
from headlens.heads.map_parts import mean_maps
from headlens.heads.store import alone
from headlens.heads.sweep import categories, finite, one_patch, sweep
from headlens.heads.variants import Head, names_of
from headlens.parallel import Arrays
from headlens.progress import Progress
from headlens.provenance import detector_provenance
from headlens.results import Result, per_image

_KEYS = ["stream", "layer", "head"]


@dataclass(frozen=True)
class MapAgreement(Result):
    """``frame``: a row for each image and head.

    ``value`` is Spearman's correlation over patches between the map of the head in the first detector and that in the
    second; NaN where a map is the same everywhere. ``others`` is what to expect of any two maps: the mean correlation
    of the head's map in the first detector with those of the *other* heads of its stream in the second.
    """

    @property
    def summary(self) -> pd.DataFrame:
        """Of every head: mean ``value`` over images with its 95 % interval (Student's t), ``images`` and ``others``.

        An interval needs two images with a value; without, ``low`` and ``high`` are NaN.
        """
        groups = self.frame.groupby(_KEYS, sort=False)
        columns = {"value": ("value", "mean"), "spread": ("value", "std"), "images": ("value", "count")}
        rows = groups.agg(**columns, others=("others", "mean")).reset_index()
        freedom = (rows["images"] - 1).where(rows["images"] > 1)
        half = stats.t.ppf(0.975, freedom) * rows["spread"] / rows["images"] ** 0.5
        ends = {"low": (rows["value"] - half).clip(lower=-1), "high": (rows["value"] + half).clip(upper=1)}
        return rows.assign(**ends)[[*_KEYS, "value", "low", "high", "images", "others"]]

    def _parts(self) -> list[str]:
        rows = self.summary.sort_values("value", ascending=False, kind="stable")
        rows = rows.assign(head=names_of(rows))[["head", "value", "low", "high", "others"]]
        return [html.table(rows, "Rank correlation of a head's maps by two detectors, mean over images")]

    def plot(self, ax: Any = None, stream: str | None = None) -> plots.Figure:
        """The mean of every head as a grid. Arguments as in ``Importance.plot``."""
        label = "rank correlation of maps"
        return plots.grids(self.summary, "value", ax, stream, label=label, centre=0, made_by=self.made_by)


@alone
def map_agreement(
    first: Detector | HasDetector,
    second: Detector | HasDetector,
    data: DataSet | str | Path,
    *,
    size: int | None = None,
    batch: int = 8,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> MapAgreement:
    """Spearman's correlation, image by image, of what each head adds to the anomaly maps of two detectors.

    A head's map is its part of the margin map, mean over taps, as ``map_parts`` has it. Heads are compared that draw
    in both detectors.

    Args:
        first, second: detectors, or runs, on one backbone.
        data: the images; a data set, or its name for ``headlens.data.open``.
        size: images are resized to this square; the size of the first detector when None.
        batch: images per batch.
        out: folder for finished batches; an interrupted call resumes from it.
        progress: called with the number of images after every batch; a bar when None.

    Raises:
        ConfigError: different backbones; a hook that would not be called; maps that no sum over heads makes.
        ShapeError: no head that draws in both.
        DataError: no image could be read.
        RunError: ``out`` holds something else, or cannot be written.
    """
    one, other, data = detector_of(first), detector_of(second), as_set(data)
    for detector in (one, other):
        check_map(detector.reads_map, "agreement of maps")
        check_unhooked(detector, "agreement of maps")
    backbones = [detector.backbone.provenance for detector in (one, other)]
    if backbones[0] != backbones[1]:
        raise ConfigError(
            f"the detectors are on {backbones[0].name} and {backbones[1].name}, of different weights: their heads do "
            "not correspond; give two on one backbone"
        )
    lists = [_drawn(clean_forward(detector, one_patch(detector), ["object"]))[0] for detector in (one, other)]
    common = [head for head in lists[0] if head in set(lists[1])]
    if not common:
        raise ShapeError(
            f"no head draws in both: {_streams(lists[0])} in the first, {_streams(lists[1])} in the second"
        )
    places = [[heads.index(head) for head in common] for heads in lists]
    keys = pd.DataFrame(common, columns=_KEYS).assign(kind="map", metric="map_agreement")

    def compared(lowered: Detector, part: Batch, images: Tensor) -> Arrays:
        maps = []
        for detector, place in zip((lowered, other), places, strict=True):
            drawn = _drawn(clean_forward(detector, images, categories(part)))[1][:, place].double().numpy()
            maps.append(finite({"what heads draw": drawn})["what heads draw"])
        pairs = [correlations(ours, theirs, keys["stream"].to_numpy()) for ours, theirs in zip(*maps, strict=True)]
        return {name: np.stack([pair[i] for pair in pairs], 1) for i, name in enumerate(("value", "others"))}

    options: dict[str, Any] = {"size": size, "batch": batch, "out": out, "progress": progress}
    swept = sweep(one, data, compared, what="map agreement", other=detector_provenance(other), **options)
    columns = {name: swept.joined(name).T for name in ("value", "others")}
    return MapAgreement(per_image(data, swept.records, keys, **columns), swept.provenance)


def _drawn(clean: CleanRun) -> tuple[list[Head], Tensor]:
    return mean_maps(clean, {tap: tap_parts(clean, tap) for tap in clean.plan.taps})


def _streams(heads: list[Head]) -> str:
    counts = pd.Series([head.stream for head in heads]).value_counts()
    return " and ".join(f"{count} {stream} heads" for stream, count in counts.items()) or "none"


def correlations(first: np.ndarray, second: np.ndarray, streams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spearman's correlations of maps [K, N] with maps [K, N]: of the same head, and the mean over its stream's others.

    Args:
        first, second: what K heads draw at N patches.
        streams: [K], of the heads.

    >>> maps = np.array([[1.0, 2.0, 3.0], [1.0, 3.0, 2.0]])
    >>> correlations(maps, maps * 2, np.array(["local", "local"]))
    (array([1., 1.]), array([0.5, 0.5]))
    """
    ranks = [stats.rankdata(maps, axis=1) for maps in (first, second)]
    centred = [rank - rank.mean(1, keepdims=True) for rank in ranks]
    with np.errstate(invalid="ignore"):  # a map that is the same everywhere has no order
        one, other = (each / np.sqrt((each**2).sum(1, keepdims=True)) for each in centred)
    matrix = one @ other.T
    own = matrix.diagonal().copy()
    wanted = (streams[:, None] == streams) & ~np.eye(len(own), dtype=bool) & np.isfinite(matrix)
    count = wanted.sum(1)
    others = np.divide(np.where(wanted, matrix, 0).sum(1), count, out=np.full(len(own), np.nan), where=count > 0)
    return own, others
