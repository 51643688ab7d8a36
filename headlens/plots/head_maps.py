"""Heads on one image: small maps of several heads on a shared scale, or one head in several domains.

Each small map has its mean subtracted, so that deviations are visible: the number of a head is the mean of its map
    within the outlined peak, in the units of the colour bar.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.figure
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from headlens.plots.display import draw, outline, panel
from headlens.plots.figure import Figure
from headlens.plots.style import axes_of, colours, domain_colours, signed
from headlens.plots.text import font, plain, wrapped


def head_maps(
    image: np.ndarray,
    margin: np.ndarray,
    heads: Mapping[str, np.ndarray],
    made_by: str = "",
    *,
    on: matplotlib.figure.SubFigure | None = None,
    axes: Sequence[Axes] | None = None,
    mask: np.ndarray | None = None,
    peak: np.ndarray | None = None,
    shape: tuple[int, int] | None = None,
    title: str = "image",
) -> Figure:
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
        size = (max(width, 1.2) * (1 + across) + 0.4, 2 * max(height, 1.0) + 2.4)
        fig: Any = on or matplotlib.figure.Figure(figsize=size, layout="constrained")
        grid = fig.subplots(2, 1 + across, squeeze=False)
    else:
        grid = np.asarray(axes, dtype=object).reshape(2, 1 + across)
        fig = grid[0, 0].figure
    draw(grid[0, 0], image, shape)
    grid[0, 0].set_title(wrapped(title, grid[0, 0].get_window_extent().width / fig.dpi), fontsize="small", **font())
    outline(grid[0, 0], mask, shape)
    total = margin - margin.mean()
    scale = colours(total)
    _map(grid[1, 0], total, scale, f"all parts\nmean {_number(margin.mean(), '')}", shape, peak)
    bar = fig.colorbar(ScalarMappable(**scale), ax=grid[1, 0], location="bottom")
    bar.set_label("margin − mean\n(logits)", fontsize="small")
    parts = {name: values - values.mean() for name, values in heads.items()}
    shared = colours(np.stack(list(parts.values()))) if parts else scale
    for ax, (name, values) in zip(grid[:, 1:].flat, parts.items(), strict=True):
        _map(ax, values, shared, name if peak is None else f"{name}\n{_number(values[peak].mean())}", shape, peak)
    if parts:
        bar = fig.colorbar(ScalarMappable(**shared), ax=list(grid[1, 1:]), location="bottom", aspect=20 * across)
        bar.set_label("one head's part − its mean (logits)", fontsize="small")
    for ax in grid.flat:
        ax.set_axis_off()
    return signed(Figure(axes_of(grid[0, 0])[0], grid), made_by, axes if on is None else on)


def _number(value: float, sign: str = "+") -> str:
    """With a minus, which is as wide as the plus."""
    return f"{value:{sign}.2f}".replace("-", "−")


def _map(
    ax: Axes, values: np.ndarray, scale: dict[str, Any], title: str, shape: tuple[int, int], peak: np.ndarray | None
) -> None:
    draw(ax, values, shape, interpolation="nearest", **scale)
    outline(ax, peak, shape, width=0.5)
    ax.set_title(title, fontsize="small")


class Panel(NamedTuple):
    """What a domain's column shows, both [rows, columns]: attention, from 0, and contribution, in logits."""

    attention: np.ndarray
    contribution: np.ndarray


