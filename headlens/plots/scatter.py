"""Two numbers of every head against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from headlens.plots.style import COLOURS, DEPTH, axes_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMED = 3


def scatter(
    frame: pd.DataFrame, x: str, y: str, ax: Axes | None = None, *, marked: str | None = None, title: str = ""
) -> tuple[Figure, Axes]:
    """A point for each head, coloured by stream, with the diagonal; the farthest from it are named.

    What is not positive is left out.

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
        faces = [colour if fill else "none" for fill in filled]
        ax.scatter(
            points[x], points[y], s=26, facecolors=faces, edgecolors=[colour], linewidths=1.1, label=f"{stream} heads"
        )
    ends = (
        [min(shown[x].min(), shown[y].min()) / 1.5, max(shown[x].max(), shown[y].max()) * 1.5]
        if len(shown)
        else [0.1, 1]
    )
    ax.plot(ends, ends, color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    ax.set_xscale("log")
    ax.set_yscale("log")
    off = np.abs(np.log(shown[y] / shown[x])).nlargest(_NAMED).index
    for place, row in enumerate(shown.loc[off].sort_values(y).itertuples()):  # staggered: neighbours stay readable
        at = (getattr(row, x), getattr(row, y))
        ax.annotate(row.variant, at, (-7, 4 + 6 * place), textcoords="offset points", ha="right", fontsize=7)
    ax.set_title(title, fontsize=10)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=8, loc="upper left")
    ax.spines[["top", "right"]].set_visible(False)
    return fig, ax


def by_layer(
    frame: pd.DataFrame, x: str, y: str, ax: Axes | None = None, *, centre: float | None = None, title: str = ""
) -> tuple[Figure, Axes]:
    """A point for each head, the lighter the deeper its layer, ``y`` on a logarithmic scale; streams differ in shape.

    What is not positive in ``y`` is left out.

    Args:
        frame: columns stream, layer, ``x`` and ``y``.
        x, y: names of columns.
        ax: where to draw; a new figure when None.
        centre: of ``x``, where a dotted line stands.
        title: above it.

    >>> rows = pd.DataFrame({"stream": "local", "layer": [5, 6], "weight": [1.0, 1.5], "importance": [0.1, 0.2]})
    >>> fig, ax = by_layer(rows, "weight", "importance", centre=1)
    >>> len(ax.collections[0].get_offsets())
    2
    """
    fig, ax = axes_of(ax, 3.2, 2.6)
    shown = frame[frame[y] > 0]
    ends = {"vmin": frame["layer"].min(), "vmax": frame["layer"].max()}
    for stream, points in shown.groupby("stream", sort=False):
        marker = "^" if stream == "global" else "o"
        ax.scatter(
            points[x], points[y], s=7, c=points["layer"], marker=marker, cmap=DEPTH, linewidths=0, alpha=0.85, **ends
        )
    if centre is not None:
        ax.axvline(centre, color="0.4", linewidth=0.6, linestyle=":", zorder=0)
    ax.set_yscale("log")
    ax.set_title(title)
    ax.spines[["top", "right"]].set_visible(False)
    return fig, ax
