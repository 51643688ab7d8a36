"""Does a map depend on the model at all? It must change when the model does (Adebayo et al., arXiv 1810.03292).

Two models that know less: one that weighs every head of both streams at random, uniformly between 0 and 2, learned
weights or not, and one whose upper blocks have all their weights shuffled, which keeps their scale. A map that looks as
before explains the image, not the model: maps are compared by Spearman's rank correlation over their signed pixels.
"""

from __future__ import annotations

import copy

import scipy  # its parts are imported when they are used
import torch
from torch import Tensor

from headlens.backbone.hooks import hooked
from headlens.detectors.detector import Detector
from headlens.errors import ConfigError, ShapeError

CHECKS = ("head_weights", "upper_blocks")
UNCHANGED = 0.9
"""Mean rank correlation from which on a map counts as unchanged: a convention, so it is always shown with it."""


def random_head_weights(detector: Detector, seed: int = 0) -> dict[str, Tensor]:
    """Weights of every head of both streams, ``{stream: [L, H]}``, that stand in place of learned ones.

    >>> from headlens.backbone import load
    >>> from headlens.detectors import HeadCLIP
    >>> weights = random_head_weights(HeadCLIP(load("mini")))
    >>> {stream: bool((w >= 0).all() and (w <= 2).all()) for stream, w in weights.items()}
    {'global': True, 'local': True}
    """
    vision, generator = detector.backbone.vision.cfg, torch.Generator().manual_seed(seed)
    grid = (vision.n_layers, vision.n_heads)
    return {s: 2 * torch.rand(grid, generator=generator).to(detector.device) for s in detector.plan.streams}


def with_random_blocks(detector: Detector, blocks: int | None = None, seed: int = 0) -> Detector:
    """The detector with the weights of its image tower's last blocks shuffled, each tensor in itself.

    Args:
        detector: its backbone stays as it is.
        blocks: how many; half of them when None, or as many as leave no tap as it was.
        seed: of the order.

    Raises:
        ShapeError: more blocks than there are, or none.
        ConfigError: hooks at the image tower.
    """
    if hooks := hooked(detector.backbone.vision, "vision"):
        raise ConfigError(
            f"blocks are shuffled in a copy of the image tower, and the hook at {hooks[0]} is not made for one: remove "
            "it, or leave out what is measured with shuffled blocks"
        )
    text = detector.backbone.text  # shared
    backbone, generator = copy.deepcopy(detector.backbone, {id(text): text}), torch.Generator().manual_seed(seed)
    depth = backbone.vision.cfg.n_layers
    blocks = max(depth // 2, depth - min(detector.plan.taps, default=depth)) if blocks is None else blocks
    if not 1 <= blocks <= depth:
        raise ShapeError(f"{blocks} blocks cannot be shuffled; there are {depth}")
    with torch.no_grad():
        for block in list(backbone.vision.blocks)[depth - blocks :]:
            for parameter in block.parameters():
                order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return detector.on(backbone)


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's correlation of two maps of one shape; of maps without any order, whether they are equal.

    >>> rank_correlation(torch.tensor([[1.0, 2, 4]]), torch.tensor([[1.0, 2, 3]]))
    1.0
    """
    if one.shape != other.shape:
        raise ShapeError(f"maps have shapes {tuple(one.shape)} and {tuple(other.shape)}")
    if float(one.max()) == float(one.min()) or float(other.max()) == float(other.min()):
        return float(torch.equal(one, other))
    return round(float(scipy.stats.spearmanr(one.flatten().cpu().numpy(), other.flatten().cpu().numpy()).statistic), 12)
