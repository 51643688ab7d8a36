"""Which tokens make the image feature: CLS, or CLS and the patches that look anomalous."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Taps = Mapping[int, Tensor]


class Pooling(Protocol):
    """Embeddings of CLS and of tapped patches to the feature that the image margin is read from."""

    @property
    def reads_patches(self) -> bool:
        """Whether patches have a part in the feature."""

    def __call__(self, cls: Tensor, taps: Taps, margins: Taps) -> Tensor:
        """The image feature [R, d_e], of any length.

        Args:
            cls: [R, d_e].
            taps: ``{tap: [R, N, d_e]}``; empty where patches are not read.
            margins: ``{tap: [R, N]}``.
        """

    def held(self, cls: Tensor, taps: Taps, margins: Taps) -> tuple[Tensor, dict[int, Tensor]]:
        """Weights ``w`` with ``feature / |feature| = w_cls cls / |cls| + Σ w_tap,n e_tap,n / |e_tap,n|``.

        Returns:
            Of CLS [R], and of the patches ``{tap: [R, N]}``, for the embeddings as they are.
        """


@dataclass(frozen=True)
class CLSToken:
    """CLS alone."""

    reads_patches: bool = False

    def __call__(self, cls: Tensor, taps: Taps, margins: Taps) -> Tensor:
        """CLS as it is, [R, d_e]."""
        return cls

    def held(self, cls: Tensor, taps: Taps, margins: Taps) -> tuple[Tensor, dict[int, Tensor]]:
        """One for CLS, and no patch."""
        return cls.new_ones(len(cls)), {}


@dataclass(frozen=True)
class ScorePooled:
    """Crane's (arXiv 2504.11055): CLS, and the patches' mean weighted by their anomaly.

        feature = (1 - share) cls / |cls| + share a / |a|      a = Σ_n σ(mean margin over taps) mean_tap e_n / |e_n|

    Args:
        share: of the patches; 0 is CLS.
    """

    share: float
    reads_patches: bool = True

    def __call__(self, cls: Tensor, taps: Taps, margins: Taps) -> Tensor:
        """The image feature, [R, d_e]."""
        return (1 - self.share) * F.normalize(cls, dim=-1) + self.share * F.normalize(_anomalous(taps, margins), dim=-1)

    def held(self, cls: Tensor, taps: Taps, margins: Taps) -> tuple[Tensor, dict[int, Tensor]]:
        """Weights of CLS [R] and of the patches ``{tap: [R, N]}``, with the norms of the sums held, too."""
        length = self(cls, taps, margins).norm(dim=-1)  # (R)
        anomalous = _anomalous(taps, margins).norm(dim=-1)
        patch = _weights(margins) * (self.share / (len(taps) * length * anomalous))[:, None]  # (R, N)
        return (1 - self.share) / length, dict.fromkeys(taps, patch)


def _weights(margins: Taps) -> Tensor:
    """How anomalous every patch is, [R, N]: the sigmoid of its mean margin over taps."""
    return torch.stack(list(margins.values())).mean(0).sigmoid()


def _anomalous(taps: Taps, margins: Taps) -> Tensor:
    """The weighted sum of unit patch embeddings, [R, d_e]."""
    tokens = torch.stack([F.normalize(tokens, dim=-1) for tokens in taps.values()]).mean(0)
    return (_weights(margins)[..., None] * tokens).sum(1)
