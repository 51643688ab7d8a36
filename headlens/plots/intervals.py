"""Numbers with intervals, one below the other: differences of methods, agreement of runs, metrics of categories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from headlens.plots.figure import Figure
from headlens.plots.style import DARK, DOMAINS, PALETTE, axes_of, domain_colours, named
from headlens.plots.text import plain


def intervals(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    rows: Sequence[str] | None = None,
    label: str = "",
    title: str = "",
    names: bool = True,
    zero: bool = True,
    colours: Sequence[Any] | None = None,
) -> Figure:
    """A point with its interval for each row and group, the first row on top; groups have colours and stand apart.

    Args:
        frame: columns row, group, value, low, high; where value is NaN nothing is drawn. Without ends (NaN) a point
            has no interval.
        ax: where to draw; a new figure when None.
        rows: which, from top to bottom; all of ``frame`` when None.
        label, title: of the axis of values, and above it.
        names, zero: whether to write the rows' names, and to draw a line at 0.
        colours: of the groups; those of domains when None.

    >>> rows = [("without a", "industrial", -1.0, -2.0, 0.0), ("without a", "medical", 0.5, 0.0, 1.0)]
    >>> fig, ax = intervals(pd.DataFrame(rows, columns=["row", "group", "value", "low", "high"]))
    >>> [tick.get_text() for tick in ax.get_yticklabels()]
    ['without a']
    """
    rows, groups = list(rows or dict.fromkeys(frame["row"])), list(dict.fromkeys(frame["group"]))
    fig, ax = axes_of(ax, 3.3, 0.6 + 0.25 * len(rows))
    if zero:
        ax.axvline(0, color="black", linewidth=0.6, zorder=0)
    if colours is None:
        colours = [*domain_colours(groups).values()] if len(groups) > 1 or set(groups) & {*DOMAINS} else [DARK]
    for number, group in enumerate(groups):
        points = frame[frame["group"].eq(group) & frame["row"].isin(rows) & frame["value"].notna()]
        shift = min(0.36, 0.8 / len(groups)) * (number - (len(groups) - 1) / 2)
        y = [rows.index(row) + shift for row in points["row"]]
        colour = colours[number]
        ax.hlines(y, points["low"], points["high"], color=colour, linewidth=1.1)
        ax.plot(points["value"], y, "os^D"[number % 4], color=colour, markersize=3.2, label=plain(group, 24))
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_yticks(range(len(rows)), [plain(row, 40) for row in rows] if names else [""] * len(rows))
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(label)
    ax.set_title(title)
    ax.spines[["top", "right", "left"]].set_visible(False)
    return Figure(fig, ax)


def metric_points(frame: pd.DataFrame, metrics: Sequence[str], ax: Axes | None = None, *, title: str = "") -> Figure:
    """A row for each category and each mean, and in it a point for each metric, in percent, with its interval.

    Args:
        frame: columns domain, dataset, category, metric, value; and interval, half of one, where there are any.
        metrics: which; those that are undefined everywhere are left out.
        ax, title: as in ``intervals``.

    >>> row = {"domain": "industrial", "dataset": "toys", "category": "car", "metric": "image_auroc", "value": 0.9}
    >>> fig, ax = metric_points(pd.DataFrame([row]), ["image_auroc"])
    >>> [tick.get_text() for tick in ax.get_yticklabels()]
    ['car']
    """
    shown = frame[frame["metric"].isin(metrics) & frame["value"].notna()]
    several = frame["dataset"].nunique() > 2 or frame["domain"].nunique() > 1  # the mean over data sets is one
    half = 100 * shown["interval"] if "interval" in shown else float("nan")
    points = pd.DataFrame(
        {
            "row": [
                _row(several, *keys)
                for keys in zip(*(shown[key] for key in ("domain", "dataset", "category")), strict=True)
            ],
            "group": shown["metric"].map(named),
            "value": 100 * shown["value"],
            "low": 100 * shown["value"] - half,
            "high": 100 * shown["value"] + half,
        },
        index=shown.index,
    )
    ax = axes_of(ax, 5.6, 0.8 + 0.27 * points["row"].nunique())[1]
    colours = PALETTE if points["group"].nunique() > 1 else [DARK]
    fig, ax = intervals(points, ax, label="percent", title=title, zero=False, colours=colours)
    low, high = ax.get_xlim()
    ax.set_xlim(max(low, -1.0), min(high, 101.0))  # intervals of few seeds reach further than any metric can
    ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return Figure(fig, ax)


def _row(several: bool, domain: object, dataset: object, category: object) -> str:
    if dataset == "mean":
        return f"mean over data sets ({domain})" if domain else "mean over data sets"
    return f"{dataset}: {category}" if several else str(category)
