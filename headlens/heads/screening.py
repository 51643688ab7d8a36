"""Checks importance by exact ablation of the top heads and of heads drawn at random.

Importance is a slope. To first order ``|effect of ablating a head| = |gradient by its gate|``, image by image, so the
two have the same scale. They differ where attention saturates or paths cancel.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
import scipy  # its parts are imported when they are used

from headlens import html, plots
from headlens.data import DataSet, as_set
from headlens.detectors.detector import Detector, HasDetector, detector_of
from headlens.errors import ConfigError, ShapeError
from headlens.heads.ablation import ablate
from headlens.heads.importance import TARGETS, Importance
from headlens.heads.variants import Head, names_of, single_heads
from headlens.progress import Progress
from headlens.provenance import provenance
from headlens.results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Screen(Result):
    """Importance against exact ablation.

    Args:
        frame: a row for each head that was ablated: stream, layer, head, variant, metric, ``importance``, ``magnitude``
            (mean absolute effect over the same images), ``effect``, ``low``, ``high``, ``noise``; ``top`` and
            ``sampled`` say why it was ablated; a head may be both.
        agreement: a row for each stream: Spearman's correlation of importance and magnitude over the sampled heads,
            with the 95 % bootstrap interval over heads, and ``factor``, the median of magnitude over importance.
    """

    TABLES: ClassVar = ("agreement",)
    agreement: pd.DataFrame

    def _parts(self) -> list[str]:
        columns = ["variant", "importance", "magnitude", "effect", "low", "high", "top", "sampled"]
        return [
            html.table(self.agreement, "Importance against exact ablation, over the heads drawn at random"),
            html.table(self.frame[columns], "The heads that were ablated"),
        ]

    def plot(self, ax: Axes | None = None) -> plots.Figure:
        """A scatter on logarithmic scales; on the diagonal the first order is exact."""
        if self.frame.empty:
            raise ShapeError("no head to draw: the frame has no rows")
        metric, title = plots.named(self.frame["metric"].iloc[0]), "filled: first by importance; rings: random"
        drawn = plots.scatter(self.frame, "importance", "magnitude", ax, marked="top", title=title)
        drawn.axes.set(xlabel=f"importance: mean |d {metric} / d gate|", ylabel=f"exact: mean |change of {metric}|")
        return plots.signed(drawn, self.made_by, ax)


def screen(
    detector: Detector | HasDetector,
    data: DataSet | str | Path,
    importance: Importance,
    top: int = 16,
    sample: int = 16,
    *,
    metric: str | None = None,
    kind: str = "zero",
    seed: int = 0,
    size: int | None = None,
    batch: int = 8,
    precision: str | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Screen:
    """Exact ablation of the ``top`` heads by importance, and of ``sample`` heads of each stream drawn at random.

    The sample is drawn from all heads, so its rank correlation estimates that of all heads; the top heads alone would
    not.

    Args:
        detector, data: those of ``importance``, with the same images.
        importance: what ``headlens.heads.importance`` returned.
        top: number of top heads, both streams together.
        sample: number of random heads per stream.
        metric: which target; the first of ``importance`` when None.
        kind, size, batch, precision, out, progress: as in ``ablate``.
        seed: of the sample and the bootstrap.

    Raises:
        ConfigError: importance of another detector, of other images, or not by that target; nothing to ablate.
    """
    detector, data = detector_of(detector), as_set(data)
    ours, theirs = provenance(detector, data), importance.provenance
    if any(ours[key] != theirs.get(key) for key in ("learned_sha256", "dataset", "backbone")):
        raise ConfigError("the importance is of another detector or of other images: measure it on these first")
    rows = importance.summary
    metric = metric or str(rows["metric"].iloc[0])
    rows = rows[rows["metric"] == metric]
    if rows.empty or metric not in TARGETS:
        raise ConfigError(
            f"importance was not measured by {metric!r}; available: {', '.join(importance.summary['metric'].unique())}"
        )
    if top < 0 or sample < 0 or top + sample == 0:
        raise ConfigError(f"top {top} and sample {sample} leave no head to ablate")
    ranked = [Head.of(name) for name in names_of(rows.sort_values("importance", ascending=False))]
    first, drawn = ranked[:top], _drawn(ranked, sample, seed)
    chosen = sorted({*first, *drawn})
    options = {"kind": kind, "seed": seed, "size": size, "batch": batch, "precision": precision, "out": out}
    exact = ablate(detector, data, single_heads(chosen), metrics=(), progress=progress, **options)  # type: ignore[arg-type]
    keys = ["stream", "layer", "head"]
    frame = exact.means(metric).merge(rows[[*keys, "importance", "signed"]], on=keys)
    heads = [Head.of(name) for name in frame["variant"]]
    frame = frame.assign(top=[head in first for head in heads], sampled=[head in drawn for head in heads])
    frame = frame.sort_values("importance", ascending=False, ignore_index=True)
    about = exact.provenance | {"what": "screen", "top": top, "sample": sample}
    return Screen(frame, about, agreement(frame[frame["sampled"]], seed))


def _drawn(heads: list[Head], sample: int, seed: int) -> set[Head]:
    drawn: set[Head] = set()
    for stream in dict.fromkeys(head.stream for head in heads):
        of_stream = sorted(head for head in heads if head.stream == stream)
        drawn |= set(random.Random(f"{seed}/{stream}").sample(of_stream, min(sample, len(of_stream))))
    return drawn


def agreement(frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Of columns stream, importance and magnitude: stream, heads, spearman, low, high, factor; NaN below 3 heads.

    >>> rows = pd.DataFrame({"stream": "local", "importance": [1.0, 2.0, 3.0, 5.0], "magnitude": [1.0, 2.0, 4.0, 9.0]})
    >>> agreement(rows)[["heads", "spearman", "factor"]].to_dict("records")
    [{'heads': 4, 'spearman': 1.0, 'factor': 1.166...}]
    """
    lines = []
    for stream, rows in frame.groupby("stream", sort=False):
        slope, exact = rows["importance"].to_numpy(), rows["magnitude"].to_numpy()
        value = low = high = np.nan
        if len(rows) > 2 and np.ptp(slope) > 0 and np.ptp(exact) > 0:
            value = scipy.stats.spearmanr(slope, exact).statistic
            draws = np.random.default_rng(seed).integers(len(rows), size=(1000, len(rows)))
            ranks = [scipy.stats.rankdata(values[draws], axis=1) for values in (slope, exact)]
            centred = [rank - rank.mean(1, keepdims=True) for rank in ranks]
            norms = np.sqrt((centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1))
            replicates = (centred[0] * centred[1]).sum(1)[norms > 0] / norms[norms > 0]
            low, high = np.quantile(replicates, [0.025, 0.975]) if replicates.size else (np.nan, np.nan)
        factor = np.median(exact[slope > 0] / slope[slope > 0]) if (slope > 0).any() else np.nan
        lines.append((stream, len(rows), value, low, high, factor))
    return pd.DataFrame(lines, columns=["stream", "heads", "spearman", "low", "high", "factor"])
