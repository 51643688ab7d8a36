"""What single heads draw: a picture, its margin map, and a small map for each head, on a scale that all heads share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import seaborn  # noqa: F401  # its colours go by name
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from headlens.plots.display import outline
from headlens.plots.style import DIVERGING, axes_of, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure


def head_maps(
    image: np.ndarray,
    margin: np.ndarray,
    heads: Mapping[str, np.ndarray],
    made_by: str = "",
    *,
    on: SubFigure | None = None,
    mask: np.ndarray | None = None,
    title: str = "picture",
) -> tuple[Figure, np.ndarray]:
    """Two rows: the picture above its margin map, and beside them the first half of the heads above the second.

    Args:
        image: [H, W, 3] uint8.
        margin: [rows, columns], what all parts add up to.
        heads: an even number of maps [rows, columns] by their titles.
        made_by: a line at the foot of a new figure.
        on: a part of a figure to draw on; a new figure when None.
        mask: [H, W], what to outline in the picture.
        title: above the picture.

    >>> maps = {"L5H4": np.zeros((2, 2)), "L5H5": np.zeros((2, 2))}
    >>> fig, axes = head_maps(np.zeros((8, 8, 3), np.uint8), np.eye(2), maps)
    >>> axes.shape
    (2, 2)
    """
    across = len(heads) // 2
    fig: Figure | SubFigure = on or Figure(figsize=(2.6 + 1.75 * across, 4.2), layout="constrained")
    axes = fig.subplots(2, 1 + across, squeeze=False)
    axes[0, 0].imshow(image)
    axes[0, 0].set_title(title, fontsize="small", parse_math=False)
    outline(axes[0, 0], mask)
    _map(axes[1, 0], margin, _even(margin), "sum of parts")
    fig.colorbar(ScalarMappable(_even(margin), DIVERGING), ax=axes[1, 0], location="left", label="margin (logits)")
    scale = _even(np.stack(list(heads.values())))
    for ax, (title, own) in zip(axes[:, 1:].flat, heads.items(), strict=True):
        _map(ax, own, scale, title)
    fig.colorbar(ScalarMappable(scale, DIVERGING), ax=list(axes[:, -1]), label="one head's part (logits)", shrink=0.9)
    for ax in axes.flat:
        ax.set_axis_off()
    if isinstance(fig, Figure):
        return signed(fig, made_by), axes
    return axes_of(axes[0, 0])[0], axes


def margin_map(margin: np.ndarray, ax: Axes) -> tuple[Figure, Axes]:
    """The sum of all parts alone, with a colour bar: [rows, columns]."""
    fig, ax = axes_of(ax)
    _map(ax, margin, _even(margin), "sum of all parts")
    fig.colorbar(ScalarMappable(_even(margin), DIVERGING), ax=ax, label="margin (logits)")
    ax.set_axis_off()
    return fig, ax


def _even(values: np.ndarray) -> Normalize:
    reach = float(np.abs(values).max()) or 1.0
    return Normalize(-reach, reach)


def _map(ax: Axes, values: np.ndarray, scale: Normalize, title: str) -> None:
    ax.imshow(values, cmap=DIVERGING, norm=scale, interpolation="nearest")
    ax.set_title(title, fontsize="small")
