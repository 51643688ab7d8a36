"""The text side of a detector, once read: what "abnormal" means, as a margin of embeddings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.precision import full_precision

TEMPERATURE = 0.07
Prompts = dict[str, Tensor]
"""Of the states ``normal`` and ``abnormal``, or of one of them."""


class Contrast(Protocol):
    """What an embedding is compared with; constant once it is made."""

    @property
    def unit(self) -> bool:
        """Whether embeddings are compared at unit length; if not, their length counts."""

    @property
    def opaque(self) -> str:
        """What no linear function stands for, on the way to the margin; empty where ``held`` exists."""

    @property
    def offset(self) -> float | Tensor:
        """What a margin has that no embedding has a part in: 0, or the bias of a linear head."""

    def margin(self, embeddings: Tensor) -> Tensor:
        """Abnormal minus normal logit, before softmax: [R, d_e] or [R, N, d_e], of any length, to [R] or [R, N]."""

    @property
    def linear(self) -> bool:
        """Whether ``held`` is the same for all embeddings of an image."""

    def held(self, embeddings: Tensor) -> Tensor:
        """``u`` with ``margin(e) = <e / |e|, u> + offset``, or ``<e, u> + offset`` where length counts.

        In the precision of embeddings, [1 or R, d_e] where it is ``linear``; else [R, N, d_e] for embeddings
        [R, N, d_e] as they are.
        """

    @property
    def prompts(self) -> Prompts:
        """What they are compared with, {state: [1 or R, P, d_e]}."""

    def shares(self, embeddings: Tensor) -> Prompts:
        """What each prompt has of the margin, {state: [R, P] or [R, N, P]}; with ``offset`` they add up to it."""

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
    opaque: ClassVar[str] = ""
    linear: ClassVar[bool] = True
    offset: ClassVar[float] = 0.0
    text: Tensor
    temperature: float = TEMPERATURE

    def margin(self, embeddings: Tensor) -> Tensor:
        """Cosine with the abnormal prompt minus that with the normal one, over the temperature: [R] or [R, N]."""
        u = (self.text[..., 1, :] - self.text[..., 0, :]).to(embeddings.dtype)  # (d) or (B, d)
        with full_precision(embeddings.device):  # two passes over the embeddings, and none of them is written
            along = embeddings @ u if u.ndim == 1 else torch.einsum("b...d,bd->b...", embeddings, u)
            return along / (torch.linalg.vector_norm(embeddings, dim=-1).clamp(min=1e-12) * self.temperature)

    def held(self, embeddings: Tensor) -> Tensor:
        """Abnormal minus normal prompt over the temperature, [1 or B, d_e]."""
        text = self.text if self.text.ndim == 3 else self.text[None]
        return (text[:, 1] - text[:, 0]).to(embeddings) / self.temperature

    @property
    def prompts(self) -> Prompts:
        """Both, {state: [1 or B, 1, d_e]}."""
        text = self.text if self.text.ndim == 3 else self.text[None]
        return {"normal": text[:, :1], "abnormal": text[:, 1:]}

    def shares(self, embeddings: Tensor) -> Prompts:
        """Minus the cosine with the normal prompt, and the one with the abnormal prompt, over the temperature."""
        normal, abnormal = (_cosines(embeddings, prompts) / self.temperature for prompts in self.prompts.values())
        return {"normal": -normal, "abnormal": abnormal}

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
    opaque: ClassVar[str] = ""
    linear: ClassVar[bool] = True
    offset: ClassVar[float] = 0.0
    text: Tensor

    def margin(self, embeddings: Tensor) -> Tensor:
        """The product with the prompt: [R] or [R, N]."""
        with full_precision(embeddings.device):
            u = self.held(embeddings).expand(embeddings.shape[0], -1)
            return torch.einsum("b...d,bd->b...", embeddings, u)

    def held(self, embeddings: Tensor) -> Tensor:
        """The prompt, [1 or B, d_e]."""
        return (self.text if self.text.ndim == 2 else self.text[None]).to(embeddings)

    @property
    def prompts(self) -> Prompts:
        """The one, {"abnormal": [1 or B, 1, d_e]}."""
        return {"abnormal": (self.text if self.text.ndim == 2 else self.text[None])[:, None]}

    def shares(self, embeddings: Tensor) -> Prompts:
        """All of it, {"abnormal": [..., 1]}."""
        return {"abnormal": self.margin(embeddings)[..., None]}

    def rows(self, variants: int) -> AbnormalAlone:
        """The same, each image's prompt again for each variant."""
        return self if self.text.ndim == 1 else replace(self, text=self.text.repeat(variants, 1))


