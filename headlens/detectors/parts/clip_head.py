"""What VadCLIP (arXiv 2308.11681) has above frames: an adapter over time, a classifier, sentences shown the clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headlens.detectors.parts.clip_windows import Windows
from headlens.detectors.parts.projections import seeded_linear
from headlens.detectors.parts.temporal import KERNEL, MLP, TemporalAdapter, linear
from headlens.detectors.text import Prompts
from headlens.errors import ConfigError
from headlens.precision import full_precision

TEMPERATURE = 0.07
Branch = Literal["classifier", "alignment"]


@dataclass(frozen=True)
class Logits:
    """Of frames, ``...`` of them.

    Args:
        anomalous: [...], a.
        kinds: [..., C], m.
    """

    anomalous: Tensor
    kinds: Tensor


class ClipHead(nn.Module):
    """From embeddings of frames to logits; the formulas are those of ``headlens.detectors.methods.vadclip``.

    Args:
        width: d_e, which is even.
        length, layers, window, threshold: as of ``TemporalAdapter``.
        generator: of the initial values, on the CPU.
        device: where.
    """

    def __init__(
        self,
        width: int,
        length: int,
        layers: int,
        window: int,
        threshold: float,
        generator: torch.Generator,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.temporal = TemporalAdapter(width, length, layers, window, threshold, generator, device)
        self.classifier = seeded_linear(width, 1, generator=generator, device=device)
        self.frame_mlp, self.kind_mlp = MLP(width, generator, device), MLP(width, generator, device)

    def forward(self, frames: Tensor, lengths: Tensor, text: Tensor) -> Logits:
        """Windows of CLS embeddings [R, T, d_e], of which the first ``lengths`` [R] are frames; the kinds' [C, d_e].

        Returns:
            [R, T] and [R, T, C].
        """
        with full_precision(frames.device):
            v = self.temporal(frames, lengths)
            a = linear(self.classifier, v + self.frame_mlp(v))[..., 0]
            shown = F.normalize(a[:, None] @ v, dim=-1)  # (R, 1, d_e)
            told = text.to(v.dtype) + shown
            told = told + self.kind_mlp(told)  # (R, C, d_e)
            m = F.normalize(v, dim=-1) @ F.normalize(told, dim=-1).mT / TEMPERATURE
        return Logits(a, m)


def clip_head_shapes(width: int, length: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Of what ``ClipHead`` learns, by its names."""
    half = width // 2
    shapes: dict[str, tuple[int, ...]] = {
        "temporal.position": (length, width),
        **_linear_shape("temporal.merge", width, width),
        **_linear_shape("classifier", width, 1),
        **_mlp_shapes("frame_mlp", width),
        **_mlp_shapes("kind_mlp", width),
    }
    for layer in range(layers):
        at = f"temporal.blocks.{layer}"
        shapes |= {f"{at}.{norm}.{what}": (width,) for norm in ("ln1", "ln2") for what in ("weight", "bias")}
        shapes |= _linear_shape(f"{at}.qkv", width, 3 * width) | _linear_shape(f"{at}.out", width, width)
        shapes |= _mlp_shapes(f"{at}.mlp", width)
    for graph in ("temporal.similarity", "temporal.distance"):
        shapes |= {f"{graph}.first.weight": (half, width), f"{graph}.second.weight": (half, half)}
        shapes |= {f"{graph}.kernel": (half, width, KERNEL), f"{graph}.bias": (half,)}
    return shapes


def _linear_shape(name: str, given: int, made: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (made, given), f"{name}.bias": (made,)}


def _mlp_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return _linear_shape(f"{name}.up", width, 4 * width) | _linear_shape(f"{name}.down", 4 * width, width)


@dataclass(frozen=True)
class AmongFrames:
    """A frame's embedding against what its clip shows; see ``Contrast``. It is none of its functions for patches.

    Args:
        head: what is above frames.
        text: [C, d_e], of the kinds, normal first.
        windows: the clips of the batch, which is that of every variant.
        branch: whose margin it is.
    """

    unit: ClassVar[bool] = False
    linear: ClassVar[bool] = False
    offset: ClassVar[float] = 0.0
    opaque: ClassVar[str] = "a transformer and graphs over the frames of a clip"
    head: ClipHead
    text: Tensor
    windows: Windows
    branch: Branch = "classifier"

    def logits(self, embeddings: Tensor) -> Logits:
        """Of CLS embeddings [R, d_e] of V variants of B frames, variant by variant: [R]."""
        variants = embeddings.unflatten(0, (-1, len(self.windows.place)))
        cut = self.windows.cut(variants)
        lengths = self.windows.lengths.repeat(len(variants))
        made = self.head(cut.flatten(0, 1), lengths, self.text)
        shape = cut.shape[:2]
        joined = (self.windows.joined(one.unflatten(0, shape)).flatten(0, 1) for one in (made.anomalous, made.kinds))
        return Logits(*joined)

    def margin(self, embeddings: Tensor) -> Tensor:
        """a; or log Σ exp(m) of the kinds of anomalies minus m of normal: [R]."""
        logits = self.logits(embeddings)
        if self.branch == "classifier":
            return logits.anomalous
        return logits.kinds[..., 1:].logsumexp(-1) - logits.kinds[..., 0]

    def held(self, embeddings: Tensor) -> Tensor:
        """There is none.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"no linear function stands for {self.opaque}")

    @property
    def prompts(self) -> Prompts:
        """The sentences before they are shown the clip, of unit length."""
        unit = F.normalize(self.text, dim=-1)[None]
        return {"normal": unit[:, :1], "abnormal": unit[:, 1:]}

    def shares(self, embeddings: Tensor) -> Prompts:
        """There are none.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"no sentence has a share of the margin: it is read through {self.opaque}")

    def rows(self, variants: int) -> AmongFrames:
        """The same: how many variants there are, embeddings say."""
        return self
