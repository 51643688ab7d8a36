"""Image files as tensors: what is stored, whatever the mode it is stored in, or an error that names the file.

Files come from strangers. The size is checked in the header before anything is decoded, only formats of pictures are
tried, and whatever a decoder raises arrives as a ``DataError``. Like the published loaders, this ignores the EXIF
orientation: masks are drawn on the pixels as stored.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from headlens.errors import DataError
from headlens.files import MAX_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset(
    [
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".bmp",
        ".dib",
        ".gif",
        ".tif",
        ".tiff",
        ".webp",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".jp2",
        ".tga",
    ]
)
"""In lower case: what counts as a picture in a folder."""
_UNREAD = (
    ".heic .heif .avif .jxl .raw .dng .cr2 .cr3 .nef .nrw .arw .srf .sr2 .raf .orf .rw2 .pef .srw .x3f .3fr .iiq .psd "
    ".xcf .exr .hdr .dcm .dicom .nii .svs .ndpi .czi .mrxs .lif .vsi .j2k .jpx .jpf .ico .pcx .dds .fits"
)
UNREAD = frozenset(_UNREAD.split())
"""Suffixes of images in formats that are not read: in a folder such a file is left out with a word, not passed over."""

_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "TGA")  # none runs a program
_LOSSY = {"JPEG", "MPO", "WEBP", "JPEG2000"}
_MANY = 8  # different values where labels would be one or two


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Tensor:
    """The picture in ``path`` as [3, H, W] uint8, in RGB.

    - Grey, 1-bit, palette and CMYK become RGB; an alpha channel is dropped and the colours stored under it are shown,
      as published loaders do (compositing would need a background that nobody knows).
    - More than 8 bits of grey: the values are divided by the range of the smallest of 8, 12, 16 and 32 bits that holds
      the largest one, because 12-bit scans come in 16-bit files and would be nearly black otherwise.
    - Floating point: 0 to 1 if no value is larger, else 0 to 255.

    Raises:
        DataError: missing, empty, truncated, no picture, of several frames, with more than ``max_pixels``, or with
            values below 0, infinite or beyond 255 (floating point).

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "grey.png"
    ...     Image.new("L", (4, 2), 7).save(path)
    ...     image = read_image(path)
    >>> image.shape, image.dtype, image.unique()
    (torch.Size([3, 2, 4]), torch.uint8, tensor([7], dtype=torch.uint8))
    """
    with _opened(path, max_pixels) as picture:
        if deep(picture):
            grey = eight_bits(path, np.array(picture))
            return torch.from_numpy(grey).expand(3, -1, -1).contiguous()
        rgb = np.array(picture.convert("RGB"))
    return torch.from_numpy(rgb).permute(2, 0, 1).contiguous()


def read_mask(path: Path, max_pixels: int = MAX_PIXELS) -> Tensor:
    """The mask in ``path`` as [H, W] bool: true where there is a flaw.

    Anything above 0 in any channel is a flaw, as published: a label of 1 in 255 counts. Not so where 0 is not kept
    exactly, in lossy files (JPEG) and in 8-bit files whose values look like those of black and white that went through
    one, or was smoothed: there a flaw is what is above half of the range, if anything is. Palettes count by their
    colours, what one sees, since the order of a palette is the whim of the program that wrote it. A constant alpha
    channel is ignored.

    Raises:
        DataError: as ``read_image``, and where transparency varies: nobody knows what that means in a mask.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "label.png"
    ...     Image.new("L", (4, 2), 1).save(path)
    ...     read_mask(path).all()
    tensor(True)
    """
    with _opened(path, max_pixels) as picture:
        lossy = picture.format in _LOSSY
        if deep(picture):
            values = np.array(picture)
        elif picture.mode in ("1", "L"):  # almost all of them, and the other way takes ten times as long
            values = np.array(picture.convert("L"))
        else:
            rgba = np.array(picture.convert("RGBA"))
            if (rgba[..., 3] != rgba[0, 0, 3]).any():
                raise DataError(f"{path}: a mask with varying transparency; save it as black and white")
            values = rgba[..., :3].max(-1)
    low, top = float(values.min()), float(values.max())
    if not np.isfinite([low, top]).all() or low < 0:
        raise DataError(f"{path}: a mask with values from {low:g} to {top:g}; 0 is normal, above is flaw")
    full = top if values.dtype.kind == "f" else 2.0 ** _bits(top) - 1
    soft = lossy or (values.dtype == np.uint8 and _softened(values))
    return torch.from_numpy(values > (full / 2 if soft and top > full / 2 else 0))


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[Image]:
    """The one frame of ``path``, decoded; whatever goes wrong inside is a ``DataError`` that names it."""
    from PIL import Image

    try:
        if not path.is_file():
            raise DataError(f"{path}: {'is a folder' if path.is_dir() else 'there is no such file'}")
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty; copy it again")
        with _OWN_LIMIT, Image.open(path, formats=_FORMATS) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise DataError(
                    f"{path}: {width}x{height} pixels are more than max_pixels = {max_pixels}; "
                    "raise it (max_pixels=, at a shell --max-pixels)"
                )
            frames = getattr(picture, "n_frames", 1)
            if frames > 1 and picture.format != "MPO":  # MPO: phones put a preview behind the picture
                raise DataError(f"{path}: has {frames} frames; save the one that is meant as a picture of its own")
            picture.load()
            yield picture
    except DataError:
        raise
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{path}: not a picture in any of the formats {', '.join(_FORMATS)}") from error
    except MemoryError as error:
        raise DataError(f"{path}: not enough memory for it; lower max_pixels, or read fewer at once") from error
    except Exception as error:  # a decoder of damaged bytes can raise anything
        if isinstance(error, OSError) and error.errno is not None:  # those of decoders have no number
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        raise DataError(f"{path}: damaged or cut short ({error}); copy it again") from error


class _OwnLimit:
    """Pillow's limit on pixels set aside while any thread is inside: ``max_pixels`` is ours, by the same header."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._limit: int | None = None

    def __enter__(self) -> None:
        from PIL import Image

        with self._lock:
            if self._inside == 0:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        from PIL import Image

        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                Image.MAX_IMAGE_PIXELS = self._limit


