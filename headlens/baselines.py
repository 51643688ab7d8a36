"""A baseline that knows nothing: how much every pixel differs from its neighbourhood. What learns has to beat it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headlens.data.preprocess import Preprocess
from headlens.data.procedural.canvas import blur
from headlens.detectors.scoring import Prediction
from headlens.devices import device_of
from headlens.units import logit

SCALES = (4.0, 8.0, 16.0)
"""Pixels; tables show the strongest of the three for each metric."""


def local_contrast(images: Tensor, scale: float) -> Tensor:
    """Colour distance of every pixel to its neighbourhood of ``scale`` pixels, [B, 3, h, w] to [B, h, w]; 0..1 both.

    >>> float(local_contrast(torch.full((1, 3, 8, 8), 0.5), 4.0).max()) < 1e-6
    True
    """
    difference = (blur(images, 1.0) - blur(images, scale)).square().sum(1).sqrt() / 3**0.5
    return blur(difference[:, None], 2.5)[:, 0]


@dataclass
class LocalContrast:
    """``local_contrast`` as a detector. Its scores lie in 0..1, but are not calibrated probabilities.

    All its image scores are the map's maximum.

    Args:
        scale: of the neighbourhood, in pixels.
        image_size: pixels along a side that images are resized to.
        device: where.
    """

    scale: float = 8.0
    image_size: int = 224
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        self.device = device_of(self.device)

    def __call__(self, images: Tensor, categories: Sequence[str] = ()) -> Prediction:
        """Normalised images [B, 3, h, w] to scores."""
        maps = local_contrast(Preprocess().denormalise(images), self.scale)
        peak = maps.flatten(1).amax(1)
        return Prediction(maps, peak, peak, logit(peak), {}, "probability")
