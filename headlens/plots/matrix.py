"""Groups of runs by groups of runs: how far two runs agree, and how many heads differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from headlens.plots.figure import Figure
from headlens.plots.style import RISING, panels
from headlens.plots.text import font, plain

_NAMES = {"spearman": "rank correlation of two runs", "kendall": "Kendall's tau of two runs"}
_MOST = 6  # groups whose cells have room for an interval


def agreement(
    rows: pd.DataFrame,
    pairs: pd.DataFrame,
    groups: Sequence[str],
    ax: Any = None,
    *,
    statistic: str = "spearman",
    heads: int = 0,
    level: float = 0.05,
    size: tuple[float, float] | None = None,
) -> Figure:
    """Left: the agreement of two runs, of one group on the diagonal, with its interval; right: heads that differ.

    Args:
        rows: columns first, second (equal within a group), value, low, high.
        pairs: columns first, second, heads, any_p; where ``any_p`` is NaN, nothing was tested.
        groups: in the order in which they are shown.
        ax: two axes to draw on; a new figure when None.
        statistic: what ``rows`` are of.
        heads: how many there are, for the title.
        level: the false discovery rate of heads that differ, for the title.
        size: of a new figure, in inches.

    Returns:
        The figure and its axes, an array of two.

    Raises:
        ConfigError: another number of axes.

    >>> rows = pd.DataFrame({"first": ["a", "b", "a"], "second": ["a", "b", "b"], "value": [0.9, 0.8, 0.4]})
    >>> pairs = pd.DataFrame({"first": ["a"], "second": ["b"], "heads": [7], "any_p": [0.1]})
    >>> fig, (left, right) = agreement(rows.assign(low=0.3, high=0.95), pairs, ("a", "b"), heads=40)
    >>> [text.get_text() for text in right.texts]
    ['7', '7']
    """
    side = max(2.2, 0.85 * len(groups))
    names = (_NAMES.get(statistic, f"{statistic} heads shared by two runs"), f"heads that differ (q ≤ {level:.3g})")
    names = (names[0], f"{names[1]}, of {heads}" if heads else names[1])
    fig, axes = panels(ax, names, 1, size or (2 * side + 1.9, side + 1.3))
    left, right = axes[0]
    known = rows["value"].dropna()
    low = min(0.0, float(known.min())) if len(known) else 0.0
    cells = {(row.first, row.second): (row.value, _interval(row, len(groups))) for row in rows.itertuples()}
    _cells(left, cells, groups, (low, 1.0))
    tested = pairs[pairs["any_p"].notna()]
    counts = {(row.first, row.second): (float(row.heads), f"{row.heads}") for row in tested.itertuples()}
    _cells(right, counts, groups, (0.0, float(max([*tested["heads"], 1]))))
    for panel, name in zip((left, right), names, strict=True):
        panel.set_title(name, fontsize="medium")
    return Figure(fig, axes[0])


def _interval(row: Any, groups: int) -> str:
    text = f"{row.value:.2f}"
    return text if groups > _MOST or np.isnan(row.low) else f"{text}\n[{row.low:.2f}, {row.high:.2f}]"


def _cells(
    ax: Axes, cells: dict[tuple[str, str], tuple[float, str]], groups: Sequence[str], limits: tuple[float, float]
) -> None:
    """A square of cells with their text; those without a value are grey."""
    values = np.full((len(groups), len(groups)), np.nan)
    place = {name: number for number, name in enumerate(groups)}
    for (first, second), (value, _) in cells.items():
        values[place[first], place[second]] = values[place[second], place[first]] = value
    image = ax.imshow(values, cmap=RISING, vmin=limits[0], vmax=limits[1])
    for (first, second), (value, text) in cells.items():
        if np.isnan(value):
            continue
        red, green, blue, _ = image.to_rgba(np.asarray(value))
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        for row, column in {(place[first], place[second]), (place[second], place[first])}:
            colour = "white" if dark else "black"
            ax.text(column, row, text, ha="center", va="center", fontsize="small", color=colour)
    ax.set_facecolor("0.9")
    labels = [plain(name, 24).replace("/", "/\n") for name in groups]  # two factors have a line each
    turned = max(len(line) for label in labels for line in label.split("\n")) > 11
    how: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if turned else {}
    ax.set_xticks(range(len(groups)), labels, **how, **font())
    ax.set_yticks(range(len(groups)), labels, **font())
    edges = np.arange(len(groups) + 1) - 0.5
    ax.hlines(edges, edges[0], edges[-1], color="white", linewidth=1)
    ax.vlines(edges, edges[0], edges[-1], color="white", linewidth=1)
    ax.tick_params(length=0, labelsize="small")
    ax.spines[:].set_visible(False)
