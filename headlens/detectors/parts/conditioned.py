"""Prompts of a tower that depend on the image: learned tokens, plus a linear function of what CLIP says of the image.

    tokens of block l = static_l + W z + b        z: CLIP's image embedding, of any length

AdaCLIP's (arXiv 2407.15795); the dynamic part is the same for all blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headlens.detectors.parts.projections import seeded_linear
from headlens.precision import full_precision, wide


class ConditionedPrompts(nn.Module):
    """Tokens [length, D] for each of some blocks, and for each image where they are dynamic.

    Args:
        blocks: which.
        length: how many tokens.
        width: D.
        d_embed: the length of z.
        static, dynamic: which of the two parts there are, at least one.
        generator: of the initial values, N(0, 0.02) of static tokens, on the CPU.
        device: where.

    >>> prompts = ConditionedPrompts(range(4), 5, 64, 32, generator=torch.Generator())
    >>> {block: tuple(tokens.shape) for block, tokens in prompts(torch.zeros(2, 32)).items()}
    {0: (2, 5, 64), 1: (2, 5, 64), 2: (2, 5, 64), 3: (2, 5, 64)}
    """

    def __init__(
        self,
        blocks: Sequence[int],
        length: int,
        width: int,
        d_embed: int,
        *,
        static: bool = True,
        dynamic: bool = True,
        generator: torch.Generator,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.blocks, self.length = tuple(blocks), length
        self.static: nn.ParameterList | None = None
        self.dynamic: nn.Linear | None = None
        if static:
            tokens = [torch.randn(length, width, generator=generator) * 0.02 for _ in self.blocks]
            self.static = nn.ParameterList([nn.Parameter(token.to(device)) for token in tokens])
        if dynamic:
            self.dynamic = seeded_linear(d_embed, length * width, generator=generator, device=device)

    def forward(self, embedding: Tensor) -> dict[int, Tensor]:
        """CLIP's embeddings of images [B, d_e] to the tokens of each block, [B, length, D], at least float32.

        Static tokens alone are the same for all images, [length, D].
        """
        of_image: Tensor | float = 0.0
        if self.dynamic is not None:
            z = wide(embedding)
            with full_precision(z.device):
                flat = F.linear(z, self.dynamic.weight.to(z), self.dynamic.bias.to(z))
            of_image = flat.unflatten(1, (self.length, -1))
        learned = [0.0] * len(self.blocks) if self.static is None else self.static
        return {block: of_image + tokens for block, tokens in zip(self.blocks, learned, strict=True)}
