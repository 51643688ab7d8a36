"""Learned maps on a residual stream that stand after blocks, and in place of a tower's projection.

    y = LeakyReLU(W x)        x <- mix y |x| / |y| + (1 - mix) x

with the norms of each token (AA-CLIP, arXiv 2503.06661).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headlens.detectors.parts.projections import seeded_linear

_SLOPE = 0.01  # of LeakyReLU below 0


class ResidualAdapter(nn.Module):
    """What a linear map and LeakyReLU make of a token, brought to the token's length and mixed into it.

    With the signs of ``W x`` and both norms held it is a linear map of the token.

    Args:
        width: D.
        mix: its share; 0 leaves every token as it is.
        generator: of the initial matrix, on the CPU.
        device: where.
    """

    def __init__(self, width: int, mix: float, generator: torch.Generator, device: torch.device | None = None) -> None:
        super().__init__()
        self.mix = mix
        self.linear = seeded_linear(width, width, bias=False, init="xavier", generator=generator, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """The stream [B, T, D] to what goes on."""
        hidden = _leaky(x, self.linear.weight)
        return self.mix * F.normalize(hidden, dim=-1) * x.norm(dim=-1, keepdim=True) + (1 - self.mix) * x

    def pull(self, x: Tensor, covector: Tensor) -> Tensor:
        """``r`` with ``<adapter(x), covector> = <x, r>``, signs and norms held; [B, T, D]."""
        weight = self.linear.weight.to(x.dtype)
        hidden = F.linear(x, weight)
        slope = torch.ones_like(hidden).masked_fill(hidden < 0, _SLOPE)
        scale = x.norm(dim=-1, keepdim=True) / (hidden * slope).norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return self.mix * scale * ((covector * slope) @ weight) + (1 - self.mix) * covector


class ResidualAdapters(nn.ModuleList):
    """One adapter after each of the first ``count`` blocks of a tower; ``width``, ``mix``, ... as of one."""

    def __init__(
        self, count: int, width: int, mix: float, generator: torch.Generator, device: torch.device | None = None
    ) -> None:
        super().__init__(ResidualAdapter(width, mix, generator, device) for _ in range(count))

    @property
    def by_block(self) -> dict[int, nn.Module]:
        """``{block: adapter}``."""
        return dict(enumerate(self))


class LeakyProjection(nn.Module):
    """A linear map and LeakyReLU, [..., D] -> [..., d_e]; ``generator`` and ``device`` as of an adapter."""

    def __init__(
        self, width: int, d_embed: int, generator: torch.Generator, device: torch.device | None = None
    ) -> None:
        super().__init__()
        self.linear = seeded_linear(width, d_embed, bias=False, init="xavier", generator=generator, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens to embeddings, of any length."""
        return _leaky(x, self.linear.weight)


def _leaky(x: Tensor, weight: Tensor) -> Tensor:
    """Learned in float32, the matrix is used in the precision of the stream."""
    return F.leaky_relu(F.linear(x, weight.to(x.dtype)), _SLOPE)
