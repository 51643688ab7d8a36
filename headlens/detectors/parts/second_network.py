"""D-Attn (Crane+, arXiv 2504.11055): patches attend to those that another network finds alike.

With ``f`` the features that a network such as DINOv2 has of an image's patches, at unit length, and ``S = f fᵀ``,

    A  = softmax over keys of 3 (S - 1.2 mean S), negative ones left out
    z  = A LN1(mid) W_V        mid: the global stream between attention and MLP of the block

The mean is over the patches of one image, so that no image has a part in another's; a patch always attends to itself,
also where all patches are alike. Features are held: they follow from the image alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headlens.backbone.blocks import Block
from headlens.errors import ShapeError
from headlens.precision import full_precision, wide

_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of red, green, blue


class PatchNetwork(Protocol):
    """A network that has features of patches.

    DINOv2 as its authors publish it is ``lambda images: dino.get_intermediate_layers(images, reshape=True)[0]``.
    """

    def __call__(self, images: Tensor) -> Tensor:
        """Images [B, 3, h, w], normalised by ImageNet's statistics, to features [B, D, rows, columns]."""


@torch.no_grad()
def affinity(network: PatchNetwork, images: Tensor, grid: tuple[int, int]) -> Tensor:
    """How much every patch attends to every other one, [B, N, N]; rows add up to 1.

    Args:
        network: where images are.
        images: normalised as CLIP's are, [B, 3, h, w].
        grid: rows and columns of CLIP's patches; features on another grid are interpolated.

    Raises:
        ShapeError: features that are not [B, D, rows, columns].
    """

    def of(values: tuple[float, float, float]) -> Tensor:
        return images.new_tensor(values)[:, None, None]

    pixels = (images * of(_CLIP[1]) + of(_CLIP[0])).clamp(0, 1)
    pixels = wide((pixels - of(_IMAGENET[0])) / of(_IMAGENET[1]))
    weights = next(network.parameters(), pixels) if isinstance(network, nn.Module) else pixels
    with full_precision(images.device):  # it is as it was loaded, whatever precision CLIP is lowered to
        features = network(pixels.to(weights.dtype))
    if features.ndim != 4 or len(features) != len(images):
        made = f"{tuple(features.shape)} of {len(images)} images"
        raise ShapeError(f"the second network made {made}; expected features [B, D, rows, columns]")
    features = wide(features.to(images.device))
    if features.shape[2:] != grid:
        features = F.interpolate(features, size=grid, mode="bilinear", align_corners=False)
    unit = F.normalize(features.flatten(2), dim=1)
    with full_precision(images.device):
        alike = unit.mT @ unit
    scores = 3 * (alike - 1.2 * alike.mean((1, 2), keepdim=True))
    itself = torch.eye(scores.shape[1], dtype=torch.bool, device=scores.device)
    return scores.masked_fill((scores < 0) & ~itself, -torch.inf).softmax(-1)


@dataclass(frozen=True)
class GivenAttention:
    """Heads that attend by a matrix of each image, the same for all of them; ``MoreHeads`` of a local stream.

    Args:
        matrix: [B, N, N].
    """

    matrix: Tensor

    def __call__(self, block: Block, mid: Tensor) -> Tensor:
        """The global stream after a block's attention [R, T, D] to heads at patches, [R, N, H, d]."""
        _, _, v = block.attn.project(block.ln1(mid), hooked=False)
        v = v[:, 1 : 1 + self.matrix.shape[1]]
        variants = len(mid) // len(self.matrix)
        mixed = self.matrix.to(v).repeat(variants, 1, 1) @ v.flatten(2)
        return mixed.view_as(v)