_OWN_LIMIT = _OwnLimit()


def deep(picture: Image) -> bool:
    """Whether it is grey with more than 8 bits, which ``convert`` would clip rather than scale."""
    return picture.mode.startswith("I") or picture.mode == "F"


def _softened(values: np.ndarray) -> bool:
    """Whether a mask of uint8 was black and white until it was compressed or smoothed.

    Compression leaves 1 and 254 next to the two; smoothing leaves many values on either side, where labels are few.
    Both leave less in the middle than there is white: not so the numbers of hundreds of flaws.
    """
    counts = np.bincount(values.ravel(), minlength=256)
    near_black, middle, near_white = counts[1:32], counts[32:224], counts[224:255]
    compressed = counts[1] > 0 and counts[254] > 0
    smoothed = min(np.count_nonzero(near_black), np.count_nonzero(near_white)) >= _MANY
    return bool((compressed or smoothed) and middle.sum() < near_white.sum() + counts[255])


def _bits(top: float) -> int:
    return next(bits for bits in (8, 12, 16, 32) if top < 2**bits)


def eight_bits(path: Path | str, values: np.ndarray) -> np.ndarray:
    """[H, W] of any real type as uint8, by the rule of ``read_image``; ``path`` is what an error names."""
    low, top = float(values.min()), float(values.max())
    floating = values.dtype.kind == "f"
    if not np.isfinite([low, top]).all() or low < 0 or (floating and top > 255):
        limit = "0 to 1 or 0 to 255" if floating else "0 and above"
        raise DataError(f"{path}: values from {low:g} to {top:g} where {limit} is expected; save it with 8 bits")
    full = (1 if top <= 1 else 255) if floating else 2 ** _bits(top) - 1
    return np.round(values * (255.0 / full)).astype(np.uint8)
