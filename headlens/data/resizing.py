"""PIL's resizing on any device, to the same bytes: what a few cores cannot do as fast as a GPU looks at images.

PIL weighs pixels by whole numbers, 22 bits of fraction, along one axis, then along the other, and rounds to bytes after
each. As a matrix product that is exact in float32: weights are split into 11 bits and the rest, and no sum needs more
than 24; on CUDA factors fit into half precision as they are. Which axis comes first is a version's own choice: PIL
is asked once for every pair of sizes, by an image of noise.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import lru_cache
from threading import Lock
from typing import Literal

import torch
from torch import Tensor

_BITS, _LOW = 22, 11
_LOOK = 32  # rows and columns of noise that are compared
_ASKING = Lock()
_WIDE_SUMS = torch.__version__ >= "2.8"  # half precision factors, sums in float32
SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
Way = Literal["bilinear", "bicubic"]


def resized(images: Tensor, size: tuple[int, int], way: Way) -> Tensor:
    """[..., H, W] uint8 to [..., *size] uint8, as ``PIL.Image.resize`` does, on the device of ``images``.

    >>> resized(torch.tensor([[0, 90, 180, 255]], dtype=torch.uint8), (1, 2), "bilinear")
    tensor([[ 64, 199]], dtype=torch.uint8)
    """
    native = (images.shape[-2], images.shape[-1])
    return _in_turn(images, size, way, _first(native, size, way, images.device))


def as_pil(native: tuple[int, int], size: tuple[int, int], way: Way, device: torch.device) -> bool:
    """Whether ``resized`` gives PIL's bytes for these sizes on ``device``, by a corner of an image of noise."""
    return _first(native, size, way, device) != 0


def _in_turn(images: Tensor, size: tuple[int, int], way: Way, first: int, only: int | None = None) -> Tensor:
    """Along axis ``first`` (-1 or -2), then along the other; of the result ``only`` the first rows and columns."""
    for axis in (-2, -1) if first == -2 else (-1, -2):
        pixels, wanted = images.shape[axis], size[axis]
        turned = images.transpose(axis, -1)
        if pixels != wanted:
            high, low = _matrix(pixels, wanted, way, images.device)
            turned = _along(turned, high[:, :only], low[:, :only])
        images = turned[..., :only].transpose(axis, -1)
    return images


def _first(native: tuple[int, int], size: tuple[int, int], way: Way, device: torch.device) -> int:
    """The axis that PIL resizes first, -1 or -2; 0 where it does neither as we do."""
    with _ASKING:  # many threads meet a new size at the same time
        return _asked(native, size, way, device)


@lru_cache(maxsize=256)
def _asked(native: tuple[int, int], size: tuple[int, int], way: Way, device: torch.device) -> int:
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, native, dtype=np.uint8)
    theirs = Image.fromarray(noise).resize(size[::-1], getattr(Image.Resampling, way.upper()))
    expected = torch.from_numpy(np.array(theirs)[:_LOOK, :_LOOK])
    # On a stream of its own: else it would wait for the work that the device has been given, and others for it.
    with torch.cuda.stream(torch.cuda.Stream(device, -1)) if device.type == "cuda" else nullcontext():
        ours = torch.from_numpy(noise).to(device)
        same = [torch.equal(_in_turn(ours, size, way, axis, _LOOK).cpu(), expected) for axis in (-1, -2)]
    return -1 if same[0] else -2 if same[1] else 0


def _along(images: Tensor, high: Tensor, low: Tensor) -> Tensor:
    """The last axis of bytes [..., W] by weights [W, S]: whole multiples of 2^-11, and of 2^-22 times 2^11."""
    carried = _product(images, low).floor_()  # what is left below changes no byte: a half is added, and cut off
    sums = _product(images, high).add_(carried, alpha=2.0**-_LOW).add_(0.5)
    return sums.clamp_(0, 255).to(torch.uint8)


def _product(images: Tensor, weights: Tensor) -> Tensor:
    """Bytes [..., W] by weights [W, S], exactly, [..., S]."""
    with torch.autocast(images.device.type, enabled=False):
        if images.is_cuda and weights.dtype == torch.float32 and _WIDE_SUMS:
            flat, factors = images.reshape(-1, len(weights)).half(), weights.half()  # 11 bits each
            return torch.mm(flat, factors, out_dtype=torch.float32).view(*images.shape[:-1], -1)
        return images.to(weights.dtype) @ weights


@lru_cache(maxsize=128)  # of up to 8 MB each, where images are large
def _matrix(pixels: int, size: int, way: Way, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weights of ``size`` pixels as PIL works them out, [pixels, size]: see ``_along``."""
    scale = pixels / size
    stretch = max(scale, 1.0)
    support = SUPPORT[way] * stretch
    taps = math.ceil(support) * 2 + 1
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) * scale
    first = (centre - support + 0.5).trunc().clamp(min=0)
    last = (centre + support + 0.5).trunc().clamp(max=pixels)
    at = first + torch.arange(taps, dtype=torch.float64)[:, None]  # (taps, size)
    x = ((at - centre + 0.5) * (1.0 / stretch)).abs()
    weights = _cubic(x) if way == "bicubic" else (1 - x).clamp(min=0)
    weights = weights.where(at < last, 0)
    total = weights.cumsum(0)[-1]  # in PIL's order
    whole = (weights / total * 2**_BITS + torch.where(weights < 0, -0.5, 0.5)).trunc().long()
    table = torch.zeros(pixels, size, dtype=torch.int64).scatter_add_(0, at.long().clamp(max=pixels - 1), whole)
    dtype = torch.float32 if taps <= 32 else torch.float64  # more pixels than the sums above have room for
    high, part = table >> _LOW, 2.0**-_LOW
    # All but the copy on the CPU: what is kept is then there for every stream that takes it.
    return (high.to(dtype) * part).to(device), ((table - (high << _LOW)).to(dtype) * part).to(device)


def _cubic(x: Tensor, a: float = -0.5) -> Tensor:
    """PIL's bicubic filter at distances x >= 0."""
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return near.where(x < 1, far.where(x < 2, 0))
