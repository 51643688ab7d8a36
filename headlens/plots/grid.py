"""Layers by heads as a heat map: weights, effects, importance, whatever a frame has one number a head of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from headlens.errors import ShapeError
from headlens.plots.style import DIVERGING, RISING, axes_of, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def grid(
    frame: pd.DataFrame,
    value: str = "value",
    ax: Axes | None = None,
    *,
    title: str = "",
    label: str = "",
    centre: float | None = None,
    limits: tuple[float, float] | None = None,
    marks: str | None = None,
    bar: bool = True,
) -> tuple[Figure, Axes]:
    """One stream's heads, the first layer at the bottom, as the network is drawn.

    Args:
        frame: columns layer, head and ``value``, a row for each head; layers between that have none stay empty.
        value: of which column.
        ax: where to draw; a new figure when None.
        title: above it.
        label: of the colour bar.
        centre: what is neither red nor blue; colours rise from light to dark when None.
        limits: of the colours; the values' own by default, symmetric about ``centre``.
        marks: a column of booleans whose cells get a dot.
        bar: draw the colour bar.

    Raises:
        ShapeError: two rows for one head (of two streams, or two metrics), or none at all.

    >>> frame = pd.DataFrame({"layer": [0, 0, 2], "head": [0, 1, 0], "value": [1.0, 2.0, 3.0]})
    >>> fig, ax = grid(frame, title="weights")
    >>> [tick.get_text() for tick in ax.get_yticklabels()]
    ['0', '1', '2']
    """
    if frame.empty or frame.duplicated(["layer", "head"]).any():
        raise ShapeError(f"a heat map needs one row for each head; of {len(frame)} some are of the same one")
    rows, columns = (range(int(frame[name].min()), int(frame[name].max()) + 1) for name in ("layer", "head"))
    table = frame.pivot(index="layer", columns="head", values=value).astype(float)
    table = table.reindex(index=rows[::-1], columns=columns)
    fig, ax = axes_of(ax, 1.4 + 0.24 * len(columns), 1.2 + 0.17 * max(5, len(rows)))
    if limits is None and centre is not None:
        reach = float(np.nanmax(np.abs(table.to_numpy() - centre))) or 1.0
        limits = (centre - reach, centre + reach)
    low, high = limits or (None, None)
    step = max(1, round(len(rows) / 12))
    sns.heatmap(
        table,
        ax=ax,
        cmap=RISING if centre is None else DIVERGING,
        vmin=low,
        vmax=high,
        cbar=bar,
        cbar_kws={"label": label, "pad": 0.02} if bar else None,
        xticklabels=max(1, round(len(columns) / 16)),
        yticklabels=False,
        linewidths=0.3,
        linecolor="white",
    )
    shown = [row for row in rows if (row - rows[0]) % step == 0]
    ax.set_yticks([rows[-1] - row + 0.5 for row in shown], [str(row) for row in shown], rotation=0)
    if marks is not None:
        marked = frame[frame[marks].astype(bool)]
        ax.scatter(
            marked["head"].astype(float) - columns[0] + 0.5,
            rows[-1] - marked["layer"].astype(float) + 0.5,
            s=9,
            color="black",
            edgecolors="white",
            linewidths=0.5,
        )
    ax.tick_params(axis="x", rotation=0, labelsize="small")
    ax.set_xlabel("head")
    ax.set_ylabel("layer")
    ax.set_facecolor("0.93")  # layers without such heads
    ax.set_title(title, fontsize="medium")
    return fig, ax


def grids(
    frame: pd.DataFrame,
    value: str = "value",
    ax: Axes | None = None,
    stream: str | None = None,
    *,
    label: str = "",
    centre: float | None = None,
    marks: str | None = None,
    made_by: str = "",
) -> tuple[Figure, Any]:
    """A heat map for each stream, each on a scale of its own.

    Args:
        frame: as ``grid`` takes it, with a column stream.
        value, label, centre, marks: as in ``grid``.
        ax: where to draw one stream; a new figure when None, with a panel for each.
        stream: which; all when None, and on one ``ax`` the first.
        made_by: a line at the foot of a new figure.

    Returns:
        The figure, and its axes: one, or an array of them.
    """
    there = list(frame["stream"].unique())
    if stream is not None and stream not in there:
        raise ShapeError(f"no head of stream {stream!r} here; there are {', '.join(there) or 'none'}")
    streams = [stream] if stream else there
    if ax is not None:
        own = frame[frame["stream"] == streams[0]]
        return grid(own, value, ax, title=f"{streams[0]} heads", label=label, centre=centre, marks=marks)
    fig = Figure(figsize=(5.2 * len(streams), 1.3 + 0.17 * max(5, frame["layer"].nunique())), layout="constrained")
    axes = fig.subplots(1, len(streams), squeeze=False)[0]
    for name, panel in zip(streams, axes, strict=True):
        own = frame[frame["stream"] == name]
        grid(own, value, panel, title=f"{name} heads", label=label, centre=centre, marks=marks)
    return signed(fig, made_by), axes if len(axes) > 1 else axes[0]
