"""``contributions``: direct effects of all heads over a data set; how they tell anomalous from normal pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from headlens import html, plots
from headlens.data import DataSet
from headlens.detectors.detector import Detector
from headlens.errors import ConfigError
from headlens.heads.clean import CleanRun, clean_forward
from headlens.heads.direct import Parts, check, check_streams, image_parts, tap_parts
from headlens.heads.exactness import check_unhooked, held
from headlens.heads.pictures import Pictures, categories
from headlens.heads.variants import names_of
from headlens.provenance import provenance
from headlens.results import Result, per_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Contributions(Result):
    """``frame``: a row for each image, part and margin; ``value`` is the part, ``baseline`` the whole margin."""

    @property
    def held(self) -> str:
        """One line that says what the sums hold at what it is."""
        return f"Held at what they are in each image: {', '.join(self.provenance.get('held', []))}"

    @property
    def summary(self) -> pd.DataFrame:
        """Of every head and margin: means of ``value`` over categories, of all, of ``normal`` and ``anomalous`` images.

        ``separation`` is anomalous minus normal: added over all parts, it is the distance between the two margins. The
        three are over the ``n`` categories of ``of`` that have both kinds of images; where none has, separation is NaN.
        """
        keys = ["metric", "stream", "layer", "head"]
        heads = self.frame[self.frame["kind"] == "head"]

        def means(rows: pd.DataFrame) -> pd.Series:
            return rows.groupby([*keys, "category"], sort=False)["value"].mean().groupby(keys, sort=False).mean()

        labels = heads.groupby("category")["anomalous"].nunique()  # None is no label
        both, categories = labels.index[labels == 2], len(labels)
        paired = heads[heads["category"].isin(both)] if len(both) else heads
        flawed = paired["anomalous"].fillna(False).astype(bool)
        normal = ~paired["anomalous"].fillna(True).astype(bool)
        found = pd.DataFrame(
            {"value": means(heads), "normal": means(paired[normal]), "anomalous": means(paired[flawed])}
        ).reset_index()
        separation = found["anomalous"] - found["normal"] if len(both) else np.nan
        return found.assign(separation=separation, n=len(both), of=categories)

    def _parts(self) -> list[str]:
        rows = self.summary[self.summary["metric"] == "image_margin"]
        rows = rows.sort_values("separation", key=abs, ascending=False, kind="stable")
        rows = rows.assign(head=names_of(rows))[["head", "normal", "anomalous", "separation"]]
        title = f"What heads write into the image margin (logits), the widest apart first. {self.held}"
        return [html.table(rows, title)]

    def plot(self, ax: Any = None, metric: str | None = None, stream: str | None = None) -> tuple[Figure, Any]:
        """Separation by every head as a grid, of one margin; its mean part where no image is labelled.

        Args:
            ax: axes to draw on, one for each stream; a new figure when None.
            metric: which margin; the image margin when None.
            stream: which; all that write into the margin when None.

        Raises:
            ConfigError: a margin that there is not.
        """
        rows, metric = self.summary, metric or "image_margin"
        there = rows["metric"].unique()
        if metric not in there:
            raise ConfigError(f"no margin is called {metric!r}; there are {', '.join(there)}")
        rows = rows[rows["metric"] == metric]
        column = "separation" if rows["separation"].notna().any() else "value"
        what = "anomalous minus normal" if column == "separation" else "mean"
        label = f"{what}, {metric.replace('_', ' ')} (logits)"
        return plots.grids(rows, column, ax, stream, label=label, centre=0, made_by=self.made_by)


def contributions(
    detector: Detector,
    data: DataSet,
    *,
    size: int | None = None,
    batch: int = 8,
    check_sums: bool = False,
    progress: Callable[[int], object] = lambda n: None,
) -> Contributions:
    """Direct effects of every head, image by image, on the image margin and on the mean margin of each tap's patches.

    Args:
        detector: whose heads.
        data: which pictures.
        size: they are resized to this square; the detector's own size when None.
        batch: pictures at once.
        check_sums: verify for every image and patch that the parts add up, and for every block that its heads, MLP and
            adapter are what its streams are made of.
        progress: called with the number of pictures after every batch.

    Returns:
        Columns up to ``baseline``: ``kind`` is one of ``direct.KINDS``, ``metric`` is ``image_margin`` or
        ``tap_margin_{tap}``, ``value`` the part and ``baseline`` the margin that it is part of. ``provenance["held"]``
        says what is held at what it is in each image.

    Raises:
        ConfigError: a hook that would not be called.
        IdentityError: parts that do not add up.
        DataError: no picture could be read.
    """
    check_unhooked(detector, "contributions")
    frames = []
    pictures = Pictures(detector, data, size, batch)
    for part, images in pictures:
        clean = clean_forward(detector, images, categories(part))
        if check_sums:
            check_streams(clean, detector.backbone.vision.proj.dtype)
        keys, values, baselines = [], [], []
        for metric, parts, margin in _readings(clean):
            if check_sums:
                check(parts, margin, metric, detector.backbone.vision.proj.dtype)
            own = _values(parts, margin)
            keys.append(_keys(parts).assign(metric=metric))
            values.append(own)
            baselines.append(margin.reshape(len(margin), -1).mean(1, keepdim=True).expand_as(own))
        every = pd.concat(keys, ignore_index=True)
        frames.append(
            per_image(data, part.records, every, value=torch.cat(values, 1), baseline=torch.cat(baselines, 1))
        )
        progress(len(part))
    about = provenance(
        detector, data, what="contributions", size=pictures.size, held=held(detector), **pictures.notes()
    )
    return Contributions(pd.concat(frames, ignore_index=True), about)


def _keys(parts: Parts) -> pd.DataFrame:
    """Which part is which of K."""
    rows: list[tuple[str | None, int | None, int | None, str]] = []
    for (kind, stream, layer), value in parts.terms.items():
        heads = range(value.shape[-1]) if kind == "head" else [None]
        rows += [(stream or None, layer if layer >= 0 else None, head, kind) for head in heads]
    return pd.DataFrame(rows, columns=["stream", "layer", "head", "kind"])


def _values(parts: Parts, margin: Tensor) -> Tensor:
    """K parts of B images, [B, K], means over patches where there are any."""
    every = torch.cat([v if part.kind == "head" else v[..., None] for part, v in parts.terms.items()], -1)
    return every.mean(1) if margin.ndim == 2 else every


def _readings(clean: CleanRun) -> Iterator[tuple[str, Parts, Tensor]]:
    yield "image_margin", image_parts(clean), clean.margins.image
    for tap, margin in clean.margins.taps.items():
        yield f"tap_margin_{tap}", tap_parts(clean, tap), margin
