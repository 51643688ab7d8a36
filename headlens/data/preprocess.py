"""Resizing images and masks to the model's resolution, and maps back: as published, or with the aspect ratio kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.data.resizing import as_pil, resized
from headlens.data.samples import Pixels
from headlens.errors import DataError, ShapeError

Fit = Literal["squash", "pad"]
Masks = Literal["resized", "native"]

_LARGE = 2**23  # pixels of an image whose copies would take much memory
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Prepared:
    """One image at the model's resolution, before normalisation; caches store this.

    Args:
        image: [3, S, S] uint8.
        mask: bool, [S, S] or as native; None if there is none.
        native: height and width on disk.
        mask_note: see ``Pixels``.
    """

    image: Tensor
    mask: Tensor | None
    native: tuple[int, int]
    mask_note: str = ""


@dataclass(frozen=True)
class Preprocess:
    """Resizes images and masks to a square of ``size`` pixels.

    Args:
        size: S, pixels along a side; the backbone checks whether it supports it.
        fit: ``"squash"`` resizes both sides to S whatever the shape, as in all published results; ``"pad"`` resizes
            the longer side to S and centres the image on the mean colour, which normalises to about zero. There is no
            cropping, which could remove an anomaly.
        masks: ``"resized"`` resizes masks to S x S, where published metrics are computed; ``"native"`` leaves them as
            they are, and ``restore`` resizes maps to them.
        mean, std: of the three channels, for ``normalise``; CLIP's by default.

    Raises:
        DataError: an option that does not exist.

    >>> preprocess = Preprocess(56, fit="pad")
    >>> wide = Pixels(torch.zeros(3, 50, 100, dtype=torch.uint8), torch.ones(50, 100, dtype=torch.bool))
    >>> prepared = preprocess(wide)
    >>> prepared.image.shape, int(prepared.mask.sum()) == 28 * 56
    (torch.Size([3, 56, 56]), True)
    >>> preprocess.restore(torch.rand(56, 56), prepared.native).shape
    torch.Size([50, 100])
    """

    size: int = 518
    fit: Fit = "squash"
    masks: Masks = "resized"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        whole = isinstance(self.size, int) and self.size >= 1
        if not whole or self.fit not in ("squash", "pad") or self.masks not in ("resized", "native"):
            rule = "the size is a whole number of pixels, fit is 'squash' or 'pad', masks are 'resized' or 'native'"
            raise DataError(f"size={self.size!r}, fit={self.fit!r}, masks={self.masks!r}: {rule}")

    def __call__(self, pixels: Pixels) -> Prepared:
        """One image and its mask, resized.

        Raises:
            DataError: a mask of another size than its image.
        """
        native, mask = _size(pixels.image), pixels.mask
        if mask is not None and _size(mask) != native:
            (height, width), (rows, columns) = native, _size(mask)
            raise DataError(f"the mask is {rows}x{columns} (height x width), its image {height}x{width}")
        mask = mask if mask is None or self.masks == "native" else self.mask(mask)
        return Prepared(self.image(pixels.image), mask, native, pixels.mask_note)

    def image(self, image: Tensor) -> Tensor:
        """[3, H, W] uint8 to [3, S, S] uint8, by PIL's bicubic filter: the bytes of torchvision's ``Resize``."""
        from PIL import Image

        top, left, height, width = self.frame(_size(image))
        # numpy's copies: torch would call up threads of its own in each of those that read ahead
        to = ((width, height), Image.Resampling.BICUBIC)
        if image[0].numel() > _LARGE:  # three copies of one channel at a time, and slower
            channels = np.stack([np.asarray(Image.fromarray(one.numpy()).resize(*to)) for one in image])
        else:
            whole = Image.fromarray(np.ascontiguousarray(image.numpy().transpose(1, 2, 0)))
            channels = np.ascontiguousarray(np.array(whole.resize(*to)).transpose(2, 0, 1))
        resized = torch.from_numpy(channels)
        if (height, width) == (self.size, self.size):
            return resized
        colour = torch.tensor([round(255 * level) for level in self.mean], dtype=torch.uint8)
        canvas = colour[:, None, None].repeat(1, self.size, self.size)
        canvas[:, top : top + height, left : left + width] = resized
        return canvas

    def mask(self, mask: Tensor) -> Tensor:
        """[H, W] bool to [S, S] bool: PIL's bilinear filter on 0 and 255, then above one half, as in published code.

        An anomaly much smaller than a pixel of the result is lost; ``masks="native"`` loses nothing.
        """
        from PIL import Image

        top, left, height, width = self.frame(_size(mask))
        image = Image.fromarray(np.multiply(mask.numpy(), np.uint8(255)))
        resized = np.array(image.resize((width, height), Image.Resampling.BILINEAR)) > 127  # of 255: above a half
        whole = np.zeros((self.size, self.size), dtype=bool)
        whole[top : top + height, left : left + width] = resized
        return torch.from_numpy(whole)

    def same_on_device(self, native: tuple[int, int], device: torch.device) -> bool:
        """Whether images of that height and width can be resized on ``device``, to the bytes of ``image``."""
        square = (self.size, self.size)
        plain = self.fit == "squash" and self.masks == "resized"
        return plain and as_pil(native, square, "bicubic", device) and as_pil(native, square, "bilinear", device)

    def images_on_device(self, images: Tensor) -> Tensor:
        """``image`` of [n, 3, H, W] uint8 on any device, [n, 3, S, S]; see ``same_on_device``."""
        return resized(images, (self.size, self.size), "bicubic")

    def masks_on_device(self, masks: Tensor) -> Tensor:
        """``mask`` of [n, H, W] bool on any device, [n, S, S]; see ``same_on_device``."""
        return resized(masks.to(torch.uint8) * 255, (self.size, self.size), "bilinear") > 127

    def frame(self, native: tuple[int, int]) -> tuple[int, int, int, int]:
        """Top, left, height and width of the image in the S x S square; all of it unless padded."""
        if self.fit == "squash":
            return 0, 0, self.size, self.size
        height, width = (max(1, round(self.size * side / max(native))) for side in native)
        return (self.size - height) // 2, (self.size - width) // 2, height, width

    def inside(self, native: tuple[int, int]) -> Tensor:
        """[S, S] bool: where the image is, and padding is not. Metrics count these pixels only."""
        top, left, height, width = self.frame(native)
        inside = torch.zeros(self.size, self.size, dtype=torch.bool)
        inside[top : top + height, left : left + width] = True
        return inside

    def restore(self, maps: Tensor, native: tuple[int, int]) -> Tensor:
        """[..., S, S] floating point, such as an anomaly map, back to [..., H, W]: without padding, bilinear.

        Raises:
            ShapeError: maps of another size than S x S.
        """
        if maps.ndim < 2 or _size(maps) != (self.size, self.size):
            raise ShapeError(f"maps are {tuple(maps.shape)}; expected [..., {self.size}, {self.size}]")
        top, left, height, width = self.frame(native)
        part = maps[..., top : top + height, left : left + width].reshape(1, -1, height, width)
        grown = F.interpolate(part, native, mode="bilinear", align_corners=False, antialias=True)
        return grown.reshape(*maps.shape[:-2], *native)

    def normalise(self, images: Tensor) -> Tensor:
        """[..., 3, H, W] uint8 to float32 with CLIP's statistics, on the device of ``images``."""
        mean, std = self._statistics(images.device)
        return images.to(torch.float32).div_(255).sub_(mean).div_(std)

    def denormalise(self, images: Tensor) -> Tensor:
        """The inverse, [..., 3, H, W] to colours in 0..1."""
        mean, std = self._statistics(images.device)
        return (images * std + mean).clamp(0, 1)

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and deviation, [3, 1, 1]; a GPU copies them when it comes to it, and nobody waits for its other work."""
        values = torch.from_numpy(np.array([self.mean, self.std], np.float32))[..., None, None]
        if device.type == "cuda":
            values = values.pin_memory()
        mean, std = values.to(device, non_blocking=device.type == "cuda")
        return mean, std


def _size(tensor: Tensor) -> tuple[int, int]:
    return tensor.shape[-2], tensor.shape[-1]
