"""The text side of a detector, once read: what "abnormal" means, as a margin of embeddings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from headlens.precision import full_precision

TEMPERATURE = 0.07


class Contrast(Protocol):
    """What an embedding is compared with; constant once it is made."""

    def margin(self, embeddings: Tensor) -> Tensor:
        """Abnormal minus normal logit, before softmax: [R, d_e] or [R, N, d_e], of any length, to [R] or [R, N]."""

    def held(self, like: Tensor) -> Tensor:
        """``u`` with ``margin(e) = <e / |e|, u>``, [1 or R, d_e], in the precision of ``like``."""

    def rows(self, variants: int) -> Contrast:
        """The same for so many variants of every image, variant by variant."""


@dataclass(frozen=True)
class Pair:
    """A normal and an abnormal prompt.

    Args:
        text: [2, d_e], the same for every image, or [B, 2, d_e]; normal, abnormal, of unit length.
        temperature: of the softmax over the two.

    >>> Pair(torch.eye(2), temperature=1.0).margin(torch.tensor([[0.0, 2.0]]))
    tensor([1.])
    """

    text: Tensor
    temperature: float = TEMPERATURE

    def margin(self, embeddings: Tensor) -> Tensor:
        """Cosine with the abnormal prompt minus that with the normal one, over the temperature: [R] or [R, N]."""
        u = (self.text[..., 1, :] - self.text[..., 0, :]).to(embeddings.dtype)  # (d) or (B, d)
        with full_precision(embeddings.device):  # two passes over the embeddings, and none of them is written
            along = embeddings @ u if u.ndim == 1 else torch.einsum("b...d,bd->b...", embeddings, u)
            return along / (torch.linalg.vector_norm(embeddings, dim=-1).clamp(min=1e-12) * self.temperature)

    def held(self, like: Tensor) -> Tensor:
        """Abnormal minus normal prompt over the temperature, [1 or B, d_e]."""
        text = self.text if self.text.ndim == 3 else self.text[None]
        return (text[:, 1] - text[:, 0]).to(like) / self.temperature

    def rows(self, variants: int) -> Pair:
        """The same, each image's prompts again for each variant."""
        return self if self.text.ndim == 2 else replace(self, text=self.text.repeat(variants, 1, 1))
