"""How a token of a residual stream becomes an embedding, and what of it is a sum over everything that wrote the token.

    e = LN(x) P + c = x Ĝ / σ + b      Ĝ = G - its mean row,  G = diag(γ) P,  b = β P + c,  σ = sqrt(var(x) + eps)

With σ and the embedding's norm held at what they are, ``<e / |e|, u>`` is linear in the token. A ``Tail`` may change
the embedding before that; it says itself whether it is linear with something more held.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headlens.backbone.norm import Norm
from headlens.backbone.vision import VisionTower
from headlens.detectors.text import Contrast
from headlens.precision import wide


class Folded(NamedTuple):
    """Norm and projection as one matrix: matrix [D, d_e], bias [d_e]; ``eps`` None: there is no norm, and σ is 1."""

    matrix: Tensor
    bias: Tensor
    eps: float | None

    def scale(self, tokens: Tensor) -> Tensor:
        """σ of tokens [..., D], [..., 1]."""
        if self.eps is None:
            return torch.ones_like(tokens[..., :1])
        return (tokens.var(-1, unbiased=False, keepdim=True) + self.eps).sqrt()


class Covector(NamedTuple):
    """What is read of ``n`` tokens of ``B`` images: ``<token, direction> * scale``.

    Args:
        direction: [B, 1, D], the same at every token of an image, or [B, n, D].
        scale: [B, n].
    """

    direction: Tensor
    scale: Tensor

    def of(self, tokens: Tensor) -> Tensor:
        """What is read of a stream's tokens [B, n, D], [B, n]."""
        if self.direction.shape[1] == 1:
            return torch.einsum("bnd,bd->bn", wide(tokens), self.direction[:, 0]) * self.scale
        return (wide(tokens) * self.direction).sum(-1) * self.scale

    def of_heads(self, written: Tensor, w_o: Tensor) -> Tensor:
        """What is read of heads that wrote [B, n, H, d] through ``w_o`` [H, d, D], [B, n, H]."""
        if self.direction.shape[1] == 1:
            by_channel = torch.einsum("hdm,bm->bhd", wide(w_o), self.direction[:, 0])
            return torch.einsum("bnhd,bhd->bnh", wide(written), by_channel) * self.scale[..., None]
        by_channel = torch.einsum("hdm,bnm->bnhd", wide(w_o), self.direction)
        return (wide(written) * by_channel).sum(-1) * self.scale[..., None]


Pulled = tuple[Tensor | None, Tensor]
"""Which token of the image is read in place of each, [n], None for itself; and a covector of each, [B, n, d_e]."""


class Held(NamedTuple):
    """A margin's n tokens as sums: over ``reads`` what is read of tokens, and ``rest`` [B, n].

    Args:
        reads: the tokens themselves first (None), then others by their numbers [n], where a tail mixes tokens.
    """

    reads: list[tuple[Tensor | None, Covector]]
    rest: Tensor


class Tail(Protocol):
    """What a method makes of embeddings before they are compared."""

    @property
    def opaque(self) -> str:
        """What in it no linear function stands for, and how to read without it; empty where ``pull`` exists."""

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Embeddings [V B, n, d_e] of V variants of the reading's B images, variant by variant, to the same shape."""

    @property
    def residual(self) -> bool:
        """Whether it only adds to embeddings: they go through as they are, at full size."""

    def pull(self, embeddings: Tensor, u: Tensor) -> tuple[list[Pulled], Tensor]:
        """``v`` [B, n, d_e] and ``rest`` [B, n] with ``<tail(e), u> = Σ <e, v> + rest``, with what it divides by held.

        One ``v`` for each token itself; where tokens are mixed, others for those that each takes from.

        Args:
            embeddings: [B, n, d_e].
            u: [B or 1, n or 1, d_e].
        """


