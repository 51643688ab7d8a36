"""Learned prompts: normal and abnormal sentences whose context is learned in the text tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headlens.backbone import Backbone
from headlens.detectors.parts.ensemble import Wording
from headlens.errors import ConfigError
from headlens.precision import wide

if TYPE_CHECKING:
    from headlens.backbone.config import TextConfig


OBJECTS = Wording(("{}",), ("damaged {}",), ("{}.",))


class LearnedPrompts(nn.Module):
    """Normal and abnormal prompts: ``[V1]..[Vn] object.`` and ``[W1]..[Wn] damaged object.`` (arXiv 2310.18961).

    Or another sentence of each state behind the learned context.

    Deep prompts overwrite positions 1..k of all prompts before text blocks 1..deep; of the context only what stands
    behind them is read above block 0.

    Args:
        backbone: whose text tower reads them.
        context, deep, deep_tokens: as in ``HeadCLIPConfig``.
        seed: of the initial values, N(0, 0.02), the same on every device.
        count: prompts of each state.
    """

    def __init__(
        self, backbone: Backbone, context: int, deep: int, deep_tokens: int, seed: int = 0, count: int = 1
    ) -> None:
        super().__init__()
        width = backbone.text.cfg.d_model
        generator = torch.Generator().manual_seed(seed)
        device = backbone.logit_scale.device

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter((torch.randn(shape, generator=generator) * 0.02).to(device))

        self.count = count
        self.context = normal(2 * count, context, width)  # normal ones, then abnormal ones
        self.deep = nn.ParameterList([normal(deep_tokens, width) for _ in range(deep)])

    def forward(
        self,
        backbone: Backbone,
        categories: Sequence[str] = ("object",),
        shown: Tensor | None = None,
        sentences: Wording = OBJECTS,
    ) -> Tensor:
        """Embeddings of unit length for each category, normal and abnormal, [C, 2, count, d_e].

        Args:
            backbone: whose text tower reads them.
            categories: what the sentences are about.
            shown: [C, D], one more token for each category, behind the context of all of its prompts.
            sentences: one of each state.
        """
        pairs = [state for name in categories for state in sentences.sentences(name)]
        tokens = backbone.tokenizer([sentence for (sentence,) in pairs for _ in range(self.count)])
        context = self.context.repeat(len(categories), 1, 1)  # (C 2 count, n, D)
        if shown is not None:
            context = torch.cat([context, shown.repeat_interleave(2 * self.count, 0)[:, None]], 1)
        deep = dict(enumerate(self.deep, start=1))
        before = {1: context} if context.shape[1] else None
        embedding = backbone.encode_text(
            tokens, context=before, deep_prompts=deep, hooked=backbone.text.must_call_hooks()
        )
        return F.normalize(wide(embedding), dim=-1).unflatten(0, (-1, 2, self.count))


def check_prompts(context: int, deep: int, deep_tokens: int, text: TextConfig, name: str, shown: int = 0) -> None:
    """Raises ConfigError where the text tower of the backbone ``name`` has no room for such prompts.

    Args:
        context, deep, deep_tokens: as of ``LearnedPrompts``.
        text: the tower.
        name: of the backbone.
        shown: tokens behind the context that are not learned.
    """
    if context + shown > text.n_ctx - 3:  # the start, a word and the end are read, too
        raise ConfigError(f"context is {context}, but the text tower of {name} reads {text.n_ctx} tokens")
    if deep >= text.n_layers:
        raise ConfigError(f"deep is {deep}, but the text tower has blocks 0..{text.n_layers - 1}, and 0 takes none")
    if deep and deep_tokens > context:
        raise ConfigError(f"deep_tokens is {deep_tokens}: they overwrite context, which has {context} tokens")


def prompt_shapes(
    context: int, deep: int, deep_tokens: int, text: TextConfig, count: int = 1
) -> dict[str, tuple[int, ...]]:
    """Of what ``LearnedPrompts`` learns, by the names that it has as the part ``prompts`` of a detector."""
    shapes: dict[str, tuple[int, ...]] = {"prompts.context": (2 * count, context, text.d_model)}
    return shapes | {f"prompts.deep.{block}": (deep_tokens, text.d_model) for block in range(deep)}
