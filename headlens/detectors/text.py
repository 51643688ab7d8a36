"""The text side of a detector, once read: what "abnormal" means, as a margin of embeddings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from headlens.precision import full_precision

TEMPERATURE = 0.07


def margin(features: Tensor, text: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Abnormal minus normal logit, before softmax: features [B, d] or [B, N, d] to [B] or [B, N].

    Args:
        features: of images or of their patches, of any length.
        text: [2, d] or [B, 2, d], the normal and the abnormal prompt, in this order, of unit length.
        temperature: of the softmax.

    >>> margin(torch.tensor([[0.0, 2.0]]), torch.eye(2))
    tensor([14.2857])
    """
    direction = (text[..., 1, :] - text[..., 0, :]).to(features.dtype)  # (d) or (B, d)
    with full_precision(features.device):  # two passes over the features, and none of them is written
        along = features @ direction if direction.ndim == 1 else torch.einsum("b...d,bd->b...", features, direction)
        return along / (torch.linalg.vector_norm(features, dim=-1).clamp(min=1e-12) * temperature)


class Contrast(Protocol):
    """What an embedding is compared with; constant once it is made."""

    def margin(self, embeddings: Tensor) -> Tensor:
        """Abnormal minus normal logit: [R, d_e] or [R, N, d_e] to [R] or [R, N]."""

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
        """Abnormal minus normal logit: [R, d_e] or [R, N, d_e] to [R] or [R, N]."""
        return margin(embeddings, self.text, self.temperature)

    def held(self, like: Tensor) -> Tensor:
        """``u`` with ``margin(e) = <e / |e|, u>``, [1 or R, d_e], in the precision of ``like``."""
        text = self.text if self.text.ndim == 3 else self.text[None]
        return (text[:, 1] - text[:, 0]).to(like) / self.temperature

    def rows(self, variants: int) -> Pair:
        """The same for so many variants of every image, variant by variant."""
        return self if self.text.ndim == 2 else replace(self, text=self.text.repeat(variants, 1, 1))
