"""Scores to numbers of bins, monotonically: all that ranks and certificates need of a binning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from headlens.errors import MetricError
from headlens.units import Unit, logit

Scores = TypeVar("Scores", Tensor, np.ndarray)
_FINE = 2.0**-6  # logits below it have bins of one width, those above of one ratio
_REACH = {"probability": (-88.0, 17.0), "logit": (-24.0, 24.0)}  # all that float32 knows; octaves above _FINE


@dataclass(frozen=True)
class Binning:
    """``bins`` bins over [low, high), one below them (number 0) and one above (``bins + 1``).

    Rounding may put a score that is next to an edge into the other bin: in the same way on every device, but for
    probabilities, whose logarithm devices round each in their way. It never changes the order of two scores.

    Args:
        bins: how many.
        low, high: of the scores, or of what the spacing makes of them.
        spacing: bins have equal width in the score (``even``), in the logit of a ``probability``, or, of a ``logit``,
            in octaves: 1,365 of 65,536 bins for each octave from 1/64 to 262,144, of either sign.

    >>> Binning(4).place(np.array([-3.0, 0.0, 0.3, 1.0], dtype=np.float32))
    array([0. , 1. , 2.2, 5. ], dtype=float32)
    """

    bins: int
    low: float = 0.0
    high: float = 1.0
    spacing: Literal["even", "probability", "logit"] = "even"

    @classmethod
    def of(cls, unit: Unit, bins: int = 2**16) -> Binning:
        """Over all scores of a unit, wherever they lie.

        >>> Binning.of("logit", 48).place(torch.tensor([-1e30, -1.0, 0.0, 1.0, 100.0]))
        tensor([ 0.0000, 18.9844, 25.0000, 31.0156, 37.5627])
        """
        return cls(bins, *_REACH[unit], unit)

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

    def __str__(self) -> str:
        """Where scores are expected."""
        even = self.spacing == "even"
        return f"score_range {self.low:g} to {self.high:g}" if even else f"what the bins of a {self.spacing} tell apart"

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

    def spaced(self, scores: Scores) -> Scores:
        """Scores on the scale on which bins have equal width, in the same order; itself where the spacing is even."""
        if self.spacing == "even" or not isinstance(scores, Tensor):
            return scores
        return logit(scores.float()) if self.spacing == "probability" else _octaves(scores.float())

    def place(self, scores: Scores) -> Scores:
        """The number of each score's bin once its fraction is cut off, in the scores' precision."""
        placed = (self.spaced(scores) - self.low) * (self.bins / (self.high - self.low))
        placed += 1
        return placed.clip(0, self.bins + 1)


def _octaves(scores: Tensor) -> Tensor:
    """About ``sign(x) log2(1 + |x| / 2**-6)``, made of the bits of float32: no rounding changes an order.

    A float's bits, read as an integer, are its logarithm, with straight lines between powers of two.
    """
    bits = scores.abs().add_(_FINE).view(torch.int32)
    bits -= torch.tensor(_FINE).view(torch.int32).item()
    return bits.float().mul_(2.0**-23).copysign_(scores)
