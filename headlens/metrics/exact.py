"""Exact metrics of scores held in full: every distinct score of a positive is one tie."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headlens.metrics.curve import AUPRO_LIMIT, Groups, bounds
from headlens.metrics.ranks import counts_above


def exact_metrics(
    scores: Sequence[Tensor], hits: Tensor, area_at: Tensor | None = None, regions: int = 0, limit: float = AUPRO_LIMIT
) -> dict[str, Tensor]:
    """AUROC, AP and F1max, and AUPRO where regions are given; float64, on the CPU. Undefined is NaN.

    Args:
        scores: all of them, in tensors of any shape.
        hits: [P] the positives' own once more, in any order, on the same device and of the same dtype.
        area_at: [P] the area of the region each positive belongs to.
        regions: how many there are.
        limit: the false positive rate up to which AUPRO integrates.

    >>> exact_metrics([torch.tensor([0.1, 0.4, 0.35, 0.8])], torch.tensor([0.35, 0.8]))["auroc"]
    tensor(0.7500, dtype=torch.float64)
    """
    scores = [part.to(hits.dtype) for part in scores]  # as float64 where any of them is
    order = hits.argsort()
    values, each = hits[order].unique_consecutive(return_counts=True)
    greater, at_least = counts_above(scores, values)
    each = each.cpu()
    ends = each.cumsum(0)
    above_hits = len(hits) - ends
    negatives = torch.tensor(sum(part.numel() for part in scores) - len(hits))
    weight = None
    if area_at is not None:
        risen = torch.cat([torch.zeros(1, dtype=torch.float64), (1 / area_at[order].double()).cumsum(0).cpu()])
        weight = (risen[ends] - risen[ends - each]) / regions
    groups = Groups(
        hits=each.flip(0),
        above=(greater - above_hits).flip(0),
        through=(at_least - above_hits - each).flip(0),
        negatives=negatives,
        tied=torch.ones(len(each), dtype=torch.bool),
        weight=None if weight is None else weight.flip(0),
    )
    return {name: lower for name, (lower, _) in bounds(groups, limit).items()}
