"""Metrics over the number of best heads that still work: a line for each ranking."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from headlens.errors import ConfigError
from headlens.plots.figure import Figure
from headlens.plots.style import DARK, GREY, ORDERS, PALETTE, finished, named, panels
from headlens.plots.text import plain

_MARKS = "osD^vP"
_COLOURS = (*ORDERS, *PALETTE)


def best_heads(
    frame: pd.DataFrame, ax: Any = None, metric: str | None = None, target: tuple[str, float] = ("", 1.0)
) -> Figure:
    """A panel for each metric, in percent: rankings with their intervals, random rankings from least to most in grey.

    Args:
        frame: columns ranking, heads, metric, value, baseline, low, high; rankings named ``random ...`` are
            comparisons.
        ax: axes to draw on, one for each panel; a new figure when None.
        metric: which; all when None.
        target: a metric, and the share of its clean value that a dashed line is drawn at.

    Returns:
        The figure, and its axes: one, or an array of them.

    Raises:
        ConfigError: an unknown metric, or another number of axes than of panels.

    >>> row = {"ranking": "measured", "metric": "pixel_aupro", "baseline": 0.7, "low": 0.0, "high": 0.0}
    >>> fig, ax = best_heads(pd.DataFrame([row | {"heads": 0, "value": 0.1}, row | {"heads": 4, "value": 0.7}]))
    >>> ax.get_ylabel()
    'AUPRO (%)'
    """
    metrics = list(dict.fromkeys(frame["metric"]))
    if metric is not None and metric not in metrics:
        raise ConfigError(f"{metric!r} was not measured; available: {', '.join(metrics)}")
    shown = metrics if metric is None else [metric]
    fig, array = panels(ax, [named(name) for name in shown], 1, (3.2 * len(shown) + 1.8, 3.1), "metric=")
    for panel, name in zip(array.flat, shown, strict=True):
        _panel(panel, frame[frame["metric"] == name], name, target[1] if target[0] == name else None)
    handles: dict[str, Any] = {}
    for panel in array.flat:
        handles |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    array.flat[-1].legend(
        [*handles.values()], [*handles], frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0)
    )
    return Figure(fig, array if array.size > 1 else array[0, 0])


def _panel(ax: Axes, rows: pd.DataFrame, metric: str, share: float | None) -> None:
    clean, counts = 100 * float(rows["baseline"].iloc[0]), sorted(rows["heads"].unique())
    ax.axhline(clean, color=DARK, linewidth=0.8, label="all heads")
    if share is not None:
        ax.axhline(share * clean, color=DARK, linewidth=0.8, linestyle="--", label=f"{share:.0%} of it")
    is_random = rows["ranking"].str.startswith("random ")
    if is_random.any():
        drawn = 100 * rows[is_random].groupby("heads")["value"].agg(["min", "mean", "max"])
        ax.fill_between(drawn.index, drawn["min"], drawn["max"], color=GREY, alpha=0.25, linewidth=0)
        number = rows.loc[is_random, "ranking"].nunique()
        ax.plot(drawn.index, drawn["mean"], color=GREY, linewidth=1, label=f"random rankings ({number})")
    groups = rows[~is_random].groupby("ranking", sort=False)
    for number, (ranking, unsorted) in enumerate(groups):
        its, colour = unsorted.sort_values("heads"), _COLOURS[number % len(_COLOURS)]
        low, high = (100 * (its["baseline"] + its[end]).clip(0, 1) for end in ("low", "high"))
        ax.fill_between(its["heads"], low, high, color=colour, alpha=0.15, linewidth=0)
        mark = _MARKS[number % len(_MARKS)]
        ax.plot(its["heads"], 100 * its["value"], color=colour, marker=mark, markersize=3, label=plain(ranking, 32))
    ax.set_xscale("symlog", base=2, linthresh=1, linscale=0.6)
    ticks = [count for count in counts[:: 1 if len(counts) < 8 else 2] if count < 0.4 * counts[-1]] + counts[-1:]
    ax.set_xticks(ticks, [f"{count:.0f}" for count in ticks])
    ax.minorticks_off()
    finished(ax, "best heads that still work", f"{named(metric)} (%)")
