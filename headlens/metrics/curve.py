"""Every metric from one list of groups of pixels, each either a tie or in an order nobody recorded.

AUROC, AP, F1max and AUPRO only change where a defect pixel has its score. Negatives enter as two counts per group of
defect pixels, so the exact metrics (every group is a tie), the histogram's certificate (some are not) and a bootstrap
(all bins read as ties) are one computation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from headlens.metrics.threads import one_thread

AUPRO_LIMIT = 0.3


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


@one_thread()
def bounds(groups: Groups, limit: float = AUPRO_LIMIT) -> dict[str, tuple[Tensor, Tensor]]:
    """Lower and upper limits of each metric, [...] float64; they meet where all groups are ties.

    With one class only, all are NaN. The lower limit of F1max is attained, by a threshold between two groups.

    Args:
        groups: see there.
        limit: the false positive rate up to which AUPRO integrates.
    """
    hits, above, through = groups.hits.double(), groups.above.double(), groups.through.double()
    negatives = groups.negatives.double()
    found = hits.cumsum(-1)
    positives = hits.sum(-1)
    total = positives[..., None]
    before = found - hits
    both = (positives > 0) & (negatives > 0)

    loose = None if bool(groups.tied.all()) else ~groups.tied

    def unless_tied(tie: Tensor, otherwise: Callable[[], Tensor]) -> Tensor:
        return tie if loose is None else otherwise().where(loose, tie)

    def defined(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        return lower.where(both, torch.nan), upper.where(both, torch.nan)

    pairs = positives * negatives
    middle = (hits * (negatives[..., None] - (above + through) / 2)).sum(-1) / pairs
    spread = unless_tied(torch.zeros_like(hits), lambda: hits * (through - above) / 2).sum(-1) / pairs
    out = {"auroc": defined(middle - spread, middle + spread)}

    block = _ratio(hits * found, found + through)  # what a tie contributes: all its positives at its own precision
    best = unless_tied(block, lambda: _ratio(hits * found, found + above))
    worst = unless_tied(block, lambda: _negatives_first(hits, before, through))
    out["ap"] = defined(worst.sum(-1) / positives, best.sum(-1) / positives)

    edge = 2 * _ratio(found, found + through + total)
    inside = unless_tied(edge, lambda: 2 * _ratio(found, found + above + total))
    out["f1max"] = defined(_largest(edge), _largest(inside))

    if groups.weight is not None:
        left, right = (count / negatives.clamp(min=1)[..., None] for count in (above, through))
        # Under a tie the curve is a straight line from left to right; one that crosses the limit counts up to there.
        cut = (limit - left).clamp(min=0) ** 2 / (2 * (right - left).clamp(min=1e-300))
        area = (limit - (left + right) / 2).where(right <= limit, cut)
        low = unless_tied(area, lambda: (limit - right).clamp(min=0))
        high = unless_tied(area, lambda: (limit - left).clamp(min=0))
        low, high = ((groups.weight * side).sum(-1) / limit for side in (low, high))
        out["aupro"] = defined(low, high)
    return out


def _negatives_first(hits: Tensor, before: Tensor, through: Tensor) -> Tensor:
    """Sum of the precisions at ``hits`` positives, one by one, after all negatives of the group."""
    harmonic = torch.special.digamma(before + hits + through + 1) - torch.special.digamma(before + through + 1)
    one = _ratio(before + 1, before + 1 + through)  # the difference of two digammas is coarse where it can be avoided
    return (hits - through * harmonic).where(hits > 1, hits * one).where(through > 0, hits)


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """``top / bottom``, and 0 where both are."""
    return top / bottom.where(bottom != 0, 1)


def _largest(values: Tensor) -> Tensor:
    return values.amax(-1) if values.shape[-1] else values.new_full(values.shape[:-1], torch.nan)
