"""What HeadCLIP learns: prompts in the text tower, and a weight for every head of the image tower."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headlens.backbone import Backbone
from headlens.detectors.config import DetectorConfig

_STD = 0.02


class LearnedPrompts(nn.Module):
    """A normal and an abnormal prompt: ``[V1]..[Vn] object.`` and ``[W1]..[Wn] damaged object.`` (arXiv 2310.18961).

    Deep prompts overwrite positions 1..k of both prompts before text blocks 1..deep; of the context only what stands
    behind them is read above block 0.

    Args:
        backbone: whose text tower reads them.
        config: ``context``, ``deep``, ``deep_tokens``.
        seed: of the initial values, N(0, 0.02), the same on every device.
    """

    def __init__(self, backbone: Backbone, config: DetectorConfig, seed: int = 0) -> None:
        super().__init__()
        width = backbone.text.cfg.d_model
        generator = torch.Generator().manual_seed(seed)
        device = backbone.logit_scale.device

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter((torch.randn(shape, generator=generator) * _STD).to(device))

        self.context = normal(2, config.context, width)  # normal, abnormal
        self.deep = nn.ParameterList([normal(config.deep_tokens, width) for _ in range(config.deep)])

    def forward(self, backbone: Backbone, things: Sequence[str] = ("object",)) -> Tensor:
        """The two embeddings of unit length for each thing, [things, 2, d_e]."""
        sentences = [template.format(thing) for thing in things for template in ("{}.", "damaged {}.")]
        tokens = backbone.tokenizer(sentences)
        context = self.context.repeat(len(things), 1, 1)  # (2 things, n, D)
        deep = dict(enumerate(self.deep, start=1))
        before = {1: context} if context.shape[1] else None
        embedding = backbone.encode_text(
            tokens, context=before, deep_prompts=deep, hooked=backbone.text.must_call_hooks()
        )
        return F.normalize(embedding.float(), dim=-1).unflatten(0, (-1, 2))


class HeadWeights(nn.Module):
    """``w[stream, layer, head]``, multiplying each head's output before the output projection. All begin at 1.

    Args:
        grid: layers and heads.
        config: ``head_weights`` (not ``none``) and ``streams``.
        device: where.

    >>> weights = HeadWeights((24, 16), DetectorConfig(head_weights="softmax", streams=("global", "local")))
    >>> {stream: tuple(w.shape) for stream, w in weights().items()}
    {'global': (24, 16), 'local': (24, 16)}
    """

    def __init__(self, grid: tuple[int, int], config: DetectorConfig, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.kind = config.head_weights
        start = torch.ones if self.kind == "free" else torch.zeros
        self.raw = nn.ParameterDict({stream: nn.Parameter(start(grid, device=device)) for stream in config.streams})

    def forward(self) -> dict[str, Tensor]:
        """The weights of each stream, [layers, heads]."""
        return {stream: self._weights(raw) for stream, raw in self.raw.items()}

    def _weights(self, raw: Tensor) -> Tensor:
        if self.kind == "sigmoid":
            return 2 * raw.sigmoid()
        if self.kind == "softmax":
            return raw.shape[1] * raw.softmax(1)
        return raw * 1  # never the parameter itself: whoever reads it must not change it
