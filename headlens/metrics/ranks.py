"""How many of very many scores lie above each of a few.

All exact pixel metrics are sums over defect pixels, 2 or 3 in a hundred, of how many other pixels score higher. So no
label travels through a sort, and not even all scores need one: a pixel whose bin holds no defect pixel only counts, and
one that ties with the lowest defect pixel of its bin does so too. The rest is sorted, as bare values. In the worst
case, everything in one bin, that is one sort of all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from headlens.metrics.binning import Binning

BINS_PER_QUERY, MOST_BINS = 16, 2**24
CACHED = 2**16  # bins whose table is fast to look up


def counts_above(scores: Sequence[Tensor], queries: Tensor) -> tuple[Tensor, Tensor]:
    """How many of ``scores`` are greater than each query, and how many at least as great.

    Args:
        scores: tensors of any shape; together they are one set. On the CPU up to 8 bytes for each score are
            needed beyond that, and 100 MiB for many queries.
        queries: [m] rising, on the same device and of the same dtype.

    Returns:
        Two int64 tensors [m] on the CPU.

    >>> counts_above([torch.tensor([1.0, 2.0]), torch.tensor([2.0, 5.0])], torch.tensor([2.0, 3.0]))
    (tensor([1, 1]), tensor([3, 1]))
    """
    if queries.device.type != "cpu":
        ordered = torch.cat([part.flatten() for part in scores]).sort().values
        right, left = (torch.searchsorted(ordered, queries, right=side) for side in (True, False))
        return (len(ordered) - right).cpu(), (len(ordered) - left).cpu()
    return _counts_on_cpu([part.detach().reshape(-1).numpy() for part in scores], queries.numpy())


def _counts_on_cpu(scores: Sequence[np.ndarray], queries: np.ndarray) -> tuple[Tensor, Tensor]:
    from headlens.metrics.kernels import count_slots, grouped, in_threads, threads_for

    if not len(queries):
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    binning = _binning(queries)
    asked = binning.place(queries).astype(np.int32)
    # Slots: gaps between bins that were asked about are even, bins that were asked about odd.
    slot = np.zeros(binning.slots, np.int32)
    slot[asked] = 2
    np.cumsum(slot, out=slot)
    slot[asked] -= 1
    slots, slot_of = int(slot[-1]) + 2, slot[asked]
    first = queries[np.flatnonzero(np.diff(asked, prepend=-1))]  # the lowest query of each bin that was asked about
    bins = binning.constants(queries.dtype)

    def work(share: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        outside, equal, contested = np.zeros(slots, np.int64), np.zeros(len(first), np.int64), []
        for part in share:
            part = part if binning.bins <= CACHED else grouped(part, bins, CACHED.bit_length() - 1)
            room = np.empty_like(part)
            room.resize(count_slots(part, bins, slot, first, outside, equal, room), refcheck=False)
            contested.append(room)
        return outside, equal, contested

    threads = threads_for(sum(map(len, scores)))
    shares = list(zip(*(np.array_split(part, threads) for part in scores), strict=True))
    outside, equal = np.zeros(slots, np.int64), np.zeros(len(first), np.int64)
    unsorted = [queries[:0]]
    for counted, ties, contested in in_threads(work, shares):
        outside += counted
        equal += ties
        unsorted += contested
    rest = np.concatenate(unsorted)
    rest.sort()

    def above(side: Literal["left", "right"]) -> np.ndarray:
        return (
            _from_here_on(outside)[slot_of]
            + _from_here_on(equal)[np.searchsorted(first, queries, side)]
            + (len(rest) - np.searchsorted(rest, queries, side))
        )

    return torch.from_numpy(above("right")), torch.from_numpy(above("left"))


def _from_here_on(counts: np.ndarray) -> np.ndarray:
    """Sums of ``counts[i:]``, for every i up to the length."""
    return np.append(np.cumsum(counts[::-1])[::-1], 0)


def _binning(queries: np.ndarray) -> Binning:
    low, high = float(queries[0]), float(queries[-1])
    bins = min(MOST_BINS, 2 ** math.ceil(math.log2(BINS_PER_QUERY * len(queries))))
    with np.errstate(over="ignore"):
        step = queries.dtype.type(bins) / queries.dtype.type(high - low) if high > low else np.inf
    # Ranges that the scores' precision cannot hold: one bin for all.
    return Binning(bins, low, high) if np.isfinite(step) and step > 0 else Binning(1, -1.0, 1.0)
