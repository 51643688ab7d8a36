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
from headlens.data.pixel_values import Stored, image_of, of_array, of_picture
from headlens.detectors.detector import Detector
from headlens.detectors.scoring import Prediction
from headlens.errors import ShapeError

if TYPE_CHECKING:
    from PIL.Image import Image

Picture = Union[str, Path, "Image", np.ndarray, Tensor, Pixels]


def as_bytes(picture: Any) -> Tensor:
    """One image as [3, H, W] uint8; the same content gives the same bytes in every form.

    Args:
        picture: a path; a PIL image; an array [H, W, 3] or [H, W] as PIL gives it, also with alpha; a tensor [3, H, W]
            or [1, H, W]; what a data set's ``pixels(i)`` gives.
            What numbers mean is said in ``headlens.data.pixel_values.image_of``; floating point is 0..1 or 0..255, not
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
    try:
        if hasattr(picture, "convert"):
            return image_of(of_picture(picture), "an image")
        if isinstance(picture, np.ndarray):
            return image_of(of_array(picture), "an array")
        if isinstance(picture, Tensor):
            return image_of(_of_tensor(picture), "a tensor")
    except MemoryError:
        raise
    except Exception as error:  # PIL decodes what was opened only here, and a damaged file can raise anything
        raise ShapeError(str(error)) from error
    raise ShapeError(
        f"{type(picture).__name__} is no image; expected a path, a PIL image, an array, a tensor, or what a data "
        "set's pixels(i) gives"
    )


def _of_tensor(tensor: Tensor) -> Stored:
    """[channels, H, W], on any device."""
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 2, 3, 4):
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} is no image; expected [3, H, W] or [1, H, W]")
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # numpy has none
        tensor = tensor.float()
    return of_array(tensor.permute(1, 2, 0).numpy())


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
        raise ShapeError("no image to score")
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
