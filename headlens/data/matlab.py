"""Masks in MATLAB files: the few kinds of values that a mask is made of, read without trusting what a file says.

``scipy.io.loadmat`` follows nested cells as deep as a file says and ends the process where that is too deep, and it
unpacks a small file to any size. Here nothing is deeper than a struct of arrays, and what is unpacked is bounded.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from headlens.errors import DataError
from headlens.files import read_regular

MOST_BYTES = 2**26
"""Of a file, and of all variables in it once unpacked."""
_MATRIX, _COMPRESSED = 14, 15
_STRUCT, _NUMERIC = 2, range(6, 16)  # classes of arrays
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}


def read_matlab(path: Path, max_pixels: int) -> np.ndarray:
    """What is marked in a mask of MATLAB, as [H, W] bool.

    Of CrackForest's struct ``groundTruth`` the region 2 of ``Segmentation``, which is the crack; of a file with one
    array of two dimensions, what is not 0.

    Raises:
        DataError: it cannot be read, is damaged, of another version than 5 to 7, has more than ``max_pixels``, or holds
            neither.
    """
    try:
        content = read_regular(path, MOST_BYTES)
        variables = dict(_variables(content))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, struct.error, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: damaged, or not MATLAB 5 to 7 ({error}); save it with -v7") from error
    truth = variables.get("groundTruth")
    arrays = [value for value in variables.values() if isinstance(value, np.ndarray)]
    if isinstance(truth, dict) and isinstance(truth.get("Segmentation"), np.ndarray):
        values = truth["Segmentation"]
        marked = values == 2  # the crack; 1 is the pavement, 3 and more what cracks close off of it
    elif len(arrays) == 1:
        values, marked = arrays[0], arrays[0] != 0
    else:
        names = (", ".join(variables) or "nothing")[:200]
        wanted = "where a mask is one array, or groundTruth with Segmentation"
        raise DataError(f"{path}: holds {names}, {wanted}; save it as png")
    if values.ndim != 2 or not 0 < values.size <= max_pixels:
        shape = "x".join(map(str, values.shape))
        raise DataError(f"{path}: the mask is {shape}, where two sides and at most max_pixels = {max_pixels} are read")
    return np.ascontiguousarray(marked)


def _variables(content: bytes) -> Iterator[tuple[str, np.ndarray | dict[str, np.ndarray] | None]]:
    """Names and values; None for values that no mask is made of."""
    if len(content) < 128 or content[126:128] not in (b"IM", b"MI"):
        raise ValueError("no header")
    order, left = "<" if content[126:128] == b"IM" else ">", MOST_BYTES
    for kind, data in _elements(memoryview(content)[128:], order):
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            unpacked = unpacker.decompress(data, left + 1)
            left -= len(unpacked)
            if left < 0:
                raise ValueError(f"more than {MOST_BYTES} bytes in its variables")
            kind, data = next(_elements(memoryview(unpacked), order), (0, memoryview(b"")))
        if kind == _MATRIX:
            yield _array(data, order)


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Types and contents of what stands one after the other."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        begin = at + 8
        if kind >> 16:  # up to four bytes stand in the tag itself
            kind, size, begin = kind & 0xFFFF, kind >> 16, at + 4
            at += 8
        else:
            at = begin + size + (0 if kind == _COMPRESSED else -size % 8)
        if begin + size > len(data):
            raise ValueError("cut short")
        yield kind, data[begin : begin + size]


def _array(data: memoryview, order: str, outer: bool = True) -> tuple[str, np.ndarray | dict[str, np.ndarray] | None]:
    """The name of an array, and its numbers, or the arrays of a struct that is in no other."""
    parts = list(_elements(data, order))
    if len(parts) < 3 or len(parts[0][1]) < 4:
        raise ValueError("an array without a head")
    kind = struct.unpack_from(f"{order}I", parts[0][1])[0] & 0xFF
    shape = tuple(int(side) for side in np.frombuffer(parts[1][1], f"{order}i4"))
    name, parts = bytes(parts[2][1]).decode("ascii"), parts[3:]
    if kind in _NUMERIC and parts and parts[0][0] in _TYPES:
        return name, np.frombuffer(parts[0][1], f"{order}{_TYPES[parts[0][0]]}").reshape(shape, order="F")
    if kind == _STRUCT and outer and shape == (1, 1) and len(parts) >= 2:
        width = struct.unpack_from(f"{order}i", parts[0][1])[0]
        if width < 1:
            raise ValueError("names without letters")
        text = bytes(parts[1][1])
        names = [text[k : k + width].split(b"\0")[0].decode("ascii") for k in range(0, len(text), width)]
        inner = [_array(data, order, outer=False)[1] for _, data in parts[2:]]
        return name, {key: value for key, value in zip(names, inner, strict=False) if isinstance(value, np.ndarray)}
    return name, None
