"""What all figures have in common: colours that colour-blind readers can tell apart, and figures without a screen."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.figure
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from headlens.errors import ConfigError
from headlens.plots.figure import Figure
from headlens.plots.text import font, plain

PALETTE = sns.color_palette("colorblind")
GREY, DARK = "0.55", "0.25"
COLOURS = {"global": PALETTE[0], "local": PALETTE[1], "both": DARK}
DOMAINS = {"industrial": PALETTE[2], "medical": PALETTE[4]}
_OTHER_DOMAINS = [PALETTE[number] for number in (2, 4, 5, 8, 6, 7)]
ORDERS = (PALETTE[3], PALETTE[9])
"""Of orders of heads; streams, domains and orders share no colour."""
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
    "image_ap": "I-AP",
    "image_accuracy": "I-accuracy",
    "pixel_auroc": "P-AUROC",
    "pixel_aupro": "AUPRO",
}
"""Of quantities, with their units, as an axis calls them."""

COLUMN, PAGE = 3.3, 6.8
"""Inches: one column of a two-column paper, and both."""
PAPER: dict[Any, Any] = {
    "font.size": 7.5,  # "medium", of titles and names of axes; "small", of ticks and legends, is 6.25
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    **dict.fromkeys(("axes.titlesize", "axes.labelsize", "figure.titlesize"), "medium"),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), "small"),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
    **dict.fromkeys(("axes.labelpad", "xtick.major.size", "ytick.major.size"), 2.0),
    **dict.fromkeys(("xtick.major.pad", "ytick.major.pad"), 1.5),
    **dict.fromkeys(("figure.constrained_layout.h_pad", "figure.constrained_layout.w_pad"), 0.02),
    "axes.titlepad": 3.0,
    "xtick.minor.size": 1.2,
    "xtick.minor.width": 0.4,
    "lines.linewidth": 1.0,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.2,
    "legend.borderpad": 0.1,
    # TrueType: text stays text, which reviewers can search and editors can change
    **dict.fromkeys(("pdf.fonttype", "ps.fonttype"), 42),
    "svg.fonttype": "none",
}
"""Of figures for print, at the size at which they are printed."""


def domain_colours(names: Iterable[object]) -> dict[str, Any]:
    """A colour for each domain, or other group of runs, in the order of their names here.

    >>> colours = domain_colours(["food", "medical", "cloth"])
    >>> len(set(colours.values())), colours["medical"] == DOMAINS["medical"], colours["food"] == PALETTE[2]
    (3, True, True)
    """
    each = list(dict.fromkeys(map(str, names)))
    known = {name: DOMAINS[name] for name in each if name in DOMAINS}
    free = [colour for colour in _OTHER_DOMAINS if colour not in known.values()]
    others = itertools.cycle(free)  # of more groups than colours, some share one
    return {name: known.get(name) or next(others) for name in each}


def width(panels: int) -> float:
    """Inches: that of a figure with so many panels side by side, one column of a paper or both.

    >>> width(2), width(3) > 2 * COLUMN
    (3.3, True)
    """
    return COLUMN if panels <= 2 else PAGE


def axes_of(ax: Axes | None, width: float = 5.0, height: float = 3.6) -> tuple[matplotlib.figure.Figure, Axes]:
    """``ax`` and its figure; where there is none, those of a new figure of that size in inches."""
    if ax is None:
        fig = matplotlib.figure.Figure(figsize=(width, height), layout="constrained")
        return fig, fig.subplots()
    figure = ax.get_figure(root=True)
    assert isinstance(figure, matplotlib.figure.Figure)
    return figure, ax


def axes_for(ax: Any, panels: Sequence[str], choose: str = "") -> list[Axes] | None:
    """One of the given axes for each of the named panels; None where there are none and a new figure is made.

    ``ax`` is axes, a sequence or an array of them, or None; ``choose`` says how fewer are asked for.

    Raises:
        ConfigError: another number of axes than of panels: none is left out without a word.

    >>> axes_for(matplotlib.figure.Figure().subplots(), ["left", "right"], "stream=")
    Traceback (most recent call last):
    headlens.errors.ConfigError: 1 axes for 2 panels (left; right): give a sequence of 2 as ax, or choose by stream=
    """
    if ax is None:
        return None
    given = list(np.asarray(ax, dtype=object).ravel())
    if len(given) != len(panels):
        raise ConfigError(
            f"{len(given)} axes for {len(panels)} panels ({'; '.join(panels)}): give a sequence of {len(panels)} as ax"
            + (f", or choose by {choose}" if choose else "")
        )
    return given


def panels(
    ax: Any, names: Sequence[str], rows: int, size: tuple[float, float], choose: str = ""
) -> tuple[matplotlib.figure.Figure, np.ndarray]:
    """Axes for panels of these names in so many rows: the given ones, or those of a new figure of that size in inches.

    See ``axes_for`` for what is raised.
    """
    if (given := axes_for(ax, names, choose)) is not None:
        return axes_of(given[0])[0], np.array(given, dtype=object).reshape(rows, -1)
    fig = matplotlib.figure.Figure(figsize=size, layout="constrained")
    return fig, fig.subplots(rows, len(names) // rows, squeeze=False)


def colours(values: Any, signed: bool = True, floor: float = 0.0, share: float = 1.0) -> dict[str, Any]:
    """Colours of a map, as ``imshow`` and a colour bar take them: even about 0 where values have a sign, else from 0.

    Args:
        values: any shape; NaN is passed over.
        signed: whether the quantity has a sign: of the quantity, not of these values.
        floor: where the scale ends at least: what is smaller is no more than rounding.
        share: of the values that lie within the colours; single ones beyond would leave all others pale.

    >>> colours([0.0, 2.0], signed=False)["norm"].vmin, colours([0.0, 2.0])["norm"].vmin, colours([0.0])["norm"].vmax
    (0.0, -2.0, 1.0)
    """
    size = np.abs(np.asarray(values, dtype=float))
    size = size[np.isfinite(size)]
    reach = (float(np.quantile(size, share)) or float(size.max())) if size.size else 0.0
    reach = max(reach, floor) or 1.0
    return {"cmap": DIVERGING if signed else RISING, "norm": Normalize(-reach if signed else 0.0, reach)}


def finished(ax: Axes, x: str = "", y: str = "", title: str = "", legend: Any = None) -> Axes:
    """Axes with their names, without the lines above and at the right; ``legend`` says where it stands, if anywhere."""
    ax.set_title(title, fontsize="medium")
    ax.set(**{name: text for name, text in (("xlabel", x), ("ylabel", y)) if text})
    ax.spines[["top", "right"]].set_visible(False)
    if legend is not None:
        ax.legend(frameon=False, fontsize="small", loc=legend)
    return ax


def signed(drawn: Figure, made_by: str, given: Any = None) -> Figure:
    """The figure with a small line at its foot that says which backbone and which images it is of.

    Where ``given`` axes were drawn on, it belongs to somebody else, and stays as it is.
    """
    if made_by and given is None:
        between = "\n" if drawn.figure.get_figwidth() < 6 else " · "
        line = between.join(plain(part, 90) for part in made_by.split(" · "))
        drawn.figure.supxlabel(line, fontsize=7, color="0.4", x=0.99, ha="right", **font())
    return drawn


def named(metric: str) -> str:
    """How an axis calls a quantity."""
    return NAMES.get(metric, metric.replace("_", " "))
