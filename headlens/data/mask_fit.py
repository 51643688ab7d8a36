"""Whether a mask can be that of its image, and how it is brought over it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from headlens.data.pixel_values import turned
from headlens.data.samples import Pixels, Record


def fitted(pixels: Pixels, record: Record) -> Pixels:
    """``pixels`` with a mask of the size of the image, or without, and a note that says why.

    - A mask of the image's shape to within a pixel (of the smaller one) and up to 8 times as large or small is resized
      to it, by the nearest pixel: published sets have many that are off by one, or drawn on a smaller copy.
    - Any other size belongs to another image, or to another crop of it: the mask is set aside.
    - So is an empty mask in the file of an anomalous image: it would make its anomaly normal. In images that are made,
      nothing is forgotten: what is too small for a pixel is no anomaly of any pixel.

    >>> image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    >>> half, other = torch.ones(10, 15, dtype=torch.bool), torch.ones(30, 20, dtype=torch.bool)
    >>> record = Record("screw/000", "screw", True)
    >>> fitted(Pixels(image, half), record).mask.shape
    torch.Size([20, 30])
    >>> fitted(Pixels(image, other), record).mask_note
    'the mask is 20x30 pixels, its image 30x20; draw it on the image'
    """
    if pixels.mask is None:
        return pixels
    name = f"{record.mask}: " if record.mask else ""
    if record.mask and record.anomalous and not pixels.mask.numpy().any():
        return replace(pixels, mask=None, mask_note=f"{name}nothing is marked, and the image is anomalous")
    (rows, columns), (height, width) = pixels.mask.shape, pixels.image.shape[1:]
    if (rows, columns) == (height, width):
        return pixels
    sizes = f"{name}the mask is {columns}x{rows} pixels, its image {width}x{height}"
    if not same_shape((rows, columns), (height, width)):
        return replace(pixels, mask=None, mask_note=f"{sizes}; draw it on the image")
    note = "; ".join(filter(None, (pixels.mask_note, f"{sizes}: resized to it")))
    return replace(pixels, mask=nearest(pixels.mask, (height, width)), mask_note=note)


def upright(mask: Tensor, size: tuple[int, int], orientation: int) -> Tensor:
    """A mask of an image that was turned to height and width ``size``: turned along if it fits only as that was stored.

    Where both fit, it was drawn on the upright image, as viewers and annotation tools show it.

    >>> upright(torch.tensor([[True, False, False, False]]), (4, 1), 6).flatten().tolist()
    [True, False, False, False]
    """
    drawn = (mask.shape[0], mask.shape[1])
    if same_shape(drawn, size) or orientation < 5 or not same_shape(drawn, size[::-1]):
        return mask
    return torch.from_numpy(turned(mask.numpy(), orientation).copy())


def same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one size (height, width) is a multiple of the other, to within a pixel of the smaller.

    >>> same_shape((224, 225), (224, 224)), same_shape((333, 500), (667, 1000)), same_shape((100, 120), (120, 100))
    (True, True, False)
    """
    (h, w), (height, width) = sorted((one, other), key=lambda size: size[0] * size[1])
    # Some scale s has |width / s - w| <= 1 and |height / s - h| <= 1.
    least, most = max(width / (w + 1), height / (h + 1)), min(width / max(w - 1, 1), height / max(h - 1, 1))
    return least <= most and max(height / h, width / w) <= 8  # beyond, a pixel more or less is a different shape


def nearest(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """[h, w] bool to [H, W] = ``size``: each pixel is the one that its centre lies in."""
    rows, columns = ((np.arange(to) * 2 + 1) * at // (2 * to) for at, to in zip(mask.shape, size, strict=True))
    return torch.from_numpy(mask.numpy()[np.ix_(rows, columns)])
