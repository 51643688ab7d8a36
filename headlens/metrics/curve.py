"""Every metric from one list of groups of pixels, each either a tie or in an order nobody recorded.

AUROC, AP, F1max and AUPRO only change where a defect pixel has its score. Negatives enter as two counts per group of
defect pixels, so the exact metrics (every group is a tie), the histogram's certificate (some are not) and a bootstrap
(all bins read as ties) are one computation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
            All NaN where there is no region.
    """

    hits: Tensor
    above: Tensor
    through: Tensor
    negatives: Tensor
    tied: Tensor
    weight: Tensor | None = None


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

    def defined(lower: Tensor, upper: Tensor, where: Tensor = both) -> tuple[Tensor, Tensor]:
        return lower.where(where, torch.nan), upper.where(where, torch.nan)

    pairs = positives * negatives
    middle = (hits * (negatives[..., None] - (above + through) / 2)).sum(-1) / pairs
    spread = (hits * (through - above) / 2).where(~groups.tied, 0).sum(-1) / pairs
    out = {"auroc": defined(middle - spread, middle + spread)}

    block = _ratio(hits * found, found + through)  # what a tie contributes: all its positives at its own precision
    best = _ratio(hits * found, found + above).where(~groups.tied, block)
    worst = block if bool(groups.tied.all()) else _negatives_first(hits, before, through).where(~groups.tied, block)
    out["ap"] = defined(worst.sum(-1) / positives, best.sum(-1) / positives)

    # A group without positives is no threshold worth choosing, and one that is no tie may end anywhere inside.
    edge = 2 * _ratio(found, found + through + total)
    inside = 2 * _ratio(found, found + above.where(~groups.tied, through) + total)
    out["f1max"] = defined(_largest(edge), _largest(inside))

    if groups.weight is not None:
        left, right = (count / negatives.clamp(min=1)[..., None] for count in (above, through))
        cut = (limit - left).clamp(min=0) ** 2 / (2 * (right - left).clamp(min=1e-300))
        area = (limit - (left + right) / 2).where(right <= limit, cut)
        low, high = (
            (groups.weight * (limit - rate).clamp(min=0).where(~groups.tied, area)).sum(-1) / limit
            for rate in (right, left)
        )
        out["aupro"] = defined(low, high, negatives > 0)
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
