"""Masks as files: what counts as a flaw, whatever it went through."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from headlens.data import read_mask
from headlens.errors import DataError
from tests.data.test_images import BLOB, deep_png, saved


@pytest.mark.parametrize("value", [1, 2, 127, 128, 255])
def test_any_value_above_zero_is_a_flaw(tmp_path, value):
    for suffix in (".png", ".bmp", ".tif", ".gif"):
        path = saved(tmp_path / f"a{suffix}", BLOB.astype(np.uint8) * np.uint8(value))
        assert np.array_equal(read_mask(path).numpy(), BLOB)
    labels = BLOB * (np.arange(7) % 3 + 1)  # several kinds of flaw
    assert np.array_equal(read_mask(saved(tmp_path / "l.png", labels.astype(np.uint8))).numpy(), BLOB)


def test_masks_of_every_mode(tmp_path):
    values = BLOB * np.uint8(255)
    masks = {
        "1": Image.fromarray(BLOB),
        "L": Image.fromarray(values),
        "16": Image.fromarray(values.astype(np.uint16)),
        "16full": Image.fromarray(BLOB * np.uint16(65_535)),
        "32": Image.fromarray(BLOB.astype(np.int32)),
        "F": Image.fromarray(BLOB.astype(np.float32)),
        "blue": Image.fromarray(np.stack([values * 0, values * 0, values], -1)),  # 0.11 of it would be left in grey
        "RGBA": Image.fromarray(np.stack([values, values * 0, values * 0, values * 0 + 255], -1)),
        "glass": Image.fromarray(np.stack([values, values, values, values * 0], -1)),
        "LA": Image.fromarray(values).convert("LA"),
    }
    for name, image in masks.items():
        path = saved(tmp_path / f"{name}.{'tif' if name in ('32', 'F') else 'png'}", image)
        found = read_mask(path)
        assert found.dtype == torch.bool
        assert np.array_equal(found.numpy(), BLOB), name


def test_palettes_of_masks_count_by_colour(tmp_path):
    """Black is normal whichever number it has; index 0 can be white."""
    for black_first in (True, False):
        image = Image.fromarray((black_first == BLOB).astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 255, 255, 255] if black_first else [255, 255, 255, 0, 0, 0])
        assert np.array_equal(read_mask(saved(tmp_path / "a.png", image)).numpy(), BLOB)


@pytest.mark.parametrize("ground", [0, 90, 255])
def test_what_is_transparent_is_not_marked(tmp_path, ground):
    """A drawing on a transparent ground, whatever colour hides below it; where only the alpha channel differs, that."""
    values, alpha = np.where(BLOB, 255, ground).astype(np.uint8), BLOB * np.uint8(255)
    for path in (
        saved(tmp_path / "a.png", np.stack([values] * 3 + [alpha], -1)),
        saved(tmp_path / "b.png", Image.fromarray(np.stack([values, alpha], -1), "LA")),
        saved(tmp_path / "c.png", Image.fromarray(BLOB.astype(np.uint8), "L").convert("P"), transparency=0),
    ):
        assert np.array_equal(read_mask(path).numpy(), BLOB), path
    faint = saved(tmp_path / "d.png", np.stack([BLOB * np.uint8(1)] * 3 + [np.maximum(alpha, 1)], -1))
    assert np.array_equal(read_mask(faint).numpy(), BLOB)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("value", [1, 256, 32_768, 65_535])
def test_transparency_over_sixteen_bits_loses_no_label(tmp_path, channels, value):
    values = np.stack([BLOB * value] * channels + [np.where(BLOB, 65_535, 0)], -1)
    for seen in (65_535, 32_768):
        values[BLOB, -1] = seen
        assert np.array_equal(read_mask(deep_png(tmp_path / "a.png", values)).numpy(), BLOB)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(("channels", "photometric"), [(1, "minisblack"), (3, "rgb")])
def test_what_is_transparent_in_a_tiff_is_not_marked(tmp_path, kind, channels, photometric):
    full = 1 if kind is np.float32 else np.iinfo(kind).max
    values = np.stack([np.full(BLOB.shape, full, kind)] * channels + [(BLOB * full).astype(kind)], -1)
    for extra, marked in (("unassalpha", BLOB), ("unspecified", BLOB | True)):
        tifffile.imwrite(tmp_path / "a.tif", values, photometric=photometric, extrasamples=[extra], metadata=None)
        assert np.array_equal(read_mask(tmp_path / "a.tif").numpy(), marked), extra


def test_black_on_transparency_says_nothing(tmp_path):
    values = BLOB * np.uint8(255)
    path = saved(tmp_path / "a.png", np.stack([values * 0] * 3 + [values], -1))
    with pytest.raises(DataError, match=r"a\.png: a black mask with varying transparency"):
        read_mask(path)


def big_blob() -> np.ndarray:
    y, x = np.mgrid[:64, :80]
    return (y - 30) ** 2 + (x - 41) ** 2 < 19**2


@pytest.mark.parametrize("quality", [30, 50, 75, 90, 95, 98])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_ringing_of_jpeg_is_no_flaw(tmp_path, quality, mode):
    blob = big_blob()
    path = saved(tmp_path / "a.jpg", Image.fromarray(blob * np.uint8(255)).convert(mode), quality=quality)
    with Image.open(path) as image:
        ringing = np.asarray(image.convert("L")) > 0
    assert (ringing & ~blob).sum() > 9, "the test would be about nothing"
    assert (read_mask(path).numpy() != blob).mean() < 0.01
    # the same file made lossless too late
    with Image.open(path) as image:
        again = saved(tmp_path / "again.png", image.convert("L"))
    assert torch.equal(read_mask(again), read_mask(path))


def test_black_jpeg_masks_are_empty_and_faint_ones_are_not(tmp_path):
    assert not read_mask(saved(tmp_path / "a.jpg", np.zeros((16, 16), np.uint8))).any()
    assert read_mask(saved(tmp_path / "b.jpg", np.full((16, 16), 9, np.uint8))).all()


@pytest.mark.parametrize("step", [1, 2, 16, 51, 85, 255])
def test_labels_of_many_flaws_are_no_grey_edge(tmp_path, step):
    """Numbered, or spread over the greys; with 255 for what nobody could tell."""
    labels = np.minimum(np.arange(65) * step, 255).astype(np.uint8).reshape(5, 13)
    labels[(labels > 200) & (labels < 255)] = 255
    assert np.array_equal(read_mask(saved(tmp_path / "a.png", labels)).numpy(), labels > 0)


@pytest.mark.parametrize(
    "levels",
    [[20, 240], [1, 255], [1, 250, 255], [10, 20, 30, 230, 240, 250], [85, 170, 255], range(1, 251), range(1, 255)],
    ids=str,
)
@pytest.mark.parametrize("area", [1, 9, 100])
def test_labels_near_black_and_near_white(tmp_path, levels, area):
    """A few, or numbers of flaws spread over all greys: none of them is an edge, however large it is."""
    labels = np.concatenate([np.zeros(5000), np.repeat(levels, area)]).astype(np.uint8)
    labels = np.pad(labels, (0, -len(labels) % 50)).reshape(-1, 50)
    assert np.array_equal(read_mask(saved(tmp_path / "a.png", labels)).numpy(), labels > 0)


def test_labels_of_more_than_eight_bits(tmp_path):
    labels = np.repeat([0, 1, 4000, 60_000], 16).astype(np.uint16).reshape(8, 8)
    for wide in (labels, labels * (labels < 5000)):  # both ends of 16 and of 12 bits
        assert np.array_equal(read_mask(deep_png(tmp_path / "a.png", wide)).numpy(), wide > 0)
        ramp = np.arange(4096, dtype=np.float32).reshape(64, 64)
        assert np.array_equal(read_mask(saved(tmp_path / "a.tif", ramp)).numpy(), ramp > 0)


def test_smoothed_edges_are_cut_in_the_middle(tmp_path):
    blob = Image.fromarray(big_blob() * np.uint8(255))
    soft = blob.resize((320, 256), Image.Resampling.BICUBIC)
    found = read_mask(saved(tmp_path / "a.png", soft)).numpy()
    assert abs(found.mean() / big_blob().mean() - 1) < 0.02
    assert (np.asarray(soft) > 0).mean() > found.mean()


def test_masks_with_values_below_zero(tmp_path):
    with pytest.raises(DataError, match="values from -1 to 1"):
        read_mask(saved(tmp_path / "a.tif", np.array([[-1, 1]], np.int32)))


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_masks_of_fractions_are_cut_in_the_middle_and_labels_are_not(tmp_path, top):
    blob = Image.fromarray(big_blob().astype(np.float32))
    soft = np.asarray(blob.resize((320, 256), Image.Resampling.BICUBIC)) * np.float32(top)
    assert soft.min() < 0 < top < soft.max()
    found = read_mask(saved(tmp_path / "a.tif", soft)).numpy()
    assert abs(found.mean() / big_blob().mean() - 1) < 0.02
    half = np.where(BLOB, 0.5, 0).astype(np.float32)
    assert np.array_equal(read_mask(saved(tmp_path / "b.tif", half)).numpy(), BLOB)