@dataclass(frozen=True)
class PromptSets:
    """Several normal and as many abnormal prompts.

    Args:
        text: [2, P, d_e], the same for every image, or [B, 2, P, d_e]; normal, abnormal, of unit length.
        temperature: of the softmax over the two states.
        reduce: an embedding is compared with the ``mean`` of each state's prompts, at unit length; or with that prompt
            of each state whose cosine is the ``max``.

    >>> text = torch.eye(4).unflatten(0, (2, 2))
    >>> embedding = torch.tensor([[0.0, 0.0, 2.0, 0.0]])
    >>> [PromptSets(text, 1.0, reduce).margin(embedding).item() for reduce in ("mean", "max")]
    [0.7071067690849304, 1.0]
    """

    unit: ClassVar[bool] = True
    opaque: ClassVar[str] = ""
    offset: ClassVar[float] = 0.0
    text: Tensor
    temperature: float = TEMPERATURE
    reduce: Literal["mean", "max"] = "mean"

    @property
    def linear(self) -> bool:
        """With the mean."""
        return self.reduce == "mean"

    @cached_property
    def pair(self) -> Pair:
        """The mean of each state."""
        return Pair(F.normalize(self.text.mean(-2), dim=-1), self.temperature)

    def margin(self, embeddings: Tensor) -> Tensor:
        """Of the means, or of the largest cosines: [R] or [R, N]."""
        if self.linear:
            return self.pair.margin(embeddings)
        normal, abnormal = (cosines.amax(-1) for cosines in self._cosines(embeddings))
        return (abnormal - normal) / self.temperature

    def held(self, embeddings: Tensor) -> Tensor:
        """Of the means, [1 or B, d_e]; or of the prompts that are chosen, as embeddings are."""
        if self.linear:
            return self.pair.held(embeddings)
        normal, abnormal = (
            torch.einsum("b...p,bpd->b...d", chosen, prompts.to(embeddings).expand(embeddings.shape[0], -1, -1))
            for chosen, prompts in zip(self._chosen(embeddings), self.prompts.values(), strict=True)
        )
        return (abnormal - normal) / self.temperature

    @property
    def prompts(self) -> Prompts:
        """All, {state: [1 or B, P, d_e]}."""
        text = self.text if self.text.ndim == 4 else self.text[None]
        return {"normal": text[:, 0], "abnormal": text[:, 1]}

    def shares(self, embeddings: Tensor) -> Prompts:
        """A prompt's cosine over the temperature and over how many make the mean; or that of the chosen one."""
        if self.linear:
            lengths = [prompts.mean(1).norm(dim=-1) * prompts.shape[1] for prompts in self.prompts.values()]
            weights = [1 / length.to(embeddings).reshape(-1, *(1,) * (embeddings.ndim - 1)) for length in lengths]
        else:
            weights = self._chosen(embeddings)
        each = zip((-1, 1), weights, self._cosines(embeddings), strict=True)
        normal, abnormal = (sign * weight * cosines / self.temperature for sign, weight, cosines in each)
        return {"normal": normal, "abnormal": abnormal}

    def rows(self, variants: int) -> PromptSets:
        """The same, each image's prompts again for each variant."""
        return self if self.text.ndim == 3 else replace(self, text=self.text.repeat(variants, 1, 1, 1))

    def _cosines(self, embeddings: Tensor) -> list[Tensor]:
        return [_cosines(embeddings, prompts) for prompts in self.prompts.values()]

    def _chosen(self, embeddings: Tensor) -> list[Tensor]:
        """1 for the prompt of each state with the largest cosine, else 0."""
        return [
            F.one_hot(cosines.argmax(-1), cosines.shape[-1]).to(embeddings) for cosines in self._cosines(embeddings)
        ]


@dataclass(frozen=True)
class LinearHead:
    """A learned direction and a bias in place of prompts.

    Args:
        weight: [d_e], the same for every image.
        bias: a scalar.

    >>> LinearHead(torch.tensor([3.0, 4.0]), torch.tensor(-1.0)).margin(torch.tensor([[0.0, 2.0]]))
    tensor([3.])
    """

    unit: ClassVar[bool] = True
    opaque: ClassVar[str] = ""
    linear: ClassVar[bool] = True
    weight: Tensor
    bias: Tensor

    @property
    def offset(self) -> Tensor:
        """The bias."""
        return self.bias

    def margin(self, embeddings: Tensor) -> Tensor:
        """The product of the direction and the unit embedding, and the bias: [R] or [R, N]."""
        with full_precision(embeddings.device):
            return F.normalize(embeddings, dim=-1) @ self.weight.to(embeddings) + self.bias.to(embeddings)

    def held(self, embeddings: Tensor) -> Tensor:
        """The direction, [1, d_e]."""
        return self.weight.to(embeddings)[None]

    @property
    def prompts(self) -> Prompts:
        """None."""
        return {}

    def shares(self, embeddings: Tensor) -> Prompts:
        """None: no prompt has a part in it."""
        return {}

    def rows(self, variants: int) -> LinearHead:
        """Itself."""
        return self


def _cosines(embeddings: Tensor, prompts: Tensor) -> Tensor:
    """Embeddings [R, d_e] or [R, N, d_e] with unit prompts [1 or R, P, d_e], [R, P] or [R, N, P]."""
    prompts = prompts.to(embeddings).expand(embeddings.shape[0], -1, -1)
    with full_precision(embeddings.device):
        return torch.einsum("b...d,bpd->b...p", F.normalize(embeddings, dim=-1), prompts)
