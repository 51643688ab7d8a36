"""An image with its anomaly map on top, on a scale that all images share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from headlens.plots.display import colour_bar, draw, panel, smaller
from headlens.plots.style import axes_of
from headlens.plots.text import font, plain, wrapped
from headlens.units import Unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CMAP = "magma"
MAP_LABEL: dict[Unit, str] = {"probability": "anomaly map", "logit": "anomaly map (logits)"}
"""Of its colour bar."""


def limits_of(maps: Iterable[np.ndarray], unit: Unit = "probability") -> tuple[float, float]:
    """The scale of anomaly maps that are shown together: 0 to 1, or from the lowest logit to the highest.

    >>> limits_of([np.eye(2)]), limits_of([np.eye(2), -3 * np.eye(2)], "logit")
    ((0.0, 1.0), (-3.0, 1.0))
    """
    if unit == "probability":
        return 0.0, 1.0
    every = np.concatenate([np.ravel(shown) for shown in maps])
    low, high = float(np.nanmin(every)), float(np.nanmax(every))
    return low, high if high > low else low + 1


def overlay(
    image: np.ndarray,
    anomaly_map: np.ndarray,
    title: str = "",
    ax: Axes | None = None,
    limits: tuple[float, float] = (0, 1),
    bar: bool = True,
    shape: tuple[int, int] | None = None,
    unit: Unit = "probability",
) -> tuple[Figure, Axes]:
    """The image in grey under its map, which is the denser the higher it is, with a colour bar.

    The figure and what is drawn in it have a bounded size, whatever the image's. The scale is given, never the map's
    own range: stretched to it, the map of a normal image looks alarming.

    Args:
        image: [H, W, 3] uint8.
        anomaly_map: [H, W], or smaller: it is stretched over the image.
        title: above it.
        ax: where to draw; a new figure when None.
        limits: of the colours; see ``limits_of``.
        bar: draw a colour bar; without it, one may serve several images.
        shape: height and width of the image where it was resized; those of ``image`` when None.
        unit: of the map.

    >>> fig, ax = overlay(np.zeros((8, 9, 3), np.uint8), np.zeros((8, 9)))
    >>> len(ax.images)
    2
    """
    shape = shape or (image.shape[0], image.shape[1])
    if ax is None:
        width, height = panel(shape, 4.2)
        room = max(width, 3.0)  # for the title
        fig = Figure(figsize=(room + 1.0, height + (1.6 if height < 1 else 0.6)), layout="compressed")
        ax, title = fig.subplots(), wrapped(title, room)
    else:
        fig, title = ax.figure, plain(title)  # type: ignore[assignment]
    draw(ax, smaller(image).mean(2), shape, cmap="gray", vmin=0, vmax=255)
    shown = smaller(anomaly_map)
    density = 0.85 * np.clip((np.nan_to_num(shown) - limits[0]) / (limits[1] - limits[0]), 0, 1)
    colours = {"cmap": CMAP, "vmin": limits[0], "vmax": limits[1], "interpolation": "nearest"}
    shades = draw(ax, shown, shape, alpha=density, **colours)
    if bar:
        colour_bar(ax, shades, MAP_LABEL[unit], shape)
    ax.set_title(title, fontsize="small", **font())
    ax.set_axis_off()
    return fig, ax


def anomaly_map(
    values: np.ndarray, ax: Axes | None = None, *, limits: tuple[float, float] = (0, 1), title: str = ""
) -> tuple[Figure, Axes]:
    """A map without its image, with a colour bar.

    Args:
        values: [h, w].
        ax: where to draw; a new figure when None.
        limits: of the colours; see ``limits_of``.
        title: above it.

    >>> fig, ax = anomaly_map(np.zeros((8, 9)), title="joint score 0.50")
    >>> len(ax.images)
    1
    """
    shape = (values.shape[0], values.shape[1])
    width, height = panel(shape, 4.2)
    fig, ax = axes_of(ax, width + 1.0, height + 0.6)
    shades = draw(ax, values, shape, cmap=CMAP, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    colour_bar(ax, shades, "anomaly map", shape)
    ax.set_title(plain(title), fontsize="small", **font())
    ax.set_axis_off()
    return fig, ax
