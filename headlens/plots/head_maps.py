"""What single heads draw: an image, its margin map, and a small map for each head, on a scale that all heads share.

Of every map its own mean is taken off, so that the part that stands out is seen: a head's number is the mean of its map
within the outlined peak, and can be read off the colour bar.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure, SubFigure

from headlens.plots.display import draw, outline, panel
from headlens.plots.style import axes_of, colours, signed
from headlens.plots.text import font, wrapped


def head_maps(
    image: np.ndarray,
    margin: np.ndarray,
    heads: Mapping[str, np.ndarray],
    made_by: str = "",
    *,
    on: SubFigure | None = None,
    axes: Sequence[Axes] | None = None,
    mask: np.ndarray | None = None,
    peak: np.ndarray | None = None,
    shape: tuple[int, int] | None = None,
    title: str = "image",
) -> tuple[Figure, np.ndarray]:
    """Two rows: the image above its margin map, and beside them the first half of the heads above the second.

    Args:
        image: [h, w, 3] uint8.
        margin: [rows, columns], what all parts add up to.
        heads: an even number of maps [rows, columns] by their names.
        made_by: a line at the foot of a new figure.
        on: a part of a figure to draw on; a new figure when None.
        axes: the axes themselves, row by row, in place of a figure.
        mask: [h, w], what to outline in the image.
        peak: bool [rows, columns], what to outline in all maps, and where heads have their numbers from.
        shape: height and width of the image, over which all are stretched; those of ``image`` when None.
        title: above the image.

    >>> maps = {"L5H4": np.zeros((2, 2)), "L5H5": np.zeros((2, 2))}
    >>> fig, axes = head_maps(np.zeros((8, 8, 3), np.uint8), np.eye(2), maps)
    >>> axes.shape
    (2, 2)
    """
    shape, across = shape or (image.shape[0], image.shape[1]), len(heads) // 2
    if axes is None:
        width, height = panel(shape, 1.65)
        size = (max(width, 1.2) * (1 + across) + 2.0, 2 * max(height, 1.0) + 1.1)
        fig: Any = on or Figure(figsize=size, layout="constrained")
        grid = fig.subplots(2, 1 + across, squeeze=False)
    else:
        grid = np.asarray(axes, dtype=object).reshape(2, 1 + across)
        fig = grid[0, 0].figure
    draw(grid[0, 0], image, shape)
    grid[0, 0].set_title(wrapped(title, grid[0, 0].get_window_extent().width / fig.dpi), fontsize="small", **font())
    outline(grid[0, 0], mask, shape)
    total = margin - margin.mean()
    scale = colours(total)
    _map(grid[1, 0], total, scale, f"all parts\nmean {margin.mean():.2f}", shape, peak)
    bar = fig.colorbar(ScalarMappable(**scale), ax=grid[1, 0], location="left")
    bar.set_label("margin − mean\n(logits)", fontsize="small")
    parts = {name: values - values.mean() for name, values in heads.items()}
    shared = colours(np.stack(list(parts.values()))) if parts else scale
    for ax, (name, values) in zip(grid[:, 1:].flat, parts.items(), strict=True):
        _map(ax, values, shared, name if peak is None else f"{name}\n{values[peak].mean():+.2f}", shape, peak)
    if parts:
        bar = fig.colorbar(ScalarMappable(**shared), ax=list(grid[:, -1]), shrink=0.9)
        bar.set_label("one head's part − its mean (logits)", fontsize="small")
    for ax in grid.flat:
        ax.set_axis_off()
    if on is None and axes is None:
        return signed(fig, made_by), grid
    return axes_of(grid[0, 0])[0], grid


def _map(
    ax: Axes, values: np.ndarray, scale: dict[str, Any], title: str, shape: tuple[int, int], peak: np.ndarray | None
) -> None:
    draw(ax, values, shape, interpolation="nearest", **scale)
    outline(ax, peak, shape, width=0.5)
    ax.set_title(title, fontsize="small")
