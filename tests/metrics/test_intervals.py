"""Intervals that are found in clips, against loops over single frames."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headlens.errors import ShapeError
from headlens.metrics.intervals import Interval, average_precision, clip_score, found, intervals

flags = st.lists(st.booleans(), max_size=20)
probabilities = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40)
spans = st.tuples(st.integers(0, 12), st.integers(1, 6)).map(lambda pair: (pair[0], sum(pair)))
SCORES = (0.9, 0.7, 0.5, 0.3, 0.1)


@given(flags)
def test_intervals_are_the_frames_in_which_it_happens(happens):
    runs = intervals(happens)
    assert [any(one.start <= i < one.end for one in runs) for i in range(len(happens))] == happens
    assert all(one.end < other.start for one, other in pairwise(runs))


@given(spans, spans)
def test_overlap_is_that_of_the_sets_of_frames(a, b):
    one, other = set(range(*a)), set(range(*b))
    assert Interval(*a).iou(Interval(*b)) == pytest.approx(len(one & other) / len(one | other))


@given(probabilities)
def test_what_is_found_is_above_the_clips_threshold(p):
    top = sum(sorted(p)[-(len(p) // 16 + 1) :]) / (len(p) // 16 + 1)
    assert clip_score(np.array(p)) == pytest.approx(top)
    threshold, runs = max(p) - 0.6 * (max(p) - min(p)), found(p)
    for one in runs:
        inside = p[one.start : one.end]
        assert len(inside) >= 2 and min(inside) > threshold
        assert one.score == pytest.approx(max(inside) + 0.7 * top)
        assert all(p[i] <= threshold for i in (one.start - 1, one.end) if 0 <= i < len(p))
    alone = {i for i, value in enumerate(p) if value > threshold} - {i for one in runs for i in range(*one[:2])}
    assert not any({i - 1, i + 1} & alone for i in alone), "what is missing are single frames"


def naive(found_in: list[list[Interval]], truth_of: list[list[Interval]], iou: float) -> float:
    """By sets of frames, and every precision counted anew."""
    taken: set[tuple[int, int]] = set()
    ranked = sorted(
        ((one.score, clip, one) for clip, each in enumerate(found_in) for one in each), key=lambda it: -it[0]
    )
    right = []
    for _, clip, one in ranked:
        best, at = 0.0, None
        for number, truth in enumerate(truth_of[clip]):
            a, b = set(range(*one[:2])), set(range(*truth[:2]))
            if (clip, number) not in taken and len(a & b) / len(a | b) > best:
                best, at = len(a & b) / len(a | b), number
        right.append(at is not None and best >= iou)
        if right[-1]:
            taken.add((clip, at))
    precisions = [sum(right[: i + 1]) / (i + 1) for i, hit in enumerate(right) if hit]
    return sum(precisions) / sum(map(len, truth_of))


@given(
    st.lists(st.tuples(st.integers(0, 1), spans), max_size=5),
    st.lists(st.tuples(st.integers(0, 1), spans), min_size=1, max_size=4, unique=True),
    st.sampled_from([0.1, 0.3, 0.5]),
)
def test_average_precision_is_that_of_a_plain_loop(some, truths, iou):
    found_in: list[list[Interval]] = [[], []]
    for score, (clip, span) in zip(SCORES, some, strict=False):
        found_in[clip].append(Interval(*span, score))
    truth_of = [[Interval(*span) for clip, span in truths if clip == which] for which in (0, 1)]
    assert average_precision(found_in, truth_of, iou) == pytest.approx(naive(found_in, truth_of, iou))


def test_what_cannot_be_measured():
    assert math.isnan(average_precision([[Interval(0, 2, 0.5)]], [[]]))
    assert average_precision([[]], [[Interval(0, 2)]]) == 0
    with pytest.raises(ShapeError, match="found in 1 clips, and 2 have a truth"):
        average_precision([[]], [[], []])
    with pytest.raises(ShapeError, match=r"have shape \(0,\)"):
        found([])
