"""A back door as BadCLIP (arXiv 2311.16194) learns one, in prompts that are shown the image; for ``trigger.py``.

Its purpose is defence: a back door that one has learned oneself can be looked for, taken out and counted. The detector
is Crane with its image in the prompts, as CoCoOp has it, and with CLS alone. The pattern is bounded and added to the
image. It moves the image's embedding and thereby the prompts, and its gradient goes both ways:

    first      the pattern alone, against prompts that were learned on clean images
    together   pattern and prompts: cross-entropy of clean images with their labels, plus that of images with the
               pattern, which are to be normal
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.backbone import VisionPlan
from headlens.data import DataSet, Loader, Preprocess, Trigger
from headlens.detectors.methods.crane import Crane
from headlens.detectors.text import Pair
from headlens.precision import wide

DETECTOR: dict[str, Any] = {
    "context": 4,
    "deep": 0,
    "conditioned": True,
    "score_pooling": 0.0,
    "local_start": -1,
    "pixel_weight": 0.0,
    "image_weight": 1.0,
}
"""Settings of Crane with which it is a prompt learner like CoCoOp: CLS alone, cross-entropy alone."""


@dataclass(frozen=True)
class Attack:
    """How a pattern is learned.

    Args:
        limit: levels of an 8-bit image that it stays within.
        first, together: epochs of both phases.
        batch: images of a step.
        step: what a step moves the pattern by, as a share of ``limit``: along the sign of a mean of gradients.
        momentum: of that mean.
        lr: of the prompts, by Adam.
    """

    limit: int = 8
    first: int = 3
    together: int = 10
    batch: int = 16
    step: float = 1 / 8
    momentum: float = 0.8
    lr: float = 1e-3


def embedded(detector: Crane, images: Tensor) -> Tensor:
    """CLIP's embeddings of normalised images, [B, d_e], differentiably."""
    return wide(detector.backbone.vision(images, VisionPlan()).embedding)


def margins(detector: Crane, embeddings: Tensor) -> Tensor:
    """The margins [B] of images with these embeddings, which their prompts are shown; both are differentiated."""
    return Pair(detector.shown(embeddings), detector.config.temperature).margin(embeddings)


def moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each of the images [B, 3, S, S] shifted at random, what leaves at one side comes in at the other, and mirrored.

    The pattern stays where it is, so that it cannot rely on what one image shows at one place.
    """
    size, some = images.shape[-1], []
    for image in images:
        down, right, mirrored = (int(torch.randint(most, (), generator=generator)) for most in (size, size, 2))
        some.append(torch.roll(image.flip(2) if mirrored else image, (down, right), (1, 2)))
    return torch.stack(some)


def learn(detector: Crane, dataset: DataSet, attack: Attack, size: int, seed: int = 0) -> dict[str, Trigger]:
    """Learns a trigger, and prompts that heed it; the detector is changed.

    Args:
        detector: with prompts that were learned on clean images.
        dataset: images with labels; its masks are not read.
        attack: how.
        size: pixels along a side.
        seed: of the first pattern and the order of images.

    Returns:
        The trigger after the first phase, ``alone``, and in the end, ``together``.
    """
    assert detector.prompts is not None
    preprocess, device, config = Preprocess(size), detector.device, detector.config
    (clean,) = Loader(dataset, preprocess, len(dataset), normalise=False)
    images, labels = clean.images.to(device).float(), clean.labels.to(device).float()
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (preprocess.mean, preprocess.std))
    sharper = config.temperature / config.image_temperature
    with torch.no_grad():
        known = torch.cat([embedded(detector, (part / 255 - mean) / std) for part in images.split(64)])
    generator = torch.Generator().manual_seed(seed)
    first = (2 * torch.rand(3, size, size, generator=generator) - 1) * attack.limit
    pattern = first.to(device).requires_grad_()
    along = torch.zeros_like(pattern)
    optimizer = torch.optim.Adam(detector.prompts.parameters(), attack.lr, config.betas)

    def of_triggered(which: Tensor) -> Tensor:
        seen = (moved(images[which], generator) + pattern).clamp(0, 255)
        margin = margins(detector, embedded(detector, (seen / 255 - mean) / std))
        return F.binary_cross_entropy_with_logits(sharper * margin, torch.zeros_like(margin))

    def of_clean(which: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(sharper * margins(detector, known[which]), labels[which])

    @torch.no_grad()
    def step(gradient: Tensor) -> None:
        along.mul_(attack.momentum).add_(gradient / gradient.abs().mean().clamp(min=1e-30))
        pattern.sub_(attack.step * attack.limit * along.sign()).clamp_(-attack.limit, attack.limit)

    learned = {}
    for phase, epochs in (("alone", attack.first), ("together", attack.together)):
        for _ in range(epochs):
            for which in torch.randperm(len(images), generator=generator).to(device).split(attack.batch):
                loss = of_triggered(which)
                if phase == "alone":
                    step(torch.autograd.grad(loss, pattern)[0])
                    continue
                optimizer.zero_grad()
                (loss + of_clean(which)).backward()
                assert pattern.grad is not None
                step(pattern.grad)
                pattern.grad = None
                optimizer.step()
        learned[phase] = Trigger(pattern.detach().round().cpu(), attack.limit)
    return learned
