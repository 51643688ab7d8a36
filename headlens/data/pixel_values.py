"""What stored numbers mean, of files as of PIL images, arrays and tensors: the bytes of an image, or what is marked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from headlens.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_RANGES = (2**8 - 1, 2**12 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1)  # white, in the types and scanners that there are
_DEEP = (2**16, 2**27)  # between: so far below the white of 31 bits that it would be black
_OVERSHOOT = 0.15  # of the range: what bicubic resizing leaves above white and below black
_BLOCK = 2**20  # values that are scaled at once: in 64 bits they take eight times what they are stored in
_MANY = 8  # different values where labels would be one or two


@dataclass(frozen=True)
class Stored:
    """Numbers as they are stored, upright.

    Args:
        values: [H, W], or [H, W, 3] for colours.
        alpha: [H, W] uint8, or None where there is none, or it was not asked for.
        white_is_zero: they count from white, as TIFF can say.
        lossy: 0 may not have been kept exactly.
        orientation: of EXIF, 1 to 8; it has been applied, and other files may lie over the pixels as stored before.
    """

    values: np.ndarray
    alpha: np.ndarray | None = None
    white_is_zero: bool = False
    lossy: bool = False
    orientation: int = 1


def image_of(stored: Stored, name: str) -> Tensor:
    """Its image, [3, H, W] uint8.

    - Truth values are black and white; numbers of 8 bits are what they are.
    - Whole numbers with more bits are divided by the range of the smallest of 8, 12, 16, 31 and 32 bits that holds the
      largest one, because 12-bit scans come in 16-bit files and would be nearly black otherwise.
    - Floating point is 0 to 1, to within 0.15, which resizing leaves beyond either end, and which is cut off. It is 0
      to 255, to within 15 %, if one value is 16 or more, or all are whole. In between it is refused: of 0 to 255 it
      would be black, and of 0 to 1 brighter than white.

    Raises:
        DataError: values that are not finite, negative, or in no range that can be known; it calls them ``name``.

    >>> image_of(Stored(np.array([[0.0, 0.5, 1.002]])), "an array")[0]
    tensor([[  0, 128, 255]], dtype=torch.uint8)
    """
    values = stored.values
    if values.dtype != np.uint8 or stored.white_is_zero:
        low, high = _extremes(values, name)
        full = _white(values, low, high, name)
        values = _scaled(values, full, stored.white_is_zero)
    # A copy either way: where a side is one pixel, numpy calls a mirrored array contiguous, which torch does not take.
    channels = np.repeat(values[None], 3, 0) if values.ndim == 2 else np.array(values.transpose(2, 0, 1), order="C")
    return torch.from_numpy(channels)


def mask_of(stored: Stored, name: str) -> Tensor:
    """What it marks, [H, W] bool; see ``headlens.data.read_mask``.

    Raises:
        DataError: values that are not finite or negative; marks that are black on a transparent ground.

    >>> mask_of(Stored(np.array([[0, 1, 255]], np.uint8)), "an array")
    tensor([[False,  True,  True]])
    """
    values, alpha = stored.values, stored.alpha
    if values.ndim == 3:
        values = np.maximum(np.maximum(values[..., 0], values[..., 1]), values[..., 2])
    if alpha is not None and (alpha != alpha.flat[0]).any():
        if not values.any():
            raise DataError(f"{name}: a black mask with varying transparency; save it as white on black")
        if values.dtype == np.uint8:
            covered = values.astype(np.uint16) * alpha  # on black; what is not quite transparent stays above 0
            values = (covered // 255 + (covered % 255 > 0)).astype(np.uint8)
        else:
            values = np.where(alpha > 0, values, 0)
    low, high = _extremes(values, name)
    floating = values.dtype.kind == "f"
    if low < -_OVERSHOOT * high or (low < 0 and not floating):
        raise DataError(f"{name}: a mask with values from {low:g} to {high:g}; 0 is normal, above is flaw")
    whole = not floating or _whole(values)
    full = next((white for white in _RANGES if high <= white), high) if whole else high
    if stored.white_is_zero:
        values = (1.0 if floating and high <= 1 else full) - values.astype(np.float64)
        high = float(values.max())
    soft = stored.lossy
    if values.dtype == np.uint8 or not whole:
        soft = soft or _softened(values if values.dtype == np.uint8 else _scaled(values, high, False))
    return torch.from_numpy(np.ascontiguousarray(values > (full / 2 if soft and high > full / 2 else 0)))


def levels(stored: Stored) -> tuple[float, ...]:
    """The different values of a mask of whole numbers, in order; none where they are too many for labels.

    >>> levels(Stored(np.array([[0, 1, 255]], np.uint8)))
    (0.0, 1.0, 255.0)
    """
    values = stored.values
    if stored.lossy or values.ndim == 3 or values.dtype.kind not in "bui":
        return ()
    different = np.flatnonzero(_counts(values)) if values.dtype == np.uint8 else np.unique(values)
    return tuple(map(float, different)) if len(different) <= 4 * _MANY else ()


def of_picture(image: Image, alpha: bool = False) -> Stored:
    """What a PIL image holds: its colours whatever they are stored as, or the numbers of a grey one with many bits.

    Its transparency is left out unless ``alpha`` is set.

    Raises:
        ValueError: colours that PIL cannot convert.
    """
    tags = getattr(image, "tag_v2", {})
    stored_as = orientation(image)
    image.load()
    left = orientation(image)  # PIL turns a TIFF when it loads it
    if image.mode.startswith("I") or image.mode == "F":  # ``convert`` would clip them
        values = np.asarray(image)
        if values.dtype == np.int32 and tags.get(258) == (32,) and tags.get(339, (1,)) == (1,):
            values = values.view(np.uint32)
        return Stored(turned(values, left), None, tags.get(262) == 0, orientation=stored_as)
    if image.mode in ("1", "L"):  # most masks: other ways take ten times as long
        grey = image if image.mode == "L" else image.convert("L")
        return Stored(turned(np.asarray(grey), left), orientation=stored_as)
    colours = _as_rgb(image)
    values = _colours(colours if colours.mode == "RGB" else colours.convert("RGB"))
    transparency = None
    if alpha and (colours.mode.endswith(("A", "a")) or "transparency" in colours.info):
        transparency = turned(np.asarray(colours.convert("RGBA"))[..., 3], left)
    return Stored(turned(values, left), transparency, orientation=stored_as)


def of_array(array: np.ndarray) -> Stored:
    """An array of numbers as PIL and others give them, without its transparency.

    Args:
        array: [H, W], or [H, W, n] with 1 (grey), 2 (and alpha), 3 (RGB) or 4 channels (and alpha).

    Raises:
        ValueError: other shapes, no pixels, no real numbers.
    """
    if array.dtype.kind not in "buif":
        raise ValueError(f"an array of {array.dtype} is not an image; expected numbers")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)):
        raise ValueError(f"an array of shape {array.shape} is not an image; expected [H, W, 3] or [H, W]")
    if array.size == 0:
        raise ValueError(f"an image of shape {array.shape} has no pixels")
    if array.ndim == 3:
        array = array[..., 0] if array.shape[2] < 3 else array[..., :3]
    return Stored(array)


def orientation(image: Image) -> int:
    """The orientation that EXIF or TIFF tells, 1 to 8; 1 where it tells none, or no valid one."""
    try:
        value = image.getexif().get(0x0112, 1)  # the tag of EXIF and TIFF
    except Exception:  # a damaged note on an image is no damage of the image
        return 1
    return value if value in range(2, 9) else 1


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, ...] as stored to upright, by an orientation of EXIF.

    >>> turned(np.array([[1, 2, 3]]), 6).tolist()
    [[1], [2], [3]]
    """
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values[:, ::-1] if orientation in (2, 3, 6, 7) else values


