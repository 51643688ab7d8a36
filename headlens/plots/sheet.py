"""Images side by side, anomalies outlined, and their anomaly maps below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from headlens.plots.display import draw, outline, panel
from headlens.plots.overlay import CMAP, MAP_LABEL, limits_of, overlay
from headlens.plots.style import signed
from headlens.plots.text import font, wrapped
from headlens.units import Unit


def sheet(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None] = (),
    maps: Sequence[np.ndarray] = (),
    *,
    titles: Sequence[str] = (),
    map_titles: Sequence[str] = (),
    unit: Unit = "probability",
    made_by: str = "",
) -> tuple[Figure, np.ndarray]:
    """A row of images, and a row of their anomaly maps where there are any, on one scale.

    Args:
        images: [H, W, 3] uint8 each.
        masks: [H, W] each, what to outline; None where there is nothing.
        maps: [H, W] each.
        titles: above images.
        map_titles: above maps.
        unit: of the maps.
        made_by: a line at the foot.

    >>> fig, axes = sheet([np.zeros((8, 8, 3), np.uint8)] * 3, maps=[np.zeros((8, 8))] * 3)
    >>> axes.shape
    (2, 3)
    """
    rows = 2 if len(maps) else 1
    tallest = max(panel(image.shape[:2], 2.3)[1] for image in images)
    fig = Figure(figsize=(2.4 * len(images) + 0.6, (max(tallest, 0.7) + 0.4) * rows), layout="constrained")
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
    return (signed(fig, made_by) if made_by else fig), axes
