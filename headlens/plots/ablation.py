"""A whole ablation as a picture: the drawing that its variants ask for, a panel for each quantity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure

from headlens.errors import ConfigError
from headlens.plots.effects import MOST, bars, curves, profile
from headlens.plots.grid import grid
from headlens.plots.style import axes_of, named

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FEW = 2  # layers whose heads are told by name; more are a grid
_OVERVIEW = ("joint_margin", "anomaly_map")


def ablation(
    summary: pd.DataFrame, ax: Axes | None = None, metric: str | None = None, stream: str | None = None
) -> tuple[Figure, Any]:
    """Bars with intervals; a grid of single heads where there are many layers; lines over layers, or growing groups.

    Args:
        summary: columns stream, layer, head, variant, order, heads, metric, effect, magnitude, low, high,
            noise.
        ax: where to draw one panel; a new figure when None, with a panel for each quantity and stream.
        metric: which quantity; the joint margin when None, and in a new figure the anomaly map beside it.
        stream: of a grid; on one ``ax`` the first when None.

    Returns:
        The figure, and its axes: one, or an array of them.

    Raises:
        ConfigError: a quantity or stream that is not there.

    >>> row = {"variant": "L18H7", "stream": "global", "layer": 18, "head": 7, "order": "", "heads": 1, "noise": 0.0}
    >>> row |= {"metric": "joint_margin", "effect": -0.5, "magnitude": 0.5, "low": -0.6, "high": -0.4}
    >>> fig, ax = ablation(pd.DataFrame([row]), metric="joint_margin")
    >>> ax.get_xlabel()
    'change of joint margin (logits)'
    """
    metrics = [metric] if metric else list(_OVERVIEW if ax is None else _OVERVIEW[:1])
    rows = summary[summary["metric"] == metrics[0]]
    if rows.empty or (stream is not None and stream not in set(rows["stream"])):
        metrics_there, streams_there = (", ".join(summary[name].unique()) for name in ("metric", "stream"))
        raise ConfigError(f"no {metrics[0]} of stream {stream or 'any'}; there are {metrics_there}; {streams_there}")
    kind = _kind(rows)
    streams = [stream] if stream else list(rows["stream"].unique()) if kind == "grid" else [None]
    if ax is not None:
        fig, axes = axes_of(ax)[0], [ax]
    else:
        width, height = {
            "grid": (5.0, 0.9 + 0.165 * max(6, rows["layer"].nunique())),
            "bars": (4.2, 1.0 + 0.165 * min(MOST, max(6, len(rows)))),
        }.get(kind, (4.6, 3.4))
        fig = Figure(figsize=(width * len(metrics), height * len(streams)), layout="constrained")
        grid_of_axes = fig.subplots(len(streams), len(metrics), squeeze=False)
        axes = list(grid_of_axes.flat)
    for (one, name), own in zip([(one, name) for one in streams for name in metrics], axes, strict=False):
        shown = summary[(summary["metric"] == name) & ((summary["stream"] == one) | (one is None))]
        if kind == "grid":
            centre = None if name == "anomaly_map" else 0  # a distance has no sign
            grid(shown, "effect", own, title=f"single {one} heads", label=f"change of {named(name)}", centre=centre)
        elif kind == "bars":
            shown = shown.sort_values("magnitude", ascending=False, kind="stable")
            bars(shown, own, title="largest mean |change| on top", label=f"change of {named(name)}")
        else:
            {"curves": curves, "profile": profile}[kind](shown, own, label=f"change of {named(name)}")
    if len(axes) == 1:
        return fig, axes[0]
    return fig, grid_of_axes


def _kind(rows: pd.DataFrame) -> str:
    if (rows["order"] != "").all():
        return "curves"
    many = rows["layer"].notna().all() and rows["layer"].nunique() > _FEW
    if many and rows["head"].notna().all():
        return "grid"
    return "profile" if many and not rows.duplicated(["stream", "layer"]).any() else "bars"
