"""When something happens in a clip, and average precision of what is found, as VadCLIP (arXiv 2308.11681) has it.

A kind of anomaly is found where its probability is above a threshold of the clip's own: 60 % of its range below its
maximum, in at least two frames. Over clips, what is found counts as right where it overlaps with an interval that
nothing else was found for, by an intersection over union of at least ``iou``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from headlens.errors import ShapeError

BELOW = 0.6
"""Of the range of a clip's probabilities: how far below its maximum something is still found."""
LEAST = 2
"""Frames."""
OF_CLIP = 0.7
"""What the clip's own score counts in that of an interval."""


class Interval(NamedTuple):
    """Frames ``start`` to ``end``, which is excluded; ``score`` of one that was found."""

    start: int
    end: int
    score: float = 0.0

    def iou(self, other: Interval) -> float:
        """Intersection over union with another.

        >>> Interval(0, 4).iou(Interval(2, 6))
        0.3333333333333333
        """
        shared = max(0, min(self.end, other.end) - max(self.start, other.start))
        return shared / (self.end - self.start + other.end - other.start - shared)


def intervals(happens: Sequence[bool] | np.ndarray) -> list[Interval]:
    """Runs of frames [n] in which something happens.

    >>> intervals([False, True, True, False, True])
    [Interval(start=1, end=3, score=0.0), Interval(start=4, end=5, score=0.0)]
    """
    runs, start = [], 0
    for value, group in groupby(np.asarray(happens, bool).tolist()):
        count = len(list(group))
        runs += [Interval(start, start + count)] if value else []
        start += count
    return runs


def clip_score(probabilities: np.ndarray) -> float:
    """Of frames [n] to one of their clip: the mean of the highest n // 16 + 1."""
    return float(np.sort(probabilities)[::-1][: len(probabilities) // 16 + 1].mean())


def found(probabilities: Sequence[float] | np.ndarray) -> list[Interval]:
    """Where a kind of anomaly is found in a clip, by its probability in each frame [n].

    An interval's score is its highest probability and 0.7 times that of the clip.

    Raises:
        ShapeError: no frame, or something else than one number for each.
    """
    p = np.asarray(probabilities, float)
    if p.ndim != 1 or not len(p):
        raise ShapeError(f"probabilities of frames have shape {p.shape}; expected [n] of one frame or more")
    above = p > p.max() - BELOW * (p.max() - p.min())
    of_clip = OF_CLIP * clip_score(p)
    return [
        one._replace(score=float(p[one.start : one.end].max()) + of_clip)
        for one in intervals(above)
        if one.end - one.start >= LEAST
    ]


def average_precision(
    found_in: Sequence[Sequence[Interval]], truth_of: Sequence[Sequence[Interval]], iou: float = 0.5
) -> float:
    """Of one kind over clips: what was found in each, by falling score, against when it happens; NaN if it never does.

    Args:
        found_in, truth_of: a list for each clip.
        iou: from which on what was found is right.

    Raises:
        ShapeError: not as many clips.

    >>> average_precision([[Interval(0, 4, 0.9), Interval(6, 8, 0.5)]], [[Interval(0, 5)]])
    1.0
    """
    if len(found_in) != len(truth_of):
        raise ShapeError(f"intervals were found in {len(found_in)} clips, and {len(truth_of)} have a truth")
    left, count = [list(truth) for truth in truth_of], sum(map(len, truth_of))
    if not count:
        return float("nan")
    ranked = sorted(
        ((one.score, clip, one) for clip, each in enumerate(found_in) for one in each), key=lambda it: -it[0]
    )
    hits = np.zeros(len(ranked))
    for place, (_, clip, one) in enumerate(ranked):
        best = max(left[clip], key=one.iou, default=None)
        if best is not None and one.iou(best) >= iou:
            left[clip].remove(best)
            hits[place] = 1
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / count)
