"""LoRA (arXiv 2106.09685) on the attention of an image tower: a learned low-rank change of each of its matrices.

    W' = W + U D        D [rank, width] begins at random, U [width, rank] at 0; of queries, keys, values and outputs

``W'`` is made before anything is scored, so that every head is what it computes, and the lens reads it as any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from headlens.backbone.vision import VisionTower

if TYPE_CHECKING:
    from headlens.backbone.config import VisionConfig

_MATRICES = 4  # queries, keys, values, outputs


class LowRank(nn.Module):
    """Changes of the attention matrices of every block.

    Args:
        vision: whose.
        rank: at most that of each change.
        generator: of the initial values, on the CPU.
        device: where.
    """

    def __init__(
        self, vision: VisionConfig, rank: int, generator: torch.Generator, device: torch.device | None = None
    ) -> None:
        super().__init__()
        shape = (vision.n_layers, _MATRICES, rank, vision.d_model)
        self.down = nn.Parameter((torch.randn(shape, generator=generator) * vision.d_model**-0.5).to(device))
        self.up = nn.Parameter(torch.zeros(vision.n_layers, _MATRICES, vision.d_model, rank, device=device))

    def changed(self, vision: VisionTower) -> dict[str, Tensor]:
        """The matrices of a tower with their changes, {name of the weight: [3 D, D] or [D, D]}; differentiable."""
        weights: dict[str, Tensor] = {}
        for layer, (block, change) in enumerate(zip(vision.blocks, self.up @ self.down, strict=True)):
            for name, linear, matrices in (("qkv", block.attn.qkv, change[:3]), ("out", block.attn.out, change[3:])):
                weights[f"blocks.{layer}.attn.{name}.weight"] = linear.weight + matrices.flatten(0, 1).to(linear.weight)
        return weights


def low_rank_shapes(vision: VisionConfig, rank: int) -> dict[str, tuple[int, ...]]:
    """Of what ``LowRank`` learns, by the names that it has as the part ``lora`` of a detector."""
    return {
        "lora.down": (vision.n_layers, _MATRICES, rank, vision.d_model),
        "lora.up": (vision.n_layers, _MATRICES, vision.d_model, rank),
    }
