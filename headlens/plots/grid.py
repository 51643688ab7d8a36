"""Layers by heads as a heat map: one number per head, or two domains and their difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from headlens.errors import ShapeError
from headlens.plots.figure import Figure
from headlens.plots.style import DIVERGING, RISING, axes_of, colours, panels, signed
from headlens.plots.text import font, plain


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
    every: int | None = None,
) -> Figure:
    """One stream's heads, the first layer at the bottom, as the network is drawn.

    Args:
        frame: columns layer, head and ``value``, a row for each head; layers without heads stay empty.
        value: the column to draw.
        ax: where to draw; a new figure when None.
        title, label: above it, and of the colour bar.
        centre: the value that is neither red nor blue; colours rise from light to dark when None.
        limits: limits of the colours; by default those of the values, symmetric about ``centre``.
        marks: a column of booleans whose cells get a dot.
        bar: draw the colour bar.
        every: how many heads from one number on the axis to the next; as many as leave about ten numbers when None.

    Raises:
        ShapeError: two rows for one head (of two streams, or two metrics), or none at all.

    >>> frame = pd.DataFrame({"layer": [0, 0, 2], "head": [0, 1, 0], "value": [1.0, 2.0, 3.0]})
    >>> fig, ax = grid(frame, title="weights")
    >>> [tick.get_text() for tick in ax.get_yticklabels()]
    ['0', '1', '2']
    """
    if frame.empty or frame.duplicated(["layer", "head"]).any():
        raise ShapeError(f"a heat map needs one row for each head; some of its {len(frame)} rows are of the same head")
    rows, columns = (range(int(frame[name].min()), int(frame[name].max()) + 1) for name in ("layer", "head"))
    table = frame.pivot(index="layer", columns="head", values=value).astype(float)
    table = table.reindex(index=rows[::-1], columns=columns)
    fig, ax = axes_of(ax, 1.4 + 0.24 * len(columns), 1.2 + 0.17 * max(5, len(rows)))
    low, high = limits or ends(table.to_numpy(), centre)
    step = max(1, round(len(rows) / 12))
    sns.heatmap(
        table,
        ax=ax,
        cmap=RISING if centre is None else DIVERGING,
        vmin=low,
        vmax=high,
        cbar=bar,
        cbar_kws={"label": label, "pad": 0.02} if bar else None,
        xticklabels=every or max(1, round(len(columns) / 10)),
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
    ax.set_title(title, fontsize="medium", **font())
    return Figure(fig, ax)


def ends(values: np.ndarray, centre: float | None) -> tuple[float, float]:
    """Where a scale of colours begins and ends: with the values, or even about ``centre``; NaN is passed over.

    >>> ends(np.array([1.0, np.nan, 3.0]), None), ends(np.array([1.0, 3.0]), 1.0)
    ((1.0, 3.0), (-1.0, 3.0))
    """
    known = values[np.isfinite(values)]
    if centre is None:
        return (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    reach = colours(known - centre)["norm"].vmax
    return centre - reach, centre + reach


def grids(
    frame: pd.DataFrame,
    value: str = "value",
    ax: Any = None,
    stream: str | None = None,
    *,
    label: str = "",
    centre: float | None = None,
    made_by: str = "",
) -> Figure:
    """A heat map for each stream, each with its own scale.

    Args:
        frame: as ``grid`` takes it, with a column stream.
        value, label, centre: as in ``grid``.
        ax: axes to draw on, one for each stream; a new figure when None.
        stream: which; all when None.
        made_by: a line at the foot of a new figure.

    Returns:
        The figure, and its axes: one, or an array of them.

    Raises:
        ShapeError: no head, or none of that stream.
        ConfigError: another number of axes than of streams.
    """
    existing = list(frame["stream"].unique())
    if stream is not None and stream not in existing:
        raise ShapeError(f"no head of stream {stream!r} here; available: {', '.join(existing) or 'none'}")
    streams = [stream] if stream else existing
    if not streams:
        raise ShapeError("no head to draw: the frame has no rows")
    size = (5.2 * len(streams), 1.3 + 0.17 * max(5, frame["layer"].nunique()))
    fig, (axes,) = panels(ax, [f"{name} heads" for name in streams], 1, size, "stream=")
    for name, panel in zip(streams, axes, strict=True):
        rows = frame[frame["stream"] == name]
        grid(rows, value, panel, title=f"{name} heads", label=label, centre=centre)
    return signed(Figure(fig, axes if len(axes) > 1 else axes[0]), made_by, ax)


def comparison(
    frame: pd.DataFrame,
    domains: tuple[str, str],
    ax: Any = None,
    *,
    label: str = "value",
    centre: float | None = None,
    level: float = 0.05,
) -> Figure:
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
    layers = frame.groupby("stream")["layer"].nunique().max()
    size = (11.5, (1.2 + 0.165 * max(6, layers)) * len(streams))
    fig, axes = panels(ax, [f"{name}, {stream}" for stream in streams for name in names], len(streams), size)
    for stream, (left, middle, right) in zip(streams, axes, strict=True):
        rows = frame[frame["stream"] == stream]
        values = rows[[first, second]].to_numpy()
        limits = ends(values, centre)
        of = f", {stream}" if len(streams) > 1 else ""
        grid(rows, first, left, title=names[0] + of, centre=centre, limits=limits, bar=False)
        grid(rows, second, middle, title=names[1] + of, label=label, centre=centre, limits=limits)
        title = f"{names[2]}{of} (dots: q ≤ {level:.3g})"
        grid(rows, "difference", right, title=title, label=f"difference of {label_of}", centre=0, marks="significant")
    return Figure(fig, axes)
