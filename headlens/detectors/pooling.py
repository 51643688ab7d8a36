"""Which tokens make the image feature: CLS, or CLS and the patches that look anomalous, or the patches alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Taps = Mapping[int, Tensor]


class Pooling(Protocol):
    """Embeddings of CLS and of tapped patches to the feature that the image margin is read from."""

    @property
    def reads_cls(self) -> bool:
        """Whether CLS has a part in the feature."""

    @property
    def reads_patches(self) -> bool:
        """Whether patches have."""

    @property
    def image_taps(self) -> tuple[int, ...]:
        """Taps whose patches it reads by the read-out of the image, not by that of the tap."""

    @property
    def loops(self) -> str:
        """What in it goes on until nothing changes, and how to read without it; empty where its steps are fixed."""

    def __call__(self, cls: Tensor, taps: Taps, margins: Taps) -> Tensor:
        """The image feature [R, d_e], of any length.

        Args:
            cls: [R, d_e].
            taps: ``{tap: [R, N, d_e]}``; empty where patches are not read.
            margins: ``{tap: [R, N]}``.
        """

    def held(self, cls: Tensor, taps: Taps, margins: Taps) -> tuple[Tensor, dict[int, Tensor]]:
        """Weights ``w`` with ``feature = w_cls cls / |cls| + Σ w_tap,n e_tap,n / |e_tap,n|``.

        Returns:
            Of CLS [R], and of the patches ``{tap: [R, N]}``, for the embeddings as they are.
        """


@dataclass(frozen=True)
class CLSToken:
    """CLS alone."""

    reads_cls: ClassVar[bool] = True
    reads_patches: ClassVar[bool] = False
    image_taps: ClassVar[tuple[int, ...]] = ()
    loops: ClassVar[str] = ""

    def __call__(self, cls: Tensor, taps: Taps, margins: Taps) -> Tensor:
        """CLS as it is, [R, d_e]."""
        return cls

    def held(self, cls: Tensor, taps: Taps, margins: Taps) -> tuple[Tensor, dict[int, Tensor]]:
        """The length of CLS, and no patch."""
        return cls.norm(dim=-1), {}


@dataclass(frozen=True)
class Blended(ABC):
    """CLS, and patches that look anomalous, each kind at unit length.

        feature = (1 - share) cls / |cls| + share a / |a|      a = Σ_n w_n mean_tap e_n / |e_n|

    Args:
        share: of the patches; 0 is CLS.
    """

    reads_cls: ClassVar[bool] = True
    reads_patches: ClassVar[bool] = True
    image_taps: ClassVar[tuple[int, ...]] = ()
    loops: ClassVar[str] = ""
    share: float

    @abstractmethod
    def patch_weights(self, taps: Taps, margins: Taps) -> Tensor:
        """w: how much every patch counts, [R, N]."""

    def __call__(self, cls: Tensor, taps: Taps, margins: Taps) -> Tensor:
        """The image feature, [R, d_e]."""
        anomalous = _summed(taps, self.patch_weights(taps, margins))
        return (1 - self.share) * F.normalize(cls, dim=-1) + self.share * F.normalize(anomalous, dim=-1)

    def held(self, cls: Tensor, taps: Taps, margins: Taps) -> tuple[Tensor, dict[int, Tensor]]:
        """Weights of CLS [R] and of the patches ``{tap: [R, N]}``, with the norm of their sum held, too."""
        weights = self.patch_weights(taps, margins)
        patch = weights * (self.share / (len(taps) * _summed(taps, weights).norm(dim=-1)))[:, None]  # (R, N)
        return cls.new_full((len(cls),), 1 - self.share), dict.fromkeys(taps, patch)


@dataclass(frozen=True)
class ScorePooled(Blended):
    """Crane's (arXiv 2504.11055): a patch counts as much as it is anomalous, w = σ(mean margin over taps).

    Args:
        share: of the patches; 0 is CLS.
        copies: how many embeddings taps have for each patch, one after the other: their mean margin is the patch's.
    """

    copies: int = 1

    def patch_weights(self, taps: Taps, margins: Taps) -> Tensor:
        """How anomalous every patch is, [R, N], the same for all copies of one."""
        mean = torch.stack(list(margins.values())).mean(0)
        return mean.unflatten(-1, (self.copies, -1)).mean(1).sigmoid().repeat(1, self.copies)


@dataclass(frozen=True)
class PatchMean:
    """AA-CLIP's (arXiv 2503.06661): the mean of unit patch embeddings of one tap, which is at most as long as they are.

    Args:
        tap: whose patches are read, by the read-out of the image.
    """

    reads_cls: ClassVar[bool] = False
    reads_patches: ClassVar[bool] = True
    loops: ClassVar[str] = ""
    tap: int

    @property
    def image_taps(self) -> tuple[int, ...]:
        """That tap."""
        return (self.tap,)

    def __call__(self, cls: Tensor, taps: Taps, margins: Taps) -> Tensor:
        """The image feature, [R, d_e], of length 0 to 1."""
        return F.normalize(taps[self.tap], dim=-1).mean(1)

    def held(self, cls: Tensor, taps: Taps, margins: Taps) -> tuple[Tensor, dict[int, Tensor]]:
        """Nothing of CLS, and as much of every patch."""
        count = taps[self.tap].shape[1]
        return cls.new_zeros(len(cls)), {self.tap: cls.new_full((len(cls), count), 1 / count)}


def _summed(taps: Taps, weights: Tensor) -> Tensor:
    """The weighted sum of unit patch embeddings, their mean over taps, [R, d_e]."""
    tokens = torch.stack([F.normalize(tokens, dim=-1) for tokens in taps.values()]).mean(0)
    return (weights[..., None] * tokens).sum(1)
