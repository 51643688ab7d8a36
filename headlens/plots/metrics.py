"""Metrics of every category, as points below each other: what a table of metrics draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from headlens.plots.intervals import intervals
from headlens.plots.style import axes_of, named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def metric_points(
    frame: pd.DataFrame, metrics: Sequence[str], ax: Axes | None = None, *, title: str = ""
) -> tuple[Figure, Axes]:
    """A row for each category and each mean, and in it a point for each metric, in percent, with its interval.

    Args:
        frame: columns domain, dataset, category, metric, value; and interval, half of one, where there are any.
        metrics: which; those that are undefined everywhere are left out.
        ax: where to draw; a new figure when None.
        title: above it.

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
    fig, ax = intervals(points, ax, label="percent", title=title, zero=False)
    low, high = ax.get_xlim()
    ax.set_xlim(max(low, -1.0), min(high, 101.0))  # intervals of few seeds reach further than any metric can
    ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig, ax


def _row(several: bool, domain: object, dataset: object, category: object) -> str:
    if dataset == "mean":
        return f"mean over data sets ({domain})" if domain else "mean over data sets"
    return f"{dataset}: {category}" if several else str(category)
