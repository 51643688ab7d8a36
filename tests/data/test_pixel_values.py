"""The same content by every road: files of all formats, PIL images, arrays and tensors give the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from headlens.data import read_image, read_mask
from headlens.data.pixel_values import Stored, image_of, mask_of
from headlens.errors import DataError, ShapeError
from headlens.predict import as_bytes
from tests.data.test_images import deep_png

quick = settings(deadline=None, max_examples=80, derandomize=True)
TYPES = [
    "bool",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float16",
    "float32",
    "float64",
]


def expected(values: np.ndarray, white_is_zero: bool = False) -> np.ndarray | None:
    """By the words of the documentation, pixel by pixel; [H, W] or [H, W, 3] uint8, or None for what is refused."""
    exact = values.astype(object)
    low, high = min(exact.flat), max(exact.flat)
    if values.dtype.kind == "b":
        full = 1
    elif values.dtype.kind in "ui":
        if low < 0 or 2**16 <= high < 2**27 or high >= 2**32:
            return None
        full = next(2**bits - 1 for bits in (8, 12, 16, 31, 32) if high < 2**bits)
    elif not (np.isfinite(low) and np.isfinite(high)):
        return None
    elif low >= -0.15 and high <= 1.15:
        full = 1
    elif (high >= 16 or (low >= 0 and all(float(v).is_integer() for v in exact.flat))) and low >= -0.15 * high:
        if high > 255 * 1.15:
            return None
        full = 255
    else:
        return None
    shown = [full - v if white_is_zero else v for v in exact.flat]
    return np.array([round(min(max(float(v) * (255 / full), 0), 255)) for v in shown], np.uint8).reshape(values.shape)


@st.composite
def contents(draw, types=TYPES, channels=(1, 3)) -> np.ndarray:
    """[H, W] or [H, W, n] of any type, in the ranges that files have, and beside them."""
    kind = np.dtype(draw(st.sampled_from(types)))
    count = draw(st.sampled_from(channels))
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 5))) + ((count,) if count > 1 else ())
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    if kind.kind == "f":
        low, high = draw(st.sampled_from([(0, 1), (-0.02, 1.002), (0, 1.3), (0, 12.5), (-9, 260), (-2, 2), (0, 999)]))
        values = generator.uniform(low, high, shape)
        values.flat[0] = high
        return (np.rint(values) if draw(st.booleans()) else values).astype(kind)
    most = 1 if kind.kind == "b" else int(np.iinfo(kind).max)
    tops = [top for top in (1, 9, 127, 255, 256, 4000, 40_000, 70_000, 2**27, 2**31 - 1, 2**32) if top <= most]
    values = generator.integers(0, draw(st.sampled_from([*tops, most])), shape, np.uint64, endpoint=True)
    return values.astype(kind)


def check(values: np.ndarray, read, error: type[Exception] = DataError, white_is_zero: bool = False) -> None:
    wanted = expected(values, white_is_zero)
    if wanted is None:
        with pytest.raises(error, match="values"):
            read()
        return
    image = read()
    assert image.dtype == torch.uint8 and image.is_contiguous()
    channels = np.repeat(wanted[None], 3, 0) if wanted.ndim == 2 else np.moveaxis(wanted, -1, 0)
    assert np.array_equal(image.numpy(), channels)


@quick
@given(contents(), st.sampled_from("<>"))
def test_arrays_and_tensors(values, order):
    check(values, lambda: as_bytes(values), ShapeError)
    check(values, lambda: as_bytes(values.astype(values.dtype.newbyteorder(order))), ShapeError)
    check(values, lambda: as_bytes(values[::-1, ::-1][::-1, ::-1]), ShapeError)
    alpha = np.concatenate([values.reshape(*values.shape[:2], -1), np.zeros((*values.shape[:2], 1), values.dtype)], -1)
    check(values, lambda: as_bytes(alpha), ShapeError)
    if values.dtype.name not in ("uint32", "uint64"):
        tensor = torch.from_numpy(np.moveaxis(values.reshape(*values.shape[:2], -1), -1, 0).copy())
        check(values, lambda: as_bytes(tensor), ShapeError)


@quick
@given(
    contents(channels=(1, 2, 3, 4)),
    st.sampled_from("<>"),
    st.sampled_from([None, "zlib"]),
    st.booleans(),
    st.booleans(),
)
def test_tiffs(tmp_path_factory, values, order, compression, separate, white_is_zero):
    if values.dtype.kind == "b" and values.ndim == 3:
        values = values.astype(np.uint8) * 255
    path = tmp_path_factory.getbasetemp() / "roads.tif"
    channels = values.shape[2] if values.ndim == 3 else 1
    separate = separate and channels > 2
    white_is_zero = white_is_zero and channels == 1
    tifffile.imwrite(
        path,
        np.moveaxis(values, -1, 0) if separate else values,
        byteorder=order,
        compression=compression,
        photometric="rgb" if channels > 2 else "miniswhite" if white_is_zero else "minisblack",
        planarconfig=None if channels == 1 else "separate" if separate else "contig",
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        metadata=None,
    )
    colours = values[..., :3] if channels > 2 else values[..., 0] if channels == 2 else values
    check(colours, lambda: read_image(path), white_is_zero=white_is_zero)


@quick
@given(contents(["bool", "uint8", "uint16", "int32", "float32"], channels=(1,)))
def test_pil_images_and_the_files_that_pil_writes(tmp_path_factory, values):
    image = Image.fromarray(values)
    check(values, lambda: as_bytes(image), ShapeError)
    folder = tmp_path_factory.getbasetemp()
    suffixes = [".tif"] if image.mode in ("I", "F") else [".png", ".tif"] + ([".pgm"] if image.mode != "1" else [])
    for suffix in suffixes:
        image.save(folder / f"roads{suffix}")
        check(values, lambda path=folder / f"roads{suffix}": read_image(path))
    if image.mode == "I;16":
        image.save(folder / "lzw.tif", compression="tiff_lzw")  # tifffile has no decoder for it
        check(values, lambda: read_image(folder / "lzw.tif"))


@quick
@given(contents(["uint16"], channels=(1, 3)))
def test_sixteen_bits_of_png(tmp_path_factory, values):
    path = deep_png(tmp_path_factory.getbasetemp() / "deep.png", values)
    check(values, lambda: read_image(path))
    assert np.array_equal(read_mask(path).numpy(), (values > 0).any(-1) if values.ndim == 3 else values > 0)


RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "mode", ["CMYK", "YCbCr", "HSV", "RGBA", "RGBX", "LA", "PA", "P", "La", "RGBa", "LAB", "L", "1"]
)
def test_modes_of_pil(mode, tmp_path):
    """As PIL itself converts them, for modes that it converts; files give the same where there are such files."""
    image = Image.fromarray(RGB)
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
        near = np.abs(as_bytes(image).permute(1, 2, 0).numpy().astype(int) - RGB)
        assert np.median(near) <= 2
    else:
        through = {"La": "LA", "RGBa": "RGBA"}.get(mode)
        image = image.convert(through).convert(mode) if through else image.convert(mode)
        shown = (image.convert(through) if through else image).convert("RGB")
        assert np.array_equal(as_bytes(image).permute(1, 2, 0).numpy(), np.asarray(shown))
    if mode not in ("HSV", "La", "RGBa", "PA"):
        path = tmp_path / ("a.png" if mode in ("RGBA", "LA", "P", "1") else "a.tif")
        image.save(path)
        assert torch.equal(read_image(path), as_bytes(image))


def test_a_little_above_white_is_no_other_image():
    """The brightest pixel of an image that was resized is 1.002; it was read as 0 to 255, which is black."""
    grey = np.linspace(0, 1, 50, dtype=np.float32).reshape(5, 10)
    for scale in (1.0, 1.002, 1.1):
        image = as_bytes(grey * np.float32(scale))
        assert np.abs(image[0].numpy() - grey * 255 * scale).max() <= max(0.51, 255 * (scale - 1) + 0.51)
    for scale in (1.2, 1.999, 3, 15.9):
        with pytest.raises(ShapeError, match="neither 0 to 1 nor 0 to 255"):
            as_bytes(grey * np.float32(scale))
    assert int(as_bytes(np.rint(grey * 3)).max()) == 3, "whole numbers of a very dark image"


@quick
@given(contents(channels=(1,)), st.booleans())
def test_masks_mark_what_is_above_zero(values, white_is_zero):
    """Of labels; what smoothed and compressed masks mark is tested with files."""
    if values.dtype.kind == "f":
        values = np.rint(np.clip(np.nan_to_num(values), 0, None)).astype(values.dtype)
    marked = mask_of(Stored(values, white_is_zero=white_is_zero), "m").numpy()
    if not white_is_zero:
        assert np.array_equal(marked, values > 0)
    elif values.dtype.kind == "u" and (image := expected(values, True)) is not None and values.max() < 256:
        assert np.array_equal(marked, image > 0)


def test_large_images_are_scaled_in_pieces(monkeypatch):
    values = np.random.default_rng(0).integers(0, 4096, (37, 11), dtype=np.uint16)
    whole = image_of(Stored(values), "a")
    for block in (1, 12, 100):
        monkeypatch.setattr("headlens.data.pixel_values._BLOCK", block)
        assert torch.equal(image_of(Stored(values), "a"), whole)


def test_a_pil_image_that_cannot_be_decoded_is_no_crash(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    part = tmp_path / "part.png"
    part.write_bytes((tmp_path / "a.png").read_bytes()[:-40])
    with Image.open(part) as opened, pytest.raises(ShapeError):
        as_bytes(opened)


@pytest.mark.parametrize("shape", [(4, 4, 2), (4, 4, 4)])
def test_tensors_with_alpha(shape):
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    tensor = torch.from_numpy(np.moveaxis(values, -1, 0).copy())
    assert torch.equal(as_bytes(tensor), as_bytes(values))
    assert torch.equal(as_bytes(tensor.bfloat16() / 256), as_bytes((values / 256).astype(np.float32)))


def test_where_it_cannot_be_read_the_file_is_named(tmp_path):
    path: Path = tmp_path / "odd.tif"
    tifffile.imwrite(path, np.zeros((2, 5, 7), np.float32), metadata=None)  # two frames
    with pytest.raises(DataError, match=r"odd\.tif: has 2 frames"):
        read_image(path)
