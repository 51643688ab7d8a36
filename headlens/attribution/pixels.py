"""Attributions to pixels by gradients and by ablation; the algorithms are Captum's, all in the same unit.

Every function takes a target and normalised images [B, 3, h, w] and gives a signed map [B, h, w]: channels are summed,
nothing is rescaled, and each pixel holds its share, so that the sum over pixels is the total attribution.

Attributions explain differences to a baseline, which replaces absent pixels:

    blur    the image without detail finer than a patch: removes a small anomaly, keeps the scene
    mean    the mean colour of CLIP's training images: 0 after normalisation
    black   0 before normalisation
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.attribution.targets import Target
from headlens.data import Preprocess
from headlens.errors import ConfigError, ShapeError
from headlens.maps import upsample
from headlens.printing import unknown_name

BASELINES = {"blur": "the blurred image", "mean": "the mean colour", "black": "a black image"}
"""What absent pixels look like, in words."""
_NODES = 4  # of a segment of the path: halving locates kinks, and smooth segments are exact to the 7th power


def baseline_of(target: Target, images: Tensor, kind: str = "blur") -> Tensor:
    """The baseline images, [B, 3, h, w].

    Raises:
        ConfigError: an unknown baseline.
    """
    if kind == "mean":
        return torch.zeros_like(images)
    if kind == "black":
        black = torch.zeros(images.shape, dtype=torch.uint8, device=images.device)
        return Preprocess(images.shape[-1]).normalise(black).to(images.dtype)
    if kind == "blur":
        flat = images.flatten(0, 1)  # the enlarging of maps, to their own size, is a Gaussian alone
        sigma = float(target.detector.backbone.vision.cfg.patch_size)
        return upsample(flat, (flat.shape[1], flat.shape[2]), sigma).view_as(images)
    raise ConfigError(unknown_name("baseline", kind, BASELINES))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers that depend only on ``seed``, without changing torch's global state, which Captum uses."""
    before = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002


