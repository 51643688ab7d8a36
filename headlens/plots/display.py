"""Images and maps as figures show them: in the shape of the image, and at a bounded size whatever that shape is.

Maps are computed on squares that images were resized to. They are drawn stretched over the image's own shape, which is
where their values belong; axes count the image's pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.image import AxesImage

LONGEST = 1024
"""Pixels along a side that are drawn: figures have no more, and matplotlib takes a hundred bytes for each."""
SLIMMEST = 8
"""The longer side over the shorter, at most: of one row of 3,000 pixels nothing would be seen."""


def smaller(array: np.ndarray, longest: int = LONGEST) -> np.ndarray:
    """At most ``longest`` pixels along each side: means over neighbours, so that units stay; of masks whether any is.

    Args:
        array: [H, W] or [H, W, 3]; uint8, bool or floating point.
        longest: of the result, h and w.

    >>> smaller(np.arange(6.0)[None], longest=3)
    array([[0.5, 2.5, 4.5]])
    """
    for axis in (0, 1):
        length = array.shape[axis]
        if length <= longest:
            continue
        starts = np.arange(longest) * length // longest
        if array.dtype == bool:
            array = np.logical_or.reduceat(array, starts, axis)
            continue
        dtype = np.uint32 if array.dtype == np.uint8 else array.dtype
        shape = [-1 if each == axis else 1 for each in range(array.ndim)]
        counts = np.diff(starts, append=length).astype(dtype).reshape(shape)
        sums = np.add.reduceat(array, starts, axis, dtype=dtype)
        array = ((sums + counts // 2) // counts).astype(np.uint8) if dtype == np.uint32 else sums / counts
    return array


def panel(shape: tuple[int, int], longest: float) -> tuple[float, float]:
    """Width and height in inches of an image of that shape, its longer side ``longest``.

    >>> panel((100, 200), 4.0), panel((1, 3000), 4.0)
    ((4.0, 2.0), (4.0, 0.5))
    """
    ratio = min(max(shape[0] / shape[1], 1 / SLIMMEST), SLIMMEST)
    return (longest, longest * ratio) if ratio < 1 else (longest / ratio, longest)


def draw(ax: Axes, values: np.ndarray, shape: tuple[int, int] | None = None, **options: Any) -> AxesImage:
    """An image, or a map of it, stretched over an image of that shape.

    Args:
        ax: where.
        values: [h, w] or [h, w, 3]; ``smaller`` makes of it what is drawn.
        shape: height and width of the image; those of ``values`` when None.
        **options: of ``imshow``.

    >>> from matplotlib.figure import Figure
    >>> draw(Figure().subplots(), np.zeros((2, 2)), (50, 100)).get_extent()
    [-0.5, 99.5, 49.5, -0.5]
    """
    height, width = shape or values.shape[:2]
    inches = panel((height, width), 1.0)
    aspect = (inches[1] / inches[0]) * (width / height)
    if not ax.images and not np.isclose(aspect, 1):
        ax.text(0.5, -0.05, "not to scale", transform=ax.transAxes, fontsize="x-small", ha="center", va="top")
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    return ax.imshow(smaller(values), **{"extent": extent, "aspect": aspect, **options})


def colour_bar(ax: Axes, colours: ScalarMappable, label: str, shape: tuple[int, int], **options: Any) -> Colorbar:
    """The bar of what was drawn on ``ax``: at its side, or below where an image of that shape is too low for one.

    Args:
        ax: of an image of that shape, height and width.
        colours: what they mean; opaque in the bar, whatever lies over the image.
        label: quantity and unit.
        **options: of ``Figure.colorbar``.
    """
    box, dpi = ax.get_window_extent(), ax.get_figure(root=True).dpi  # type: ignore[union-attr]
    if shape[1] > 2 * shape[0] or min(box.height, box.width * shape[0] / shape[1]) / dpi < 1.2:
        place: dict[str, Any] = {"location": "bottom", "aspect": 40}
    else:
        place = {"fraction": min(0.3, max(0.045, 0.05 * shape[0] / shape[1])), "pad": 0.03}
    bar = ax.figure.colorbar(colours, ax=ax, label=label, **{**place, **options})
    for axis in (bar.ax.xaxis, bar.ax.yaxis):
        axis.label.set_fontsize("small")
    bar.ax.tick_params(labelsize="small")
    if bar.solids is not None:
        bar.solids.set_alpha(1)
    return bar


def outline(ax: Axes, mask: np.ndarray | None, shape: tuple[int, int] | None = None, width: float = 0.7) -> None:
    """A black line in a white one around what is marked: seen on images and maps of any colour.

    Args:
        ax: of an image that ``draw`` has drawn.
        mask: [h, w]; None, or all or nothing marked, draws nothing.
        shape: height and width of the image; those of the mask when None.
        width: of the black line, in points.
    """
    if mask is None or not mask.any() or mask.all():
        return
    shown = smaller(np.asarray(mask) > 0)
    if max(shown.shape) < 64:  # patches have corners; and a line of pixels has no contour
        shown = shown.repeat(8, 0).repeat(8, 1)
    elif min(shown.shape) < 2:
        shown = shown.repeat(2, int(shown.shape[1] < 2))
    down, across = (
        (np.arange(count) + 0.5) / count * extent - 0.5
        for count, extent in zip(shown.shape, shape or mask.shape, strict=True)
    )
    for colour, times in (("white", 2.2), ("black", 1.0)):
        ax.contour(across, down, shown.astype(float), levels=[0.5], colors=[colour], linewidths=times * width)
