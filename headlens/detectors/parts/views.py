"""Changed views of an image: AnoCLIP (arXiv 2308.15939) averages its image score over these 21 and the image itself.

    8    turned by up to 45 degrees, in steps of 11.25
    8    moved along both axes, by a tenth or a twentieth of the image
    1    mirrored
    1    grey
    3    turned by 90, 180 and 270 degrees

What comes into view from outside is the image mirrored at its border.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import cos, pi, sin

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.precision import wide

_SIXTEENTHS = (-4, -3, -2, -1, 1, 2, 3, 4)  # of half a turn
_QUARTERS = (8, 16, 24)
_MOVES = tuple((sx * by, sy * by) for by in (0.2, 0.1) for sx in (1, -1) for sy in (1, -1))  # in half sides
_GREY = (0.299, 0.587, 0.114)  # of red, green and blue, as ITU-R BT.601 has them


def changed(images: Tensor) -> Iterator[Tensor]:
    """Every changed view of normalised images [B, 3, h, w], of that shape; each image's depend on that image alone.

    Grey is a mean of normalised channels, as in the authors' code.

    >>> len(list(changed(torch.zeros(2, 3, 32, 40))))
    21
    """
    images = wide(images)
    for step in _SIXTEENTHS:
        yield _turned(images, step * pi / 16)
    for x, y in _MOVES:
        yield _resampled(images, ((1.0, 0.0, x), (0.0, 1.0, y)))
    yield images.flip(3)
    yield torch.einsum("bchw,c->bhw", images, images.new_tensor(_GREY))[:, None].expand_as(images)
    for step in _QUARTERS:
        yield _turned(images, step * pi / 16)


def _turned(images: Tensor, angle: float) -> Tensor:
    """About the middle, by an angle between directions in pixels, whatever the sides."""
    ratio = max(images.shape[2] - 1, 1) / max(images.shape[3] - 1, 1)
    return _resampled(images, ((cos(angle), -sin(angle) * ratio, 0.0), (sin(angle) / ratio, cos(angle), 0.0)))


def _resampled(images: Tensor, rows: tuple[tuple[float, ...], ...]) -> Tensor:
    """At each pixel what lies where the 2 x 3 matrix sends it; coordinates go from -1 to 1 between the outer pixels."""
    matrix = images.new_tensor(rows).expand(len(images), -1, -1)
    places = F.affine_grid(matrix, list(images.shape), align_corners=True)
    return F.grid_sample(images, places, padding_mode="reflection", align_corners=True)
