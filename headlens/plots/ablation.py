"""A whole ablation as a figure: the drawing that its variants ask for, a panel for each quantity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from headlens.errors import ConfigError
from headlens.plots.effects import MOST, bars, curves, profile
from headlens.plots.grid import grid
from headlens.plots.style import axes_for, axes_of, named

_FEW = 2  # layers whose heads are named; more are a grid
_OVERVIEW = ("joint_margin", "anomaly_map")


def ablation(
    summary: pd.DataFrame, ax: Any = None, metric: str | None = None, stream: str | None = None
) -> tuple[Figure, Any]:
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
        ConfigError: a quantity or stream that is not there, or another number of axes than of panels.

    >>> row = {"variant": "L18H7", "stream": "global", "layer": 18, "head": 7, "order": "", "heads": 1, "noise": 0.0}
    >>> row |= {"metric": "joint_margin", "effect": -0.5, "magnitude": 0.5, "low": -0.6, "high": -0.4}
    >>> fig, ax = ablation(pd.DataFrame([row]), metric="joint_margin")
    >>> ax.get_xlabel()
    'change of joint margin (logits)'
    """
    metrics = [metric] if metric else [name for name in _OVERVIEW if name in set(summary["metric"])]
    rows = summary[summary["metric"].isin(metrics[:1])]
    if rows.empty or (stream is not None and stream not in set(rows["stream"])):
        metrics_there, streams_there = (", ".join(summary[name].unique()) for name in ("metric", "stream"))
        asked = metrics[0] if metrics else "row"
        raise ConfigError(f"no {asked} of stream {stream or 'any'}; there are {metrics_there}; {streams_there}")
    kind = _kind(rows)
    if stream is not None:
        summary = summary[summary["stream"] == stream]
    streams = list(rows["stream"].unique()) if kind == "grid" and stream is None else [stream]
    panels = [(one, name) for one in streams for name in metrics]
    names = [named(name) + (f", {one} heads" if one else "") for one, name in panels]
    axes = axes_for(ax, names, "metric=, stream=" if len(streams) > 1 else "metric=")
    if axes is None:
        width, height = {
            "grid": (5.0, 0.9 + 0.165 * max(6, rows["layer"].nunique())),
            "bars": (4.2, 1.0 + 0.165 * min(MOST, max(6, len(rows)))),
        }.get(kind, (4.6, 3.4))
        fig = Figure(figsize=(width * len(metrics), height * len(streams)), layout="constrained")
        array = fig.subplots(len(streams), len(metrics), squeeze=False)
    else:
        fig, array = axes_of(axes[0])[0], np.array(axes, dtype=object).reshape(len(streams), len(metrics))
    for (one, name), panel in zip(panels, array.flat, strict=True):
        shown = summary[(summary["metric"] == name) & ((summary["stream"] == one) | (one is None))]
        if kind == "grid":
            centre = None if name == "anomaly_map" else 0  # a distance has no sign
            grid(shown, "effect", panel, title=f"single {one} heads", label=f"change of {named(name)}", centre=centre)
        elif kind == "bars":
            shown = shown.sort_values("magnitude", ascending=False, kind="stable")
            bars(shown, panel, title="largest mean |change| on top", label=f"change of {named(name)}")
        else:
            {"curves": curves, "profile": profile}[kind](shown, panel, label=f"change of {named(name)}")
    return fig, array if array.size > 1 else array[0, 0]


def _kind(rows: pd.DataFrame) -> str:
    if (rows["order"] != "").all():
        return "curves"
    many = rows["layer"].notna().all() and rows["layer"].nunique() > _FEW
    if many and rows["head"].notna().all():
        return "grid"
    return "profile" if many and not rows.duplicated(["stream", "layer"]).any() else "bars"
