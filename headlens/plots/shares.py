"""Shares of a whole as stacked bars, one for each layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import seaborn as sns

from headlens.errors import ShapeError
from headlens.plots.figure import Figure
from headlens.plots.style import finished, panels
from headlens.plots.text import plain


def shares(frame: pd.DataFrame, components: Sequence[str], ax: Any = None) -> Figure:
    """A bar for each layer, a panel for each stream; the last component is grey and on top.

    Estimates below 0 are drawn as 0, and the others of the bar add up to 100 %.

    Args:
        frame: columns stream, layer, component, share.
        components: from the foot of a bar to its top.
        ax: axes to draw on, one for each stream; a new figure when None.

    Raises:
        ShapeError: no layer.
        ConfigError: another number of axes.

    >>> rows = [("local", 5, "method", 0.75), ("local", 5, "seed", 0.25)]
    >>> drawn = shares(pd.DataFrame(rows, columns=["stream", "layer", "component", "share"]), ("method", "seed"))
    >>> [round(bar.get_height()) for bar in drawn.axes.patches]
    [75, 25]
    """
    streams = list(frame["stream"].unique())
    if not streams:
        raise ShapeError("no layer to draw: the frame has no rows")
    fig, (axes,) = panels(ax, [f"{name} heads" for name in streams], 1, (0.8 + 4.2 * len(streams), 3.0), "stream=")
    # Tones of one colour, which no stream, domain or order has.
    tones = sns.color_palette("mako", len(components) + 1)[1:-1]
    colours = dict(zip(components, [*tones, "0.85"], strict=True))
    for stream, panel in zip(streams, axes, strict=True):
        table = frame[frame["stream"] == stream].pivot(index="layer", columns="component", values="share")
        table = table[list(components)].clip(lower=0)
        table, foot = 100 * table.div(table.sum(axis=1), axis=0), 0.0
        for name in components:
            panel.bar(
                table.index.astype(int), table[name], bottom=foot, width=0.8, color=colours[name], label=plain(name, 24)
            )
            foot = foot + table[name]
        panel.set_ylim(0, 100)
        panel.locator_params(axis="x", integer=True)
        finished(panel, "layer", "", f"{stream} heads")
    axes[0].set_ylabel("variance between runs (%)")
    handles, labels = axes[0].get_legend_handles_labels()
    axes[-1].legend(
        handles[::-1], labels[::-1], frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5)
    )
    return Figure(fig, axes if len(axes) > 1 else axes[0])
