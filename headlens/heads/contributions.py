"""``contributions``: direct effects of all heads over a data set; how they separate anomalous from normal images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from headlens import html, plots
from headlens.data import Batch, DataSet, as_set
from headlens.detectors.detector import Detector, HasDetector, detector_of
from headlens.errors import ConfigError
from headlens.heads.clean import CleanRun, clean_forward
from headlens.heads.direct import Parts, check, check_streams, image_parts, tap_parts
from headlens.heads.exactness import check_unhooked, held
from headlens.heads.store import alone
from headlens.heads.sweep import categories, finite, one_patch, sweep
from headlens.heads.variants import names_of
from headlens.parallel import Arrays
from headlens.progress import Progress
from headlens.results import Result, per_image


@dataclass(frozen=True)
class Contributions(Result):
    """``frame``: a row for each image, part and margin; ``value`` is the direct effect, ``baseline`` the margin."""

    @property
    def held(self) -> str:
        """One line that names what is held fixed in the sums."""
        return f"Held fixed in each image: {', '.join(self.provenance.get('held', []))}"

    @property
    def summary(self) -> pd.DataFrame:
        """Of every head and margin: means of ``value`` over categories, of all, of ``normal`` and ``anomalous`` images.

        ``separation`` is anomalous minus normal; summed over all parts, it is the distance between the two margins.
        These three are means over the ``n`` of ``of`` categories that have both kinds of images; if none has,
        separation is NaN.
        """
        keys = ["metric", "stream", "layer", "head"]
        heads = self.frame[self.frame["kind"] == "head"]

        def means(rows: pd.DataFrame) -> pd.Series:
            return rows.groupby([*keys, "category"], sort=False)["value"].mean().groupby(keys, sort=False).mean()

        labels = heads.groupby("category")["anomalous"].nunique()  # None is no label
        both, categories = labels.index[labels == 2], len(labels)
        paired = heads[heads["category"].isin(both)] if len(both) else heads
        anomalous = paired["anomalous"].fillna(False).astype(bool)
        normal = ~paired["anomalous"].fillna(True).astype(bool)
        table = pd.DataFrame(
            {"value": means(heads), "normal": means(paired[normal]), "anomalous": means(paired[anomalous])}
        ).reset_index()
        separation = table["anomalous"] - table["normal"] if len(both) else np.nan
        return table.assign(separation=separation, n=len(both), of=categories)

    def _parts(self) -> list[str]:
        rows = self.summary[self.summary["metric"] == "image_margin"]
        rows = rows.sort_values("separation", key=abs, ascending=False, kind="stable")
        rows = rows.assign(head=names_of(rows))[["head", "normal", "anomalous", "separation"]]
        title = f"Direct effects on the image margin (logits), largest separation first. {self.held}"
        return [html.table(rows, title)]

    def plot(self, ax: Any = None, metric: str | None = None, stream: str | None = None) -> plots.Figure:
        """Separation by every head as a grid, for one margin; the mean direct effect if no image is labelled.

        Args:
            metric: which margin; the image margin when None.
            ax: axes to draw on, one for each stream; a new figure when None.
            stream: which stream; all when None.

        Raises:
            ConfigError: an unknown margin.
        """
        rows, metric = self.summary, metric or "image_margin"
        metrics = rows["metric"].unique()
        if metric not in metrics:
            raise ConfigError(f"unknown margin {metric!r}; available: {', '.join(metrics)}")
        rows = rows[rows["metric"] == metric]
        column = "separation" if rows["separation"].notna().any() else "value"
        what = "anomalous minus normal" if column == "separation" else "mean"
        label = f"{what}, {metric.replace('_', ' ')} (logits)"
        return plots.grids(rows, column, ax, stream, label=label, centre=0, made_by=self.made_by)


@alone
def contributions(
    detector: Detector | HasDetector,
    data: DataSet | str | Path,
    *,
    check_sums: bool = False,
    size: int | None = None,
    batch: int = 8,
    precision: str | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Contributions:
    """Direct effects (direct logit attribution) of all heads on the image margin and on each tap's mean patch margin.

    Args:
        detector: a detector, or a run.
        data: the images; a data set, or its name for ``headlens.data.open``.
        check_sums: verify for every image and patch that the parts add up, and for every block that its streams equal
            the output of its heads, MLP and adapter.
        size: images are resized to this square; the detector's size when None.
        batch: images per batch.
        precision: ``float32``, ``tf32``, ``float16`` or ``bfloat16``; that of the loaded backbone when None.
        out: folder for finished batches; an interrupted call resumes from it.
        progress: called with the number of images after every batch, of all processes; a bar when None.

    Returns:
        Columns up to ``baseline``: ``kind`` is one of ``direct.KINDS``, ``metric`` is ``image_margin`` or
        ``tap_margin_{tap}``, ``value`` the direct effect and ``baseline`` the margin. ``provenance["held"]`` names what
        is held fixed.

    Raises:
        ConfigError: a hook that would not be called; an unknown precision.
        IdentityError: parts that do not add up.
        DataError: no image could be read.
        RunError: ``out`` holds something else, or cannot be written.
    """
    detector, data = detector_of(detector), as_set(data)
    check_unhooked(detector, "contributions")

    def parts_of(lowered: Detector, batch: Batch, images: Tensor) -> Arrays:
        clean, dtype = clean_forward(lowered, images, categories(batch)), lowered.backbone.vision.proj.dtype
        if check_sums:
            check_streams(clean, dtype)
        values, baselines = [], []
        for metric, parts, margin in _margins(clean):
            if check_sums:
                check(parts, margin, metric, dtype)
            every = torch.cat([v if part.kind == "head" else v[..., None] for part, v in parts.terms.items()], -1)
            values.append(every.mean(1) if margin.ndim == 2 else every)  # (B, K), means over patches
            baselines.append(margin.reshape(len(margin), -1).mean(1, keepdim=True).expand_as(values[-1]))
        columns = {"value": torch.cat(values, 1), "baseline": torch.cat(baselines, 1)}
        return finite({name: column.T.cpu().numpy() for name, column in columns.items()})

    options: dict[str, Any] = {"size": size, "batch": batch, "precision": precision, "out": out, "progress": progress}
    swept = sweep(detector, data, parts_of, what="contributions", checked=check_sums, held=held(detector), **options)
    clean = clean_forward(detector, one_patch(detector), ["object"])  # the same parts, whatever the images
    keys = pd.concat([_keys(parts).assign(metric=metric) for metric, parts, _ in _margins(clean)], ignore_index=True)
    columns = {name: swept.joined(name).T for name in ("value", "baseline")}
    return Contributions(per_image(data, swept.records, keys, **columns), swept.provenance)


def _keys(parts: Parts) -> pd.DataFrame:
    """Which part is which of K."""
    rows: list[tuple[str | None, int | None, int | None, str]] = []
    for (kind, stream, layer), value in parts.terms.items():
        heads = range(value.shape[-1]) if kind == "head" else [None]
        rows += [(stream or None, layer if layer >= 0 else None, head, kind) for head in heads]
    return pd.DataFrame(rows, columns=["stream", "layer", "head", "kind"])


def _margins(clean: CleanRun) -> Iterator[tuple[str, Parts, Tensor]]:
    yield "image_margin", image_parts(clean), clean.margins.image
    for tap, margin in clean.margins.taps.items():
        yield f"tap_margin_{tap}", tap_parts(clean, tap), margin
