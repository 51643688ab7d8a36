"""Two domains' view of the same heads, and their difference: three heat maps a stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from headlens.errors import ShapeError
from headlens.plots.grid import ends, grid
from headlens.plots.style import axes_for, axes_of
from headlens.plots.text import plain


def comparison(
    frame: pd.DataFrame,
    domains: tuple[str, str],
    ax: Any = None,
    *,
    label: str = "value",
    centre: float | None = None,
    level: float = 0.05,
) -> tuple[Figure, Any]:
    """First domain, second domain, second minus first, a row for each stream; a dot on heads that differ significantly.

    Both domains share one scale of colours.

    Args:
        frame: columns stream, layer, head, one for each domain, difference, significant.
        domains: first and second.
        ax: axes to draw on, three for each stream; a new figure when None.
        label: what the values are.
        centre: of the domains' colours, which rise from light to dark when None.
        level: the false discovery rate of the dots, for the title.

    Returns:
        The figure and its axes, an array [streams, 3].

    Raises:
        ConfigError: another number of axes.
        ShapeError: no head.

    >>> frame = pd.DataFrame({"stream": "local", "layer": [0, 0], "head": [0, 1], "a": [1.0, 2.0], "b": [1.0, 0.5]})
    >>> frame = frame.assign(difference=frame["b"] - frame["a"], significant=[False, True])
    >>> fig, axes = comparison(frame, ("a", "b"))
    >>> [ax.get_title() for ax in axes[0]]
    ['a', 'b', 'b − a (dots: q ≤ 0.05)']
    """
    first, second = domains
    streams, label_of = list(frame["stream"].unique()), label.partition(" (")[0]
    if not streams:
        raise ShapeError("no head to draw: the frame has no rows")
    names = (plain(first, 40), plain(second, 40), plain(f"{second} − {first}", 60))
    given = axes_for(ax, [f"{name}, {stream}" for stream in streams for name in names])
    if given is None:
        layers = frame.groupby("stream")["layer"].nunique().max()
        fig = Figure(figsize=(11.5, (1.2 + 0.165 * max(6, layers)) * len(streams)), layout="constrained")
        axes = fig.subplots(len(streams), 3, squeeze=False)
    else:
        fig, axes = axes_of(given[0])[0], np.array(given, dtype=object).reshape(len(streams), 3)
    for stream, (left, middle, right) in zip(streams, axes, strict=True):
        rows = frame[frame["stream"] == stream]
        values = rows[[first, second]].to_numpy()
        limits = ends(values, centre)
        of = f", {stream}" if len(streams) > 1 else ""
        grid(rows, first, left, title=names[0] + of, centre=centre, limits=limits, bar=False)
        grid(rows, second, middle, title=names[1] + of, label=label, centre=centre, limits=limits)
        title = f"{names[2]}{of} (dots: q ≤ {level:.3g})"
        grid(rows, "difference", right, title=title, label=f"difference of {label_of}", centre=0, marks="significant")
    return fig, axes
