"""How many of very many scores lie above each of a few.

All exact pixel metrics are sums over defect pixels, 2 or 3 in a hundred, of how many other pixels score higher. So no
label travels through a sort, and not even all scores need one: a pixel whose bin holds no defect pixel only counts.
What shares a bin with one is sorted, as bare values. In the worst case, everything in one bin, that is one sort of all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from headlens.metrics.binning import Binning
from headlens.metrics.threads import shares

BINS_PER_QUERY, MOST_BINS = 8, 2**24
BLOCK = 2**18  # scores at a time: what is worked out on the way stays in the cache


def counts_above(scores: Sequence[Tensor], queries: Tensor) -> tuple[Tensor, Tensor]:
    """How many of ``scores`` are greater than each query, and how many at least as great.

    Args:
        scores: tensors of any shape; together they are one set. On the CPU beyond that 4 bytes for each score that
            shares a bin with a query, and 64 MiB at most, are needed.
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
    greater, at_least = _counts_on_cpu(
        [block for part in scores for block in part.flatten().split(BLOCK)], queries.numpy()
    )
    return torch.from_numpy(greater), torch.from_numpy(at_least)


def _counts_on_cpu(blocks: Sequence[Tensor], queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not len(queries):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    binning = _binning(queries)
    asked = binning.place(queries).astype(np.int32)
    # Slots: gaps between bins that were asked about are even, bins that were asked about odd.
    slot = np.zeros(binning.slots, np.int32)
    slot[asked] = 2
    np.cumsum(slot, out=slot)
    last = int(slot[-1])
    slot[asked] -= 1

    def tally(blocks: Sequence[Tensor]) -> tuple[Tensor, list[np.ndarray]]:
        counts, one, contested = torch.zeros(last + 1, dtype=torch.int32), torch.ones(BLOCK, dtype=torch.int32), []
        for block in blocks:
            scores = block.numpy()
            at = slot.take(binning.place(scores).astype(np.int32))
            counts.scatter_add_(0, torch.from_numpy(at.astype(np.int64)), one[: len(at)])
            contested.append(scores[(at & 1).astype(bool)])
        return counts, contested

    tallies = shares(tally, blocks)
    shared = np.concatenate([queries[:0], *(part for _, contested in tallies for part in contested)])
    outside = sum((counts for counts, _ in tallies), torch.zeros(1, dtype=torch.int64))
    del tallies
    shared.sort()
    outside[1::2] = 0  # those are in ``shared``
    above = outside.flip(0).cumsum(0).flip(0).numpy()[slot[asked]]
    greater, at_least = (len(shared) - np.searchsorted(shared, queries, side=side) for side in ("right", "left"))
    return above + greater, above + at_least


def _binning(queries: np.ndarray) -> Binning:
    low, high = float(queries[0]), float(queries[-1])
    bins = min(MOST_BINS, 2 ** math.ceil(math.log2(BINS_PER_QUERY * len(queries))))
    with np.errstate(over="ignore"):
        step = queries.dtype.type(bins) / queries.dtype.type(high - low) if high > low else np.inf
    # Ranges that the scores' own precision cannot hold: one bin for all.
    return Binning(bins, low, high) if np.isfinite(step) and step > 0 else Binning(1, -1.0, 1.0)