def integrated_gradients(
    target: Target,
    images: Tensor,
    *,
    baseline: str = "blur",
    steps: int = 32,
    most: int = 512,
    tolerance: float = 1e-3,
    batch: int = 8,
) -> Tensor:
    """Gradients integrated from the baseline to the image (arXiv 1703.01365), by Gauss and Legendre's rule in segments.

    Complete: a map adds up to the target's difference between image and baseline. The joint score has kinks on the
        path, where the maximum of the map moves from one patch to another, so equal steps are inefficient. The residual
        of a segment is known from the target at its ends, so the worst segment is halved until the map is complete.

    Args:
        target, images: see above.
        baseline: one of ``BASELINES``.
        steps: initial steps of the path, each a forward and a backward pass, four per segment.
        most: maximal number of steps, at least ``steps``, even if the map is not complete.
        tolerance: residual at which a map counts as complete, relative to the difference; rounding errors of the target
            do not count.
        batch: steps per forward pass.
    """
    _positive(steps=steps, most=most, batch=batch)
    nodes, maps = min(_NODES, steps), []
    for image in images.split(1):
        divided = partial(_segments, target, baseline_of(target, image, baseline), image, nodes=nodes, batch=batch)
        segments = divided(torch.linspace(0, 1, 1 - (-steps // nodes)))
        made, first, last = len(segments) * nodes, segments[0].first, segments[-1].last
        rounding = 100 * torch.finfo(image.dtype).eps * max(1.0, abs(first), abs(last))  # of the whole network
        enough = tolerance * abs(last - first) + rounding
        while abs(sum(segment.residual for segment in segments)) > enough and made + 2 * nodes <= most:
            worst = max(segments, key=lambda segment: abs(segment.residual))
            segments = [segment for segment in segments if segment is not worst]
            segments += divided(torch.linspace(worst.start, worst.stop, 3))
            made += 2 * nodes
        maps.append(torch.stack([segment.map for segment in segments]).sum(0))
    return torch.stack(maps).sum(1)


class _Segment(NamedTuple):
    """A segment of a path, ``start`` to ``stop`` of 0 to 1: the target at its ends, and the integral [3, h, w]."""

    start: float
    stop: float
    first: float
    last: float
    map: Tensor
    residual: float


def _segments(target: Target, base: Tensor, image: Tensor, places: Tensor, *, nodes: int, batch: int) -> list[_Segment]:
    """Those of the straight path from ``base`` to ``image`` between rising ``places`` [P + 1], by Captum."""
    from captum.attr import IntegratedGradients

    method = IntegratedGradients(target)
    at = torch.lerp(base, image, places.to(image)[:, None, None, None])  # (P + 1, 3, h, w)
    with torch.no_grad():
        values = [float(value) for part in at.split(batch) for value in target(part)]
    options = {"n_steps": nodes, "method": "gausslegendre", "internal_batch_size": batch}
    integrals = [
        integral.detach()
        for start, stop in zip(at[:-1].split(batch), at[1:].split(batch), strict=True)
        for integral in method.attribute(_leaf(stop), baselines=start, **options)
    ]
    ends = places.tolist()
    sums = [float(integral.cpu().double().sum()) for integral in integrals]  # not every device has float64
    residuals = [last - first - total for first, last, total in zip(values[:-1], values[1:], sums, strict=True)]
    columns = (ends[:-1], ends[1:], values[:-1], values[1:], integrals, residuals)
    return [_Segment(*segment) for segment in zip(*columns, strict=True)]


def gradient_shap(
    target: Target,
    images: Tensor,
    *,
    baseline: str = "blur",
    samples: int = 16,
    noise: float = 0.1,
    seed: int = 0,
    batch: int = 8,
) -> Tensor:
    """Gradients at random points between baseline and noisy image, times the difference (arXiv 1705.07874).

    Complete on average over draws; with few samples the residual is large.

    Args:
        target, images, baseline, batch: as for integrated gradients.
        samples: random draws per image.
        noise: its standard deviation, in normalised units, where images have about 1.
        seed: seed of the draws, the same for every image.
    """
    from captum.attr import GradientShap

    _positive(samples=samples, batch=batch)
    method, maps = GradientShap(target), []
    for image in images.split(1):  # together, Captum would draw the baseline of one for another
        base, total = baseline_of(target, image, baseline), torch.zeros_like(image)
        with seeded(seed):
            for first in range(0, samples, batch):
                count = min(batch, samples - first)
                part = method.attribute(_leaf(image), baselines=base, n_samples=count, stdevs=noise)
                total += count * part.detach()
        maps.append(total / samples)
    return torch.cat(maps).sum(1)


def input_x_gradient(target: Target, images: Tensor) -> Tensor:
    """The normalised image times the target's gradient: pixels count by their distance from the mean colour."""
    from captum.attr import InputXGradient

    return InputXGradient(target).attribute(_leaf(images)).detach().sum(1)


def smooth_grad(
    target: Target, images: Tensor, *, samples: int = 16, noise: float = 0.3, seed: int = 0, batch: int = 8
) -> Tensor:
    """``input_x_gradient``, averaged over noisy copies of the image (SmoothGrad, arXiv 1706.03825).

    Args:
        target, images, samples, seed, batch: as for ``gradient_shap``.
        noise: its standard deviation, in normalised units.
    """
    from captum.attr import InputXGradient, NoiseTunnel

    _positive(samples=samples, batch=batch)
    method, maps = NoiseTunnel(InputXGradient(target)), []
    options = {"nt_samples": samples, "nt_samples_batch_size": min(batch, samples), "stdevs": noise}
    for image in images.split(1):
        with seeded(seed):
            maps.append(method.attribute(_leaf(image), nt_type="smoothgrad", **options).detach())
    return torch.cat(maps).sum(1)


def patch_ablation(target: Target, images: Tensor, *, baseline: str = "blur", cells: int = 8, batch: int = 8) -> Tensor:
    """How much the target falls when a square takes the baseline's pixels, square by square.

    Args:
        target, images, baseline: as for integrated gradients.
        cells: squares along the longer side, aligned to patches; one forward pass per square.
        batch: squares ablated together, each in a copy.
    """
    from captum.attr import FeatureAblation

    side = _side(target, images, cells, batch)
    rows, columns = (torch.arange(length, device=images.device) // side for length in images.shape[2:])
    squares = rows[:, None] * (columns[-1] + 1) + columns  # (h, w)
    options = {"baselines": baseline_of(target, images, baseline), "perturbations_per_eval": batch}
    lost = FeatureAblation(target).attribute(images, feature_mask=squares[None, None], **options)
    return _each(lost, squares.flatten().bincount()[squares])


def occlusion(target: Target, images: Tensor, *, baseline: str = "blur", cells: int = 8, batch: int = 8) -> Tensor:
    """The same with a window of two by two squares that moves by one: a pixel has the mean of its windows.

    Source: arXiv 1311.2901.

    Args:
        target, images, baseline, cells, batch: as for ``patch_ablation``.
    """
    from captum.attr import Occlusion

    side = _side(target, images, cells, batch)
    window = [min(2 * side, length) for length in images.shape[2:]]
    options = {"baselines": baseline_of(target, images, baseline), "perturbations_per_eval": batch}
    lost = Occlusion(target).attribute(images, (3, *window), strides=(3, side, side), **options)
    return _each(lost, torch.tensor(window[0] * window[1], device=images.device))


def edges(target: Target, images: Tensor) -> Tensor:
    """Sobel's edges of the image: a control that looks plausible but ignores the target."""
    grey = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = grey.new_tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    return F.conv2d(grey, torch.stack([across, across.T])[:, None]).norm(dim=1)


def _leaf(images: Tensor) -> Tensor:
    """A leaf that may be differentiated: the caller's images are left as they are."""
    return images.detach().clone().requires_grad_()


def _each(lost: Tensor, area: Tensor) -> Tensor:
    """What removing an area [h, w] of pixels changed, said of every pixel in it and of every channel, to shares."""
    return lost.detach().mean(1) / area


def _side(target: Target, images: Tensor, cells: int, batch: int) -> int:
    """Pixels along a square."""
    _positive(cells=cells, batch=batch)
    patch = target.detector.backbone.vision.cfg.patch_size
    return patch * -(-max(images.shape[2:]) // (patch * cells))


def _positive(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ShapeError(f"{name} is {count}; expected at least 1")
