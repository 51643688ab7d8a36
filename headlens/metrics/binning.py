"""Scores to numbers of bins, monotonically: all that ranks and certificates need of a binning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from torch import Tensor

from headlens.errors import MetricError

Scores = TypeVar("Scores", Tensor, np.ndarray)


@dataclass(frozen=True)
class Binning:
    """``bins`` bins of equal width over [low, high), one below them (number 0) and one above (``bins + 1``).

    Rounding may put a score that is next to an edge into the other bin, in the same way on every device. It never
    changes the order of two scores.

    >>> Binning(4).place(np.array([-3.0, 0.0, 0.3, 1.0], dtype=np.float32))
    array([0. , 1. , 2.2, 5. ], dtype=float32)
    """

    bins: int
    low: float = 0.0
    high: float = 1.0

    def checked(self) -> Binning:
        """Itself.

        Raises:
            MetricError: bins or a range that float32 cannot tell apart: compiled loops would count beside the counters.
        """
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            good = 1 <= self.bins <= 2**24 and self.low < self.high
            low, scale = self.constants(np.float32)[:2] if good else (0.0, 0.0)
        if not (good and np.isfinite([low, scale]).all() and scale > 0):
            raise MetricError(
                f"{self.bins} bins over {self.low} to {self.high}; expected 1 to {2**24} bins over a range from low to "
                "high that float32 can divide"
            )
        return self

    @property
    def slots(self) -> int:
        """All bins, the two outer ones included."""
        return self.bins + 2

    def constants(self, dtype: np.dtype | type) -> np.ndarray:
        """Low end, bins per unit, one, and the highest number, in the scores' precision: what compiled loops need.

        >>> Binning(4).constants(np.float32)
        array([0., 4., 1., 5.], dtype=float32)
        """
        return np.array([self.low, self.bins / (self.high - self.low), 1, self.bins + 1], dtype)

    def place(self, scores: Scores) -> Scores:
        """The number of each score's bin once its fraction is cut off, in the scores' precision."""
        placed = (scores - self.low) * (self.bins / (self.high - self.low))
        placed += 1
        return placed.clip(0, self.bins + 1)
