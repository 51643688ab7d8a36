"""Masks that are drawn, against shapes that are known: what is inside, at the edge, thin, outside, and nonsense."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headlens.data.outlines import KINDS, LINE_WIDTH, POINT_RADIUS, Outlines, Shape, runs_of
from headlens.errors import DataError
from tests.data.annotated import compressed, runs

quick = settings(deadline=None, max_examples=150, derandomize=True)
SIZE = (20, 30)


def drawn(*shapes: Shape, size: tuple[int, int] | None = SIZE, image: tuple[int, int] = SIZE) -> np.ndarray:
    return Outlines(Path("a.json"), "a.png", size, shapes).read(image, 10_000).numpy()


def centres() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    return x, y


coordinate = st.floats(-40, 70, width=32).map(lambda value: round(value, 2))
point = st.tuples(coordinate, coordinate)


@quick
@given(st.lists(point, min_size=3, max_size=8))
def test_a_polygon_is_what_is_within_it(points):
    """By the number of its edges that a ray to the left crosses; only one without a centre within marks its edge."""
    x, y = centres()
    crossings = np.zeros(SIZE, int)
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        spans = (y0 <= y) != (y1 <= y)
        with np.errstate(divide="ignore", invalid="ignore"):
            crossings += spans & (x0 + (y - y0) * ((x1 - x0) / np.float64(y1 - y0)) <= x)
    inside = crossings % 2 == 1
    found = drawn(Shape("polygon", points))
    if inside.any():
        assert np.array_equal(found, inside)
    moved = drawn(Shape("polygon", points[2:] + points[:2]))
    backward = drawn(Shape("polygon", points[::-1]))
    if inside.any():
        assert np.array_equal(found, moved)
        assert np.array_equal(found, backward)


@pytest.mark.parametrize(
    "points", [[(3.2, 4.2), (3.3, 4.2), (3.3, 4.3)], [(2, 4.1), (9, 4.2), (2, 4.3)], [(5, 5), (5, 5), (5, 5)]]
)
def test_what_is_thinner_than_a_pixel_is_not_lost(points):
    found = drawn(Shape("polygon", points))
    y, x = found.nonzero()
    assert 1 <= found.sum() <= 8
    assert np.hypot(x + 0.5 - points[0][0], y + 0.5 - points[0][1]).min() < 1


def test_the_kinds_of_labelme():
    x, y = centres()
    box = (x > 4) & (x < 9) & (y > 3) & (y < 12)
    for corners in ([(4, 3), (9, 12)], [(9, 12), (4, 3)], [(4, 12), (9, 3)], [(4, 3), (9, 3), (9, 12), (4, 12)]):
        assert np.array_equal(drawn(Shape("rectangle", corners)), box)
    circle = drawn(Shape("circle", [(10, 10), (13, 14)]))
    assert np.array_equal(circle, np.hypot(x - 10, y - 10) <= 5)
    dot = np.hypot(x - 20, y - 9) <= POINT_RADIUS
    assert np.array_equal(drawn(Shape("point", [(20, 9)])), dot)
    assert np.array_equal(drawn(Shape("points", [(20, 9), (20, 9)])), dot)
    line = drawn(Shape("line", [(8, 10), (22, 10)]))
    assert np.array_equal(line[:, 8:22], (abs(y - 10) <= LINE_WIDTH / 2)[:, 8:22])
    assert np.array_equal(line, drawn(Shape("linestrip", [(8, 10), (15, 10), (22, 10)])))
    assert np.array_equal(drawn(Shape("circle", [(10, 10), (13, 14)]), Shape("point", [(20, 9)])), circle | dot)


@pytest.mark.parametrize("corner", [(3, 2), (-2, -3), (26, 17), (40, 40), (-9, -9)])
def test_a_mask_of_labelme_is_put_where_it_belongs(corner):
    stamp = np.random.default_rng(0).integers(0, 2, (6, 7)).astype(bool)
    file = io.BytesIO()
    Image.fromarray(stamp.astype(np.uint8)).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    found = drawn(Shape("mask", [corner, (corner[0] + 6, corner[1] + 5)], data))
    around = np.zeros((80, 80), bool)
    around[20 + corner[1] : 26 + corner[1], 20 + corner[0] : 27 + corner[0]] = stamp
    assert np.array_equal(found, around[20 : 20 + SIZE[0], 20 : 20 + SIZE[1]])


@quick
@given(st.integers(1, 12), st.integers(1, 12), st.randoms(use_true_random=False), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_runs_are_what_they_were_made_of(height, width, random, density):
    mask = np.array([[random.random() < density for _ in range(width)] for _ in range(height)])
    counts = runs(mask)
    assert runs_of(compressed(counts)) == counts
    for data in (counts, compressed(counts)):
        found = drawn(Shape("runs", [height, width], data), size=(height, width))
        assert np.array_equal(found, mask)


def test_texts_of_runs_that_the_authors_of_coco_made():
    """pycocotools' own encoding of a block of 5 rows and 3 columns, and of long runs, which are differences."""
    block = np.zeros((30, 40), bool)
    block[10:15, 6:9] = True
    assert runs(block) == [190, 5, 25, 5, 25, 5, 945]
    assert compressed(runs(block)) == "n55i0000hl0"
    assert runs_of("n55i0000hl0") == runs(block)


