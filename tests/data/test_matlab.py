"""Masks in MATLAB files, whole and damaged. ``scipy`` writes them: it is an oracle for what it may be trusted with."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from headlens.data.matlab import MOST_BYTES, read_matlab
from headlens.errors import DataError


def regions(shape: tuple[int, int] = (7, 11)) -> np.ndarray:
    """1 is the pavement, 2 the crack, 3 what it closes off."""
    return np.random.default_rng(0).integers(1, 4, shape).astype(np.uint8)


@pytest.mark.parametrize("kind", ["u1", "u2", "i4", "f8"])
@pytest.mark.parametrize("compressed", [False, True])
def test_the_crack_of_crackforest(tmp_path, kind, compressed):
    truth = {"Segmentation": regions().astype(kind), "Boundaries": regions() > 2}
    savemat(tmp_path / "001.mat", {"groundTruth": truth}, do_compression=compressed)
    assert np.array_equal(loadmat(tmp_path / "001.mat")["groundTruth"][0, 0]["Segmentation"], regions())
    assert np.array_equal(read_matlab(tmp_path / "001.mat", 77), regions() == 2)
    with pytest.raises(DataError, match=r"001\.mat: the mask is 7x11, where .* max_pixels = 76"):
        read_matlab(tmp_path / "001.mat", 76)


def test_one_array_is_a_mask_where_it_is_not_zero(tmp_path):
    savemat(tmp_path / "a.mat", {"mask": (regions() > 2) * 255.0})
    assert np.array_equal(read_matlab(tmp_path / "a.mat", 77), regions() > 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": regions(), "b": regions()}, "holds a, b, where a mask is one array"),
        ({"groundTruth": {"Boundaries": regions()}}, "holds groundTruth, where"),
        ({"a": np.zeros((2, 3, 4))}, "the mask is 2x3x4"),
        ({"a": np.zeros((0, 4))}, "the mask is 0x4"),
        ({}, "holds nothing"),
    ],
)
def test_what_is_no_mask(tmp_path, content, message):
    savemat(tmp_path / "a.mat", content)
    with pytest.raises(DataError, match=message):
        read_matlab(tmp_path / "a.mat", 1000)


def test_what_would_take_the_machine(tmp_path):
    """A bomb of zeros, and cells in cells in cells, which end ``loadmat``'s process."""
    head = b"MATLAB 5.0".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    bomb = zlib.compress(bytes(MOST_BYTES + 1), 1)
    (tmp_path / "bomb.mat").write_bytes(head + struct.pack("<II", 15, len(bomb)) + bomb)
    with pytest.raises(DataError, match=r"bomb\.mat: damaged.*more than"):
        read_matlab(tmp_path / "bomb.mat", 10**9)
    half = bytes(MOST_BYTES // 2)  # of the kind that no mask is made of: two of them fit, three do not
    part = zlib.compress(struct.pack("<II", 1, len(half)) + half, 1)
    element = struct.pack("<II", 15, len(part)) + part
    (tmp_path / "parts.mat").write_bytes(head + element * 3)
    with pytest.raises(DataError, match=r"parts\.mat: damaged.*more than"):
        read_matlab(tmp_path / "parts.mat", 10**9)
    (tmp_path / "parts.mat").write_bytes(head + element)
    with pytest.raises(DataError, match=r"parts\.mat: holds nothing"):
        read_matlab(tmp_path / "parts.mat", 10**9)
    cells = b""
    for _ in range(2000):
        array = struct.pack("<IIII IIii II", 6, 8, 1, 0, 5, 8, 1, 1, 1, 0) + cells
        cells = struct.pack("<II", 14, len(array)) + array
    (tmp_path / "deep.mat").write_bytes(head + cells)
    with pytest.raises(DataError, match=r"deep\.mat: holds "):
        read_matlab(tmp_path / "deep.mat", 10**9)


def test_damaged_files_are_refused_in_one_error(tmp_path):
    chance = random.Random(0)
    path: Path = tmp_path / "a.mat"
    outcomes = set()
    for compressed in (False, True):
        savemat(path, {"groundTruth": {"Segmentation": regions()}}, do_compression=compressed)
        sound = path.read_bytes()
        for _ in range(300):
            damaged = bytearray(sound)
            for _ in range(chance.randint(1, 6)):
                damaged[chance.randrange(100, len(damaged))] = chance.randrange(256)
            path.write_bytes(damaged[: chance.randrange(len(damaged))] if chance.random() < 0.3 else damaged)
            try:
                outcomes.add(read_matlab(path, 10**6).dtype)
            except DataError as error:
                assert str(path) in str(error)
                outcomes.add("refused")
    assert outcomes == {"refused", np.dtype(bool)}
