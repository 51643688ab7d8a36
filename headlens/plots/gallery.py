"""Attribution maps of several methods, a row each, of several images, a column each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.figure
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from headlens.plots.attribution import overlaid
from headlens.plots.display import draw, outline
from headlens.plots.figure import Figure
from headlens.plots.overlay import CMAP, MAP_LABEL, limits_of, overlay
from headlens.plots.style import COLUMN, colours
from headlens.plots.text import font, short, wrapped
from headlens.printing import spelled
from headlens.units import Unit

_SIDE = 0.7  # inches of an image


@dataclass(frozen=True)
class Column:
    """One column.

    Args:
        title: above it.
        image: [S, S, 3] uint8.
        mask: [S, S] bool, what to outline, or None.
        anomaly_map: [S, S].
        maps: attributions [S, S] by the names of their methods.
        shape: height and width of the image on disk, over which all are stretched; [S, S] when None.
    """

    title: str
    image: np.ndarray
    mask: np.ndarray | None
    anomaly_map: np.ndarray
    maps: Mapping[str, np.ndarray]
    shape: tuple[int, int] | None = None


def gallery(
    columns: Sequence[Column], label: str = "", unsigned: Collection[str] = (), unit: Unit = "probability"
) -> Figure:
    """Images, anomaly maps on one scale, and a row for each method; the end of every map's scale stands below it.

    Args:
        columns: with the same methods each.
        label: of the methods' colour bars.
        unsigned: methods whose maps have no sign, and are drawn from 0 up.
        unit: of the anomaly maps.

    >>> one = Column("bolt", np.zeros((8, 8, 3), np.uint8), None, np.zeros((8, 8)), {"edges": np.eye(8)})
    >>> fig, axes = gallery([one, one])
    >>> axes.shape, axes[2, 0].texts[0].get_text()
    ((3, 2), '±1')
    """
    methods, (low, high) = list(columns[0].maps), limits_of([column.anomaly_map for column in columns], unit)
    rows = 2 + len(methods)
    scales = 1 + bool(set(methods) - set(unsigned)) + bool(set(methods) & set(unsigned))  # a colour bar each
    tall = (_SIDE + 0.04) * rows + 0.13 * len(methods) + 0.9 + 0.2 * scales
    fig = matplotlib.figure.Figure(
        figsize=(max(COLUMN, 0.3 + (_SIDE + 0.02) * len(columns)), tall), layout="constrained"
    )
    axes = fig.subplots(rows, len(columns), squeeze=False)
    for column, entry in zip(axes.T, columns, strict=True):
        shape = entry.shape or entry.image.shape[:2]
        draw(column[0], entry.image, shape)
        column[0].set_title(wrapped(entry.title, _SIDE), fontsize="small", **font())
        column[0].set_axis_off()
        overlay(entry.image, entry.anomaly_map, ax=column[1], limits=(low, high), bar=False, shape=shape)
        for ax, (name, map_) in zip(column[2:], entry.maps.items(), strict=True):
            overlaid(entry.image, map_, ax, bar=False, shape=shape, sign=name not in unsigned)
            end = ("" if name in unsigned else "±") + short(ax.images[-1].get_clim()[1])
            ax.text(0.5, -0.02, end, transform=ax.transAxes, fontsize="small", ha="center", va="top")
        for ax in column:
            outline(ax, entry.mask, shape, width=0.4)
    for ax, name in zip(axes[:, 0], ["image", "anomaly map", *methods], strict=True):
        ax.set_axis_on()
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.set_ylabel(spelled(name).replace(" ", "\n"), fontsize="small")

    def bar(scale: dict[str, Any], text: str, ticks: dict[float, str]) -> None:
        drawn = fig.colorbar(ScalarMappable(**scale), ax=list(axes.flat), location="bottom", aspect=45, pad=0.012)
        drawn.set_label(text, fontsize="small")
        drawn.set_ticks(list(ticks), labels=list(ticks.values()))

    middle = (low + high) / 2
    bar({"norm": Normalize(low, high), "cmap": CMAP}, MAP_LABEL[unit], {at: f"{at:.2g}" for at in (low, middle, high)})
    if set(methods) - set(unsigned):
        bar(colours(1.0), label, {-1: "−end", 0: "0", 1: "+end"})
    if without := [name for name in methods if name in unsigned]:
        of = f" ({', '.join(map(spelled, without))})" if len(without) < len(methods) else ""
        bar(colours(1.0, signed=False), label + of, {0: "0", 1: "end"})
    return Figure(fig, axes)
