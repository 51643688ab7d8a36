"""Points in a plane: two numbers of each head, or both parts of images' joint scores, and how mixtures of them rank."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from headlens.plots.figure import Figure
from headlens.plots.overlay import limits_of
from headlens.plots.style import COLOURS, DEPTH, GREY, axes_of, domain_colours, finished
from headlens.plots.text import plain
from headlens.units import Unit


def scatter(
    frame: pd.DataFrame, x: str, y: str, ax: Axes | None = None, *, marked: str | None = None, title: str = ""
) -> Figure:
    """A point for each head, coloured by stream, with the diagonal; the farthest from it are named.

    Values that are not positive are left out.

    Args:
        frame: columns stream, variant, ``x`` and ``y``.
        x, y: names of columns.
        ax: where to draw; a new figure when None.
        marked: a column of booleans whose points are filled; the others are rings.
        title: above it.

    >>> rows = pd.DataFrame({"stream": ["local"], "variant": ["L5H0/local"], "slope": [0.1], "exact": [0.2]})
    >>> fig, ax = scatter(rows, "slope", "exact")
    >>> ax.get_xscale()
    'log'
    """
    fig, ax = axes_of(ax, 4.6, 4.2)
    shown = frame[(frame[x] > 0) & (frame[y] > 0)]
    for stream, points in shown.groupby("stream", sort=False):
        filled = points[marked].astype(bool) if marked else points[x] > 0
        colour = COLOURS[str(stream)]
        look: dict[str, Any] = {"facecolors": [colour if fill else "none" for fill in filled], "edgecolors": [colour]}
        ax.scatter(points[x], points[y], s=26, linewidths=1.1, label=f"{stream} heads", **look)
    values = shown[[x, y]].to_numpy(float)
    ends = [values.min() / 1.5, values.max() * 1.5] if values.size else [0.1, 1]
    ax.plot(ends, ends, color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    ax.set_xscale("log")
    ax.set_yscale("log")
    off = np.abs(np.log(shown[y] / shown[x])).nlargest(3).index
    for place, row in enumerate(shown.loc[off].sort_values(y).itertuples()):  # staggered: neighbours stay readable
        at, line = (getattr(row, x), getattr(row, y)), {"arrowstyle": "-", "linewidth": 0.5, "color": GREY}
        offset = (-14, 8 + 8 * place)
        ax.annotate(row.variant, at, offset, textcoords="offset points", ha="right", fontsize=7, arrowprops=line)
    return Figure(fig, finished(ax, title=title, legend="upper left" if len(shown) else None))


def by_layer(
    frame: pd.DataFrame, x: str, y: str, ax: Axes | None = None, *, centre: float | None = None, title: str = ""
) -> Figure:
    """A point for each head, the lighter the deeper its layer, ``y`` on a logarithmic scale; streams differ in shape.

    Values of ``y`` that are not positive are left out.

    Args:
        frame: columns stream, layer, ``x`` and ``y``.
        x, y, ax, title: as in ``scatter``.
        centre: of ``x``, where a dotted line stands.

    >>> rows = pd.DataFrame({"stream": "local", "layer": [5, 6], "weight": [1.0, 1.5], "importance": [0.1, 0.2]})
    >>> fig, ax = by_layer(rows, "weight", "importance", centre=1)
    >>> len(ax.collections[0].get_offsets())
    2
    """
    fig, ax = axes_of(ax, 3.2, 2.6)
    shown = frame[frame[y] > 0]
    ends = {"vmin": frame["layer"].min(), "vmax": frame["layer"].max()}
    for stream, points in shown.groupby("stream", sort=False):
        look = {"c": points["layer"], "cmap": DEPTH, "marker": "^" if stream == "global" else "o", "alpha": 0.85}
        ax.scatter(points[x], points[y], s=7, linewidths=0, **look, **ends)
    if centre is not None:
        ax.axvline(centre, color="0.4", linewidth=0.6, linestyle=":", zorder=0)
    ax.set_yscale("log")
    return Figure(fig, finished(ax, title=title))


def score_plane(
    scores: pd.DataFrame,
    ax: Axes | None = None,
    *,
    alpha: float = 0.5,
    threshold: float | None = None,
    title: str = "",
    pool: str = "maximum",
    unit: Unit = "probability",
) -> Figure:
    """A point for each image: the image score to the right, the pooled map upwards, a ring where it is normal.

    Images on one dashed line have the same joint score.

    Args:
        scores: columns image, map and anomalous.
        ax, title: as in ``scatter``.
        alpha: the map's share of the joint score.
        threshold: the joint score whose line is drawn full.
        pool: how the map was pooled.
        unit: of scores and maps.

    >>> rows = pd.DataFrame({"image": [0.1, 0.9], "map": [0.2, 0.8], "anomalous": [False, True]})
    >>> fig, ax = score_plane(rows, threshold=0.5)
    >>> ax.get_xlabel(), len(ax.collections)
    ('CLS score', 2)
    """
    fig, ax = axes_of(ax, 3.2, 3.2)
    rings: dict[str, Any] = {"facecolors": "none", "edgecolors": GREY}
    for anomalous, look in ((False, rings), (True, {"color": "black"})):
        points = scores[scores["anomalous"].eq(anomalous)]
        marker, name = ("+", "anomalous") if anomalous else ("o", "normal")
        many = len(scores) > 2000  # points that a vector graphic bears
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
    ticks = [low, (low + high) / 2, high]
    ax.set(xlim=ends, ylim=ends, xticks=ticks, yticks=ticks, aspect="equal")
    return Figure(fig, finished(ax, f"CLS score{logits}", f"{pool} of the map{logits}", plain(title, 40)))


def mixtures(frame: pd.DataFrame, ax: Axes | None = None, *, alphas: Iterable[float] = ()) -> Figure:
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
    colours = domain_colours(frame["domain"].unique())
    for domain, curves in frame.groupby("domain", sort=False):
        colour = colours[str(domain)]
        for _, run in curves.groupby("run", sort=False):
            ax.plot(run["alpha"], run["auroc"], color=colour, linewidth=0.5, alpha=0.6)
        mean = curves.groupby("alpha")["auroc"].mean()
        ax.plot(mean.index, mean, color=colour, linewidth=1.6, label=plain(domain, 24))
    for alpha in alphas:
        ax.axvline(alpha, color="0.4", linewidth=0.6, linestyle=":")
    ax.set_xlim(0, 1)
    return Figure(fig, finished(ax, "share of the map α  (0: CLS alone, 1: map alone)", "I-AUROC (%)", legend="best"))
