"""Masks that are drawn: polygons, boxes, circles, lines and runs of pixels from a file of annotations, as one mask."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headlens.data.mask_sources import MaskSource
from headlens.errors import DataError

LINE_WIDTH, POINT_RADIUS = 10, 5
"""In pixels, of lines and points, which have no area: those that labelme itself draws."""
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

    @property
    def files(self) -> tuple[Path, ...]:  # type: ignore[override]
        """The one."""
        return (self.file,)

    def read(self, size: tuple[int, int], max_pixels: int) -> Tensor:
        """See ``MaskSource``; a shape that cannot be drawn is an error, as the mask would lack it."""
        height, width = self.size or size
        if not 0 < height * width <= max_pixels:
            raise DataError(f"{self.file}: {self.which}: {width}x{height} pixels are none, or more than {max_pixels}")
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
    if len(points) < least:
        raise DataError(f"a {shape.kind} has {len(points)} points, fewer than {least}")
    if not np.isfinite(points).all():
        raise DataError(f"a {shape.kind} has a point that is no number")
    return points


def _draw_polygon(marked: np.ndarray, shape: Shape) -> None:
    _fill(marked, _points(shape, 3))


def _draw_rectangle(marked: np.ndarray, shape: Shape) -> None:
    points = _points(shape, 2)
    (left, right), (top, bottom) = ((min(side), max(side)) for side in zip(*points, strict=True))
    _fill(marked, [(left, top), (right, top), (right, bottom), (left, bottom)])


def _fill(marked: np.ndarray, points: _Points) -> None:
    """A polygon with its edge. What lies outside of the image is cut off first: it could be of any size."""
    from PIL import Image, ImageDraw

    height, width = marked.shape
    for axis, least, most in ((0, -1.0, width + 1.0), (1, -1.0, height + 1.0)):
        points = _cut(points, axis, lambda value, least=least: value - least)  # type: ignore[misc]
        points = _cut(points, axis, lambda value, most=most: most - value)  # type: ignore[misc]
    if len(points) > 1:
        canvas = Image.new("1", (width, height))
        ImageDraw.Draw(canvas).polygon(points, fill=1, outline=1)
        marked |= np.asarray(canvas)


def _cut(points: _Points, axis: int, depth: Callable[[float], float]) -> _Points:
    """What is left of a polygon where ``depth`` of a coordinate is not negative."""
    kept: _Points = []
    for one, other in zip(points, points[1:] + points[:1], strict=True):
        here, there = depth(one[axis]), depth(other[axis])
        if here >= 0:
            kept.append(one)
        if (here >= 0) != (there >= 0):
            part = here / (here - there)
            kept.append((one[0] + part * (other[0] - one[0]), one[1] + part * (other[1] - one[1])))
    return kept


def _draw_circle(marked: np.ndarray, shape: Shape) -> None:
    centre, edge = _points(shape, 2)[:2]
    _disc(marked, centre, float(np.hypot(edge[0] - centre[0], edge[1] - centre[1])))


def _draw_points(marked: np.ndarray, shape: Shape) -> None:
    for point in _points(shape, 1):
        _disc(marked, point, POINT_RADIUS)


def _disc(marked: np.ndarray, centre: tuple[float, float], radius: float) -> None:
    y, x = np.ogrid[: marked.shape[0], : marked.shape[1]]
    marked |= (x + 0.5 - centre[0]) ** 2 + (y + 0.5 - centre[1]) ** 2 <= max(radius, 0.75) ** 2


def _draw_line(marked: np.ndarray, shape: Shape) -> None:
    from PIL import Image, ImageDraw

    height, width = marked.shape
    points = np.clip(_points(shape, 2), (-width, -height), (2 * width, 2 * height))
    canvas = Image.new("1", (width, height))
    ImageDraw.Draw(canvas).line([(float(x), float(y)) for x, y in points], fill=1, width=LINE_WIDTH)
    marked |= np.asarray(canvas)


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

    Raises:
        DataError: no such text.

    >>> runs_of("52203")
    [5, 2, 2, 2, 5]
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        digit = ord(letter) - 48
        if not 0 <= digit < 64 or shift > 30:
            raise DataError(f"{text[:20]!r} is no text of runs")
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
        raise DataError(f"a mask that is no PNG in base64 ({error})") from error
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
