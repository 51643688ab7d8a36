"""Attention between image patches and prompts in the joint space, in either direction.

    a = softmax(cos(W_q x, W_k y) / temperature)        out = W_o (a W_v y)

head by head, each with its share of the channels. All four matrices begin as the identity: at first a token takes over
from those that it resembles. With ``a`` held, what a token takes does not depend on it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headlens.precision import full_precision


class CrossAttention(nn.Module):
    """Tokens of one kind ask those of the other.

    Args:
        width: d_e.
        heads: how many; they share the width.
        temperature: of the cosines in the softmax.
        levels: the answer is multiplied by a learned gate for each, which begins at 0.
        device: where.

    >>> attention = CrossAttention(6, heads=2, temperature=0.1, levels=1)
    >>> attention(torch.ones(1, 4, 6), torch.ones(1, 3, 6), level=0).abs().sum().item()
    0.0
    """

    def __init__(
        self, width: int, heads: int, temperature: float, levels: int, device: torch.device | None = None
    ) -> None:
        super().__init__()
        self.heads, self.temperature = heads, temperature
        self.asking, self.asked, self.value, self.out = (nn.Parameter(torch.eye(width, device=device)) for _ in "qkvo")
        self.gate = nn.Parameter(torch.zeros(levels, device=device))

    def forward(self, tokens: Tensor, others: Tensor, level: int) -> Tensor:
        """What tokens [R, n, d_e] take from others [R or 1, m, d_e], times the gate of the level: [R, n, d_e]."""
        with full_precision(tokens.device):
            asking = F.normalize(self._parted(tokens, self.asking), dim=-1)
            asked = F.normalize(self._parted(others, self.asked), dim=-1)
            pattern = (asking @ asked.mT / self.temperature).softmax(-1)  # (R, heads, n, m)
            taken = (pattern @ self._parted(others, self.value)).transpose(1, 2).flatten(2)
            return self.gate[level].to(tokens.dtype) * (taken @ self.out.to(tokens.dtype).T)

    def _parted(self, tokens: Tensor, weight: Tensor) -> Tensor:
        """Tokens [R, n, d_e] through a matrix, [R, heads, n, d_e / heads]."""
        return (tokens @ weight.to(tokens.dtype).T).unflatten(-1, (self.heads, -1)).transpose(1, 2)
