"""Scores of whatever people have at hand: paths, PIL images, arrays, tensors."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
import torch
from torch import Tensor

from headlens.data import Pixels, Preprocess, read_image
from headlens.data.images import deep, eight_bits
from headlens.detectors.headclip import Detector, Prediction
from headlens.errors import ShapeError

if TYPE_CHECKING:
    from PIL.Image import Image

Picture = Union[str, Path, "Image", np.ndarray, Tensor, Pixels]


def as_bytes(picture: Any) -> Tensor:
    """One picture as [3, H, W] uint8.

    Args:
        picture: a path; a PIL image; an array [H, W, 3] or [H, W] as PIL gives it; a tensor [3, H, W] or [1, H, W];
            what a data set's ``pixels(i)`` gives.
            Whole numbers are 0..255, but for 16 bits, which are scaled as those of a file; floating point is 0..1, not
            normalised.

    Raises:
        DataError: a file that cannot be read.
        ShapeError: another shape, type or range.

    >>> as_bytes(np.ones((4, 5))).shape
    torch.Size([3, 4, 5])
    """
    if isinstance(picture, Pixels):
        picture = picture.image
    if isinstance(picture, str | Path):
        return read_image(Path(picture))
    if hasattr(picture, "convert"):
        if not deep(picture):
            return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
        picture = eight_bits("a picture", np.array(picture))
    if isinstance(picture, np.ndarray):
        shape = picture.shape
        if picture.dtype.kind not in "buif":
            raise ShapeError(f"an array of {picture.dtype} is no picture; expected numbers")
        if picture.dtype == np.uint16 and picture.size:
            picture = eight_bits("a picture", picture)
        tensor = torch.from_numpy(np.ascontiguousarray(picture))
        if tensor.ndim == 3 and shape[2] in (1, 3):
            tensor = tensor.permute(2, 0, 1)
        elif tensor.ndim == 2:
            tensor = tensor[None]
        else:
            raise ShapeError(f"an array of shape {shape} is no picture; expected [H, W, 3] or [H, W]")
    elif isinstance(picture, Tensor):
        shape, tensor = tuple(picture.shape), picture.detach().cpu()
        if tensor.ndim != 3 or shape[0] not in (1, 3):
            raise ShapeError(f"a tensor of shape {shape} is no picture; expected [3, H, W] or [1, H, W]")
    else:
        raise ShapeError(
            f"{type(picture).__name__} is no picture; expected a path, a PIL image, an array, a tensor, or what a data "
            "set's pixels(i) gives"
        )
    if 0 in shape:
        raise ShapeError(f"a picture of shape {shape} has no pixels")
    if tensor.is_floating_point():
        low, high = float(tensor.min()), float(tensor.max())
        if not (low >= 0 and high <= 1):
            raise ShapeError(f"a floating point picture with values {low:g} to {high:g}; expected 0..1, not normalised")
        tensor = (tensor * 255).round()
    elif tensor.dtype != torch.uint8 and (int(tensor.min()) < 0 or int(tensor.max()) > 255):
        low, high = int(tensor.min()), int(tensor.max())
        raise ShapeError(f"a picture of {tensor.dtype} with values from {low} to {high}; expected 0..255")
    return tensor.to(torch.uint8).expand(3, -1, -1).contiguous()


@torch.no_grad()
def predict(
    detector: Detector, pictures: Picture | Iterable[Picture], size: int, batch: int = 8, category: str = "object"
) -> Prediction:
    """Scores of pictures, each by itself: neither order, nor batch, nor the other pictures matter beyond rounding.

    Args:
        detector: on any device.
        pictures: one, or any number; see ``as_bytes``.
        size: they are resized to this square, and so are the maps, [n, size, size].
        batch: pictures at once.
        category: what they show, for class-aware prompts.

    Returns:
        Everything on the CPU.

    Raises:
        DataError, ShapeError: a picture that is none; the message says which.
    """
    one = isinstance(pictures, str | Path | np.ndarray | Pixels) or hasattr(pictures, "convert")
    one = one or (isinstance(pictures, Tensor) and pictures.ndim == 3)
    several = iter([pictures] if one else pictures)  # type: ignore[arg-type]
    preprocess, device = Preprocess(size), detector.device
    parts = []
    while images := [preprocess(Pixels(as_bytes(picture), None)).image for picture in islice(several, batch)]:
        normalised = preprocess.normalise(torch.stack(images).to(device))
        parts.append(detector(normalised, [category] * len(images)))
    if not parts:
        raise ShapeError("no picture to score")
    return joined(parts)


def joined(parts: list[Prediction]) -> Prediction:
    """Predictions of several batches as one, on the CPU."""

    def together(name: str) -> Tensor:
        return torch.cat([getattr(part, name).cpu() for part in parts])

    taps = {tap: torch.cat([part.tap_margins[tap].cpu() for part in parts]) for tap in parts[0].tap_margins}
    return Prediction(
        anomaly_map=together("anomaly_map"),
        image_score=together("image_score"),
        joint_score=together("joint_score"),
        image_margin=together("image_margin"),
        tap_margins=taps,
    )
