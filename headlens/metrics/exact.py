"""Exact metrics of scores held in full: every distinct score of a positive is one tie."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headlens.metrics.curve import AUPRO_LIMIT, Groups, bounds
from headlens.metrics.ranks import counts_above
from headlens.metrics.threads import one_thread


def exact_metrics(
    scores: Sequence[Tensor], hits: Tensor, area_at: Tensor | None = None, regions: int = 0, limit: float = AUPRO_LIMIT
) -> dict[str, Tensor]:
    """AUROC, AP and F1max, and AUPRO where regions are given; float64, on the CPU. Undefined is NaN.

    Args:
        scores: all of them, in tensors of any shape.
        hits: [P] the positives' scores once more, in any order, on the same device and of the same dtype.
        area_at: [P] the area of the region each positive belongs to.
        regions: how many there are.
        limit: the false positive rate up to which AUPRO integrates.

    >>> exact_metrics([torch.tensor([0.1, 0.4, 0.35, 0.8])], torch.tensor([0.35, 0.8]))["auroc"]
    tensor(0.7500, dtype=torch.float64)
    """
    scores = [part.to(hits.dtype) for part in scores]  # as float64 where any of them is
    values, each, share = _distinct(hits, area_at)
    greater, at_least = counts_above(scores, values)
    with one_thread():
        higher = len(hits) - each.cumsum(0)  # positives above each value
        groups = Groups(
            hits=each.flip(0),
            above=(greater - higher).flip(0),
            through=(at_least - higher - each).flip(0),
            negatives=torch.tensor(sum(part.numel() for part in scores) - len(hits)),
            tied=torch.ones(len(each), dtype=torch.bool),
            weight=None if share is None else (share / regions).flip(0),
        )
        return {name: lower for name, (lower, _) in bounds(groups, limit).items()}


@one_thread()
def _distinct(hits: Tensor, area_at: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Distinct scores, rising; how many positives have each; and the sum of 1 / area over those. Counts on the CPU."""
    ordered, order = hits.sort()
    values, each = ordered.unique_consecutive(return_counts=True)
    each = each.cpu()
    if area_at is None:
        return values, each, None
    risen = torch.cat([torch.zeros(1, dtype=torch.float64), (1 / area_at[order].cpu().double()).cumsum(0)])
    ends = each.cumsum(0)
    return values, each, risen[ends] - risen[ends - each]
