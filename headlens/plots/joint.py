"""The joint score and its parts: images in the plane of both, and how well each mixture ranks them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from headlens.plots.overlay import limits_of
from headlens.plots.style import COLOURS, PALETTE, axes_of
from headlens.plots.text import plain
from headlens.units import Unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MANY = 2000  # points that a vector graphic bears


def score_plane(
    scores: pd.DataFrame,
    ax: Axes | None = None,
    *,
    alpha: float = 0.5,
    threshold: float | None = None,
    title: str = "",
    pool: str = "maximum",
    unit: Unit = "probability",
) -> tuple[Figure, Axes]:
    """A point for each image: the image score to the right, the pooled map upwards, a ring where it is normal.

    Images on one dashed line have the same joint score.

    Args:
        scores: columns image, map and anomalous.
        ax: where to draw; a new figure when None.
        alpha: the map's share of the joint score.
        threshold: the joint score whose line is drawn full.
        title: above it.
        pool: what was taken of the map.
        unit: of scores and maps.

    >>> rows = pd.DataFrame({"image": [0.1, 0.9], "map": [0.2, 0.8], "anomalous": [False, True]})
    >>> fig, ax = score_plane(rows, threshold=0.5)
    >>> ax.get_xlabel(), len(ax.collections)
    ('CLS score', 2)
    """
    fig, ax = axes_of(ax, 3.2, 3.2)
    for anomalous, look in ((False, {"facecolors": "none", "edgecolors": "0.45"}), (True, {"color": PALETTE[4]})):
        points = scores[scores["anomalous"].eq(anomalous)]
        marker, name = ("+", "anomalous") if anomalous else ("o", "normal")
        many = len(scores) > _MANY
        x, y = points["image"], points["map"]
        ax.scatter(x, y, s=9, marker=marker, linewidths=0.6, label=name, rasterized=many, **look)
    logits = " (logits)" if unit == "logit" else ""
    low, high = limits_of([scores[["image", "map"]].to_numpy()], unit)
    ends = np.array([low, high]) + 0.02 * (high - low) * np.array([-1, 1])
    levels = [(level, "--", 0.5) for level in np.linspace(low, high, 6)[1:-1]]
    for level, style, width in [*levels, *([(threshold, "-", 0.9)] if threshold is not None else [])]:
        if alpha > 0:
            ax.plot(ends, (level - (1 - alpha) * ends) / alpha, style, color="0.4", linewidth=width, zorder=0)
        else:
            ax.axvline(level, linestyle=style, color="0.4", linewidth=width, zorder=0)
    ax.set(xlim=ends, ylim=ends, xlabel=f"CLS score{logits}", ylabel=f"{pool} of the map{logits}")
    ticks = [low, (low + high) / 2, high]
    ax.set(xticks=ticks, yticks=ticks)
    ax.set_aspect("equal")
    ax.set_title(plain(title, 40))
    ax.spines[["top", "right"]].set_visible(False)
    return fig, ax


def mixtures(frame: pd.DataFrame, ax: Axes | None = None, *, alphas: Iterable[float] = ()) -> tuple[Figure, Axes]:
    """AUROC over the map's share of the joint score, a thick line for each domain and a thin one for each of its runs.

    Args:
        frame: columns domain, run, alpha, auroc (percent).
        ax: where to draw; a new figure when None.
        alphas: where dotted lines stand.

    >>> rows = [("industrial", 0, share, 80 + share) for share in (0.0, 0.5, 1.0)]
    >>> fig, ax = mixtures(pd.DataFrame(rows, columns=["domain", "run", "alpha", "auroc"]), alphas=[0.5])
    >>> ax.get_legend_handles_labels()[1]
    ['industrial']
    """
    fig, ax = axes_of(ax, 3.2, 2.4)
    colours = iter(PALETTE)
    for domain, curves in frame.groupby("domain", sort=False):
        colour = COLOURS.get(str(domain)) or next(colours)
        for _, run in curves.groupby("run", sort=False):
            ax.plot(run["alpha"], run["auroc"], color=colour, linewidth=0.5, alpha=0.6)
        mean = curves.groupby("alpha")["auroc"].mean()
        ax.plot(mean.index, mean, color=colour, linewidth=1.6, label=plain(domain, 24))
    for alpha in alphas:
        ax.axvline(alpha, color="0.4", linewidth=0.6, linestyle=":")
    ax.set(xlabel="share of the map α  (0: CLS alone, 1: map alone)", ylabel="I-AUROC (%)", xlim=(0, 1))
    ax.legend(frameon=False, fontsize="small")
    ax.spines[["top", "right"]].set_visible(False)
    return fig, ax
