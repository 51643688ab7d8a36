"""The text side of a detector, once read: what "abnormal" means, as a margin of embeddings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from headlens.precision import full_precision

TEMPERATURE = 0.07


class Contrast(Protocol):
    """What an embedding is compared with; constant once it is made."""

    @property
    def unit(self) -> bool:
        """Whether embeddings are compared at unit length; if not, their length counts."""

    def margin(self, embeddings: Tensor) -> Tensor:
        """Abnormal minus normal logit, before softmax: [R, d_e] or [R, N, d_e], of any length, to [R] or [R, N]."""

    def held(self, like: Tensor) -> Tensor:
        """``u`` with ``margin(e) = <e / |e|, u>``, or ``<e, u>`` where length counts: [1 or R, d_e], as ``like`` is."""

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

    unit: ClassVar[bool] = True
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


@dataclass(frozen=True)
class AbnormalAlone:
    """The abnormal prompt alone, and a dot product: an embedding's length counts (AA-CLIP, arXiv 2503.06661).

    Args:
        text: [d_e], the same for every image, or [B, d_e]; of unit length.

    >>> AbnormalAlone(torch.tensor([0.0, 1.0])).margin(torch.tensor([[3.0, 0.5]]))
    tensor([0.5000])
    """

    unit: ClassVar[bool] = False
    text: Tensor

    def margin(self, embeddings: Tensor) -> Tensor:
        """The product with the prompt: [R] or [R, N]."""
        with full_precision(embeddings.device):
            u = self.held(embeddings).expand(len(embeddings), -1)
            return torch.einsum("b...d,bd->b...", embeddings, u)

    def held(self, like: Tensor) -> Tensor:
        """The prompt, [1 or B, d_e]."""
        return (self.text if self.text.ndim == 2 else self.text[None]).to(like)

    def rows(self, variants: int) -> AbnormalAlone:
        """The same, each image's prompt again for each variant."""
        return self if self.text.ndim == 1 else replace(self, text=self.text.repeat(variants, 1))
