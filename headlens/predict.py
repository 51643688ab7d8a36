"""Scores of images given as paths, PIL images, arrays or tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
import torch
from torch import Tensor

from headlens.clips import Shown, unparted
from headlens.data import DataSet, Pixels, Preprocess, read_image
from headlens.data import open as open_set
from headlens.data.pixel_values import Stored, image_of, of_array, of_picture
from headlens.detectors.detector import Detector, HasDetector, detector_of
from headlens.detectors.scoring import Prediction
from headlens.errors import ShapeError
from headlens.progress import Progress, followed
from headlens.provenance import detector_provenance

if TYPE_CHECKING:
    import PIL.Image


Image = Union[str, Path, "PIL.Image.Image", np.ndarray, Tensor, Pixels]


def as_bytes(image: Any) -> Tensor:
    """One image as [3, H, W] uint8; the same content gives the same bytes in every form.

    Args:
        image: a path; a PIL image; an array [H, W, 3] or [H, W] as PIL gives it, also with alpha; a tensor [3, H, W]
            or [1, H, W]; an image of a data set, such as ``images[3]``.
            Floating point is 0..1 or 0..255, not normalised; see ``headlens.data.pixel_values.image_of``.

    Raises:
        DataError: a file that cannot be read.
        ShapeError: another shape, type or range.

    >>> as_bytes(np.ones((4, 5))).shape
    torch.Size([3, 4, 5])
    """
    if isinstance(image, Pixels):
        image = image.image
    if isinstance(image, str | Path):
        return read_image(Path(image))
    try:
        if hasattr(image, "convert"):
            return image_of(of_picture(image), "an image")
        if isinstance(image, np.ndarray):
            return image_of(of_array(image), "an array")
        if isinstance(image, Tensor):
            return image_of(_of_tensor(image), "a tensor")
    except MemoryError:
        raise
    except Exception as error:  # PIL decodes what was opened only here, and a damaged file can raise anything
        raise ShapeError(str(error)) from error
    raise ShapeError(
        f"{type(image).__name__} is not an image; expected a path, a PIL image, an array, a tensor, or an image of a "
        "data set, such as images[3]"
    )


def set_of(images: Any) -> DataSet | None:
    """The data set that is given, or the one in a folder that is named; None of anything else."""
    if isinstance(images, str | Path) and Path(images).is_dir():
        return open_set(images)
    return images if isinstance(images, DataSet) else None


def category_of(image: Any, category: str | None = None) -> str:
    """What an image shows: ``category``, or what its data set says, or an ``object``."""
    known = image.record.category if isinstance(image, Pixels) and image.record else "object"
    return category or known


def clip_of(image: Any) -> str:
    """The clip that it is a frame of, as its data set says; empty for any other image."""
    return image.record.clip if isinstance(image, Pixels) and image.record else ""


def name_of(image: Any) -> str:
    """Its path, or its name in its data set, or what kind of image it is."""
    if isinstance(image, Pixels) and image.record:
        return image.record.name
    return str(image) if isinstance(image, str | Path) else type(image).__name__


def _of_tensor(tensor: Tensor) -> Stored:
    """[channels, H, W], on any device."""
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 2, 3, 4):
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} is not an image; expected [3, H, W] or [1, H, W]")
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # numpy has none
        tensor = tensor.float()
    return of_array(tensor.permute(1, 2, 0).numpy())


@torch.no_grad()
def predict(
    detector: Detector | HasDetector,
    images: Image | DataSet | Iterable[Image],
    *,
    size: int | None = None,
    batch: int = 8,
    category: str | None = None,
    progress: Progress | None = None,
) -> Prediction:
    """Scores of images, each clip computed alone: order, batch and other images only matter to rounding.

    An image is a clip of one; frames of a data set's clip are scored together, by methods that read clips.

    Args:
        detector: a detector, or a run; on any device.
        images: one image, or any number; see ``as_bytes``. Or a data set, or a folder with one.
        size: images are resized to this square, and maps are [n, size, size]; the detector's size when None.
        batch: images per batch.
        category: what the images show; only class-aware prompts use it. When None, what their data set says, and an
            ``object`` without one.
        progress: called with the number of images after every batch; a bar when None, if there are several batches.

    Returns:
        Scores and maps, on the CPU; rows of the frame have the names of a data set's images.

    Raises:
        ConfigError: neither a detector nor a run.
        DataError, ShapeError: an image that cannot be read, or something that is not an image; the message says which.

    >>> import headlens
    >>> headlens.predict(headlens.load("mini-captions-industrial"), np.zeros((60, 40)), size=56).anomaly_map.shape
    torch.Size([1, 56, 56])
    """
    detector = detector_of(detector)
    images = images if (found := set_of(images)) is None else found
    one = isinstance(images, str | Path | np.ndarray | Pixels) or hasattr(images, "convert")
    one = one or (isinstance(images, Tensor) and images.ndim == 3)
    several = iter([images] if one else images)  # type: ignore[arg-type]
    preprocess = Preprocess(size or detector.image_size)
    parts, categories = [], list[str]()
    count = len(images) if isinstance(images, Sized) and not one else 1
    with followed(progress, count, "images scored", least=batch + 1) as done:
        for part in unparted(several, batch, clip_of):
            images_of = [preprocess(Pixels(as_bytes(image), None)).image for image in part]
            shown = Shown.of((category_of(image, category), clip_of(image)) for image in part)
            categories += shown
            parts.append(detector(preprocess.normalise(torch.stack(images_of).to(detector.device)), shown))
            done(len(part))
    if not parts:
        raise ShapeError("no image to score")
    named = ", ".join(dict.fromkeys(categories))
    about = detector_provenance(detector, what="prediction", size=preprocess.size, category=named)
    names = () if found is None else tuple(record.name for record in found.records)
    return replace(joined(parts), provenance=about, names=names)


def joined(parts: Sequence[Prediction]) -> Prediction:
    """Predictions of several batches as one, on the CPU."""
    taps = {tap: torch.cat([part.tap_margins[tap].cpu() for part in parts]) for tap in parts[0].tap_margins}
    tensors: dict[str, Any] = {
        name: torch.cat([getattr(part, name).cpu() for part in parts]) for name in Prediction.TENSORS
    }
    return replace(parts[0], tap_margins=taps, **tensors)