@dataclass(frozen=True)
class Readout:
    """A LayerNorm, or none, and a projection.

    Args:
        matrix: [D, d_e].
        norm: in front of it.
        bias: [d_e], behind it.
        of_tower: this is the tower's own read-out, whose CLS embedding the tower has computed already.
        tail: what becomes of embeddings then.
        beforehand: name of what in it was computed from the images, such as an adapter of each; for people.

    >>> from headlens.backbone import load
    >>> tower = load("mini").vision
    >>> Readout.of(tower)(torch.zeros(1, 5, tower.cfg.d_model)).shape
    torch.Size([1, 5, 128])
    """

    matrix: Tensor
    norm: Norm | None = None
    bias: Tensor | None = None
    of_tower: bool = False
    tail: Tail | None = None
    beforehand: str = ""

    @classmethod
    def of(cls, tower: VisionTower, norm: bool = True) -> Readout:
        """The tower's ``ln_final`` and ``proj``; the projection alone without ``norm``."""
        return cls(tower.proj, tower.ln_final if norm else None, of_tower=norm)

    @classmethod
    def linear(cls, layer: nn.Linear, tower: VisionTower, norm: bool = False) -> Readout:
        """A linear layer [D -> d_e] in place of the tower's ``proj``, behind its ``ln_final`` with ``norm``.

        Learned in float32, it is used in the tower's precision.
        """
        weight, bias = layer.weight.T.to(tower.proj.dtype), layer.bias
        return cls(weight, tower.ln_final if norm else None, None if bias is None else bias.to(wide(tower.proj).dtype))

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens [..., D] to embeddings [..., d_e], at least float32."""
        normed = tokens if self.norm is None else Norm.forward(self.norm, tokens)  # without the hook at its scale
        embedding = wide(normed @ self.matrix)
        embedding = embedding if self.bias is None else embedding + self.bias
        return embedding if self.tail is None else self.tail(embedding)

    def in_full_precision(self, tokens: Tensor) -> Tensor:
        """The same without tail, and with every product at least in float32, whatever precision the tower has."""
        norm, matrix = self.norm, wide(self.matrix)
        tokens = wide(tokens)
        if norm is not None:
            tokens = F.layer_norm(tokens, norm.normalized_shape, wide(norm.weight), wide(norm.bias), norm.eps)
        embedding = tokens @ matrix
        return embedding if self.bias is None else embedding + wide(self.bias)

    @cached_property
    def folded(self) -> Folded:
        """Both as one matrix; the tail is not in it."""
        matrix, norm = wide(self.matrix), self.norm
        bias = matrix.new_zeros(matrix.shape[1]) if self.bias is None else wide(self.bias)
        if norm is None:
            return Folded(matrix, bias, None)
        scaled = wide(norm.weight)[:, None] * matrix
        return Folded(scaled - scaled.mean(0), wide(norm.bias) @ matrix + bias, norm.eps)

    def held(self, tokens: Tensor, text: Contrast) -> Held:
        """``r`` and ``rest`` with ``Σ <token, r> + rest = <e / |e|, u>``, exactly, for the tokens as they are.

        Args:
            tokens: [B, n, D].
            text: whose ``u`` it is: that of these embeddings, where it is not the same for all.

        Returns:
            Covectors of n tokens, and the part of bias and tail [B, n]. As functions of other tokens they are held: σ
            and ``|e|``, and what a tail divides by, stay those of ``tokens``.
        """
        folded, tokens = self.folded, wide(tokens)
        scale = folded.scale(tokens)  # (B, n, 1)
        embedding = tokens @ folded.matrix / scale + folded.bias
        read = embedding if self.tail is None else self.tail(embedding)
        u = text.held(read)
        u = u if u.ndim == 3 else u[:, None]
        norm = read.norm(dim=-1)  # (B, n)
        pulled, rest = ([(None, u)], torch.zeros_like(norm)) if self.tail is None else self.tail.pull(embedding, u)
        reads: list[tuple[Tensor | None, Covector]] = []
        for at, v in pulled:
            sigma = scale[..., 0] if at is None else scale[:, at, 0]
            reads.append((at, Covector(v @ folded.matrix.T, 1 / (sigma * norm))))
            rest = rest + v @ folded.bias
        return Held(reads, rest / norm)
