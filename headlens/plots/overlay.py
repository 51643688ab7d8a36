"""Images with their anomaly maps on top, one or several side by side, on a scale that all images share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from headlens.plots.display import colour_bar, draw, outline, panel, smaller
from headlens.plots.figure import Figure
from headlens.plots.style import axes_of, signed
from headlens.plots.text import font, plain, wrapped
from headlens.units import Unit

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
    image: np.ndarray | None,
    anomaly_map: np.ndarray,
    title: str = "",
    ax: Axes | None = None,
    limits: tuple[float, float] = (0, 1),
    bar: bool = True,
    shape: tuple[int, int] | None = None,
    unit: Unit = "probability",
    label: str = "",
) -> Figure:
    """The image in grey under its map, which is the denser the higher it is, with a colour bar.

    The figure has a bounded size, whatever the size of the image. By default the scale is fixed and not the range of
    the map, because the map of a normal image would then look anomalous.

    Args:
        image: [H, W, 3] uint8; None draws only the map.
        anomaly_map: [H, W], or smaller: it is stretched over the image.
        title: above it.
        ax: where to draw; a new figure when None.
        limits: of the colours; see ``limits_of``.
        bar: draw a colour bar; without it, one may serve several images.
        shape: height and width of the image where it was resized; those of ``image``, or the map, when None.
        unit: of the map.
        label: of the colour bar; quantity and unit when empty.

    >>> fig, ax = overlay(np.zeros((8, 9, 3), np.uint8), np.zeros((8, 9)))
    >>> len(ax.images)
    2
    """
    size = anomaly_map.shape if image is None else image.shape
    shape = shape or (size[0], size[1])
    if ax is None:
        width, height = panel(shape, 4.2)
        room = max(width, 3.0)  # for the title
        fig = matplotlib.figure.Figure(figsize=(room + 1.0, height + (1.6 if height < 1 else 0.6)), layout="compressed")
        ax, title = fig.subplots(), wrapped(title, room)
    else:
        fig, title = axes_of(ax)[0], plain(title)
    shown, density = smaller(anomaly_map), None
    if image is not None:
        draw(ax, smaller(image).mean(2), shape, cmap="gray", vmin=0, vmax=255)
        density = 0.85 * np.clip((np.nan_to_num(shown) - limits[0]) / (limits[1] - limits[0]), 0, 1)
    colours = {"cmap": CMAP, "vmin": limits[0], "vmax": limits[1], "interpolation": "nearest"}
    shades = draw(ax, shown, shape, alpha=density, **colours)
    if bar:
        colour_bar(ax, shades, label or MAP_LABEL[unit], shape)
    ax.set_title(title, fontsize="small", **font())
    ax.set_axis_off()
    return Figure(fig, ax)


def sheet(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None] = (),
    maps: Sequence[np.ndarray] = (),
    *,
    titles: Sequence[str] = (),
    map_titles: Sequence[str] = (),
    unit: Unit = "probability",
    made_by: str = "",
) -> Figure:
    """A row of images, and a row of their anomaly maps where there are any, on one scale.

    Args:
        images: [H, W, 3] uint8 each.
        masks: [H, W] each, what to outline; None where there is nothing.
        maps: [H, W] each.
        titles, map_titles: above images, and above maps.
        unit: of the maps.
        made_by: a line at the foot.

    >>> fig, axes = sheet([np.zeros((8, 8, 3), np.uint8)] * 3, maps=[np.zeros((8, 8))] * 3)
    >>> axes.shape
    (2, 3)
    """
    rows = 2 if len(maps) else 1
    tallest = max(panel(image.shape[:2], 2.3)[1] for image in images)
    fig = matplotlib.figure.Figure(
        figsize=(2.4 * len(images) + 0.6, (max(tallest, 0.7) + 0.4) * rows), layout="constrained"
    )
    axes = fig.subplots(rows, len(images), squeeze=False)
    for number, (ax, image) in enumerate(zip(axes[0], images, strict=True)):
        draw(ax, image)
        outline(ax, masks[number] if len(masks) else None)
        ax.set_title(wrapped(titles[number], 2.3) if len(titles) else "", fontsize="small", **font())
        ax.set_axis_off()
    if len(maps):
        limits = limits_of(maps, unit)
        for number, (ax, shown) in enumerate(zip(axes[1], maps, strict=True)):
            title = map_titles[number] if len(map_titles) else ""
            overlay(images[number], shown, title, ax, limits, bar=False)
        scale = ScalarMappable(Normalize(*limits), CMAP)
        fig.colorbar(scale, ax=list(axes.flat), shrink=0.6, label=MAP_LABEL[unit])
    return signed(Figure(fig, axes), made_by)
