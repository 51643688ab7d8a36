"""Effects of ablations: bars with intervals, a profile over layers, curves over growing groups of heads."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from headlens.errors import ConfigError
from headlens.plots.figure import Figure
from headlens.plots.grid import grid
from headlens.plots.style import COLOURS, GREY, ORDERS, PALETTE, axes_of, finished, named, panels
from headlens.plots.text import plain

MOST = 40  # bars that one figure can bear
_FEW = 2  # layers whose heads are named; more are a grid


def bars(frame: pd.DataFrame, ax: Axes | None = None, *, title: str = "", label: str = "effect") -> Figure:
    """One bar per row with its interval, the first on top; the noise floor is behind them, if visible.

    Args:
        frame: columns variant, stream, effect, low, high, noise; rows in the order of drawing. Only the first 40 are
            drawn.
        ax: where to draw; a new figure when None.
        title, label: above it, and of the axis of effects.

    >>> row = {"variant": "L18H7", "stream": "global", "effect": -0.5, "low": -0.6, "high": -0.4, "noise": 0.01}
    >>> fig, ax = bars(pd.DataFrame([row]))
    >>> [tick.get_text() for tick in ax.get_yticklabels()]
    ['L18H7']
    """
    shown = frame.head(MOST)
    fig, ax = axes_of(ax, 4.2, 0.9 + 0.165 * max(5, len(shown)))
    rows = range(len(shown))
    colours = [COLOURS[stream] for stream in shown["stream"]]
    noise = float(shown["noise"].max()) if shown["noise"].notna().any() else 0.0
    ax.axvspan(-noise, noise, color="0.85", zorder=0)
    ax.axvline(0, color="black", linewidth=0.6)
    ax.barh(rows, shown["effect"], color=colours, height=0.75, alpha=0.85)
    ax.hlines(rows, shown["low"], shown["high"], color="black", linewidth=1.1)
    ax.set_yticks(rows, [plain(name, 40) for name in shown["variant"]], fontsize=7)
    ax.set_ylim(len(shown) - 0.4, -0.6)
    title += f" (the first {len(shown)} of {len(frame)})" if len(frame) > len(shown) else ""
    return Figure(fig, finished(ax, label, title=title))


def profile(frame: pd.DataFrame, ax: Axes | None = None, *, title: str = "", label: str = "effect") -> Figure:
    """Effects over layers, a line for each stream, with intervals; streams stand a little apart at each layer.

    Args:
        frame: columns stream, layer, effect, low, high, one row for a stream's layer.
        ax, title, label: as in ``bars``.

    >>> row = {"stream": "local", "layer": 18, "effect": -0.5, "low": -0.6, "high": -0.4}
    >>> fig, ax = profile(pd.DataFrame([row]))
    >>> ax.get_xlabel()
    'layer'
    """
    fig, ax = axes_of(ax, 5.0, 3.0)
    ax.axhline(0, color="black", linewidth=0.6)
    streams = frame.sort_values("layer", kind="stable").groupby("stream", sort=False)
    for number, (stream, rows) in enumerate(streams):
        layers, colour = rows["layer"].astype(int) + 0.3 * (number - (len(streams) - 1) / 2), COLOURS[str(stream)]
        ax.vlines(layers, rows["low"], rows["high"], color=colour, linewidth=1.2)
        ax.plot(layers, rows["effect"], marker="o", markersize=3.5, color=colour, label=f"{stream} stream")
    ax.margins(x=0.03)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return Figure(fig, finished(ax, "layer", label, title, legend="best"))


def curves(frame: pd.DataFrame, ax: Axes | None = None, *, title: str = "", label: str = "effect") -> Figure:
    """Effects over the number of heads that are ablated together, a line for each order; random ones are grey.

    Args:
        frame: columns order, heads, effect, low, high. Orders whose name begins with ``random`` are comparisons.
        ax, title, label: as in ``bars``.

    >>> row = {"order": "best first", "heads": 1, "effect": -0.5, "low": -0.6, "high": -0.4}
    >>> fig, ax = curves(pd.DataFrame([row]))
    >>> ax.get_legend_handles_labels()[1]
    ['best first']
    """
    fig, ax = axes_of(ax, 5.0, 3.2)
    ax.axhline(0, color="black", linewidth=0.6)
    colours, randoms = iter([*ORDERS, *PALETTE]), 0
    for order, unsorted in frame.groupby("order", sort=False):  # as they come, so that panels share their colours
        rows = unsorted.sort_values("heads", kind="stable")
        random = str(order).startswith("random")
        randoms += random
        colour = GREY if random else next(colours)
        ax.fill_between(rows["heads"], rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)
        name = ("random orders" if randoms == 1 else None) if random else str(order)
        ax.plot(rows["heads"], rows["effect"], marker=".", color=colour, linewidth=1 if random else 1.6, label=name)
    return Figure(fig, finished(ax, "heads changed together", label, title, legend="best"))


def ablation(summary: pd.DataFrame, ax: Any = None, metric: str | None = None, stream: str | None = None) -> Figure:
    """Bars with intervals; a grid of single heads where there are many layers; lines over layers, or growing groups.

    Args:
        summary: columns stream, layer, head, variant, order, heads, metric, effect, magnitude, low, high,
            noise.
        ax: axes to draw on, one for each panel, a row for each stream; a new figure when None.
        metric: which quantity; the joint margin and the anomaly map when None, a panel for each.
        stream: which; all when None, and of a grid a panel for each.

    Returns:
        The figure, and its axes: one, or an array of them.

    Raises:
        ConfigError: an unknown quantity or stream, or another number of axes than of panels.

    >>> row = {"variant": "L18H7", "stream": "global", "layer": 18, "head": 7, "order": "", "heads": 1, "noise": 0.0}
    >>> row |= {"metric": "joint_margin", "effect": -0.5, "magnitude": 0.5, "low": -0.6, "high": -0.4}
    >>> fig, ax = ablation(pd.DataFrame([row]), metric="joint_margin")
    >>> ax.get_xlabel()
    'change of joint margin (logits)'
    """
    metrics = [metric] if metric else [m for m in ("joint_margin", "anomaly_map") if m in set(summary["metric"])]
    rows = summary[summary["metric"].isin(metrics[:1])]
    if rows.empty or (stream is not None and stream not in set(rows["stream"])):
        metrics_there, streams_there = (", ".join(summary[name].unique()) for name in ("metric", "stream"))
        asked = metrics[0] if metrics else "row"
        raise ConfigError(f"no {asked} of stream {stream or 'any'}; available: {metrics_there}; {streams_there}")
    kind = _kind(rows)
    if stream is not None:
        summary = summary[summary["stream"] == stream]
    streams = list(rows["stream"].unique()) if kind == "grid" and stream is None else [stream]
    shown_in = [(one, name) for one in streams for name in metrics]
    names = [named(name) + (f", {one} heads" if one else "") for one, name in shown_in]
    width, height = {
        "grid": (5.0, 0.9 + 0.165 * max(6, rows["layer"].nunique())),
        "bars": (4.2, 1.0 + 0.165 * min(MOST, max(6, len(rows)))),
    }.get(kind, (4.6, 3.4))
    choose = "metric=, stream=" if len(streams) > 1 else "metric="
    fig, array = panels(ax, names, len(streams), (width * len(metrics), height * len(streams)), choose)
    for (one, name), panel in zip(shown_in, array.flat, strict=True):
        shown = summary[(summary["metric"] == name) & ((summary["stream"] == one) | (one is None))]
        if kind == "grid":
            centre = None if name == "anomaly_map" else 0  # a distance has no sign
            grid(shown, "effect", panel, title=f"single {one} heads", label=f"change of {named(name)}", centre=centre)
        elif kind == "bars":
            shown = shown.sort_values("magnitude", ascending=False, kind="stable")
            bars(shown, panel, title="largest mean |change| on top", label=f"change of {named(name)}")
        else:
            {"curves": curves, "profile": profile}[kind](shown, panel, label=f"change of {named(name)}")
    return Figure(fig, array if array.size > 1 else array[0, 0])


def _kind(rows: pd.DataFrame) -> str:
    if (rows["order"] != "").all():
        return "curves"
    many = rows["layer"].notna().all() and rows["layer"].nunique() > _FEW
    if many and rows["head"].notna().all():
        return "grid"
    return "profile" if many and not rows.duplicated(["stream", "layer"]).any() else "bars"
