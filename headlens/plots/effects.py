"""Effects of ablations: bars with intervals, a profile over layers, curves over growing groups of heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.ticker import MaxNLocator

from headlens.plots.style import COLOURS, GREY, PALETTE, axes_of
from headlens.plots.text import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 40  # bars that one figure can bear


def bars(frame: pd.DataFrame, ax: Axes | None = None, *, title: str = "", label: str = "effect") -> tuple[Figure, Axes]:
    """One bar a row, the first on top, with its interval; behind them the noise floor, where it can be seen.

    Args:
        frame: columns variant, stream, effect, low, high, noise; rows in the order of drawing. Of more than 40 the
            first are drawn.
        ax: where to draw; a new figure when None.
        title: above it.
        label: of the axis of effects.

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
    ax.set_xlabel(label)
    ax.set_title(
        title + (f" (the first {len(shown)} of {len(frame)})" if len(frame) > len(shown) else ""), fontsize="medium"
    )
    ax.spines[["top", "right"]].set_visible(False)
    return fig, ax


def profile(
    frame: pd.DataFrame, ax: Axes | None = None, *, title: str = "", label: str = "effect"
) -> tuple[Figure, Axes]:
    """Effects over layers, a line for each stream, with intervals.

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
    for stream, rows in frame.sort_values("layer").groupby("stream", sort=False):
        layers, colour = rows["layer"].astype(int), COLOURS[str(stream)]
        ax.vlines(layers, rows["low"], rows["high"], color=colour, linewidth=1.2)
        ax.plot(layers, rows["effect"], marker="o", markersize=3.5, color=colour, label=f"{stream} stream")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return fig, _labelled(ax, "layer", label, title)


def curves(
    frame: pd.DataFrame, ax: Axes | None = None, *, title: str = "", label: str = "effect"
) -> tuple[Figure, Axes]:
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
    colours, randoms = iter(PALETTE), 0
    for order, rows in frame.sort_values("heads").groupby("order", sort=False):
        random = str(order).startswith("random")
        randoms += random
        colour = GREY if random else next(colours)
        ax.fill_between(rows["heads"], rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)
        name = ("random orders" if randoms == 1 else None) if random else str(order)
        ax.plot(rows["heads"], rows["effect"], marker=".", color=colour, linewidth=1 if random else 1.6, label=name)
    return fig, _labelled(ax, "heads ablated together", label, title)


def _labelled(ax: Axes, x: str, y: str, title: str) -> Axes:
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.set_title(title, fontsize="medium")
    ax.legend(frameon=False, fontsize="small")
    ax.spines[["top", "right"]].set_visible(False)
    return ax
