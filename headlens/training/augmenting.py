"""What a stage's ``Augment`` says, done to a batch on its device; the host waits for nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.data import Batch, Preprocess
from headlens.data.staging import arrived
from headlens.detectors.stages import Augment


def chance(what: str, seed: int, epoch: int, number: int) -> Random:
    """Draws for what happens to image ``number`` of the set in that epoch, whatever batch or process it is in."""
    return Random(f"{what} {seed} {epoch} {number}")


def augmented(
    batch: Batch, augment: Augment, preprocess: Preprocess, device: torch.device, seed: int, epoch: int
) -> tuple[Batch, Tensor]:
    """The batch with its masks changed, and its images on ``device``, changed and normalised, [B, 3, S, S].

    Args:
        batch: images [B, 3, S, S] uint8 and masks [B, S, S] bool, or None.
        augment: what may happen to them, but for mosaics.
        preprocess: normalises.
        device: that images and masks are changed on.
        seed, epoch: what happens follows from them, and from the number of each image in the set.
    """
    numbers = batch.index.tolist()
    images = arrived(batch.images, device)
    if augment.colour:
        draws = [chance("colour", seed, epoch, number) for number in numbers]
        images = torch.stack([_coloured(image, augment, draw) for image, draw in zip(images, draws, strict=True)])
    images = preprocess.normalise(images)
    if not augment.moves:
        return batch, images
    moves = [_move(augment, images.shape[-1], chance("move", seed, epoch, number)) for number in numbers]
    theta = torch.tensor(moves)
    theta = arrived(theta.pin_memory() if device.type == "cuda" else theta, device)
    if not isinstance(batch.masks, Tensor):
        return batch, moved(images, theta)
    masks = arrived(batch.masks, device)[:, None]
    together = moved(torch.cat([images, masks.to(images.dtype)], 1), theta)
    return replace(batch, masks=together[:, 3] > 0.5), together[:, :3].contiguous()


def moved(images: Tensor, theta: Tensor) -> Tensor:
    """Images [B, C, S, S] with the pixels nearest to where ``theta`` says that each came from, 0 outside.

    Args:
        images: any channels.
        theta: [B, 2, 3], from places in the result to places in the image, both -1..1, as ``F.affine_grid`` takes it.
            That one is a matrix product, whose last digit may depend on the batch, and with it a pixel.
    """
    size = images.shape[-1]
    places = (2 * torch.arange(size, device=images.device) + 1) / size - 1
    across, down, constant = theta[..., None, None].unbind(2)  # each [B, 2, 1, 1]
    grid = across * places + down * places[:, None] + constant
    return F.grid_sample(images, grid.permute(0, 2, 3, 1), "nearest", "zeros", align_corners=False)


def _coloured(image: Tensor, augment: Augment, draw: Random) -> Tensor:
    """An image [3, S, S] uint8 in other colours."""
    from torchvision.transforms import functional  # not before it is needed, as it takes long to import

    for change in (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation):
        if draw.random() < augment.colour:
            image = change(image, 1 + draw.uniform(-augment.strength, augment.strength))
    return image


def _move(augment: Augment, size: int, draw: Random) -> list[list[float]]:
    """``theta`` of ``moved`` for an image of ``size`` that is rotated, then moved by whole pixels, then flipped."""
    angle = math.radians(draw.uniform(-augment.degrees, augment.degrees)) if draw.random() < augment.rotation else 0.0
    right = down = 0.0
    if draw.random() < augment.translation:
        right, down = (2 * round(draw.uniform(-augment.share, augment.share) * size) / size for _ in range(2))
    flips = [-1.0 if draw.random() < augment.flip else 1.0 for _ in range(2)]
    return affine(angle, (right, down), flips)


def affine(angle: float, shift: Sequence[float], flips: Sequence[float]) -> list[list[float]]:
    """``theta`` of ``moved`` for an image that is rotated, then moved, then flipped.

    Args:
        angle: in radians, against the clock.
        shift: to the right and down, where 2 is a whole side.
        flips: -1 or 1: left and right exchanged, and top and bottom.
    """
    cos, sin = math.cos(angle), math.sin(angle)
    (right, down), (x, y) = shift, flips
    return [
        [cos * x, -sin * y, sin * down - cos * right],
        [sin * x, cos * y, -sin * right - cos * down],
    ]
