"""Learned head weights: a part that any method may carry, on either stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Weighting = Literal["none", "free", "sigmoid", "softmax"]


class HeadWeights(nn.Module):
    """``w[stream, layer, head]``, multiplying each head's output before the output projection. All begin at 1.

    Args:
        grid: layers and heads.
        kind: ``free``, ``sigmoid`` (2σ(a)), or ``softmax`` (H softmax(a) over the heads of a layer).
        streams: those that are weighted.
        device: where.

    >>> weights = HeadWeights((24, 16), "softmax", ("global", "local"))
    >>> {stream: tuple(w.shape) for stream, w in weights().items()}
    {'global': (24, 16), 'local': (24, 16)}
    """

    def __init__(
        self, grid: tuple[int, int], kind: str, streams: Sequence[str], device: torch.device | None = None
    ) -> None:
        super().__init__()
        self.kind = kind
        start = torch.ones if kind == "free" else torch.zeros
        self.raw = nn.ParameterDict({stream: nn.Parameter(start(grid, device=device)) for stream in streams})

    def forward(self) -> dict[str, Tensor]:
        """The weights of each stream, [layers, heads]."""
        return {stream: self._weights(raw) for stream, raw in self.raw.items()}

    def _weights(self, raw: Tensor) -> Tensor:
        if self.kind == "sigmoid":
            return 2 * raw.sigmoid()
        if self.kind == "softmax":
            return raw.shape[1] * raw.softmax(1)
        return raw * 1  # never the parameter itself, which a reader could change in place
