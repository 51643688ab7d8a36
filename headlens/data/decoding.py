"""Image files, decoded: the numbers in them, or an error that names the file.

Only regular files are opened, and only formats of images are tried. The size is checked in the header before anything
is decoded, and whatever a decoder raises arrives as a ``DataError``. PIL decodes; of colours with 16 bits it gives the
upper or the lower 8, so that it is asked twice; TIFFs that it refuses, and those of many bits, are tifffile's.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from headlens.data.pixel_values import Stored, of_array, of_picture, turned
from headlens.errors import DataError
from headlens.files import MAX_PIXELS, open_regular

if TYPE_CHECKING:
    from PIL.Image import Image
    from tifffile import TiffPage

RULES = b"upright 3"
"""Changes when the same files become other images or masks: here, in ``pixel_values`` or in ``mask_fit``."""
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "TGA")  # none runs a program
_LOSSY = {"JPEG", "MPO", "WEBP", "JPEG2000"}
_LOSSY_TIFF = {"jpeg", "tiff_jpeg", "webp"}
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_LOWER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}  # by the order in which bytes are stored
_COMPRESSIONS = {"NONE", "ADOBE_DEFLATE", "DEFLATE", "PIXTIFF", "PACKBITS"}  # what tifffile unpacks by itself
_PIECE = 2**26  # bytes: twice the largest piece that glibc may keep
_GREY_ALPHA = "LA;16B"


def decoded(path: Path, max_pixels: int, alpha: bool = False) -> Stored:
    """What is stored in the one frame of ``path``, upright, with its transparency if ``alpha``.

    Raises:
        DataError: see ``headlens.data.read_image``.
    """
    from PIL import Image

    _give_memory_back()
    with _named_errors(path), open_regular(path) as file:
        head = file.read(4)
        if not head:
            raise DataError(f"{path}: the file is empty; copy it again")
        file.seek(0)
        try:
            with _OWN_LIMIT, Image.open(file, formats=FORMATS) as image:
                tags = getattr(image, "tag_v2", {})
                if max(tags.get(258, (1,))) > 8 or set(tags.get(339, (1,))) != {1}:
                    # a TIFF of numbers with a sign, a fraction, or more than 8 bits, of which PIL misreads some
                    try:
                        return _by_tifffile(file, path, max_pixels, alpha)
                    except _UnknownToTifffileError:
                        if head[:2] == b"MM" and image.mode in ("I", "F"):  # whose bytes PIL would take in disorder
                            raise
                return _by_pil(image, file, path, max_pixels, alpha)
        except Image.UnidentifiedImageError as error:
            if head not in _TIFF:
                raise DataError(f"{path}: not an image in any of the formats {', '.join(FORMATS)}") from error
        return _by_tifffile(file, path, max_pixels, alpha)


@cache
def _give_memory_back() -> None:
    """Lets PIL ask for the memory of large images in pieces that the C library returns to the system.

    It keeps smaller ones for the thread that had them, so that each thread would keep its largest image.
    """
    from PIL import Image

    if Image.core.get_block_size() < _PIECE:
        Image.core.set_block_size(_PIECE)


def _by_pil(image: Image, file: BinaryIO, path: Path, max_pixels: int, alpha: bool) -> Stored:
    _allow(path, image.size, max_pixels)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # MPO: phones put a preview behind the image
        raise _several(path, frames)
    tiles = getattr(image, "tile", ())
    deep = ("RGB;16", "RGBA;16", "RGBX;16", _GREY_ALPHA)
    twice = bool(tiles) and all(_rawmode(tile).startswith(deep) for tile in tiles)
    lossy = image.format in _LOSSY or image.info.get("compression") in _LOSSY_TIFF
    upper = of_picture(image, alpha)
    values = _with_lower(upper, file) if twice else upper.values
    return Stored(values, upper.alpha, upper.white_is_zero, lossy, upper.orientation)


def _with_lower(upper: Stored, file: BinaryIO) -> np.ndarray:
    """[H, W, 3] of 16 bits, from the upper 8 and those that PIL leaves out."""
    from PIL import Image

    file.seek(0)
    with Image.open(file, formats=FORMATS) as image:
        # a version of PIL has named tuples
        image.tile = [getattr(type(tile), "_make", tuple)((*tile[:3], _lower(tile[3]))) for tile in image.tile]
        grey = _rawmode(image.tile[0]) == "RGBA"
        lower = of_picture(image).values
    if grey:
        lower = lower[..., 1:2]
    values = upper.values.astype(np.uint16)
    values <<= 8
    values |= lower
    return values


def _rawmode(tile: tuple) -> str:
    arguments = tile[3]
    return str(arguments if isinstance(arguments, str) else arguments[0])


def _lower(arguments: str | tuple) -> str | tuple:
    if arguments == _GREY_ALPHA:  # as if its four bytes were colours, of which green is the one
        return "RGBA"
    if isinstance(arguments, str):
        return arguments[:-1] + _LOWER[arguments[-1]]
    return (_lower(arguments[0]), *arguments[1:])


class _UnknownToTifffileError(DataError):
    """A TIFF in a compression or in colours that only PIL may know."""


def _by_tifffile(file: BinaryIO, path: Path, max_pixels: int, alpha: bool) -> Stored:
    import tifffile

    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it has to say of a file is in the error
    file.seek(0)
    with tifffile.TiffFile(file, name=path.name) as tiff:
        if len(tiff.pages) > 1:
            raise _several(path, len(tiff.pages))
        page = tiff.pages.first
        size, channels, depth = (page.imagewidth, page.imagelength), page.samplesperpixel, page.imagedepth
        _allow(path, size, max_pixels, channels * page.bitspersample // 8)
        way, compression, axes = page.photometric.name, page.compression.name, page.axes
        if channels > 8 or depth > 1 or (channels > 1 and page.bitspersample < 8) or axes not in ("YX", "YXS", "SYX"):
            raise DataError(f"{path}: a TIFF of {channels} channels and depth {depth} ({axes}) is not an image")
        if way not in ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE") or compression not in _COMPRESSIONS:
            what = f"a TIFF in the colours {way}, compressed by {compression}"
            raise _UnknownToTifffileError(f"{path}: {what}; save it as PNG")
        _refuse_bombs(page, file, path)
        values = page.asarray(maxworkers=1)
        orientation = page.tags.get(274)
        has_alpha = channels in (2, 4) and page.extrasamples[:1] in ((1,), (2,))
    if axes == "SYX":
        values = values.transpose(1, 2, 0)
    seen = (values[..., -1] > 0) * np.uint8(255) if alpha and has_alpha else None
    if way == "PALETTE":
        values = page.colormap.T[values]
    elif channels > 1:
        values = values[..., :3] if way == "RGB" else values[..., 0]
    turn = orientation.value if orientation is not None and orientation.value in range(2, 9) else 1
    seen = None if seen is None else turned(seen, turn)
    return Stored(turned(of_array(values).values, turn), seen, way == "MINISWHITE", orientation=turn)


def _refuse_bombs(page: TiffPage, file: BinaryIO, path: Path) -> None:
    """Refuses pieces that are not in the file, or that hold more than their part of the image."""
    end, most = file.seek(0, 2), math.prod(page.chunks) * page.dtype.itemsize
    if len(page.dataoffsets) != len(page.databytecounts) or not page.dataoffsets:
        raise DataError(f"{path}: damaged (some of its pieces are not listed); copy it again")
    for at, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if at <= 0 or count <= 0 or at + count > end:
            raise DataError(f"{path}: damaged or cut short (pixels are missing); copy it again")
        unpacked = count
        if "DEFLATE" in page.compression.name:
            file.seek(at)
            unpacked = len(zlib.decompressobj().decompress(file.read(count), most + 1))
        # a compressed piece may be a little larger than an unpacked one
        if unpacked > most + most // 8 + 4096 or (unpacked > most and unpacked != count):
            raise DataError(f"{path}: damaged (a piece of it is larger than its part of the image); copy it again")


def _allow(path: Path, size: tuple[int, int], max_pixels: int, width: int = 4) -> None:
    """Refuses an image by its width and height, before anything of it is decoded, and waits where others take much.

    ``max_pixels`` are of four bytes, or more in proportion to ``width``, the bytes of a pixel.
    """
    if size[0] * size[1] > max_pixels:
        way = "allow more with --max-pixels at a shell, max_pixels= in Python"
        raise DataError(f"{path}: {size[0]}x{size[1]} pixels are more than max_pixels = {max_pixels}; {way}")
    large = size[0] * size[1] * max(1, -(-width // 4))
    if large > 3 * max_pixels:  # RGB in single precision
        raise DataError(f"{path}: {size[0]}x{size[1]} pixels of {width} bytes are too large; save it with 8 bits")
    GATE.enter(large)


def _several(path: Path, frames: int) -> DataError:
    return DataError(f"{path}: has {frames} frames; save the one that is meant as an image of its own")


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Errors inside become a ``DataError`` that names ``path``; until the end other threads do not decode too much."""
    try:
        with GATE:
            yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except MemoryError as error:
        raise DataError(f"{path}: not enough memory for it; lower --max-pixels, or read fewer at once") from error
    except Exception as error:  # a decoder of damaged bytes can raise anything
        if isinstance(error, OSError) and error.errno is not None:  # those of decoders have no number
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        # Other errors are of decoders that stumble, over headers that contradict themselves.
        on_purpose = isinstance(error, OSError | ValueError | SyntaxError | EOFError | zlib.error)
        reason = next(iter(str(error).splitlines()), "") if on_purpose else "its header contradicts itself"
        raise DataError(f"{path}: damaged or cut short ({reason}); copy it again") from error


class _OwnLimit:
    """PIL's limit on pixels set aside while any thread is inside: ``max_pixels`` is ours, by the same header."""

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


class Gate:
    """Bounds the pixels that all threads together have decoded and not yet made smaller.

    A thread enters with ``with`` to read an image, and stays inside for as long as it is large; nested entries are one.
    The image that is alone always fits.

    Args:
        most: pixels of all that are inside.
    """

    def __init__(self, most: int) -> None:
        self.most, self._inside = most, 0
        self._free = threading.Condition()
        self._thread = threading.local()

    def __enter__(self) -> None:
        self._thread.depth = getattr(self._thread, "depth", 0) + 1

    def __exit__(self, *_: object) -> None:
        self._thread.depth -= 1
        if not self._thread.depth:
            with self._free:
                self._inside -= self._thread.__dict__.pop("pixels", 0)
                self._free.notify_all()

    def enter(self, pixels: int) -> None:
        """Waits until there is room for so many; a thread that has an image inside gets its mask in without."""
        if hasattr(self._thread, "pixels"):
            return
        with self._free:
            self._free.wait_for(lambda: not self._inside or self._inside + pixels <= self.most)
            self._inside += pixels
        self._thread.pixels = pixels


GATE = Gate(MAX_PIXELS)
