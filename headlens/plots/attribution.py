"""Attribution maps over their images: red speaks for the target, blue against, and 0 shows the image."""

from __future__ import annotations

import math
from typing import Any

import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from headlens.plots.display import colour_bar, draw, outline, panel, smaller
from headlens.plots.figure import Figure
from headlens.plots.overlay import overlay
from headlens.plots.style import axes_of, colours, signed
from headlens.units import Unit

PANELS = ("image", "anomaly map", "attribution")
_REACH = 0.995  # of the pixels lie within the colours; single ones beyond would leave all others pale
_ROOM = 3.0  # inches that a panel has at least, for its title


def overlaid(
    image: np.ndarray,
    values: np.ndarray,
    ax: Axes | None = None,
    *,
    shape: tuple[int, int] | None = None,
    sign: bool = True,
    floor: float = 0.0,
    mask: np.ndarray | None = None,
    title: str = "",
    label: str = "",
    bar: bool = True,
) -> Figure:
    """The image in pale grey under its map, the denser the further from 0: on a scale even about 0, or from 0 up.

    Args:
        image: [h, w, 3] uint8.
        values: [h, w], such as an attribution.
        ax: where to draw; a new figure when None.
        shape: height and width of the image, over which both are stretched; those of ``values`` when None.
        sign: whether the map's quantity has one.
        floor: where the scale ends at least.
        mask: [h, w], what to outline.
        title, label: above it, and of the colour bar.
        bar: draw that; without it, ``ax.images[-1].get_clim()`` has the ends of the scale.

    >>> fig, ax = overlaid(np.zeros((8, 9, 3), np.uint8), np.eye(8, 9))
    >>> ax.images[-1].get_clim()
    (-1.0, 1.0)
    """
    shape = shape or (values.shape[0], values.shape[1])
    fig, ax = axes_of(ax, *(side + 0.8 for side in panel(shape, 4.0)))
    scale = colours(values, sign, floor, _REACH)
    reach = scale["norm"].vmax
    draw(ax, smaller(image).mean(2), shape, cmap="gray", vmin=-255, vmax=255)  # the upper half: colours stay legible
    shown = smaller(values)
    density = (0.9 if sign else 0.75) * np.clip(np.abs(np.nan_to_num(shown)) / reach, 0, 1) ** 0.5
    shades = draw(ax, shown, shape, alpha=density, interpolation="nearest", **scale)
    if bar:
        beyond = np.nanmax(np.abs(values), initial=0.0) > reach
        options: dict[str, Any] = {"extend": ("both" if sign else "max") if beyond else "neither"}
        power = math.floor(math.log10(reach))
        if abs(power) >= 3:  # in the label: at the end of the bar it would cover the title
            label = f"{label}\n(times 1e{power})"
            options["format"] = FuncFormatter(lambda value, _: f"{value / 10.0**power:.3g}")
        colour_bar(ax, shades, label, shape, **options)
    outline(ax, mask, shape)
    ax.set_title(title, fontsize="small")
    ax.set_axis_off()
    return Figure(fig, ax)


def attribution_panels(
    image: np.ndarray,
    anomaly_map: np.ndarray,
    values: np.ndarray,
    axes: Any = None,
    *,
    shape: tuple[int, int] | None = None,
    mask: np.ndarray | None = None,
    limits: tuple[float, float] = (0, 1),
    unit: Unit = "probability",
    made_by: str = "",
    **options: Any,
) -> Figure:
    """The image, its anomaly map if there is one, and its attribution: side by side, or one above the other.

    Args:
        image, values, shape: as in ``overlaid``.
        anomaly_map: [h, w]; [0, 0] where there is none.
        axes: three, to draw on; a new figure when None.
        mask: [h, w], what to outline in all three.
        limits, unit: of the anomaly map's colours, as in ``overlay``.
        made_by: a line at the foot of a new figure.
        **options: of the attribution, as in ``overlaid``.

    >>> fig, axes = attribution_panels(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8)), np.eye(8))
    >>> [ax.get_title() for ax in axes]
    ['image', 'anomaly map', '']
    """
    shape, given = shape or (values.shape[0], values.shape[1]), axes
    count = 3 if anomaly_map.size else 2
    if axes is None:
        if shape[1] > 2.5 * shape[0]:  # one above the other
            width, height = panel(shape, 6.0)
            fig = matplotlib.figure.Figure(figsize=(width + 0.3, count * height + 3.4), layout="compressed")
            axes = fig.subplots(count, 1)
        else:
            width, height = panel(shape, 3.1)
            across = count * max(width, _ROOM) + 1.8
            fig = matplotlib.figure.Figure(figsize=(across, height + 1.1), layout="constrained")
            right = max(0.0, (_ROOM - width) / 2 - 0.9)  # for a title that is wider than a narrow image and its bar
            fig.get_layout_engine().set(rect=(0, 0, 1 - right / across, 1 - 0.1 / (height + 1.1)))  # type: ignore[union-attr,call-arg]
            axes = fig.subplots(1, count)
    draw(axes[0], image, shape)
    axes[0].set_title("image", fontsize="small")
    axes[0].set_axis_off()
    if anomaly_map.size:
        overlay(image, anomaly_map, "anomaly map", axes[1], limits, shape=shape, unit=unit)
    elif len(axes) == 3:
        axes[1].set_axis_off()
    fig, _ = overlaid(image, values, axes[-1], shape=shape, mask=mask, **options)
    for ax in axes[: count - 1]:
        outline(ax, mask, shape)
    return signed(Figure(fig, np.asarray(axes, dtype=object)), made_by, given)
