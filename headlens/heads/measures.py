"""The continuous quantities that heads are measured by, one for each image: see ``headlens.detectors.scoring``.

With ``alpha = 0`` the joint margin is the image margin.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headlens.detectors.scoring import Margins, Scoring

MAPS_AT_ONCE, MAPS_ON_DEVICE = 16, 256  # full-size maps held together: few enough to stay in a CPU's cache


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


def targets(
    scoring: Scoring, margins: Margins, grid: tuple[int, int], size: tuple[int, int], before: Tensor | None = None
) -> Targets:
    """Margins of R = V B variants of B images to their scores, variant by variant.

    Args:
        scoring: how margins become scores.
        margins: of all rows.
        grid: rows and columns of patches.
        size: height and width of the images.
        before: [B, h, w], anomaly maps that the rows' maps are compared with.
    """

    def norm(maps: Tensor) -> Tensor:
        maps = maps.flatten(1)
        return (maps if scoring.unit == "probability" else maps.abs()).sum(1)

    small = scoring.patch_maps(margins.taps, grid)
    scores, changes = [], []
    norm_before = None if before is None else norm(before)
    step = MAPS_AT_ONCE if small.device.type == "cpu" else MAPS_ON_DEVICE
    for first in range(0, len(small), step):
        rows = slice(first, first + step)
        maps = scoring.enlarge(small[rows], size)
        scores.append(scoring.joint(margins.image[rows], maps))
        if before is None or norm_before is None:
            changes.append(torch.zeros_like(scores[-1]))
            continue
        image = torch.arange(first, first + len(maps), device=maps.device) % len(before)
        larger = torch.maximum(norm_before[image], norm(maps))
        changes.append((maps - before[image]).abs_().flatten(1).sum(1) / larger.clamp(min=1e-30))
    score = torch.cat(scores)
    return Targets(margins.image, scoring.joint_margin(score), score, torch.cat(changes), small)
