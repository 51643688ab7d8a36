"""Image files of every mode and in every state: read right, or named in an error."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import struct
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from headlens.data import Record, read_image, read_mask
from headlens.data.decoding import FORMATS
from headlens.data.folders import FileSet
from headlens.data.images import MAX_PIXELS, SUFFIXES, read_upright
from headlens.data.pixel_values import turned
from headlens.errors import DataError
from headlens.predict import as_bytes

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
BLOB = np.zeros((5, 7), bool)
BLOB[1:4, 2:5] = True


def saved(path: Path, values: np.ndarray | Image.Image, **options: object) -> Path:
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(path, **options)
    return path


def shown(path: Path) -> np.ndarray:
    """As [H, W, 3]."""
    image = read_image(path)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    return image.permute(1, 2, 0).numpy()


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, -1)


# Modes of images
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".ppm", ".tga", ".jp2"])
def test_lossless_rgb(tmp_path, suffix):
    options = {".webp": {"lossless": True}, ".jp2": {"irreversible": False}}.get(suffix, {})
    assert np.array_equal(shown(saved(tmp_path / f"a{suffix}", RGB, **options)), RGB)


def test_suffix_and_content_need_not_agree(tmp_path):
    saved(tmp_path / "a.png", RGB)
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert np.array_equal(shown(tmp_path / "a.jpg"), RGB)


def test_grey_and_one_bit(tmp_path):
    assert np.array_equal(shown(saved(tmp_path / "a.png", GREY)), grey(GREY))
    bits = Image.fromarray(BLOB)
    assert bits.mode == "1"
    assert np.array_equal(shown(saved(tmp_path / "b.png", bits)), grey(BLOB * np.uint8(255)))


def test_palettes_are_their_colours(tmp_path):
    image = Image.fromarray(GREY % 4, "P")
    colours = RNG.integers(0, 256, (4, 3), dtype=np.uint8)
    image.putpalette(colours.tobytes())
    for suffix in (".png", ".gif", ".bmp"):
        assert np.array_equal(shown(saved(tmp_path / f"a{suffix}", image)), colours[GREY % 4])
    # with a transparent entry: its colour is still shown
    assert np.array_equal(shown(saved(tmp_path / "t.png", image, transparency=1)), colours[GREY % 4])


def test_alpha_is_dropped(tmp_path):
    alpha = RNG.integers(0, 256, (5, 7, 1), dtype=np.uint8)
    assert np.array_equal(shown(saved(tmp_path / "a.png", np.concatenate([RGB, alpha], -1))), RGB)
    both = np.concatenate([GREY[..., None], alpha], -1)
    assert np.array_equal(shown(saved(tmp_path / "b.png", Image.fromarray(both, "LA"))), grey(GREY))


def test_cmyk(tmp_path):
    """Ink is subtracted: (1 - c)(1 - k) of the light is left. JPEG is near, TIFF is exact."""
    flat = np.broadcast_to(np.array([200, 30, 90, 40], np.uint8), (16, 16, 4))
    image = Image.fromarray(np.ascontiguousarray(flat), "CMYK")
    expected = (255 - flat[0, 0, :3].astype(float)) * (255 - 40) / 255
    for suffix, slack in ((".tif", 1), (".jpg", 6)):
        found = shown(saved(tmp_path / f"a{suffix}", image)).astype(float)
        assert np.abs(found - expected).max() <= slack


def deep_png(path: Path, values: np.ndarray) -> Path:
    """[H, W] or [H, W, 1 to 4] with 16 bits, written by hand: the oracle does not share code with the reader."""
    height, width, *channels = values.shape
    colours = {1: 0, 2: 4, 3: 2, 4: 6}[channels[0] if channels else 1]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, colours, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("top", [1, 200, 255, 256, 3000, 4095, 4096, 40_000, 65_535])
def test_sixteen_bits(tmp_path, top):
    """By the smallest of 8, 12 and 16 bits that holds the largest value: a 12-bit scan is not nearly black."""
    values = RNG.integers(0, top + 1, (5, 7))
    values[0, 0] = top
    full = 255 if top < 256 else 4095 if top < 4096 else 65_535
    expected = grey(np.round(values * 255 / full).astype(np.uint8))
    assert np.array_equal(shown(deep_png(tmp_path / "a.png", values)), expected)
    assert np.array_equal(shown(saved(tmp_path / "a.tif", values.astype(np.uint16))), expected)
    assert np.array_equal(shown(saved(tmp_path / "b.tif", values.astype(np.int32))), expected)


def test_sixteen_bits_of_colour(tmp_path):
    values = RNG.integers(0, 65_536, (5, 7, 3))
    for scale, full in ((1, 65_535), (16, 4095)):  # of 16 and of 12 bits, as if grey
        scaled = values // scale
        expected = np.round(scaled * (255 / full)).astype(np.uint8)
        assert np.array_equal(shown(deep_png(tmp_path / "a.png", scaled)), expected)
        alpha = RNG.integers(0, 65_536, (5, 7, 1))
        assert np.array_equal(shown(deep_png(tmp_path / "b.png", np.concatenate([scaled, alpha], -1))), expected)


def test_sixteen_bits_of_grey_with_alpha_are_those_of_grey(tmp_path):
    for top in (200, 3000, 65_535):
        values = RNG.integers(0, top + 1, (5, 7, 2))
        alone = shown(deep_png(tmp_path / "a.png", values[..., 0]))
        assert np.array_equal(shown(deep_png(tmp_path / "b.png", values)), alone)


def test_thirty_two_bits(tmp_path):
    values = np.array([[0, 2**20, 2**31 - 1]], np.int32)
    assert shown(saved(tmp_path / "a.tif", values))[0, :, 0].tolist() == [0, 0, 255]
    saved(tmp_path / "b.tif", np.array([[-5, 7]], np.int32))
    with pytest.raises(DataError, match="values from -5 to 7"):
        read_image(tmp_path / "b.tif")


def test_floats(tmp_path):
    values = np.array([[0.0, 0.5, 1.0]], np.float32)
    assert shown(saved(tmp_path / "a.tif", values))[0, :, 0].tolist() == [0, 128, 255]
    assert shown(saved(tmp_path / "b.tif", values * 200))[0, :, 0].tolist() == [0, 100, 200]
    for bad in (values * 300, values - 1, values * np.nan, values + np.inf, values * 1.3, values * 9.5):
        saved(tmp_path / "c.tif", bad.astype(np.float32))
        with pytest.raises(DataError, match=r"c\.tif: .*values from"):
            read_image(tmp_path / "c.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_images_and_masks_are_turned_as_pil_turns_them(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.kron(RGB, np.ones((8, 8, 1), np.uint8)) if suffix in (".jpg", ".webp") else RGB
    path = saved(tmp_path / f"a{suffix}", Image.fromarray(stored), exif=exif)
    with Image.open(path) as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    assert upright.shape == (stored.shape if orientation < 5 else (stored.shape[1], stored.shape[0], 3))
    assert np.array_equal(shown(path), upright)
    assert read_upright(path)[1] == orientation
    with Image.open(path) as opened:
        assert np.array_equal(as_bytes(opened).permute(1, 2, 0).numpy(), upright)
    mask = saved(tmp_path / "m.png", BLOB, exif=exif)
    assert np.array_equal(read_mask(mask).numpy(), turned(BLOB, orientation))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1)])
def test_images_with_a_side_of_one_pixel_are_turned_too(tmp_path, orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.arange(15, dtype=np.uint8).reshape(5, 3)[: size[0] * size[1]].reshape(*size, 3)
    path = saved(tmp_path / "a.png", Image.fromarray(stored), exif=exif)
    assert np.array_equal(shown(path), turned(stored, orientation))
    assert read_mask(path).shape == shown(path).shape[:2]


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_orientations_that_do_not_exist(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(shown(saved(tmp_path / "a.png", Image.fromarray(RGB), exif=exif)), RGB)


def test_a_damaged_note_is_no_damage_of_the_image(tmp_path):
    assert np.array_equal(
        shown(saved(tmp_path / "a.png", Image.fromarray(RGB), exif=b"Exif\0\0MM\0*\0\0\xff\xff")), RGB
    )


# Files that are no pictures
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_files_that_cannot_be_read(tmp_path, read):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("a page about something else")
    (tmp_path / "program.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    for name in ("gif", "webp", "tif", "png"):
        saved(tmp_path / f"moving.{name}", frames[0], save_all=True, append_images=frames[1:])
    expected = {
        "missing.png": "no such file",
        "folder.png": "is a folder",
        "empty.png": "the file is empty",
        "text.png": "not an image",
        "program.png": "not an image",
        **{f"moving.{name}": "has 2 frames" for name in ("gif", "webp", "tif", "png")},
    }
    for name, message in expected.items():
        with pytest.raises(DataError, match=message) as caught:
            read(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_a_photograph_with_a_preview_is_one_picture(tmp_path):
    """Telephones write JPEG with a second, smaller picture behind it (MPO)."""
    image = Image.fromarray(np.full((8, 8, 3), 99, np.uint8))
    saved(tmp_path / "a.jpg", image, format="MPO", save_all=True, append_images=[image.resize((4, 4))])
    assert (shown(tmp_path / "a.jpg") == 99).all()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "gif", "tif", "webp", "ppm", "jp2", "tga"])
def test_every_file_that_is_cut_short(tmp_path, kind):
    """A part of a file is an error, or has every pixel of the whole: nothing is filled in."""
    whole = saved(tmp_path / f"whole.{kind}", np.kron(RGB, np.ones((4, 4, 1), np.uint8)))
    expected, data = read_image(whole), whole.read_bytes()
    part = tmp_path / f"part.{kind}"
    refused = 0
    for length in sorted({*range(0, len(data), max(1, len(data) // 60)), len(data) - 1}):
        part.write_bytes(data[:length])
        try:
            assert torch.equal(read_image(part), expected), length
        except DataError as error:
            refused += 1
            assert str(part) in str(error)
    assert refused > 20


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    st.sampled_from(["png", "deep.png", "jpg", "bmp", "gif", "tif", "deep.tif", "packed.tif", "webp", "jp2", "tga"]),
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0, 1, 127, 255]) | st.integers(0, 255))),
    st.floats(0, 2),
)
def test_damaged_bytes_raise_one_kind_of_error(tmp_path_factory, kind, changes, left):
    path = tmp_path_factory.getbasetemp() / f"damaged.{kind}"
    if kind == "deep.png":
        deep_png(path, RGB * 200)
    elif "." in kind:
        compression = "zlib" if kind == "packed.tif" else None
        tifffile.imwrite(path, (RGB / 255).astype(np.float32), photometric="rgb", compression=compression)
    else:
        saved(path, RGB)
    data = bytearray(path.read_bytes())
    data = data[: max(1, int(len(data) * left))]
    for place, value in changes:
        data[min(int(place * len(data)), len(data) - 1)] = value
    path.write_bytes(data)
    for read in (read_image, read_mask):
        try:
            found = read(path, max_pixels=10_000)
        except DataError as error:
            assert str(path) in str(error)
        else:
            assert found.dtype == (torch.uint8 if read is read_image else torch.bool)
            assert found.shape[-1] * found.shape[-2] <= 10_000


def test_bombs_are_known_by_their_header(tmp_path):
    """Some hundred bytes that say they are pictures of gigabytes: nothing is decoded to find out."""

    def claims(width: int, height: int) -> Path:
        head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        body = b"IHDR" + head
        data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(head)) + body + struct.pack(">I", zlib.crc32(body))
        (tmp_path / "bomb.png").write_bytes(data + struct.pack(">I", 10**6) + b"IDAT")
        return tmp_path / "bomb.png"

    for width, height in ((60_000, 60_000), (12_000, 12_000), (2**31 - 1, 2**31 - 1)):
        with pytest.raises(DataError, match=rf"bomb\.png: {width}x{height} pixels .* max_pixels = {MAX_PIXELS}"):
            read_image(claims(width, height))
    saved(tmp_path / "a.png", RGB)
    assert read_image(tmp_path / "a.png", max_pixels=35).shape == (3, 5, 7)
    with pytest.raises(DataError, match="7x5 pixels are more than max_pixels = 34"):
        read_image(tmp_path / "a.png", max_pixels=34)


def test_bombs_in_tiffs(tmp_path):
    """Headers of many pixels, of many bytes for each, and pieces that unpack to more than they are a part of."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((20, 20), np.float64), metadata=None)
    with pytest.raises(DataError, match=r"a\.tif: 20x20 pixels are more than max_pixels = 399"):
        read_image(path, max_pixels=399)
    tifffile.imwrite(path, np.zeros((20, 20, 3), np.float64), photometric="rgb", metadata=None)
    with pytest.raises(DataError, match=r"a\.tif: 20x20 pixels of 24 bytes are too large"):
        read_image(path, max_pixels=400)
    assert read_image(path, max_pixels=800).shape == (3, 20, 20)
    tifffile.imwrite(path, np.zeros((2000, 2000), np.uint16), compression="zlib", rowsperstrip=2000, metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["ImageLength"].overwrite(20)
    with pytest.raises(DataError, match="a piece of it is larger than its part of the image"):
        read_image(path)


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_pipes_and_sockets_are_refused_at_once(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        place = Path(tempfile.mkdtemp())  # names of sockets are short
        server.bind(str(place / "s.png"))
        for path, kind in ((tmp_path / "pipe.png", "pipe"), (place / "s.png", "socket"), (Path("/dev/zero"), "device")):
            with pytest.raises(DataError, match=rf"{path}: cannot be read \(is a {kind}, not a regular file\)"):
                read(path)
    shutil.rmtree(place)


@pytest.mark.filterwarnings("error")
def test_max_pixels_is_the_only_limit(tmp_path, monkeypatch):
    """Also of several threads at once; afterwards the limit of the library is what it was."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    paths = [saved(tmp_path / f"{i}.png", np.full((40, 50), i, np.uint8)) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda path: int(read_image(path, max_pixels=2000).max()), paths * 5))
    assert found == [*range(8)] * 5
    with pytest.raises(DataError, match="max_pixels = 1999"):
        read_image(paths[0], max_pixels=1999)
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), r"a\.png: cannot be read \(Permission denied\)"),
        (OSError(errno.EMFILE, "Too many open files"), r"a\.png: cannot be read \(Too many open files\)"),
        (MemoryError(), r"a\.png: not enough memory"),
        (OSError("broken data stream"), r"a\.png: damaged or cut short"),
    ],
)
def test_only_bytes_are_damaged(tmp_path, monkeypatch, error, message):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(DataError, match=message):
        read_image(saved(tmp_path / "a.png", RGB))


def test_every_format_is_one_that_pillow_has():
    Image.init()
    assert set(FORMATS) <= set(Image.OPEN)
    assert {Image.registered_extensions()[suffix] for suffix in SUFFIXES} <= set(FORMATS)


# FileSet
def test_file_sets(tmp_path):
    image, mask = saved(tmp_path / "a.png", RGB), saved(tmp_path / "m.png", BLOB)
    records = [
        Record("flaw", "c", True, image=image, mask=mask),
        Record("lost", "c", True, image=image),
        Record("normal", "c", False, image=image, mask=mask),  # somebody's mistake, which the checker tells
        Record("unknown", "c", None, image=image),
        Record("part", "c", True, image=image, mask=mask, crop=(1, 2, 6, 5)),
        Record("whole", "c", True),
    ]
    data = FileSet("set", "", records)
    assert torch.equal(data.pixels(0).image, read_image(image))
    masks = [data.pixels(i).mask for i in range(4)]
    assert masks[0] is not None
    assert np.array_equal(masks[0].numpy(), BLOB)
    assert masks[1] is None
    assert masks[2] is not None
    assert not masks[2].any()
    assert masks[2].shape == (5, 7)
    assert masks[3] is None
    part = data.pixels(4)
    assert np.array_equal(part.image.permute(1, 2, 0).numpy(), RGB[2:5, 1:6])
    assert part.mask is not None
    assert np.array_equal(part.mask.numpy(), BLOB[2:5, 1:6])
    with pytest.raises(DataError, match="record 'whole' of set has no image"):
        data.pixels(5)


def test_parts_are_cut_where_image_and_mask_agree(tmp_path):
    image, mask = saved(tmp_path / "a.png", np.zeros((20, 6), np.uint8)), saved(tmp_path / "m.png", BLOB)
    data = FileSet("set", "", [Record("part", "c", True, image=image, mask=mask, crop=(0, 0, 6, 2))])
    with pytest.raises(DataError, match=r"m\.png: is 7x5, .*a\.png is 6x20"):
        data.pixels(0)
