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
from headlens.detectors.readout import Pulled


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

    opaque: ClassVar[str] = ""
    residual: ClassVar[bool] = True
    level: int
    grid: tuple[int, int]
    conv: ConvAdapter | None = None
    attention: CrossAttention | None = None
    prompts: Tensor | None = None

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

    def pull(self, embeddings: Tensor, u: Tensor) -> tuple[list[Pulled], Tensor]:
        """``v`` and ``rest`` with ``<tail(e), u> = Σ <e, v> + rest``: attention, signs and |e| held."""
        unit, length = F.normalize(embeddings, dim=-1), embeddings.norm(dim=-1, keepdim=True)
        rest = embeddings.new_zeros(embeddings.shape[:2])
        if self.attention is not None:
            rest = rest + length[..., 0] * (self._taken(unit) * u).sum(-1)
        if self.conv is None:
            return [(None, u)], rest
        (_, of_patch), *others = self.conv.pull(unit, u, self.grid, self.level)
        return [(None, u + of_patch), *((at, v * length / length[:, at]) for at, v in others)], rest

    def _taken(self, unit: Tensor) -> Tensor:
        assert self.attention is not None and self.prompts is not None
        return self.attention(unit, self.prompts[None].to(unit), self.level)
