"""Masks that are drawn: polygons, boxes, circles, lines and runs of pixels from a file of annotations, as one mask.

A pixel is marked if its centre is inside. What is thinner than that marks the pixels that it goes through.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headlens.data.mask_sources import MaskSource
from headlens.errors import DataError

LINE_WIDTH, POINT_RADIUS = 10, 5
"""In pixels, of lines and points, which have no area: those that labelme itself draws."""
_MOST_POINTS, _MOST_SHAPES = 100_000, 10_000
_Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Shape:
    """One annotated region, as its file says it; what is wrong with it is found when it is drawn.

    Args:
        kind: one of ``KINDS``.
        points: x and y, from the upper left corner of the upper left pixel; for ``runs`` the height and the width.
        data: of ``runs`` the counts, of a ``mask`` its PNG in base64.
    """

    kind: str
    points: Any
    data: Any = None


@dataclass(frozen=True)
class Outlines(MaskSource):
    """What any of several shapes covers.

    Args:
        file: where they are written.
        which: the image that they are about, by its name in that file.
        size: height and width of what was annotated; those of the image itself when None.
        shapes: at least one.
    """

    file: Path
    which: str
    size: tuple[int, int] | None
    shapes: tuple[Shape, ...] = field(repr=False, compare=False)

    def read(self, size: tuple[int, int], max_pixels: int) -> Tensor:
        """See ``MaskSource``; a shape that cannot be drawn is an error, as the mask would lack it."""
        height, width = self.size or size
        if not 0 < height * width <= max_pixels:
            raise DataError(f"{self.file}: {self.which}: {width}x{height} pixels are none, or more than {max_pixels}")
        if len(self.shapes) > _MOST_SHAPES:
            raise DataError(f"{self.file}: {self.which}: {len(self.shapes)} shapes are more than {_MOST_SHAPES}")
        marked = np.zeros((height, width), bool)
        for number, shape in enumerate(self.shapes):
            try:
                _DRAW[shape.kind](marked, shape)
            except KeyError:
                raise self._error(number, f"a shape of the kind {shape.kind[:40]!r} is not known") from None
            except DataError as error:
                raise self._error(number, error) from error
            except (TypeError, ValueError, OverflowError, IndexError) as error:
                raise self._error(number, f"cannot be drawn as {shape.kind} ({error})") from error
        return torch.from_numpy(marked)

    def _error(self, number: int, what: object) -> DataError:
        return DataError(f"{self.file}: {self.which}: shape {number + 1}: {str(what)[:200]}; draw it again")


def _points(shape: Shape, least: int) -> _Points:
    points = [(float(x), float(y)) for x, y in shape.points]
    if not least <= len(points) <= _MOST_POINTS:
        raise DataError(f"a {shape.kind} has {len(points)} points, where {least} to {_MOST_POINTS} are expected")
    if not (np.abs(points) <= 1e7).all():  # nor where it is no number
        raise DataError(f"a {shape.kind} has a point far outside of any image")
    return points


def _draw_polygon(marked: np.ndarray, shape: Shape) -> None:
    points = _points(shape, 3)
    if not _fill(marked, points):  # what is thinner than a pixel is not lost
        _trace(marked, [*points, points[0]])


def _draw_rectangle(marked: np.ndarray, shape: Shape) -> None:
    (left, right), (top, bottom) = ((min(side), max(side)) for side in zip(*_points(shape, 2), strict=True))
    _draw_polygon(marked, Shape(shape.kind, [(left, top), (right, top), (right, bottom), (left, bottom)]))


def _fill(marked: np.ndarray, points: _Points) -> bool:
    """Marks the pixels whose centres are within a polygon, and says whether there were any; the rest is cut off."""
    y = [point[1] for point in points]
    top, bottom = max(math.floor(min(y)), 0), min(math.ceil(max(y)), marked.shape[0])
    if top >= bottom:
        return False
    rows, width = marked[top:bottom], marked.shape[1]
    crossed = np.zeros((len(rows), width + 1), bool)  # at the first centre to the right of each edge
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        first, last = sorted((math.ceil(y0 - 0.5), math.ceil(y1 - 0.5)))
        here = np.arange(max(first, top), min(last, bottom))
        if here.size:
            x = x0 + (here + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
            crossed[here - top, np.clip(np.ceil(x - 0.5), 0, width).astype(int)] ^= True
    inside = np.logical_xor.accumulate(crossed, axis=1)[:, :width]
    rows |= inside
    return bool(inside.any())


def _trace(marked: np.ndarray, points: _Points) -> None:
    height, width = marked.shape
    for one, other in pairwise(points):
        steps = min(2 * math.ceil(max(abs(one[0] - other[0]), abs(one[1] - other[1]))) + 1, 4 * (height + width))
        x, y = (np.floor(np.linspace(a, b, steps + 1)).astype(int) for a, b in zip(one, other, strict=True))
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        marked[y[inside], x[inside]] = True


def _draw_circle(marked: np.ndarray, shape: Shape) -> None:
    centre, edge = _points(shape, 2)[:2]
    _disc(marked, centre, math.hypot(edge[0] - centre[0], edge[1] - centre[1]))


def _draw_points(marked: np.ndarray, shape: Shape) -> None:
    for point in _points(shape, 1):
        _disc(marked, point, POINT_RADIUS)


def _disc(marked: np.ndarray, centre: tuple[float, float], radius: float) -> None:
    (left, top), (right, bottom) = ([max(math.floor(side + sign * radius), 0) for side in centre] for sign in (-1, 1))
    part = marked[top : bottom + 1, left : right + 1]
    y, x = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
    part |= (x + 0.5 - centre[0]) ** 2 + (y + 0.5 - centre[1]) ** 2 <= radius**2
    _trace(marked, [centre, centre])


def _draw_line(marked: np.ndarray, shape: Shape) -> None:
    points = _points(shape, 2)
    for (x0, y0), (x1, y1) in pairwise(points):
        half = LINE_WIDTH / 2 / (math.hypot(x1 - x0, y1 - y0) or 1.0)
        dx, dy = (y1 - y0) * half, (x0 - x1) * half
        _fill(marked, [(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)])
    for point in points:
        _disc(marked, point, LINE_WIDTH / 2)


def _draw_runs(marked: np.ndarray, shape: Shape) -> None:
    """COCO's: lengths of what is not and what is marked in turns, down the columns; or the same as a text."""
    counts = runs_of(shape.data) if isinstance(shape.data, str) else [int(count) for count in shape.data]
    if [int(side) for side in shape.points] != [*marked.shape]:
        raise DataError(f"runs for {list(shape.points)[:4]} rows and columns in an image of {list(marked.shape)}")
    if min(counts, default=0) < 0 or sum(counts) != marked.size:
        raise DataError(f"runs of {sum(counts)} pixels in an image of {marked.size}")
    filled = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    marked |= filled.reshape(marked.shape, order="F")


