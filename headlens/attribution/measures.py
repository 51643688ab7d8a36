"""Is a map right? What the target does when pixels go, and whether the map points at the anomaly, image by image.

    deletion      area under the target as the pixels of the highest map values take the baseline's, the highest first
    insertion     area under it as they return to the baseline, the highest first        (both arXiv 1806.07421)
    pointing      the map's maximum lies in the mask: 1 or 0                             (arXiv 1608.00507, no margin)
    infidelity    squared error of "what a square holds in the map is what the target loses without it", after the
                  map's best rescaling, which may turn its sign                          (arXiv 1901.09392, by Captum)
    sensitivity   largest relative change of the map under noise that is hardly seen     (arXiv 1901.09392, by Captum)

Areas are in the target's units. Low is better but for insertion and pointing. Deletion and insertion only compare
methods: both depend on the baseline, and images half deleted are like none that the model knows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from headlens.attribution.pixels import baseline_of, seeded
from headlens.attribution.targets import Target
from headlens.errors import ShapeError


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
    """The area under the curve from the image [1, 3, h, w] to its blur, in the target's units; see above.

    Args:
        target: what the attribution [h, w] is of.
        image: normalised.
        attribution: the map.
        steps: of the curve.
    """
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
    """Captum's infidelity with 16 squares of random place and size, of a tenth to half of a side, that are blurred.

    Args:
        target, image, attribution: as for ``deletion``.
        seed: of the squares, a forward each.
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
        radius: of the noise; images have a standard deviation of about 1.
        samples: noisy copies, given to ``attribute`` together.
        seed: of the noise.
    """
    from captum.metrics import sensitivity_max

    def explain(images: tuple[Tensor]) -> tuple[Tensor]:  # Captum takes and gives tuples, and turns gradients off
        with torch.enable_grad():
            return (attribute(images[0]).flatten(1),)

    with seeded(seed):  # in batches, Captum would add the maxima up
        change = sensitivity_max(explain, image, perturb_radius=radius, n_perturb_samples=samples)
    return float(change)


def _area(curve: Tensor) -> float:
    return float(torch.trapezoid(curve) / (len(curve) - 1))
