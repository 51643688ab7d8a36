"""What a score's numbers are: a probability, or a logit. Scores and maps carry their unit, and consumers respect it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from headlens.errors import MetricError

Unit = Literal["probability", "logit"]
"""A probability lies in 0..1, a logit is any finite number. Higher is more anomalous in both."""
PLURAL: dict[Unit, str] = {"probability": "probabilities", "logit": "logits"}
_ROUNDING = 1e-5  # by which a probability may leave 0..1


def logit(probability: Tensor) -> Tensor:
    """Log odds of any shape, finite even at 0 and 1, and exact near 0, where most of a trained map is.

    >>> logit(torch.tensor([0.0, 0.5, 1.0])).round()
    tensor([-87.,   0.,  17.])
    """
    numbers = torch.finfo(probability.dtype)
    return torch.logit(probability.clamp(numbers.tiny, 1 - numbers.eps / 2))


def with_unit(number: str, unit: Unit) -> str:
    """A score as titles and tables say it.

    >>> with_unit("0.52", "probability"), with_unit("-3.1", "logit")
    ('0.52', '-3.1 logits')
    """
    return number if unit == "probability" else f"{number} logits"


def check_unit(low: float, high: float, unit: Unit, who: str) -> None:
    """Raises MetricError where values from ``low`` to ``high`` that ``who`` gives are not of that unit.

    >>> check_unit(0.0, 255.0, "probability", "MyDetector")
    Traceback (most recent call last):
    headlens.errors.MetricError: MyDetector gives values from 0 to 255 and calls them probabilities, which lie in 0 to \
1; predictions of any other range have unit="logit"
    """
    if not (abs(low) < float("inf") and abs(high) < float("inf")):  # NaN is not, either
        raise MetricError(f"{who} gives values that are not a number, or infinite")
    if unit == "probability" and (low < -_ROUNDING or high > 1 + _ROUNDING):
        raise MetricError(
            f"{who} gives values from {low:.4g} to {high:.4g} and calls them probabilities, which lie in 0 to 1; "
            'predictions of any other range have unit="logit"'
        )
