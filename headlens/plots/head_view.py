"""One head at one picture: where it looks, what it writes, and its weight among its layer's, for every domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from headlens.plots.style import COLOURS, DIVERGING, PALETTE, RISING, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOOKS = "#00e5ff"
_OUTLINE = "#2ca02c"


class Panel(NamedTuple):
    """What a domain's column shows, both [rows, columns]: attention, from 0, and contribution, in logits."""

    attention: np.ndarray
    contribution: np.ndarray


def head_view(
    image: np.ndarray,
    mask: np.ndarray | None,
    panels: Mapping[str, Panel],
    weights: pd.DataFrame,
    head: tuple[str, int, int],
    *,
    looks: tuple[int, int] | None = None,
    name: str = "",
    made_by: str = "",
) -> tuple[Figure, np.ndarray]:
    """The picture above its layer's weights, and a column for each domain: attention above contribution.

    Domains share one scale for attention and one for contributions.

    Args:
        image: [S, S, 3] uint8.
        mask: [S, S], what to outline.
        panels: by domain.
        weights: columns domain, head, value: of all heads of the layer; several rows a head where there are seeds.
        head: stream, layer and number of the one that is shown.
        looks: row and column of the patch that looks; None is CLS.
        name: of the picture.
        made_by: a line at the foot.

    >>> panel = Panel(np.full((2, 2), 0.25), np.eye(2))
    >>> weights = pd.DataFrame({"domain": "medical", "head": [0, 1], "value": [1.0, 1.2]})
    >>> fig, axes = head_view(np.zeros((8, 8, 3), np.uint8), None, {"medical": panel}, weights, ("local", 5, 1))
    >>> axes.shape
    (2, 2)
    """
    stream, layer, number = head
    fig = Figure(figsize=(3.3 + 2.9 * len(panels), 5.9), layout="constrained")
    axes = fig.subplots(2, 1 + len(panels), squeeze=False)
    rows, columns = next(iter(panels.values())).attention.shape
    axes[0, 0].imshow(image)
    _outline(axes[0, 0], mask, image.shape[:2])
    if looks is not None:
        height, width = image.shape[0] / rows, image.shape[1] / columns
        axes[0, 0].add_patch(_box(looks[1] * width - 0.5, looks[0] * height - 0.5, width, height))
    axes[0, 0].set_title(name, fontsize=8, parse_math=False)
    _weights(axes[1, 0], weights, stream, layer, number)
    most = max(float(own.attention.max()) for own in panels.values()) or 1.0
    reach = max(float(np.abs(own.contribution).max()) for own in panels.values()) or 1.0
    scales = Normalize(0, most), Normalize(-reach, reach)
    for column, (domain, panel) in enumerate(panels.items(), 1):
        top, below = axes[:, column]
        seen = top.imshow(panel.attention, cmap=sns.color_palette(RISING, as_cmap=True), norm=scales[0])
        who = "CLS" if looks is None else "the patch"
        top.set_title(f"{domain}: {who} looks at", fontsize=9)
        if looks is not None:
            top.add_patch(_box(looks[1] - 0.5, looks[0] - 0.5, 1, 1))
        drawn = below.imshow(panel.contribution, cmap=sns.color_palette(DIVERGING, as_cmap=True), norm=scales[1])
        what = f"adds {panel.contribution.sum():+.3g} from patches" if stream == "global" else "adds to each patch"
        below.set_title(f"{domain}: {what}", fontsize=9)
        for ax in (top, below):
            _outline(ax, mask, (rows, columns))
    fig.colorbar(seen, ax=list(axes[0, 1:]), label="attention", shrink=0.9)
    into = "image margin (logits)" if stream == "global" else "patch margins (logits)"
    fig.colorbar(drawn, ax=list(axes[1, 1:]), label=into, shrink=0.9)
    for ax in [axes[0, 0], *axes[:, 1:].flat]:
        ax.set_axis_off()
    fig.suptitle(f"L{layer}H{number}, {stream} stream", fontsize=11)
    return signed(fig, made_by), axes


def _weights(ax: Axes, weights: pd.DataFrame, stream: str, layer: int, number: int) -> None:
    """Weights of all heads of the layer, the shown one on a band."""
    ax.set_title(f"weights of layer {layer}, {stream}", fontsize=9)
    if weights.empty:
        ax.text(0.5, 0.5, "not learned:\nall are 1", ha="center", va="center", transform=ax.transAxes, fontsize=9)
        ax.set_axis_off()
        return
    ax.axvspan(number - 0.5, number + 0.5, color="0.88", zorder=0)
    ax.axhline(1, color="black", linewidth=0.6)
    others = iter(PALETTE[4:])
    for domain, own in weights.groupby("domain", sort=False):
        colour = COLOURS.get(str(domain)) or next(others)
        ax.scatter(own["head"], own["value"], s=14, color=[colour], alpha=0.8, label=str(domain))
    ax.set_xlabel("head", fontsize=8)
    ax.set_ylabel("head weight", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, handletextpad=0.1)
    sns.despine(ax=ax)


def _box(x: float, y: float, width: float, height: float) -> Rectangle:
    return Rectangle((x, y), width, height, fill=False, edgecolor=_LOOKS, linewidth=1.5)


def _outline(ax: Axes, mask: np.ndarray | None, shape: tuple[int, int]) -> None:
    """The mask's edge over a picture or a map of that shape."""
    if mask is None or not mask.any() or mask.all():
        return
    across, down = (
        (np.arange(size) + 0.5) / size * extent - 0.5
        for size, extent in zip(mask.shape[::-1], shape[::-1], strict=True)
    )
    ax.contour(across, down, mask.astype(float), levels=[0.5], colors=[_OUTLINE], linewidths=1.2)