def _as_rgb(image: Image) -> Image:
    """In a mode from which PIL can convert to RGB, with transparency as it is."""
    if image.mode in ("La", "RGBa"):
        return image.convert(image.mode.upper())
    if image.mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "LAB", "RGB")) or image
    return image


def _colours(image: Image) -> np.ndarray:
    """[H, W, 3] of an RGB image, in memory as [3, H, W]; PIL would make two more copies of all of it."""
    width, height = image.size
    channels = np.empty((3, height, width), np.uint8)
    for top, below in _blocks(height, width):
        channels[:, top:below] = np.asarray(image.crop((0, top, width, below))).transpose(2, 0, 1)
    return channels.transpose(1, 2, 0)


def _blocks(rows: int, width: int) -> Iterator[tuple[int, int]]:
    """First and last of rows that are worked on together, each of so many values."""
    step = max(1, _BLOCK // max(1, width))
    return ((top, min(top + step, rows)) for top in range(0, rows, step))


def _counts(values: np.ndarray) -> np.ndarray:
    """How many there are of each of 256 values, of [H, W] uint8."""
    blocks = (np.bincount(values[top:below].ravel(), minlength=256) for top, below in _blocks(*values.shape))
    return np.sum(list(blocks), 0)


def _whole(values: np.ndarray) -> bool:
    parts = _blocks(len(values), values.size // len(values))
    return all((values[top:below] == np.rint(values[top:below])).all() for top, below in parts)


def _extremes(values: np.ndarray, name: str) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise DataError(f"{name}: values from {low:g} to {high:g}; save it without infinite ones")
    return low, high


def _white(values: np.ndarray, low: float, high: float, name: str) -> float:
    """The value that is white, by the lowest and the highest."""
    if values.dtype.kind == "b":
        return 1
    if values.dtype.kind != "f":
        if low < 0:
            raise DataError(f"{name}: values from {low:g} to {high:g}, not from 0 up, as expected; save it with 8 bits")
        if _DEEP[0] <= high < _DEEP[1] or high > _RANGES[-1]:
            raise DataError(f"{name}: values up to {high:.0f}, of which white is not known; save it with 16 bits")
        return next(white for white in _RANGES if high <= white)
    if low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:
        return 1
    # of 255, fractions below 16 are black to the eye, if they are of 255 at all
    bytes_ = high >= 16 or (low >= 0 and _whole(values))
    if bytes_ and low >= -_OVERSHOOT * high and high <= 255 * (1 + _OVERSHOOT):
        return 255
    given, way = f"values from {low:g} to {high:g}", "scale them to 0 to 1, or save it with 8 bits"
    raise DataError(f"{name}: floating point {given}, neither 0 to 1 nor 0 to 255; {way}")


def _scaled(values: np.ndarray, full: float, white_is_zero: bool) -> np.ndarray:
    """0 to ``full`` as bytes, block by block; what is beyond either end is cut off."""
    result = np.empty(values.shape, np.uint8)
    for top, below in _blocks(len(values), values.size // len(values)):
        block = values[top:below].astype(np.float64)
        if white_is_zero:
            block = full - block
        result[top:below] = np.rint(block * (255.0 / full)).clip(0, 255)
    return result


def _softened(values: np.ndarray) -> bool:
    """Whether a mask of uint8 was black and white until it was compressed or smoothed.

    Compression leaves 1 and 254 next to the two; smoothing leaves many values on either side, where labels are few.
    Both leave less in the middle than there is white: not so the numbers of hundreds of anomalies.
    """
    counts = _counts(values)
    near_black, middle, near_white = counts[1:32], counts[32:224], counts[224:255]
    compressed = counts[1] > 0 and counts[254] > 0
    smoothed = min(np.count_nonzero(near_black), np.count_nonzero(near_white)) >= _MANY
    return bool((compressed or smoothed) and middle.sum() < near_white.sum() + counts[255])
