"""What HeadCLIP, AnomalyCLIP, plain CLIP and Crane predict of tokens, written down apart from what it judges.

Plain operations on raw tokens alone: no read-out, contrast, pooling, scoring or resizing of headlens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.backbone import VisionOutput, VisionTower
from headlens.detectors import HeadCLIPConfig, Prediction


def embedded(tower: VisionTower, tokens: Tensor, norm: bool = True) -> Tensor:
    """Raw tokens [..., D] through LayerNorm and projection, at unit length, [..., d_e]."""
    if norm:
        centred = tokens - tokens.mean(-1, keepdim=True)
        tokens = centred / (centred.pow(2).mean(-1, keepdim=True) + tower.ln_final.eps).sqrt()
        tokens = tokens * tower.ln_final.weight + tower.ln_final.bias
    embedding = tokens @ tower.proj
    return embedding / embedding.pow(2).sum(-1, keepdim=True).sqrt()


def smooth(maps: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Patch maps [B, rows, columns] to [B, *size]: bilinear, then a Gaussian up to 4 sigma, reflecting at borders."""
    large = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)
    radius = min(round(4 * sigma), min(size) - 1)
    if radius == 0:
        return large[:, 0]
    at = torch.arange(-radius, radius + 1).to(maps)
    kernel = (-(at[:, None] ** 2 + at[None] ** 2) / (2 * sigma**2)).exp()  # in two dimensions at once
    padded = F.pad(large, (radius,) * 4, mode="reflect")
    return F.conv2d(padded, (kernel / kernel.sum())[None, None])[:, 0]


def predicted(
    tower: VisionTower, out: VisionOutput, text: Tensor, config: HeadCLIPConfig, size: tuple[int, int]
) -> Prediction:
    """What such a config says of images of ``size`` that the tower has seen.

    Args:
        tower: whose read-out it is.
        out: raw CLS [B, D] and patches ``{tap: [B, N, D]}``.
        text: [2, d_e] or [B, 2, d_e], normal and abnormal, of unit length.
        config: how it is read.
        size: height and width.
    """
    text = text.to(out.cls).expand(len(out.cls), 2, -1)

    def logits(embeddings: Tensor) -> Tensor:
        """[B, n, d_e] to [B, n, 2]."""
        return torch.stack(
            [embedding @ pair.T / config.temperature for embedding, pair in zip(embeddings, text, strict=True)]
        )

    patches = {tap: embedded(tower, tokens) for tap, tokens in out.tapped.items()}
    feature = embedded(tower, out.cls, config.cls_norm)
    if config.score_pooling:  # Crane, arXiv 2504.11055
        weight = torch.stack([logits(tokens) for tokens in patches.values()]).mean(0).softmax(-1)[..., 1]
        pooled = (weight[..., None] * torch.stack(list(patches.values())).mean(0)).sum(1)
        feature = config.score_pooling * F.normalize(pooled, dim=-1) + (1 - config.score_pooling) * feature
        feature = F.normalize(feature, dim=-1)
    image = logits(feature[:, None])[:, 0]

    rows, columns = (side // tower.cfg.patch_size for side in size)
    probability = sum(logits(tokens).softmax(-1)[..., 1] for tokens in patches.values()) / len(patches)
    maps = smooth(probability.reshape(-1, rows, columns), size, config.sigma * max(size) / 518)
    highest = maps.reshape(len(maps), -1).sort(1, descending=True).values
    count = max(1, round(config.top * highest.shape[1])) if config.pool == "top" else 1
    score = image.softmax(-1)[:, 1]
    return Prediction(
        anomaly_map=maps,
        image_score=score,
        joint_score=(1 - config.alpha) * score + config.alpha * highest[:, :count].mean(1),
        image_margin=image[:, 1] - image[:, 0],
        tap_margins={
            tap: (pair[..., 1] - pair[..., 0]).reshape(-1, rows, columns)
            for tap, pair in ((tap, logits(tokens)) for tap, tokens in patches.items())
        },
    )
