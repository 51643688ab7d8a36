"""Maps of probabilities as pixel metrics stream them: logits, of maps that are checked to have one."""

from __future__ import annotations

import math

import torch

from headlens.errors import MetricError

LOGITS = (-88.0, 17.0)
"""Of any probability that float32 can tell from 0 and 1."""
_ROUNDING = 1e-5


class Reach:
    """The lowest and the highest value of maps, kept where they are: looking waits for the device, adding does not.

    Args:
        who: whose maps, for the message.
    """

    def __init__(self, who: str) -> None:
        self.who = who
        self._ends: torch.Tensor | None = None  # of all maps so far, the low ends negated

    def add(self, maps: torch.Tensor) -> None:
        """Takes maps into account; the first ones are looked at, for a mistake shows in them."""
        if not maps.numel():
            return
        low, high = torch.aminmax(maps)
        ends = torch.stack([-low, high])
        first = self._ends is None
        self._ends = ends if self._ends is None else torch.maximum(self._ends, ends)
        if first:
            self.check()

    def check(self) -> None:
        """Raises MetricError where maps are not finite, or leave 0 to 1 by more than rounding."""
        if self._ends is None:
            return
        low, high = (self._ends * torch.tensor([-1, 1], device=self._ends.device)).tolist()
        if not (math.isfinite(low) and math.isfinite(high)):
            raise MetricError(f"{self.who} gives maps with values that are not a number, or infinite")
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            raise MetricError(
                f"{self.who} gives maps from {low:.4g} to {high:.4g}: streaming pixel metrics are of probabilities, 0 "
                "to 1; evaluate with exact=True (eval --exact), or give probabilities"
            )


def logit(maps: torch.Tensor) -> torch.Tensor:
    """Keeps the order, and tells apart what bins over 0..1 cannot: most of a trained map lies below 1e-6."""
    numbers = torch.finfo(torch.float32)
    return torch.logit(maps.float().clamp(numbers.tiny, 1 - numbers.eps / 2))
