"""One learned sentence for each kind of anomaly: VadCLIP's (arXiv 2308.11681), with learned tokens around the name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from headlens.backbone import Backbone
from headlens.precision import wide

STD = 0.01


class KindPrompts(nn.Module):
    """``start, V1 .. Vn, name, Vm .. Vm+n, end`` for every kind.

    The learned tokens are rows of one table, by their position in the sentence: those before the name are the same for
    all kinds, those behind it for kinds whose names have as many tokens.

    Args:
        backbone: whose text tower reads them.
        context: n.
        generator: of the initial values, N(0, 0.01), on the CPU.
    """

    def __init__(self, backbone: Backbone, context: int, generator: torch.Generator) -> None:
        super().__init__()
        text = backbone.text.cfg
        self.context = context
        table = STD * torch.randn(text.n_ctx, text.d_model, generator=generator)
        self.table = nn.Parameter(table.to(backbone.logit_scale.device))

    def forward(self, backbone: Backbone, kinds: Sequence[str]) -> Tensor:
        """Embeddings of C kinds [C, d_e], of any length, as CLIP gives them.

        Raises:
            ShapeError: a name that is too long for the text tower.
        """
        tokens = backbone.tokenizer(list(kinds))
        ends, n = tokens.argmax(-1), self.context
        if not n:
            return wide(backbone.encode_text(tokens, hooked=backbone.text.must_call_hooks()))
        behind = (n + ends)[:, None] + torch.arange(n)  # where they stand once those before the name are there
        behind = behind.clamp(max=len(self.table) - 1)  # the tower refuses a sentence as long as that
        around = [(torch.ones_like(ends), self.table[1 : 1 + n]), (ends, self.table[behind.to(self.table.device)])]
        return wide(backbone.encode_text(tokens, context=around, hooked=backbone.text.must_call_hooks()))