def head_view(
    image: np.ndarray,
    mask: np.ndarray | None,
    panels: Mapping[str, tuple[np.ndarray | str, np.ndarray | str]],
    weights: pd.DataFrame,
    head: tuple[str, int, int],
    *,
    looks: tuple[int, int] | None = None,
    shape: tuple[int, int] | None = None,
    name: str = "",
    made_by: str = "",
) -> Figure:
    """The image above its layer's weights, and a column for each domain: attention above contribution.

    Domains share one scale for attention and one for contributions.

    Args:
        image, mask, shape: as in ``head_maps``.
        panels: by domain, a ``Panel``; in place of a map that cannot be, a sentence that says why.
        weights: columns domain, head, value: of all heads of the layer; several rows a head where there are seeds.
        head: stream, layer and number of the one that is shown.
        looks: row and column of the query patch; None is CLS.
        name: of the image.
        made_by: a line at the foot.

    >>> panel = Panel(np.full((2, 2), 0.25), np.eye(2))
    >>> weights = pd.DataFrame({"domain": "medical", "head": [0, 1], "value": [1.0, 1.2]})
    >>> fig, axes = head_view(np.zeros((8, 8, 3), np.uint8), None, {"medical": panel}, weights, ("local", 5, 1))
    >>> axes.shape
    (2, 2)
    """
    stream, layer, number = head
    shape = shape or (image.shape[0], image.shape[1])
    width, height = panel(shape, 2.6)
    size = (3.3 + max(width, 2.2) * 1.1 * len(panels), 3.2 + max(height, 0.9))
    fig = matplotlib.figure.Figure(figsize=size, layout="constrained")
    axes = fig.subplots(2, 1 + len(panels), squeeze=False, height_ratios=[max(height, 0.9), max(height, 1.6)])
    draw(axes[0, 0], image, shape)
    axes[0, 0].set_title(wrapped(name, 2.6), fontsize="small", **font())
    _weights(axes[1, 0], weights, stream, layer, number)
    into = "image margin (logits)" if stream == "global" else "patch margins (logits)"
    for row, label in enumerate(("attention", f"part of {into}")):
        maps = {domain: panel[row] for domain, panel in panels.items()}
        known = [values for values in maps.values() if not isinstance(values, str)]
        scale = colours(np.stack(known), signed=row == 1) if known else {}
        for ax, (domain, values) in zip(axes[row, 1:], maps.items(), strict=True):
            if isinstance(values, str):
                ax.text(0.5, 0.5, wrapped(values, 2.2, 12), ha="center", va="center", fontsize="small", **font())
                ax.set_title(plain(domain, 40), fontsize=9, **font())
                continue
            draw(ax, values, shape, interpolation="nearest", **scale)
            if row == 0:
                what = f"{'CLS' if looks is None else 'the patch'} attends to"
            else:
                what = f"patches add up to {values.sum():+.3g}" if stream == "global" else "adds to each patch"
            ax.set_title(plain(f"{domain}: {what}", 40), fontsize=9, **font())
        if known:
            fig.colorbar(ScalarMappable(**scale), ax=list(axes[row, 1:]), label=label, shrink=0.9)
    every = [values for pair in panels.values() for values in pair if not isinstance(values, str)]
    if looks is not None and every:
        high, wide = shape[0] / every[0].shape[0], shape[1] / every[0].shape[1]  # of a patch
        for ax in (ax for ax in axes[0] if ax.images):
            corner = (looks[1] * wide - 0.5, looks[0] * high - 0.5)
            ax.add_patch(Rectangle(corner, wide, high, fill=False, edgecolor="#00e5ff", linewidth=1.5))
    for ax in (axes[0, 0], *axes[:, 1:].flat):
        if ax.images:
            outline(ax, mask, shape)
        ax.set_axis_off()
    fig.suptitle(f"L{layer}H{number}, {stream} stream", fontsize=11)
    return signed(Figure(fig, axes), made_by)


def _weights(ax: Axes, weights: pd.DataFrame, stream: str, layer: int, number: int) -> None:
    ax.set_title(f"weights of layer {layer}, {stream}", fontsize=9)
    if weights.empty:
        ax.text(0.5, 0.5, "not learned:\nall are 1", ha="center", va="center", transform=ax.transAxes, fontsize=9)
        ax.set_axis_off()
        return
    ax.axvspan(number - 0.5, number + 0.5, color="0.88", zorder=0)
    ax.axhline(1, color="black", linewidth=0.6)
    colours_of = domain_colours(weights["domain"].unique())
    for domain, rows in weights.groupby("domain", sort=False):
        ax.scatter(
            rows["head"], rows["value"], s=14, color=[colours_of[str(domain)]], alpha=0.8, label=plain(domain, 24)
        )
    ax.set_xlabel("head", fontsize=8)
    ax.set_ylabel("head weight", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, handletextpad=0.1)
    sns.despine(ax=ax)
