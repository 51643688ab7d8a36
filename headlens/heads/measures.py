"""The continuous quantities that heads are measured by, one for each image.

    image margin    abnormal minus normal logit of the image, before softmax                         [B]
    anomaly map     what the detector shows, [B, h, w]; made of the taps' margins                     {tap: [B, N]}
    joint score     (1 - alpha) sigmoid(image margin) + alpha pool(anomaly map), 0 to 1              [B]
    joint margin    log(joint score / (1 - joint score)): the joint score where it cannot saturate   [B]

With ``alpha = 0`` the joint margin is the image margin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from headlens.detectors.detector import Detector
from headlens.detectors.methods.headclip import Features
from headlens.detectors.scoring import joint_score, margin, upsample
from headlens.errors import ConfigError

MAPS_AT_ONCE, MAPS_ON_DEVICE = 16, 256  # full-size maps held together: few enough to stay in a CPU's cache


@dataclass(frozen=True)
class Margins:
    """What scores are made of, for R images or variants of images: ``image`` [R], ``taps`` {tap: [R, N]}."""

    image: Tensor
    taps: dict[int, Tensor]


@dataclass(frozen=True)
class Targets:
    """Scores of R images or variants of images.

    Args:
        image_margin, joint_margin, joint_score: [R].
        map_change: [R], the anomaly map's L1 distance from that of the whole detector, relative to the larger of their
            L1 norms: 0 to 2, also where the whole map is nearly empty; 0 where there is nothing to compare with.
        patch_map: [R, rows, columns], what the anomaly map is enlarged from.
    """

    image_margin: Tensor
    joint_margin: Tensor
    joint_score: Tensor
    map_change: Tensor
    patch_map: Tensor


def wide(tensor: Tensor) -> Tensor:
    """At least float32: margins of half precision would drown small effects."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def check_linear(detector: Detector) -> None:
    """Raises ConfigError where the image margin is no function of CLS alone, which everything here takes it for."""
    share = getattr(detector.config, "score_pooling", 0)
    if share:
        raise ConfigError(
            f"score_pooling is {share}: the image feature then mixes patches weighted by their own scores, and no sum "
            "over heads is exact; use detector.with_config(score_pooling=0.0)"
        )


def check_unhooked(detector: Detector, what: str, *, calls_tower: bool = False) -> None:
    """Raises ConfigError where a hook would not be called: at the image tower, or at the detector itself.

    Whatever computes from weights and streams calls neither modules nor hook points. Hooks at the text tower and at
    what is learned are called everywhere.

    Args:
        detector: which.
        what: is computed, for the message.
        calls_tower: the image tower's forward is called, so that only the detector's own is not.
    """
    for name in detector.hooks:
        if name == "detector":
            others = "predict or eval"
        elif name.startswith("vision") and not calls_tower:
            others = "predict, eval, importance, or attribute with a score as its target"
        else:
            continue
        raise ConfigError(f"{what} would not call the hook at {name}: remove it, or take {others}, which call it")


def features(detector: Detector, images: Tensor, gates: Mapping[str, Tensor] | None = None) -> Features:
    """``detector.features``, in float64 where the backbone is."""
    vision = detector.backbone.vision
    out = vision(
        images,
        taps=detector.config.taps,
        local=detector.local,
        head_weights=detector.head_weights() or None,
        gates=gates,
        hooked=vision.must_call_hooks(),
    )
    cls = out.embedding if detector.config.cls_norm else out.cls @ vision.proj
    return Features(wide(cls), {tap: wide(p) for tap, p in out.patches.items()}, (images.shape[2], images.shape[3]))


def margins(detector: Detector, found: Features, text: Tensor) -> Margins:
    """Features to margins; text [2, d_e], or [B, 2, d_e], as ``detector.text_of`` gives it."""
    temperature = detector.config.temperature
    taps = {tap: margin(tokens, text, temperature) for tap, tokens in found.patches.items()}
    return Margins(margin(found.cls, text, temperature), taps)


def patch_maps(found: Margins, grid: tuple[int, int]) -> Tensor:
    """The mean over taps of the probability that a patch is abnormal, [R, rows, columns]."""
    return torch.stack([logits.sigmoid() for logits in found.taps.values()]).mean(0).unflatten(-1, grid)


def enlarge(detector: Detector, maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Patch maps [R, rows, columns] to anomaly maps [R, h, w], as the detector makes them."""
    return upsample(maps, size, detector.config.sigma * max(size) / 518)


def joint(detector: Detector, image_margin: Tensor, maps: Tensor) -> Tensor:
    """Image margins [R] and anomaly maps [R, h, w] to joint scores [R]."""
    config = detector.config
    return joint_score(image_margin.sigmoid(), maps, config.alpha, config.top if config.pool == "top" else None)


def logit(score: Tensor) -> Tensor:
    """Of scores or maps between 0 and 1, finite even at 0 and 1, and as fine near 0, where most of a trained map is."""
    return torch.logit(score.clamp(1e-12, 1 - torch.finfo(score.dtype).eps / 2))


def targets(detector: Detector, found: Margins, size: tuple[int, int], before: Tensor | None = None) -> Targets:
    """Margins of R = V B variants of B images to their scores, variant by variant.

    Args:
        detector: how margins become scores.
        found: of all rows.
        size: height and width of the images.
        before: [B, h, w], anomaly maps that the rows' maps are compared with.
    """
    small = patch_maps(found, detector.backbone.vision.grid(*size))
    scores, changes = [], []
    norm = None if before is None else before.flatten(1).sum(1)
    at_once = MAPS_AT_ONCE if small.device.type == "cpu" else MAPS_ON_DEVICE
    for first in range(0, len(small), at_once):
        rows = slice(first, first + at_once)
        maps = enlarge(detector, small[rows], size)
        scores.append(joint(detector, found.image[rows], maps))
        if before is None or norm is None:
            changes.append(torch.zeros_like(scores[-1]))
            continue
        image = torch.arange(first, first + len(maps), device=maps.device) % len(before)
        larger = torch.maximum(norm[image], maps.flatten(1).sum(1))
        changes.append((maps - before[image]).abs_().flatten(1).sum(1) / larger.clamp(min=1e-30))
    score = torch.cat(scores)
    return Targets(found.image, logit(score), score, torch.cat(changes), small)
