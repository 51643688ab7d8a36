"""The AUPRO of many printed tables: 200 thresholds at equal steps of the score, as cflow-ad's code introduced it.

It is here to be compared with those tables and for nothing else. Its thresholds are equally spaced in score, so it
changes when the maps pass through a monotone function, and one bright pixel moves it; points beyond a false positive
rate of 0.3 are dropped and the rest is stretched to [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from headlens.metrics.checks import checked_scores, same_shape
from headlens.metrics.curve import AUPRO_LIMIT
from headlens.metrics.ranks import counts_above
from headlens.metrics.truth import Truth

STEPS = 200


def cflow200(maps: Tensor, truth: Truth) -> Tensor:
    """The 200-threshold AUPRO of maps [B, H, W], a float64 scalar; NaN where fewer than two points are left.

    Raises:
        MetricError: a NaN or infinite score.
        ShapeError: shapes that differ.

    >>> truth = Truth.of(torch.tensor([[[0, 0, 0, 0, 1]]]))
    >>> cflow200(torch.tensor([[[0.0, 0.1, 0.2, 0.3, 1.0]]]), truth)
    tensor(1., dtype=torch.float64)
    """
    same_shape(maps, truth.shape, "maps and masks", 3)
    scores = checked_scores(maps, "maps").flatten()
    truth = truth.to(maps.device)
    return stepwise_aupro([scores], scores[truth.index], truth.area_at, truth.regions)


def stepwise_aupro(scores: Sequence[Tensor], hits: Tensor, area_at: Tensor, regions: int) -> Tensor:
    """The same of scores held in parts; arguments as ``exact_metrics`` has them."""
    undefined = torch.tensor(torch.nan, dtype=torch.float64)
    negatives = sum(part.numel() for part in scores) - len(hits)
    if not regions or not negatives:
        return undefined
    ends = torch.stack([end.to(hits.dtype) for part in scores if part.numel() for end in torch.aminmax(part)]).cpu()
    precision = np.float64 if hits.dtype == torch.float64 else np.float32
    low, high = precision(ends.min()), precision(ends.max())
    step = (high - low) / STEPS  # in the scores' precision, as the original has it
    if not (np.isfinite(step) and step > 0):
        return undefined
    steps = np.arange(low, high, step)  # float64, also of float32 scores
    near = steps.astype(precision)
    down = np.where(near > steps, np.nextafter(near, precision(-np.inf)), near)  # the same scores exceed it as a step
    thresholds = torch.from_numpy(down).to(hits.device)
    above, _ = counts_above([part.to(hits.dtype) for part in scores], thresholds)
    ordered, order = hits.sort()
    first = torch.searchsorted(ordered, thresholds, right=True)
    missed = torch.cat([torch.zeros(1, dtype=torch.float64), (1 / area_at[order].double()).cumsum(0).cpu()])
    first = first.cpu()
    overlap = 1 - missed[first] / regions
    rate = (above - (len(hits) - first)).double() / negatives
    low_rate = rate < AUPRO_LIMIT
    rate, overlap = rate[low_rate], overlap[low_rate]
    if len(rate) < 2 or rate[0] == rate[-1]:
        return undefined
    rate = (rate - rate[-1]) / (rate[0] - rate[-1])  # falls from 1 to 0 as the thresholds rise
    return torch.trapezoid(overlap.flip(0), rate.flip(0))
