"""What all figures have in common: colours that colour-blind readers can tell apart, and figures without a screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import seaborn as sns
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALETTE = sns.color_palette("colorblind")
COLOURS = {
    "global": PALETTE[0],
    "local": PALETTE[1],
    "both": PALETTE[2],
    "industrial": PALETTE[0],
    "medical": PALETTE[3],
}
GREY = "0.55"
DIVERGING, RISING = "vlag", "rocket_r"  # of values around a centre, and of values from 0 up
NAMES = {
    "image_margin": "image margin (logits)",
    "joint_margin": "joint margin (logits)",
    "joint_score": "joint score",
    "map_margin": "map margin (logits)",
    "entropy": "entropy (nats)",
    "entropy_patches": "entropy of patches (nats)",
    "anomaly_map": "anomaly map (relative L1)",
    "image_auroc": "I-AUROC",
    "pixel_auroc": "P-AUROC",
    "pixel_aupro": "AUPRO",
}
"""Of quantities, with their units, as an axis calls them."""

_NARROW = 6.0  # inches; in narrower figures the line at the foot is broken


def axes_of(ax: Axes | None, width: float = 5.0, height: float = 3.6) -> tuple[Figure, Axes]:
    """``ax`` and its figure; where there is none, those of a new figure of that size in inches."""
    if ax is None:
        fig = Figure(figsize=(width, height), layout="constrained")
        return fig, fig.subplots()
    own = ax.get_figure(root=True)
    assert isinstance(own, Figure)
    return own, ax


def signed(fig: Figure, made_by: str) -> Figure:
    """The figure with a small line at its foot that says which backbone and which pictures it is of."""
    narrow = fig.get_figwidth() < _NARROW
    fig.supxlabel(made_by.replace(" · ", "\n") if narrow else made_by, fontsize=7, color="0.4", x=0.99, ha="right")
    return fig


def named(metric: str) -> str:
    """How an axis calls a quantity."""
    return NAMES.get(metric, metric.replace("_", " "))