def test_the_size_is_that_of_the_annotation_or_of_the_image():
    square = Shape("polygon", [(0, 0), (5, 0), (5, 5), (0, 5)])
    assert drawn(square, size=None, image=(7, 9)).shape == (7, 9)
    assert drawn(square, size=(7, 9), image=(70, 90)).shape == (7, 9)
    with pytest.raises(DataError, match=r"a\.json: a\.png: 5000x4000 pixels are none, or more than 10000"):
        drawn(square, size=(4000, 5000))


NONSENSE: list[tuple[str, Any, Any]] = [
    ("polygon", [(0, 0), (1, 1)], None),
    ("polygon", None, None),
    ("polygon", [(0, 0, 0)] * 3, None),
    ("polygon", ["ab", "cd", "ef"], None),
    ("polygon", [(0, 0), (math.nan, 0), (1, 1)], None),
    ("polygon", [(0, 0), (math.inf, 0), (1, 1)], None),
    ("polygon", [(0, 0), (1e300, 0), (1, 1)], None),
    ("polygon", [(0, 0), (10**400, 0), (1, 1)], None),
    ("rectangle", [(1, 1)], None),
    ("circle", [(1, 1)], None),
    ("line", [(1, 1)], None),
    ("points", [], None),
    ("mask", [(1, 1)], "no base64 at all"),
    ("mask", [(1, 1)], base64.b64encode(b"no image").decode()),
    ("mask", [(1, 1)], None),
    ("runs", [20, 30], [599]),
    ("runs", [20, 30], [700, -100]),
    ("runs", [20, 30], "\x00"),
    ("runs", [20, 30], None),
    ("runs", [30, 20], [600]),
    ("runs", None, [600]),
    ("runs", [20, 30], [None]),
    ("spline", [(1, 1)], None),
]


@pytest.mark.parametrize(("kind", "points", "data"), NONSENSE)
def test_what_cannot_be_drawn_is_one_error(kind, points, data):
    square = Shape("polygon", [(0, 0), (5, 0), (5, 5), (0, 5)])
    with pytest.raises(DataError, match=r"^a\.json: a\.png: shape 2: .*; draw it again$"):
        drawn(square, Shape(kind, points, data))
    assert kind in KINDS or kind == "spline"


def test_more_than_anyone_draws():
    with pytest.raises(DataError, match="100001 points"):
        drawn(Shape("polygon", [(0, 0)] * 100_001))
    with pytest.raises(DataError, match="10001 shapes are more than"):
        drawn(*[Shape("point", [(0, 0)])] * 10_001)