def runs_of(text: str) -> list[int]:
    """The lengths in COCO's compressed runs: digits of five bits, the lowest first, as differences to the last but one.

    >>> runs_of("52203")
    [5, 2, 2, 2, 5]
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        digit = ord(letter) - 48
        if not 0 <= digit < 64 or shift > 30:
            raise DataError(f"{text[:20]!r} is not a text of runs")
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:  # the last digit, whose highest bit is the sign
            value -= (digit & 16) << (shift - 4)
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise DataError("a text of runs that is cut short")
    return counts


def _draw_mask(marked: np.ndarray, shape: Shape) -> None:
    """A small image of what is marked, and where its upper left corner is."""
    from PIL import Image

    left, top = (round(value) for value in _points(shape, 1)[0])
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape.data, validate=True)), formats=["PNG"]) as stamp:
            if stamp.width * stamp.height > marked.size:
                raise DataError("a mask that is larger than its image")
            values = np.asarray(stamp.convert("L")) > 0
    except (OSError, SyntaxError, binascii.Error, Image.DecompressionBombError) as error:
        raise DataError(f"a mask that is not a PNG in base64 ({error})") from error
    rows, columns = marked[max(top, 0) :, max(left, 0) :].shape
    part = values[max(-top, 0) :, max(-left, 0) :][:rows, :columns]
    marked[max(top, 0) :, max(left, 0) :][: part.shape[0], : part.shape[1]] |= part


_DRAW: dict[str, Callable[[np.ndarray, Shape], None]] = {
    "polygon": _draw_polygon,
    "rectangle": _draw_rectangle,
    "circle": _draw_circle,
    "line": _draw_line,
    "linestrip": _draw_line,
    "point": _draw_points,
    "points": _draw_points,
    "mask": _draw_mask,
    "runs": _draw_runs,
}
KINDS: Sequence[str] = tuple(_DRAW)
"""The kinds of shapes that can be drawn: labelme's, and COCO's ``runs``."""
