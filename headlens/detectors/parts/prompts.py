"""Learned prompts: a normal and an abnormal sentence whose context is learned in the text tower."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headlens.backbone import Backbone
from headlens.precision import wide


class LearnedPrompts(nn.Module):
    """A normal and an abnormal prompt: ``[V1]..[Vn] object.`` and ``[W1]..[Wn] damaged object.`` (arXiv 2310.18961).

    Deep prompts overwrite positions 1..k of both prompts before text blocks 1..deep; of the context only what stands
    behind them is read above block 0.

    Args:
        backbone: whose text tower reads them.
        context, deep, deep_tokens: as in ``HeadCLIPConfig``.
        seed: of the initial values, N(0, 0.02), the same on every device.
    """

    def __init__(self, backbone: Backbone, context: int, deep: int, deep_tokens: int, seed: int = 0) -> None:
        super().__init__()
        width = backbone.text.cfg.d_model
        generator = torch.Generator().manual_seed(seed)
        device = backbone.logit_scale.device

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter((torch.randn(shape, generator=generator) * 0.02).to(device))

        self.context = normal(2, context, width)  # normal, abnormal
        self.deep = nn.ParameterList([normal(deep_tokens, width) for _ in range(deep)])

    def forward(self, backbone: Backbone, categories: Sequence[str] = ("object",)) -> Tensor:
        """The two embeddings of unit length for each category, [C, 2, d_e]."""
        sentences = [template.format(name) for name in categories for template in ("{}.", "damaged {}.")]
        tokens = backbone.tokenizer(sentences)
        context = self.context.repeat(len(categories), 1, 1)  # (2 C, n, D)
        deep = dict(enumerate(self.deep, start=1))
        before = {1: context} if context.shape[1] else None
        embedding = backbone.encode_text(
            tokens, context=before, deep_prompts=deep, hooked=backbone.text.must_call_hooks()
        )
        return F.normalize(wide(embedding), dim=-1).unflatten(0, (-1, 2))
