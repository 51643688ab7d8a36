"""What prompts and neighbouring patches add to embeddings behind a read-out: a ``Tail``.

    e <- e + |e| (conv(e / |e|) + attention(e / |e|, prompts))

Zero gates leave embeddings as they are. What heads write goes through as it is besides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from headlens.detectors.parts.conv_adapter import ConvAdapter
from headlens.detectors.parts.cross_attention import CrossAttention


@dataclass(frozen=True)
class Interaction:
    """Of one level.

    Args:
        level: number of the gates.
        grid: rows and columns of the embeddings; (1, 1) of CLS.
        conv: the adapter, if there is one.
        attention: of embeddings to prompts, if there is one.
        prompts: [P, d_e], of unit length.
    """

    residual: ClassVar[bool] = True
    level: int
    grid: tuple[int, int]
    conv: ConvAdapter | None = None
    attention: CrossAttention | None = None
    prompts: Tensor | None = None

    @property
    def opaque(self) -> str:
        """Kernels that mix patches: what a head writes at one of them is then in the margins of others."""
        if self.conv is None or self.conv.side == 1:
            return ""
        return f"a Conv-Adapter that mixes {self.conv.side} x {self.conv.side} patches"

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Embeddings [R, n, d_e], or [R, d_e] of CLS, to the same shape."""
        tokens = embeddings if embeddings.ndim == 3 else embeddings[:, None]
        unit, made = F.normalize(tokens, dim=-1), tokens
        length = tokens.norm(dim=-1, keepdim=True)
        if self.conv is not None:
            made = made + length * self.conv(unit, self.grid, self.level)
        if self.attention is not None:
            made = made + length * self._taken(unit)
        return made if embeddings.ndim == 3 else made[:, 0]

    def pull(self, embeddings: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """``v`` and ``rest`` with ``<tail(e), u> = <e, v> + rest``: attention, signs and |e| held."""
        unit, v = F.normalize(embeddings, dim=-1), u.expand(embeddings.shape)
        rest = embeddings.new_zeros(embeddings.shape[:2])
        if self.conv is not None:
            v = v + self.conv.pull(unit, u, self.level)
        if self.attention is not None:
            rest = rest + embeddings.norm(dim=-1) * (self._taken(unit) * u).sum(-1)
        return v, rest

    def _taken(self, unit: Tensor) -> Tensor:
        assert self.attention is not None and self.prompts is not None
        return self.attention(unit, self.prompts[None].to(unit), self.level)
