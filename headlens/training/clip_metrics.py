"""Metrics of clips, from scores of their frames: when something happens, whether, and what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from headlens.clips import kind_key
from headlens.errors import MetricError
from headlens.metrics import image_metrics
from headlens.metrics.intervals import Interval, average_precision, found, intervals
from headlens.printing import did_you_mean
from headlens.tables import Table

IOUS = (0.1, 0.2, 0.3, 0.4, 0.5)
KIND = "kind: "
"""What stands before the names of kinds in columns of scores."""
ALL = "all"
COLUMNS = {
    "frame_auroc": "frame AUROC",
    "frame_ap": "frame AP",
    "clip_auroc": "clip AUROC",
    "clip_ap": "clip AP",
    **{f"ap_{iou}": f"AP@{iou}" for iou in IOUS},
    "ap_mean": "AP mean",
}


def clip_metrics(scores: pd.DataFrame) -> pd.DataFrame:
    """Metrics of every data set that has clips, pooled over its categories.

    Frames: AUROC and AP of the joint score; of a kind of anomaly, its frames among all normal ones. Clips: the same of
    each clip's highest score; where the labels of its frames are unknown, its family says whether something happens.
    AP at an IoU: ``metrics.intervals``, of every kind that the detector tells apart and that happens; that of all is
    the mean over these kinds, mAP.

    Args:
        scores: as ``Evaluation.scores``, of frames in their order.

    Returns:
        Long: dataset, kind (``all``, or that of an anomaly), metric (of ``COLUMNS``), value.
    """
    rows = [
        (dataset, *row)
        for dataset, frames in _of_clips(scores).groupby("dataset", sort=False)
        for row in _of_set(frames)
    ]
    return pd.DataFrame(rows, columns=["dataset", "kind", "metric", "value"])


def _of_clips(scores: pd.DataFrame) -> pd.DataFrame:
    """Rows of frames; sets that are evaluated with it may have none."""
    return scores[scores["clip"].fillna("") != ""] if "clip" in scores else scores.head(0).assign(clip="", family="")


def _of_set(rows: pd.DataFrame) -> Iterator[tuple[str, str, float]]:
    frames = rows[rows["anomalous"].notna()]
    anomalous = frames["anomalous"].astype(bool)
    kinds = sorted({*frames.loc[anomalous, "family"]})
    normal = frames[~anomalous]
    precisions: list[list[float]] = []
    for kind in kinds:
        happens = anomalous & (frames["family"] == kind)
        yield from ((kind, f"frame_{name}", v) for name, v in _ranked(pd.concat([normal, frames[happens]])).items())
        column = next((name for name in frames if _names(str(name), kind)), None)
        if column is not None:
            precisions.append(_precisions(frames.assign(happens=happens), column))
            yield from ((kind, f"ap_{iou}", value) for iou, value in zip(IOUS, precisions[-1], strict=True))
            yield kind, "ap_mean", float(np.mean(precisions[-1]))
    yield from ((ALL, f"frame_{name}", value) for name, value in _ranked(frames).items())
    known = rows[rows["family"] != ""]
    clips = known.assign(anomalous=known["family"] != "good").groupby("clip", sort=False)[["joint", "anomalous"]].max()
    yield from ((ALL, f"clip_{name}", value) for name, value in _ranked(clips).items())
    if precisions:
        means = np.mean(precisions, 0)
        yield from ((ALL, f"ap_{iou}", float(value)) for iou, value in zip(IOUS, means, strict=True))
        yield ALL, "ap_mean", float(means.mean())


def chosen_clips(scores: pd.DataFrame, names: Iterable[str] | None = None) -> dict[str, pd.DataFrame]:
    """Of clips what ``plots.timelines`` draws of them: those named, or the first one of each kind of anomaly.

    Raises:
        MetricError: no such clip, or none at all.
    """
    frames = _of_clips(scores)
    of_clip = {str(name): rows for name, rows in frames.groupby("clip", sort=False)}
    if names is None:
        happens = frames[frames["anomalous"] == True]  # noqa: E712 None is neither
        names = list(happens.groupby("family", sort=False)["clip"].first()) or list(of_clip)[:1]
    if unknown := [name for name in names if name not in of_clip]:
        raise MetricError(f"there is no clip {unknown[0]!r}{did_you_mean(unknown[0], of_clip)}")
    if not (chosen := {name: _drawn(of_clip[name]) for name in names}):
        raise MetricError("no clip was scored: the images of this data set are of no clips")
    return chosen


def _drawn(clip: pd.DataFrame) -> pd.DataFrame:
    drawn = pd.DataFrame({"score": clip["joint"], "anomalous": clip["anomalous"]})
    kinds = [kind for kind in clip["family"].unique() if kind not in ("", "good")]
    columns = [name for kind in kinds for name in clip if _names(str(name), kind)]
    return drawn.assign(kind=clip[columns[0]]) if columns else drawn


def _names(column: str, kind: str) -> bool:
    return column.startswith(KIND) and kind_key(column.removeprefix(KIND)) == kind_key(kind)


def _ranked(rows: pd.DataFrame) -> dict[str, float]:
    labels = torch.tensor(rows["anomalous"].to_numpy(bool))
    measured = image_metrics(torch.tensor(rows["joint"].to_numpy(float)), labels)
    return {name: float(measured[name]) for name in ("auroc", "ap")}


def _precisions(frames: pd.DataFrame, column: str) -> list[float]:
    clips = [clip for _, clip in frames.groupby("clip", sort=False)]
    found_in: list[list[Interval]] = [found(clip[column]) for clip in clips]
    truth = [intervals(clip["happens"].to_numpy()) for clip in clips]
    return [average_precision(found_in, truth, iou) for iou in IOUS]


def clip_table(runs: Mapping[str, Sequence[pd.DataFrame]]) -> Table:
    """A row for each run, data set and kind, in percent, means over seeds.

    Args:
        runs: of each run or group of seeds, the frames of ``clip_metrics``.
    """
    parts = [
        pd.concat(frames)
        .groupby(["dataset", "kind", "metric"], sort=False)["value"]
        .mean()
        .rename(run)
        .reset_index()
        .rename(columns={run: "value"})
        .assign(run=run)
        for run, frames in runs.items()
    ]
    frame = pd.concat(parts, ignore_index=True)
    wide = frame.pivot_table("value", ["run", "dataset", "kind"], "metric", sort=False).reindex(columns=list(COLUMNS))
    wide = wide.sort_index(level="kind", key=lambda kinds: kinds == ALL, kind="stable", sort_remaining=False)
    cells = [
        [*map(str, key), *("-" if np.isnan(v) else f"{100 * v:.1f}" for v in row)]
        for key, row in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    header = ["runs", "data set", "kind", *COLUMNS.values()]
    if len(runs) == 1:
        header, cells = header[1:], [row[1:] for row in cells]
    return Table(header, cells, len(COLUMNS), "clips", "Frames and clips, pooled over categories:", frame=frame)
