"""Attribution maps over their pictures: red speaks for the target, blue against, and 0 shows the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import seaborn  # noqa: F401  # its colours go by name
from matplotlib.figure import Figure

from headlens.plots.overlay import overlay
from headlens.plots.style import DIVERGING, axes_of, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_REACH = 0.995  # of the pixels lie within the colours; single ones beyond would leave all others pale
_OUTLINE = "#2ca02c"  # neither red nor blue


def overlaid(
    image: np.ndarray,
    own: np.ndarray,
    ax: Axes | None = None,
    *,
    mask: np.ndarray | None = None,
    title: str = "",
    label: str = "",
    bar: bool = True,
) -> tuple[Figure, Axes]:
    """The picture in pale grey under its map, the denser the further from 0, on a scale that is even about 0.

    Args:
        image: [H, W, 3] uint8.
        own: [H, W], signed.
        ax: where to draw; a new figure when None.
        mask: [H, W], what to outline.
        title: above it.
        label: of the colour bar.
        bar: draw it; without it, ``ax.images[-1].get_clim()`` has the ends of the scale.

    >>> fig, ax = overlaid(np.zeros((8, 9, 3), np.uint8), np.eye(8, 9))
    >>> ax.images[-1].get_clim()
    (-1.0, 1.0)
    """
    fig, ax = axes_of(ax, 5.0, 4.4)
    reach = float(np.quantile(np.abs(own), _REACH)) or float(np.abs(own).max()) or 1.0
    ax.imshow(image.mean(2), cmap="gray", vmin=-255, vmax=255)  # the upper half of the greys: colours stay legible
    density = 0.9 * np.clip(np.abs(own) / reach, 0, 1) ** 0.5
    shades = ax.imshow(own, cmap=DIVERGING, vmin=-reach, vmax=reach, alpha=density, interpolation="nearest")
    if bar:
        beyond = "both" if float(np.abs(own).max()) > reach else "neither"
        colours = fig.colorbar(shades, ax=ax, fraction=0.045, pad=0.03, label=label, extend=beyond)
        colours.formatter.set_powerlimits((-3, 3))  # type: ignore[attr-defined]  # 1e-5 once, not at every tick
        if colours.solids is not None:
            colours.solids.set_alpha(1)
    _outline(ax, mask)
    ax.set_title(title, fontsize="small", parse_math=False)
    ax.set_axis_off()
    return fig, ax


def attribution_panels(
    image: np.ndarray,
    anomaly_map: np.ndarray,
    own: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    title: str = "",
    label: str = "",
    made_by: str = "",
) -> tuple[Figure, np.ndarray]:
    """The picture, its anomaly map from 0 to 1, and its attribution, side by side.

    Args:
        image: [H, W, 3] uint8.
        anomaly_map: [H, W], 0 to 1.
        own: [H, W], signed.
        mask: [H, W], what to outline in all three.
        title, label: of the attribution and its colour bar.
        made_by: a line at the foot.

    >>> fig, axes = attribution_panels(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8)), np.eye(8))
    >>> [ax.get_title() for ax in axes]
    ['picture', 'anomaly map', '']
    """
    height, width = own.shape
    fig = Figure(figsize=(11.0, max(2.4, 2.9 * height / width + 0.7)), layout="constrained")
    axes = fig.subplots(1, 3)
    axes[0].imshow(image)
    axes[0].set_title("picture", fontsize="small")
    axes[0].set_axis_off()
    overlay(image, anomaly_map, "anomaly map", axes[1])
    overlaid(image, own, axes[2], mask=mask, title=title, label=label)
    for ax in axes[:2]:
        _outline(ax, mask)
    return signed(fig, made_by), axes


def _outline(ax: Axes, mask: np.ndarray | None) -> None:
    if mask is not None and mask.any() and not mask.all():
        ax.contour(mask.astype(float), levels=[0.5], colors=[_OUTLINE], linewidths=1.2)
