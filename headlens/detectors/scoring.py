"""From embeddings to an anomaly map, an image score and a joint score.

Shapes: ``B`` images, ``N = rows x columns`` patches, ``d`` the joint space. ``text`` [2, d] or [B, 2, d] holds the
normal and the abnormal prompt, in this order, of unit length.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.metrics.maps import upsample
from headlens.precision import finely

__all__ = ["TEMPERATURE", "anomaly_map", "joint_score", "margin", "pooled", "score_pooled", "upsample"]

TEMPERATURE = 0.07


def margin(features: Tensor, text: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Abnormal minus normal logit, before softmax: features [B, d] or [B, N, d] to [B] or [B, N].

    >>> margin(torch.tensor([[0.0, 2.0]]), torch.eye(2))
    tensor([14.2857])
    """
    direction = (text[..., 1, :] - text[..., 0, :]).to(features.dtype)  # (d) or (B, d)
    with finely(features.device):  # two passes over the features, and none of them is written
        along = features @ direction if direction.ndim == 1 else torch.einsum("b...d,bd->b...", features, direction)
        return along / (torch.linalg.vector_norm(features, dim=-1).clamp(min=1e-12) * temperature)


def anomaly_map(patches: Mapping[int, Tensor], text: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tapped patch tokens ``{tap: [B, N, d]}`` to the mean over taps of p(abnormal), [B, rows, columns]."""
    maps = [margin(tokens, text).sigmoid() for tokens in patches.values()]
    return torch.stack(maps).mean(0).unflatten(1, grid)


def score_pooled(cls: Tensor, patches: Mapping[int, Tensor], margins: Mapping[int, Tensor], share: float) -> Tensor:
    """Crane's image feature (arXiv 2504.11055), [B, d]: CLS, and the patches' mean weighted by their anomaly.

    Args:
        cls: [B, d].
        patches: ``{tap: [B, N, d]}``.
        margins: ``{tap: [B, N]}``; the weights are the sigmoid of their mean over taps.
        share: of the patches; 0 is CLS.
    """
    weights = torch.stack(list(margins.values())).mean(0).sigmoid()
    tokens = torch.stack([F.normalize(tokens, dim=-1) for tokens in patches.values()]).mean(0)
    anomalous = F.normalize((weights[..., None] * tokens).sum(1), dim=-1)
    return (1 - share) * F.normalize(cls, dim=-1) + share * anomalous


def pooled(maps: Tensor, top: float | None = None) -> Tensor:
    """The maximum of each map [B, H, W], or the mean of its highest ``top`` fraction of pixels: [B]."""
    pixels = maps.flatten(1)
    if top is None:
        return pixels.amax(1)
    return pixels.topk(max(1, round(top * pixels.shape[1])), 1).values.mean(1)


def joint_score(image_score: Tensor, maps: Tensor, alpha: float = 0.5, top: float | None = None) -> Tensor:
    """``(1 - alpha) image_score + alpha pooled(map)``: [B] and [B, H, W] to [B]."""
    return (1 - alpha) * image_score + alpha * pooled(maps, top)
