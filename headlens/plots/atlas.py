"""A page of heads: what each attends to and draws in one image of each domain, how important it is, and its names."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.figure
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from headlens.plots.display import draw, outline
from headlens.plots.figure import Figure
from headlens.plots.head_maps import Panel
from headlens.plots.style import GREY, PAGE, colours, domain_colours
from headlens.plots.text import font, plain

_MAP, _GAP, _APART = 0.74, 0.05, 0.14  # inches: a map at most, between the maps of a domain, between domains
_LABEL, _METHODS, _POINTS, _PHRASES = 0.86, 0.56, 0.84, 1.25  # names of heads; of methods; points; phrases at least
_ABOVE, _PITCH, _BELOW = 0.3, 0.91, 0.0  # the images' titles; from one row to the next; below the last
_TITLES = 0.13  # what maps are of, above the first row of heads


class Shown(NamedTuple):
    """The image of a domain: [h, w, 3] uint8, its outline [h, w] or None, its shape on disk, its margin map, its title.

    ``looks`` is the row and column of the patch whose attention is shown of local heads.
    """

    image: np.ndarray
    mask: np.ndarray | None
    shape: tuple[int, int]
    margin: np.ndarray
    title: str
    looks: tuple[int, int]


class Entry(NamedTuple):
    """A head: its name and stream, what it does in each domain's image, its weight in each, and its phrases.

    ``phrases`` has of each domain the phrases, and whether they explain more than chance.
    """

    name: str
    stream: str
    panels: Mapping[str, Panel]
    weights: Mapping[str, float]
    phrases: Mapping[str, tuple[Sequence[str], bool]]


def atlas(shown: Mapping[str, Shown], entries: Sequence[Entry], importance: pd.DataFrame) -> Figure:
    """A row for each head below a row of images. Every map has its own scale, whose end is printed above it.

    Attention rises from 0; what a head draws is shown minus its mean, even about 0.

    Args:
        shown: the image of each domain.
        entries: the heads, from top to bottom.
        importance: columns name (of the head), method, domain, value (the mean head is 1), low and high.

    >>> panel = Panel(np.full((2, 2), 0.25), np.eye(2))
    >>> image = Shown(np.zeros((8, 8, 3), np.uint8), None, (8, 8), np.eye(2), "a nut", (0, 0))
    >>> entry = Entry("L5H1", "global", {"industrial": panel}, {}, {"industrial": (["wood", "red"], True)})
    >>> rows = pd.DataFrame({"name": ["L5H1"], "method": "mine", "domain": "industrial", "value": 3.0})
    >>> page = atlas({"industrial": image}, [entry], rows.assign(low=2.0, high=4.0))
    >>> len(page.axes), page.axes[2].get_title().splitlines()
    (5, ['attention', '0 to 0.25'])
    """
    page = _Page(len(entries), list(shown))
    methods = list(dict.fromkeys(importance["method"]))
    # An axis of ratios: an interval that nears 0 would take most of it, and is cut off instead.
    low, high = (importance["value"].agg(["min", "max"]) * [1 / 3, 3]).tolist()
    ends = (max(importance["low"].min() / 1.4, low), min(importance["high"].max() * 1.4, high))
    for place, (domain, one) in enumerate(shown.items()):
        _header(*page.maps(0, place), domain, one, page.colours[domain])
    page.text(page.points - _METHODS, 0, "importance\n(mean head = 1)", _MAP, va="bottom")
    page.text(page.phrases, 0, "phrases\n(grey: not better\nthan chance)", _MAP, va="bottom")
    for number, entry in enumerate(entries, 1):
        _label(page, number, entry)
        for place, (domain, one) in enumerate(shown.items()):
            _maps(*page.maps(number, place), one, entry.panels[domain], entry.stream == "local", titled=number == 1)
        rows = importance[importance["name"] == entry.name]
        points = page.axes(number, page.points, _POINTS)
        _points(points, rows, page.colours, methods, ends)
        points.tick_params(axis="x", labelbottom=number == len(entries), pad=1)
        _phrases(page, number, entry.phrases)
    return Figure(page.figure, np.array(page.figure.axes))


class _Page:
    """Where things stand, in inches from the left, and from the top row by row."""

    def __init__(self, rows: int, domains: Sequence[str]) -> None:
        self.colours = domain_colours(domains)
        self.height = self.top(rows + 1) + _BELOW
        self.figure = matplotlib.figure.Figure(figsize=(PAGE, self.height))
        room = (PAGE - _LABEL - _METHODS - _POINTS - _PHRASES) / len(domains)
        self.map = min(_MAP, (room - _GAP - _APART) / 2)
        self.points = _LABEL + len(domains) * (2 * self.map + _GAP + _APART) + _METHODS
        self.phrases = self.points + _POINTS + 0.12

    def top(self, row: int) -> float:
        """From the upper edge of the page; row 0 is that of the images."""
        return _ABOVE + row * _PITCH + (_TITLES if row else 0)

    def axes(self, row: int, left: float, width: float) -> Axes:
        bottom = self.height - self.top(row) - _MAP
        box = (left / PAGE, bottom / self.height, width / PAGE, _MAP / self.height)
        return self.figure.add_axes(box)

    def maps(self, row: int, domain: int) -> tuple[Axes, Axes]:
        left = _LABEL + domain * (2 * self.map + _GAP + _APART)
        return self.axes(row, left, self.map), self.axes(row, left + self.map + _GAP, self.map)

    def text(self, left: float, row: int, text: str, down: float = 0, **options: Any) -> None:
        """So far down from the top of a row."""
        x, y = left / PAGE, 1 - (self.top(row) + down) / self.height
        self.figure.text(x, y, text, **{"fontsize": "small", "va": "top", **options}, **font())


def _header(left: Axes, right: Axes, domain: str, one: Shown, colour: Any) -> None:
    draw(left, one.image, one.shape)
    _mark(left, one)
    margin = one.margin - one.margin.mean()
    scale = colours(margin)
    draw(right, margin, one.shape, interpolation="nearest", **scale)
    name = f"{plain(domain, 14)}\n{plain(one.title, 16)}"
    for ax, title in ((left, name), (right, f"margin map\n±{scale['norm'].vmax:.2g}")):
        outline(ax, one.mask, one.shape, width=0.5)
        ax.set_title(title, fontsize="small", color=colour if ax is left else "black", **font())
        ax.set_axis_off()


def _mark(ax: Axes, one: Shown) -> None:
    """A frame around the patch that looks."""
    high, wide = one.shape[0] / one.margin.shape[0], one.shape[1] / one.margin.shape[1]
    corner = (one.looks[1] * wide - 0.5, one.looks[0] * high - 0.5)
    ax.add_patch(Rectangle(corner, wide, high, fill=False, edgecolor="#00c2d8", linewidth=0.8))


def _label(page: _Page, row: int, entry: Entry) -> None:
    page.text(0.02, row, entry.name, fontsize="medium", weight="bold")
    page.text(0.02, row, f"{entry.stream} stream", 0.16)
    for place, (domain, weight) in enumerate(entry.weights.items()):
        page.text(0.02, row, f"weight {weight:.2f}", 0.36 + 0.12 * place, color=page.colours[domain])


def _maps(left: Axes, right: Axes, one: Shown, panel: Panel, local: bool, titled: bool) -> None:
    drawn = panel.contribution - panel.contribution.mean()
    seen, signed = colours(panel.attention, signed=False), colours(drawn)
    draw(left, panel.attention, one.shape, interpolation="nearest", **seen)
    draw(right, drawn, one.shape, interpolation="nearest", **signed)
    ends = (f"0 to {seen['norm'].vmax:.2g}", f"±{signed['norm'].vmax:.2g}")
    for ax, what, end in zip((left, right), ("attention", "draws (logits)"), ends, strict=True):
        outline(ax, one.mask, one.shape, width=0.4)
        ax.set_title(f"{what}\n{end}" if titled else end, fontsize="small", pad=2)
        ax.set_axis_off()
    if local:
        _mark(left, one)


def _points(
    ax: Axes, rows: pd.DataFrame, domains: Mapping[str, Any], methods: Sequence[str], ends: tuple[float, float]
) -> None:
    """A point for each method and domain, with the range over seeds; heads that a method has not are left out."""
    for row in rows.itertuples():
        shift = list(domains).index(row.domain) - (len(domains) - 1) / 2
        y, colour = methods.index(row.method) + min(0.34, 0.8 / len(domains)) * shift, domains[row.domain]
        ax.hlines(y, row.low, row.high, color=colour, linewidth=0.9)
        ax.plot(row.value, y, "o", color=colour, markersize=2.4)
    without: dict[str, Any] = {"fontsize": "small", "color": GREY, "ha": "center", "va": "center"}
    for place, method in enumerate(methods):
        if method not in set(rows["method"]):
            ax.text(0.5, place, "no such head", transform=ax.get_yaxis_transform(), **without)
    ax.axvline(1, color="0.4", linewidth=0.6, linestyle=":", zorder=0)
    ax.set_xscale("log")
    ax.set(xlim=ends, ylim=(len(methods) - 0.4, -0.6))
    ax.set_yticks(range(len(methods)), [plain(name, 10) for name in methods], fontsize="small", **font())
    ax.tick_params(axis="y", length=0)
    tens = range(math.floor(math.log10(ends[0])), math.ceil(math.log10(ends[1])) + 1)
    steps = (1, 3) if len(tens) <= 3 else (1,)  # there is room for few
    ticks = [tick for ten in tens for step in steps if ends[0] <= (tick := step * 10.0**ten) <= ends[1]]
    ticks = ticks[:: -(-len(ticks) // 4)]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.spines[["top", "right"]].set_visible(False)


def _phrases(page: _Page, row: int, phrases: Mapping[str, tuple[Sequence[str], bool]]) -> None:
    """Of each domain a few lines behind a dot of its colour: black where they explain more than chance, else grey."""
    width = int((PAGE - page.phrases - 0.1) * 72 / 3.75)
    each = _PITCH / max(2, len(phrases))
    for place, (domain, (names, better)) in enumerate(phrases.items()):
        lines = textwrap.wrap(plain(", ".join(names), 200), width, max_lines=max(1, int(each / 0.13)), placeholder=" …")
        page.text(page.phrases, row, "●", each * place, color=page.colours[domain])
        page.text(page.phrases + 0.1, row, "\n".join(lines), each * place, color="black" if better else GREY)
