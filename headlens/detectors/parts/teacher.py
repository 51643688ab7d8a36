"""A frozen teacher: CLIP's patches, whose attention from some block on is softmax(v vᵀ), each with its image's CLS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.backbone import LocalStream, VisionPlan
from headlens.backbone.vision import VisionTower
from headlens.precision import wide


@dataclass(frozen=True)
class Taught:
    """Of ``B`` images of ``size`` (height, width): ``taps`` {tap: [B, N, d_e]}, unit patches plus unit CLS."""

    taps: dict[int, Tensor]
    size: tuple[int, int]


def teacher_stream(start: int) -> LocalStream:
    """How the teacher attends from block ``start`` on: softmax(v vᵀ), with each block's MLP."""
    return LocalStream(start, mode="replace", mlp=True)


@torch.no_grad()
def teach(vision: VisionTower, images: Tensor, taps: Sequence[int], start: int, across_batch: bool = False) -> Taught:
    """Normalised images [B, 3, h, w] to what the text learns from in AA-CLIP (arXiv 2503.06661).

    Args:
        vision: as it is; CLS is its own.
        images: of a batch.
        taps: blocks after which patches are read.
        start: the first block with the other attention.
        across_batch: this attention goes from image to image of the batch, at one place, instead of from place to place
            of an image. The authors' code gives it tensors whose first two axes are swapped.
    """
    plan = VisionPlan(tuple(taps), teacher_stream(start))
    tapped = _across(vision, images, plan) if across_batch else vision(images, plan, hooked=False).tapped
    cls = F.normalize(wide(vision(images, hooked=False).embedding), dim=-1)[:, None]
    patches = {tap: F.normalize(wide(vision.readout(tokens)), dim=-1) for tap, tokens in tapped.items()}
    return Taught({tap: unit + cls for tap, unit in patches.items()}, (images.shape[2], images.shape[3]))


def _across(vision: VisionTower, images: Tensor, plan: VisionPlan) -> dict[int, Tensor]:
    x, tapped = vision.embed(images), {}
    for number, block in enumerate(vision.blocks):
        local = plan.local_at(number)
        x = block.step(x).x if local is None else block.step(x.transpose(0, 1), local=local).x.transpose(0, 1)
        if number in plan.taps:
            tapped[number] = x[:, 1:]
    return tapped
