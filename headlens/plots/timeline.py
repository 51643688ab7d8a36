"""Scores over the frames of clips."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.figure
import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from headlens.plots.figure import Figure
from headlens.plots.style import DARK, PALETTE, axes_for, finished
from headlens.plots.text import plain
from headlens.units import Unit

HAPPENS = PALETTE[8]


def timelines(clips: Mapping[str, pd.DataFrame], ax: Any = None, *, unit: Unit = "probability") -> Figure:
    """A panel for each clip: the score of every frame, and shaded those in which something happens.

    Args:
        clips: of each clip, by what its panel is called, columns score and anomalous, a row for each frame; and the
            probability of its kind of anomaly, as ``kind``, where the detector tells kinds apart.
        ax: axes to draw on, one for each clip; a new figure when None.
        unit: of the scores.

    >>> rows = pd.DataFrame({"score": [0.1, 0.7, 0.8, 0.2], "anomalous": [False, True, True, False]})
    >>> fig, ax = timelines({"belt/003": rows})
    >>> ax[0].get_title()
    'belt/003'
    """
    names = list(clips)
    axes = axes_for(ax, names, "clips=")
    made = None
    if axes is None:
        made = matplotlib.figure.Figure(figsize=(5.6, 0.9 + 1.05 * len(names)), layout="constrained")
        axes = list(made.subplots(len(names), squeeze=False)[:, 0])
    for number, (name, frames) in enumerate(clips.items()):
        _timeline(axes[number], name, frames, unit)
    named = {label: handle for one in axes for handle, label in zip(*one.get_legend_handles_labels(), strict=True)}
    axes[-1].set_xlabel("frame, of those that were scored")
    if made is not None:
        made.legend(named.values(), named, loc="outside upper center", ncols=3, frameon=False, fontsize="small")
    else:
        axes[0].legend(named.values(), named, loc="best", frameon=False, fontsize="small")
    figure = made or axes[0].get_figure(root=True)
    assert isinstance(figure, matplotlib.figure.Figure)
    return Figure(figure, np.array(axes, dtype=object))


def _timeline(ax: Any, name: str, frames: pd.DataFrame, unit: Unit) -> None:
    at = np.arange(len(frames))
    happens = frames["anomalous"].fillna(False).to_numpy(bool)
    for start in np.flatnonzero(happens & ~np.r_[False, happens[:-1]]):
        end = start + np.argmin(np.r_[happens[start:], False])
        ax.axvspan(start - 0.5, end - 0.5, color=HAPPENS, alpha=0.45, linewidth=0, label="something happens")
    if "kind" in frames:
        ax.plot(at, frames["kind"], color=PALETTE[3], linewidth=1.0, linestyle="--", label="probability of its kind")
    ax.plot(at, frames["score"], color=DARK, linewidth=1.4, label="score")
    if unit == "probability":
        ax.set_ylim(-0.04, 1.04)
    ax.set_xlim(-0.5, len(frames) - 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    finished(ax, title=plain(name, 60))
