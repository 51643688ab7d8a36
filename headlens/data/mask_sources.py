"""Masks that are not one image file of black and white: several files, colours with a meaning, outlines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headlens.data.images import MAX_PIXELS, read_image, read_mask
from headlens.data.matlab import read_matlab
from headlens.errors import DataError

Colour = tuple[int, int, int]


class MaskSource(ABC):
    """A mask that takes more than one image file, or a meaning of colours, to read. Immutable; equal if it is the same.

    ``repr`` tells two masks apart whose ``files`` are the same: it goes into keys of caches.
    """

    file: Path  # the only one, unless ``files`` says more

    @property
    def files(self) -> tuple[Path, ...]:
        """What it is made of."""
        return (self.file,)

    def __str__(self) -> str:
        """For messages and tables."""
        return "; ".join(map(str, self.files))

    @abstractmethod
    def read(self, size: tuple[int, int], max_pixels: int) -> Tensor:
        """What is marked, as [H, W] bool.

        Args:
            size: height and width of the image, for masks that do not say theirs.
            max_pixels: larger ones are refused.

        Raises:
            DataError: it cannot be read; the message names the file.
        """


def files_of(mask: Path | MaskSource | None) -> tuple[Path, ...]:
    """The files that a mask is made of.

    >>> files_of(None), [path.name for path in files_of(Path("a.png"))]
    ((), ['a.png'])
    """
    return () if mask is None else (mask,) if isinstance(mask, Path) else mask.files


def read_marked(mask: Path | MaskSource, size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> Tensor:
    """What is marked in a mask of any kind, as [H, W] bool; see ``MaskSource.read``. MATLAB's files are masks, too."""
    if isinstance(mask, MaskSource):
        return mask.read(size, max_pixels)
    if mask.suffix.lower() == ".mat":
        return torch.from_numpy(read_matlab(mask, max_pixels))
    return read_mask(mask, max_pixels)


@dataclass(frozen=True)
class United(MaskSource):
    """What is marked in any of several masks of one image, which must be of one size."""

    masks: tuple[Path | MaskSource, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of all of them."""
        return tuple(path for mask in self.masks for path in files_of(mask))

    def read(self, size: tuple[int, int], max_pixels: int) -> Tensor:
        """See ``MaskSource``."""
        parts = [read_marked(mask, size, max_pixels) for mask in self.masks]
        sizes = {tuple(part.shape): mask for part, mask in zip(parts, self.masks, strict=True)}
        if len(sizes) > 1:
            each = " and ".join(f"{mask} ({width}x{height})" for (height, width), mask in sizes.items())
            raise DataError(f"{each}: masks of one image must be of one size")
        return reduce(torch.logical_or, parts)


def united(masks: Sequence[Path | MaskSource]) -> Path | MaskSource:
    """Several masks as one; one as it is."""
    return masks[0] if len(masks) == 1 else United(tuple(masks))


@dataclass(frozen=True)
class Coloured(MaskSource):
    """A mask whose colours have a meaning of their own, rather than black and everything else.

    Args:
        file: an image file without loss.
        anomalous, normal: all the colours that may occur.
    """

    file: Path
    anomalous: tuple[Colour, ...]
    normal: tuple[Colour, ...]

    def read(self, size: tuple[int, int], max_pixels: int) -> Tensor:
        """See ``MaskSource``; a colour that is in neither list is an error, which names it."""
        codes = _code(read_image(self.file, max_pixels).numpy().astype(np.uint32))
        marked = np.isin(codes, [_code(colour) for colour in self.anomalous])
        other = ~(marked | np.isin(codes, [_code(colour) for colour in self.normal]))
        if other.any():
            what = f"{int(other.sum())} pixels have colours without a meaning, such as #{int(codes[other][0]):06x}"
            raise DataError(f"{self.file}: {what}; add them to the table of colours")
        return torch.from_numpy(marked)


def _code(colour: Any) -> Any:
    red, green, blue = colour
    return (red << 16) | (green << 8) | blue
