"""What all figures have in common: colours that colour-blind readers can tell apart, and figures without a screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
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
DEPTH = "viridis"  # of layers, the first dark
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

COLUMN = 3.3
"""Inches: one column of a two-column paper."""
PAPER: dict[Any, Any] = {
    "font.size": 7.5,  # "medium", of titles and names of axes; "small", of ticks and legends, is 6.25
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "axes.titlesize": "medium",
    "axes.labelsize": "medium",
    "xtick.labelsize": "small",
    "ytick.labelsize": "small",
    "legend.fontsize": "small",
    "figure.titlesize": "medium",
    "axes.linewidth": 0.6,
    "axes.titlepad": 3.0,
    "axes.labelpad": 2.0,
    "xtick.major.size": 2.0,
    "ytick.major.size": 2.0,
    "xtick.minor.size": 1.2,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "xtick.major.pad": 1.5,
    "ytick.major.pad": 1.5,
    "lines.linewidth": 1.0,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.2,
    "legend.borderpad": 0.1,
    "figure.constrained_layout.h_pad": 0.02,
    "figure.constrained_layout.w_pad": 0.02,
    "pdf.fonttype": 42,  # TrueType: text stays text, which reviewers can search and editors can change
    "ps.fonttype": 42,
    "svg.fonttype": "none",
}
"""Of figures for print, at the size at which they are printed."""

_NARROW = 6.0  # inches; in narrower figures the line at the foot is broken


@contextmanager
def paper() -> Iterator[None]:
    """Within, figures are drawn and written as ``PAPER`` says; outside nothing changes.

    >>> with paper():
    ...     mpl.rcParams["pdf.fonttype"]
    42
    """
    with mpl.rc_context(PAPER):
        yield


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
