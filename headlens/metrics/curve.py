"""Every metric from one list of groups of pixels, each either a tie or in an order that was not recorded.

AUROC, AP, F1max and AUPRO only change where a defect pixel has its score. Negatives enter as two counts per group of
defect pixels, so the exact metrics (every group is a tie), the histogram's certificate (some are not) and a bootstrap
(all bins read as ties) are one computation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headlens.devices import one_thread
from headlens.metrics.ranks import counts_above

AUPRO_LIMIT = 0.3
AT_ONCE = 2**14  # groups


@dataclass(frozen=True)
class Groups:
    """K groups of positives in falling order of score, for any leading axes.

    Args:
        hits: [..., K] positives in each group.
        above: [..., K] negatives that score higher than the group.
        through: [..., K] those and the negatives inside it.
        negatives: [...] all negatives.
        tied: [..., K] whether a group is one tied score; otherwise any order and any ties inside it are possible.
        weight: [..., K] the group's share of all regions, each region counting the same; None for labels of images.
    """

    hits: Tensor
    above: Tensor
    through: Tensor
    negatives: Tensor
    tied: Tensor
    weight: Tensor | None = None

    @classmethod
    def of_bins(
        cls, hits: Tensor, negatives: Tensor, some: Tensor, tied: Tensor | None = None, weight: Tensor | None = None
    ) -> Groups:
        """Of the positives and negatives [..., K] of bins in falling order; ties, where ``tied`` does not say.

        Args:
            hits, negatives: how many each bin has.
            some: [K] bool: bins that become groups, all that have a positive. ``tied`` and ``weight`` are of these.
        """
        through = negatives.cumsum(-1)
        above = (through - negatives)[..., some]
        tied = torch.ones(1, dtype=torch.bool, device=hits.device) if tied is None else tied
        return cls(hits[..., some], above, through[..., some], through[..., -1], tied, weight)

    def metrics(self, limit: float = AUPRO_LIMIT) -> dict[str, Tensor]:
        """The lower limit of each metric, see ``bounds``: its value where all groups are ties."""
        return {name: lower for name, (lower, _) in bounds(self, limit).items()}


@one_thread()
def bounds(groups: Groups, limit: float = AUPRO_LIMIT) -> dict[str, tuple[Tensor, Tensor]]:
    """Lower and upper limits of each metric, [...] float64; they meet where all groups are ties.

    With one class only, all are NaN. The lower limit of F1max is attained, by a threshold between two groups.

    Args:
        limit: the false positive rate up to which AUPRO integrates.
    """
    hits = groups.hits.double()
    negatives, positives = groups.negatives.double(), hits.sum(-1)
    so_far = hits.cumsum(-1)
    sums: dict[str, Tensor] = {}
    for first in range(0, max(1, hits.shape[-1]), AT_ONCE):  # what is worked out on the way stays small
        chunk = slice(first, first + AT_ONCE)
        part = Groups(
            hits[..., chunk],
            groups.above[..., chunk].double(),
            groups.through[..., chunk].double(),
            negatives,
            groups.tied if groups.tied.shape[-1] == 1 else groups.tied[..., chunk],
            None if groups.weight is None else groups.weight[..., chunk],
        )
        for name, value in _terms(part, so_far[..., chunk], positives, limit).items():
            join = torch.maximum if name.startswith("f1") else torch.add
            sums[name] = join(sums[name], value) if name in sums else value

    both, pairs = (positives > 0) & (negatives > 0), positives * negatives
    middle, spread = sums["middle"] / pairs, sums["spread"] / pairs
    limits = {
        "auroc": (middle - spread, middle + spread),
        "ap": (sums["ap worst"] / positives, sums["ap best"] / positives),
        "f1max": (sums["f1 edge"], sums["f1 inside"]),
    }
    if groups.weight is not None:
        limits["aupro"] = (sums["aupro low"] / limit, sums["aupro high"] / limit)
    return {name: (low.where(both, torch.nan), high.where(both, torch.nan)) for name, (low, high) in limits.items()}


def _terms(groups: Groups, so_far: Tensor, positives: Tensor, limit: float) -> dict[str, Tensor]:
    """What some of the groups add to each limit, [...]; the F1s are the largest among them.

    Args:
        groups: float64.
        so_far: [..., K] positives up to and including each group.
        positives: [...] all there are.
        limit: see ``bounds``.
    """
    hits, above, through = groups.hits, groups.above, groups.through
    negatives, total = groups.negatives[..., None], positives[..., None]
    loose = None if bool(groups.tied.all()) else ~groups.tied

    def unless_tied(tie: Tensor, otherwise: Callable[[], Tensor]) -> Tensor:
        return tie if loose is None else otherwise().where(loose, tie)

    terms = {"middle": hits * (negatives - (above + through) / 2)}
    terms["spread"] = unless_tied(torch.zeros_like(hits), lambda: hits * (through - above) / 2)

    block = _ratio(hits * so_far, so_far + through)  # what a tie contributes: all its positives at their precision
    terms["ap best"] = unless_tied(block, lambda: _ratio(hits * so_far, so_far + above))
    terms["ap worst"] = unless_tied(block, lambda: _negatives_first(hits, so_far - hits, through))

    if groups.weight is not None:
        left, right = (count / negatives.clamp(min=1) for count in (above, through))
        # Under a tie the curve is a straight line from left to right; one that crosses the limit counts up to there.
        cut = (limit - left).clamp(min=0) ** 2 / (2 * (right - left).clamp(min=1e-300))
        area = (limit - (left + right) / 2).where(right <= limit, cut)
        terms["aupro low"] = groups.weight * unless_tied(area, lambda: (limit - right).clamp(min=0))
        terms["aupro high"] = groups.weight * unless_tied(area, lambda: (limit - left).clamp(min=0))

    edge = 2 * _ratio(so_far, so_far + through + total)
    inside = unless_tied(edge, lambda: 2 * _ratio(so_far, so_far + above + total))
    sums = {name: term.sum(-1) for name, term in terms.items()}
    return {**sums, "f1 edge": _largest(edge), "f1 inside": _largest(inside)}


def _negatives_first(hits: Tensor, before: Tensor, through: Tensor) -> Tensor:
    """Sum of the precisions at ``hits`` positives, one by one, after all negatives of the group."""
    harmonic = torch.special.digamma(before + hits + through + 1) - torch.special.digamma(before + through + 1)
    one = _ratio(before + 1, before + 1 + through)  # the difference of two digammas is coarse where it can be avoided
    coarse = 4e-15 * (before + hits + through)  # of two digammas of large numbers
    several = (hits - through * harmonic - coarse).clamp(min=0)
    return several.where(hits > 1, hits * one).where(through > 0, hits)


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """``top / bottom``, and 0 where both are."""
    return top / bottom.where(bottom != 0, 1)


def _largest(values: Tensor) -> Tensor:
    return values.amax(-1) if values.shape[-1] else values.new_full(values.shape[:-1], torch.nan)


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
    with one_thread():
        ordered, order = hits.sort()
        values, each = ordered.unique_consecutive(return_counts=True)
    each, share = each.cpu(), None
    greater, at_least = counts_above(scores, values)
    with one_thread():
        if area_at is not None:
            risen = torch.cat([torch.zeros(1, dtype=torch.float64), (1 / area_at[order].cpu().double()).cumsum(0)])
            ends = each.cumsum(0)
            share = (risen[ends] - risen[ends - each]) / regions
        higher = len(hits) - each.cumsum(0)  # positives above each value
        return Groups(
            hits=each.flip(0),
            above=(greater - higher).flip(0),
            through=(at_least - higher - each).flip(0),
            negatives=torch.tensor(sum(part.numel() for part in scores) - len(hits)),
            tied=torch.ones(len(each), dtype=torch.bool),
            weight=None if share is None else share.flip(0),
        ).metrics(limit)
