"""From embeddings to an anomaly map, an image score and a joint score.

Shapes: ``B`` images, ``N = rows x columns`` patches, ``d`` the joint space. ``text`` [2, d] or [B, 2, d] holds the
normal and the abnormal prompt, in this order, of unit length.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.07


def margin(features: Tensor, text: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Abnormal minus normal logit, before softmax: features [B, d] or [B, N, d] to [B] or [B, N].

    >>> margin(torch.tensor([[0.0, 2.0]]), torch.eye(2))
    tensor([14.2857])
    """
    features = F.normalize(features, dim=-1)
    direction = text[..., 1, :] - text[..., 0, :]  # (d) or (B, d)
    direction = direction if direction.ndim == 1 else direction.unflatten(0, (-1, *[1] * (features.ndim - 2)))
    return (features * direction).sum(-1) / temperature


def anomaly_map(patches: Mapping[int, Tensor], text: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tapped patch tokens ``{tap: [B, N, d]}`` to the mean over taps of p(abnormal), [B, rows, columns]."""
    maps = [margin(tokens, text).sigmoid() for tokens in patches.values()]
    return torch.stack(maps).mean(0).unflatten(1, grid)


def upsample(maps: Tensor, size: tuple[int, int], sigma: float | None = None) -> Tensor:
    """Maps [B, rows, columns] to [B, *size], bilinear, then smoothed by a Gaussian.

    Args:
        maps: patch-wise.
        size: height and width in pixels.
        sigma: in pixels; 4 at 518 px, and in proportion elsewhere, when None.
    """
    from torchvision.transforms.functional import gaussian_blur

    large = F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)
    sigma = 4.0 * max(size) / 518 if sigma is None else sigma
    radius = min(round(4 * sigma), min(size) - 1)
    return gaussian_blur(large, [2 * radius + 1] * 2, [sigma, sigma])[:, 0] if radius else large[:, 0]


def pooled(maps: Tensor, top: float | None = None) -> Tensor:
    """The maximum of each map [B, H, W], or the mean of its highest ``top`` fraction of pixels: [B]."""
    pixels = maps.flatten(1)
    if top is None:
        return pixels.amax(1)
    return pixels.topk(max(1, round(top * pixels.shape[1])), 1).values.mean(1)


def joint_score(image_score: Tensor, maps: Tensor, alpha: float = 0.5, top: float | None = None) -> Tensor:
    """``(1 - alpha) image_score + alpha pooled(map)``: [B] and [B, H, W] to [B]."""
    return (1 - alpha) * image_score + alpha * pooled(maps, top)
