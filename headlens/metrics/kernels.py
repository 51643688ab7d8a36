"""The loops over every pixel, compiled: what is one look at each score would be a dozen passes of numpy.

They let go of the interpreter, so threads run them side by side. Importing this module imports numba, and the first
call compiles, for seconds, once on a machine: so it is imported where it is first needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numba import njit

Array = np.ndarray
Part = TypeVar("Part")
Result = TypeVar("Result")
THREAD_FROM = 2**18  # scores; fewer are counted before a thread has started
LANES = 4  # a power of two


@njit(nogil=True, cache=True)
def count_bins(scores: Array, spaced: Array, bins: Array, pixels: Array, value: Array) -> bool:
    """Adds ``scores`` to the pixels of their bins; ``value`` of a bin is infinity while empty, a tied score, or NaN.

    ``spaced`` is ``Binning.spaced`` of the scores; ``bins`` here and below is ``Binning.constants`` in their precision.
    ``pixels`` [LANES slots] are counted by turns: neighbours are often in one bin, and an addition would wait for the
    one before.

    Returns:
        Whether all scores are finite; it stops at the first that is not.
    """
    low, scale, one, top = bins
    slots = len(value)
    for i in range(len(scores)):
        score = scores[i]
        if not np.isfinite(score):
            return False
        at = int(min(max((spaced[i] - low) * scale + one, 0 * one), top))
        pixels[at + (i & (LANES - 1)) * slots] += 1
        known = value[at]
        if known == known and known != score:  # NaN, that is mixed, stays NaN
            value[at] = score if known == np.inf else np.nan
    return True


@njit(nogil=True, cache=True)
def count_hits(spaced: Array, index: Array, first: int, share: Array, bins: Array, hits: Array, weight: Array) -> None:
    """Adds the defect pixels ``spaced[index - first]``, and their ``share`` of a region, to their bins."""
    low, scale, one, top = bins
    for i in range(len(index)):
        at = int(min(max((spaced[index[i] - first] - low) * scale + one, 0 * one), top))
        hits[at] += 1
        weight[at] += share[i]


@njit(nogil=True, cache=True)
def count_slots(
    scores: Array, bins: Array, slot: Array, first: Array, outside: Array, ties: Array, contested: Array
) -> int:
    """Sorts ``scores`` into slots: even ones are only counted, in odd ones ties with their first query as well.

    Returns:
        How many scores are left, now in ``contested``.
    """
    low, scale, one, top = bins
    left = 0
    for score in scores:
        at = slot[int(min(max((score - low) * scale + one, 0 * one), top))]
        if at & 1 == 0:
            outside[at] += 1
        elif score == first[at >> 1]:
            ties[at >> 1] += 1
        else:
            contested[left] = score
            left += 1
    return left


@njit(nogil=True, cache=True)
def grouped(scores: Array, bins: Array, shift: int) -> Array:
    """``scores`` ordered by ``bin >> shift``: who looks them up in a large table then finds it in the cache."""
    low, scale, one, top = bins
    ends = np.zeros((int(top) >> shift) + 2, np.int64)
    for score in scores:
        ends[(int(min(max((score - low) * scale + one, 0 * one), top)) >> shift) + 1] += 1
    for group in range(1, len(ends)):
        ends[group] += ends[group - 1]
    out = np.empty_like(scores)
    for score in scores:
        group = int(min(max((score - low) * scale + one, 0 * one), top)) >> shift
        out[ends[group]] = score
        ends[group] += 1
    return out


def threads_for(count: int) -> int:
    """How many threads ``count`` scores are worth: 4 at most, for each has counters of its own."""
    return 1 if count < THREAD_FROM else max(1, min(torch.get_num_threads(), 4))


def in_threads(work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """``work`` on every one of ``parts``, side by side; results in order."""
    if len(parts) < 2:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(work, parts))
