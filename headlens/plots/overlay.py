"""A picture with its anomaly map on top, on a scale that every picture shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CMAP = "magma"


def overlay(
    image: np.ndarray,
    anomaly_map: np.ndarray,
    title: str = "",
    ax: Axes | None = None,
    limits: tuple[float, float] = (0, 1),
    bar: bool = True,
) -> tuple[Figure, Axes]:
    """The picture in grey under its map, which is the denser the higher it is, with a colour bar.

    The scale is fixed, never the map's own range: stretched to it, the map of a faultless picture looks alarming.

    Args:
        image: [H, W, 3] uint8.
        anomaly_map: [H, W].
        title: above it.
        ax: where to draw; a new figure when None.
        limits: of the colours.
        bar: draw a colour bar; without it, one may serve several pictures.

    >>> fig, ax = overlay(np.zeros((8, 9, 3), np.uint8), np.zeros((8, 9)))
    >>> len(ax.images)
    2
    """
    if ax is None:
        height, width = anomaly_map.shape
        fig = Figure(figsize=(5.0, max(1.5, 4.1 * height / width) + 0.4), layout="constrained")
        ax = fig.subplots()
    else:
        fig = ax.figure  # type: ignore[assignment]
    ax.imshow(image.mean(2), cmap="gray", vmin=0, vmax=255)
    density = 0.85 * np.clip((anomaly_map - limits[0]) / (limits[1] - limits[0]), 0, 1)
    shades = ax.imshow(anomaly_map, cmap=CMAP, vmin=limits[0], vmax=limits[1], alpha=density, interpolation="nearest")
    if bar:
        colours = fig.colorbar(shades, ax=ax, fraction=0.045, pad=0.02, label="anomaly map")
        if colours.solids is not None:
            colours.solids.set_alpha(1)
    ax.set_title(title, fontsize="small", parse_math=False)  # names of files may hold dollars
    ax.set_axis_off()
    return fig, ax


def outline(ax: Axes, mask: np.ndarray | None, width: float = 0.7) -> None:
    """A black line in a white one around what is marked, [H, W]: seen on pictures and maps of any colour."""
    if mask is not None and mask.any() and not mask.all():
        for colour, times in (("white", 2.2), ("black", 1.0)):
            ax.contour(mask.astype(float), levels=[0.5], colors=[colour], linewidths=times * width)
