"""What the explorer's page draws: arrays, scales and words, made of a ``HeadView``. The page itself knows no model.

Arrays are sent as float32 in C order, the lowest byte first; of tables of heads the last layer is the first row, as it
is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from headlens.errors import HeadlensError
from headlens.heads.variants import Head
from headlens.lab.view import HeadView, or_why
from headlens.plots.display import panel, smaller
from headlens.plots.style import DIVERGING, RISING, colours
from headlens.printing import printable

_EFFECTS: dict[str, tuple[str, float | None]] = {
    "global": ("part of image margin (logits)", 0.0),
    "local": ("size of parts of patch margins (logits)", None),
}
"""What a table of heads shows of an image, and about what its colours are even."""


class Selection(NamedTuple):
    """What is looked at: the number of an image, a head, and the query patch (row, column), None as it is read."""

    image: int
    head: Head
    patch: tuple[int, int] | None = None


def most_important(view: HeadView, image: int) -> tuple[Head, str]:
    """The head to begin with, and why: that whose learned weight is the furthest from 1, as the mean over runs.

    Where none is learned, that with the largest direct effect on the image by the first domain's detector: of local
    heads, or of global ones where local heads have none. Of streams that only some detectors have it is none.
    """
    shared = view.shared_streams or view.streams
    distances = {
        (domain, stream): np.abs(learned.mean(0) - 1)
        for domain in view.domains
        for stream in shared
        if len(learned := view.learned(domain, stream))
    }
    if distances:
        domain, stream = max(distances, key=lambda key: float(np.nanmax(distances[key])))
        layer, number = _largest(distances[domain, stream])
        weight = view.learned(domain, stream)[:, layer, number].mean()
        why = f"its weight ({domain}: {weight:.2f}) is the furthest from 1"
        return Head(stream, view.layers(stream)[layer], number), why
    for stream in reversed(shared):
        try:
            layer, number = _largest(np.abs(view.effects(view.domains[0], image, stream)))
        except HeadlensError:
            continue
        why = f"its direct effect on this image is the largest of all {stream} heads"
        return Head(stream, view.layers(stream)[layer], number), why
    return Head(shared[-1], view.layers(shared[-1])[-1], 0), ""


def fixed(view: HeadView) -> dict[str, Any]:
    """What stays: names, layers, learned weights (means over runs), and the colours of maps, 256 of three bytes."""
    weights = {
        stream: {domain: _mean_weights(view, domain, stream) for domain in view.domains} for stream in view.streams
    }
    return {
        "names": [printable(name) for name in view.names],
        "domains": [printable(domain) for domain in view.domains],
        "streams": {stream: list(view.layers(stream)[::-1]) for stream in view.streams},
        "heads": len(view.heads),
        "made_by": printable(view.made_by),
        "colours": {"signed": _colours(DIVERGING), "rising": _colours(RISING)},
        "weights": {
            stream: _on_one_scale(tables, "head weight", 1.0, "head weights") for stream, tables in weights.items()
        },
    }


def picture(view: HeadView, image: int) -> dict[str, Any]:
    """An image as PNG, the outline of its mask in shares of its sides, and direct effects of all heads on it.

    Raises:
        DataError, ShapeError: an image that cannot be read, or does not exist.
    """
    pixels, sink = view.pixels(image), io.BytesIO()
    Image.fromarray(smaller(pixels.image.permute(1, 2, 0).numpy())).save(sink, "png", compress_level=1)
    effects = {
        stream: {domain: or_why(partial(_effects, view, domain, image, stream)) for domain in view.domains}
        for stream in view.streams
    }
    height, width = pixels.image.shape[1:]
    return {
        "name": printable(view.names[image]),
        "png": sink.getvalue(),
        "shape": panel((height, width), 1.0)[::-1],
        "grid": view.grid,
        "outline": [] if pixels.mask is None else _outline(pixels.mask.numpy() > 0),
        "effects": {
            stream: _on_one_scale(tables, *_EFFECTS[stream], "direct effects") for stream, tables in effects.items()
        },
    }


def scene(view: HeadView, selection: Selection, why: str = "") -> dict[str, Any]:
    """The maps of a head, those of all domains on one scale, and what is said of it; ``why`` it is shown comes first.

    Raises:
        ShapeError: an image, head or patch that does not exist.
    """
    image, head, patch = selection
    query, panels = view.query(image, head, patch), view.panels(image, head, patch)
    attention, contribution = ({domain: pair[kind] for domain, pair in panels.items()} for kind in (0, 1))
    into = "image margin" if head.stream == "global" else "patch margins"
    place = "CLS" if query is None else f"the patch in row {query[0]}, column {query[1]}"
    peak = ", where the margin map has its peak" if query and patch is None else ""
    seen = "CLS" if query is None else "the patch"
    return {
        "head": str(head),
        "patch": patch,
        "query": query,
        "title": f"L{head.layer}H{head.head}, {head.stream} stream",
        "facts": [
            *([f"Opened first: {why}."] if why else []),
            *(
                f"{printable(domain)}: {_weight_of(view, domain, head)}{_sum_of(head, contribution[domain])}"
                for domain in view.domains
            ),
            f"Looks from {place}{peak}.",
            *(["Maps are of the first run of each."] if any(len(runs) > 1 for runs in view.detectors.values()) else []),
        ],
        "attention": _on_one_scale(attention, "attention", None, f"{seen} attends to"),
        "contribution": _on_one_scale(contribution, f"part of {into} (logits)", 0.0, f"adds to {into}"),
    }


def _effects(view: HeadView, domain: str, image: int, stream: str) -> np.ndarray:
    return view.effects(domain, image, stream)[::-1]


def _mean_weights(view: HeadView, domain: str, stream: str) -> np.ndarray | str:
    learned = view.learned(domain, stream)
    return learned.mean(0)[::-1] if len(learned) else "not learned: all are 1"


def _weight_of(view: HeadView, domain: str, head: Head) -> str:
    """The weight of a head in words: the mean and the range, where there are several runs."""
    learned = view.learned(domain, head.stream)
    each = learned[:, view.layers(head.stream).index(head.layer), head.head]
    if not len(each):
        return f"no {head.stream} head has a learned weight"
    spread = f" ({len(each)} runs: {each.min():.2f} to {each.max():.2f})" if len(each) > 1 else ""
    return f"weight {each.mean():.2f}{spread}"


def _sum_of(head: Head, contribution: np.ndarray | str) -> str:
    """Of a global head, which has one part of the image margin, what its patches add up to."""
    if head.stream != "global" or isinstance(contribution, str):
        return ""
    return f"; patches add up to {contribution.sum():+.3g}".replace("-", "−")


def _on_one_scale(maps: Mapping[str, np.ndarray | str], label: str, centre: float | None, title: str) -> dict[str, Any]:
    """Maps by domain, or why there is none, and the ends of their colours: even about a centre, or from 0."""
    known = [values for values in maps.values() if not isinstance(values, str)]
    shift = centre or 0.0
    norm = colours(np.stack(known) - shift if known else [], signed=centre is not None)["norm"]
    return {
        "label": label,
        "low": shift + norm.vmin,
        "high": shift + norm.vmax,
        "centre": centre,
        "maps": [{"title": f"{printable(domain)}: {title}", **_sent(maps[domain])} for domain in maps],
    }


def _sent(values: np.ndarray | str) -> dict[str, Any]:
    return {"why": values} if isinstance(values, str) else {"values": np.ascontiguousarray(values, "<f4").tobytes()}


def _colours(name: str) -> bytes:
    return bytes((colormaps[name](np.arange(256))[:, :3] * 255).round().astype(np.uint8))


def _outline(mask: np.ndarray) -> list[list[list[float]]]:
    """Lines around what a mask marks: points (x, y) in shares of its sides; closed at its edges, too."""
    shown = smaller(mask)
    lines = Figure().subplots().contour(np.pad(shown, 1).astype(float), levels=[0.5]).allsegs[0]
    return [((line - 0.5) / np.array(shown.shape[::-1])).round(4).tolist() for line in lines]


def _largest(values: np.ndarray) -> tuple[int, int]:
    row, column = np.unravel_index(int(np.nanargmax(values)), values.shape)
    return int(row), int(column)
