"""Is a map right? What the target does when pixels go, and whether the map points at the anomaly, image by image.

    deletion      area under the target as the pixels of the highest map values take the baseline's, the highest first
    insertion     area under it as they return to the baseline, the highest first        (both arXiv 1806.07421)
    pointing      the map's maximum lies in the mask: 1 or 0                             (arXiv 1608.00507, no margin)
    infidelity    squared error of "what a square holds in the map is what the target loses without it", after the
                  map's best rescaling, which may turn its sign                          (arXiv 1901.09392, by Captum)
    sensitivity   largest relative change of the map under noise that is hardly seen     (arXiv 1901.09392, by Captum)

Areas are in the target's units. Low is better but for insertion and pointing. Deletion and insertion only compare
methods: both depend on the baseline, and images half deleted are like none that the model knows.

A map must also change when the model does (Adebayo et al., arXiv 1810.03292): one that looks as before explains the
image. Two models know less: one that weighs every head of both streams at random, uniformly between 0 and 2, learned
weights or not, and one whose upper blocks have all their weights shuffled, which keeps their scale.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import scipy  # its parts are imported when they are used
import torch
from torch import Tensor

from headlens.attribution.pixels import baseline_of, seeded
from headlens.attribution.targets import Target
from headlens.backbone.hooks import hooked
from headlens.detectors.detector import Detector
from headlens.errors import ConfigError, ShapeError

CHECKS = ("head_weights", "upper_blocks")
UNCHANGED = 0.9
"""Mean rank correlation from which on a map counts as unchanged: a convention, so it is always shown with it."""


@torch.no_grad()
def replacement_curve(
    target: Target, start: Tensor, end: Tensor, order: Tensor, steps: int = 16, batch: int = 8
) -> Tensor:
    """The target as the pixels of ``start`` become those of ``end``, in equal steps, [steps + 1].

    Args:
        target: any.
        start, end: [1, 3, h, w].
        order: [h, w]; pixels of the highest values first, among equals those further up.
        steps: a forward each, and one for the start.
        batch: forwards held together.

    Raises:
        ShapeError: an order of another size, or no step.
    """
    if order.shape != start.shape[2:] or steps < 1:
        raise ShapeError(f"an order of shape {tuple(order.shape)} in {steps} steps for {tuple(start.shape)}")
    rank = torch.empty_like(order.flatten(), dtype=torch.long)
    sequence = order.flatten().argsort(descending=True, stable=True)
    rank[sequence] = torch.arange(len(sequence), device=order.device)
    limits = (torch.arange(steps + 1, device=order.device) * len(rank)) // steps
    values = []
    for part in limits.split(batch):
        gone = (rank < part[:, None]).view(-1, 1, *order.shape)
        values.append(target(torch.where(gone, end, start)))
    return torch.cat(values)


def deletion(target: Target, image: Tensor, attribution: Tensor, steps: int = 16) -> float:
    """The area under the curve from the image [1, 3, h, w] to its blur, in the target's units; the map is [h, w]."""
    return _area(replacement_curve(target, image, baseline_of(target, image), attribution, steps))


def insertion(target: Target, image: Tensor, attribution: Tensor, steps: int = 16) -> float:
    """The same from the blur to the image."""
    return _area(replacement_curve(target, baseline_of(target, image), image, attribution, steps))


def pointing(attribution: Tensor, mask: Tensor) -> float:
    """1 where the highest value of the map [h, w] lies in the mask [h, w], else 0; NaN where nothing is marked.

    >>> pointing(torch.eye(2), torch.tensor([[1, 0], [0, 0]]))
    1.0
    """
    if attribution.shape != mask.shape:
        raise ShapeError(f"the map has shape {tuple(attribution.shape)}, the mask {tuple(mask.shape)}")
    return float(mask.flatten()[attribution.argmax()] > 0) if bool(mask.any()) else float("nan")


def infidelity(target: Target, image: Tensor, attribution: Tensor, seed: int = 0) -> float:
    """Captum's infidelity of a map [h, w] of an image [1, 3, h, w], with 16 squares that are blurred.

    Their place and size, a tenth to half of a side, are random, by ``seed``; each takes a forward.
    """
    from captum.metrics import infidelity as measured

    base, (height, width) = baseline_of(target, image), attribution.shape
    generator = torch.Generator().manual_seed(seed)

    def square() -> Tensor:
        side = round(min(height, width) * (0.1 + 0.4 * float(torch.rand((), generator=generator))))
        top, left = (int(torch.randint(length - side + 1, (), generator=generator)) for length in (height, width))
        mask = torch.zeros(1, height, width, device=attribution.device, dtype=attribution.dtype)
        mask[:, top : top + side, left : left + side] = 1
        return mask

    def perturb(images: Tensor) -> tuple[Tensor, Tensor]:
        gone = torch.stack([square() for _ in images]).expand_as(images)
        return gone, torch.where(gone > 0, base, images)  # the map is in units of the target: a square holds its sum

    spread = attribution.expand_as(image) / image.shape[1]
    options = {"n_perturb_samples": 16, "max_examples_per_batch": 8, "normalize": True}
    return float(measured(target, perturb, image, spread, **options))


def sensitivity(
    attribute: Callable[[Tensor], Tensor], image: Tensor, radius: float = 0.02, samples: int = 3, seed: int = 0
) -> float:
    """Captum's largest relative change of a map, in L2, under uniform noise of ``radius`` in normalised units.

    Args:
        attribute: images [n, 3, h, w] to maps [n, h, w].
        image: [1, 3, h, w].
        radius, seed: of the noise; images have a standard deviation of about 1.
        samples: noisy copies, given to ``attribute`` together.
    """
    from captum.metrics import sensitivity_max

    def explain(images: tuple[Tensor]) -> tuple[Tensor]:  # Captum takes and gives tuples, and turns gradients off
        with torch.enable_grad():
            return (attribute(images[0]).flatten(1),)

    with seeded(seed):  # in batches, Captum would add the maxima up
        change = sensitivity_max(explain, image, perturb_radius=radius, n_perturb_samples=samples)
    return float(change)


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
    backbone, generator = copy.deepcopy(detector.backbone.base, {id(text): text}), torch.Generator().manual_seed(seed)
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


def _area(curve: Tensor) -> float:
    return float(torch.trapezoid(curve) / (len(curve) - 1))
