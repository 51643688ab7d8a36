"""Masks on their way to the metrics: over their image, brought over it, or set aside with a reason."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headlens.data import Loader, Pixels, Preprocess, Record
from headlens.data.folders import FileSet
from headlens.data.mask_fit import fitted, nearest, same_shape
from headlens.data.pixel_values import turned
from headlens.errors import DataError

sizes = st.tuples(st.integers(2, 60), st.integers(2, 60))
FLAW = Record("screw/0", "screw", True, mask=Path("mask.png"))


@settings(deadline=None, max_examples=300, derandomize=True)
@given(sizes, sizes)
def test_the_same_shape_is_one_scale_to_within_a_pixel_of_the_smaller(one, other):
    (h, w), (height, width) = sorted((one, other), key=lambda size: size[0] * size[1])
    scales = np.geomspace(0.5, 130, 20_000)
    off = np.maximum(abs(height / scales - h), abs(width / scales - w))
    if same_shape(one, other):
        assert off.min() < 1.05
    else:
        assert off.min() > 1 or max(height / h, width / w) > 8
    assert same_shape(one, other) == same_shape(other, one)
    assert same_shape(one[::-1], other[::-1]) == same_shape(one, other)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(sizes, sizes)
def test_the_nearest_pixel_is_the_one_a_centre_lies_in(size, to):
    mask = torch.from_numpy(np.random.default_rng(0).random(size) < 0.5)
    resized = nearest(mask, to)
    assert tuple(resized.shape) == to
    for row, column in itertools.product(range(0, to[0], 7), range(0, to[1], 7)):
        at = int((row + 0.5) * size[0] / to[0]), int((column + 0.5) * size[1] / to[1])
        assert resized[row, column] == mask[at]


@settings(deadline=None, max_examples=200, derandomize=True)
@given(sizes, sizes, st.booleans())
def test_a_mask_is_over_its_image_or_set_aside(native, size, marked):
    image, mask = torch.zeros(3, *native, dtype=torch.uint8), torch.full(size, marked)
    result = fitted(Pixels(image, mask), FLAW)
    if native == size and marked:
        assert result.mask is mask and result.mask_note == ""
    elif marked and same_shape(native, size):
        assert result.mask.all() and tuple(result.mask.shape) == native
        assert f"{size[1]}x{size[0]} pixels, its image {native[1]}x{native[0]}" in result.mask_note
    else:
        assert result.mask is None and result.mask_note
    assert fitted(result, FLAW) == result


def flaws(folder: Path) -> FileSet:
    """A normal image, and anomalous ones of 40 x 60 pixels with masks in every state."""

    def written(name: str, values: np.ndarray) -> Path:
        Image.fromarray(values).save(folder / name)
        return folder / name

    image = written("image.png", np.full((40, 60), 99, np.uint8))
    flaw = np.zeros((40, 60), np.uint8)
    flaw[10:30, 20:50] = 255
    dot = np.zeros((40, 60), np.uint8)
    dot[0, 0] = 255
    (folder / "text.png").write_text("no image")
    masks = {
        "right": written("right.png", flaw),
        "half": written("half.png", flaw[::2, ::2]),
        "one off": written("off.png", np.pad(flaw, ((0, 1), (0, 0)))),
        "turned": written("turned.png", flaw.T),
        "dot": written("dot.png", dot),
        "empty": written("empty.png", flaw * 0),
        "text": folder / "text.png",
        "gone": folder / "gone.png",
        "none": None,
    }
    records = [Record(name, "screw", True, image=image, mask=mask) for name, mask in masks.items()]
    return FileSet("set", "", [Record("normal", "screw", False, image=image), *records])


def test_every_image_counts_and_only_masks_that_can_be_right_do(tmp_path):
    loader = Loader(flaws(tmp_path), Preprocess(14), 4, on_error="skip")
    for _ in range(2):  # the same again
        batches = list(loader)
        has_mask = {r.name: bool(has) for b in batches for r, has in zip(b.records, b.has_mask, strict=True)}
        counted = ("normal", "right", "half", "one off", "dot")
        assert has_mask == {record.name: record.name in counted for record in loader.dataset.records}
        assert sum(b.labels.sum() for b in batches) == 9
        assert loader.skipped == ()
        reasons = {left.record.name: left.reason for left in loader.unmasked}
        expected = {
            "turned": r"turned.png: the mask is 40x60 pixels, its image 60x40",
            "empty": "empty.png: nothing is marked",
            "text": "text.png: not an image",
            "gone": "gone.png: there is no such file",
            "none": "without a mask",
        }
        assert reasons.keys() == expected.keys()
        assert all(text in reasons[name] and reasons[name].startswith(f"{name}: ") for name, text in expected.items())
        assert {changed.record.name for changed in loader.adjusted} == {"half", "one off", "dot"}
        assert "dot: nothing of its mask is left at 14x14 pixels" in loader.report()
        assert [line for line in loader.report().splitlines() if line.endswith(":")] == [
            "5 of 10 images of set count without a mask:",
            "3 of 10 images of set have a mask that does not count as it is stored:",
        ]
    masks = {r.name: mask for b in batches for r, mask in zip(b.records, b.masks, strict=True)}
    assert torch.equal(masks["half"], masks["right"])
    assert not masks["turned"].any()


@pytest.mark.parametrize("cache", ["memory", "folder"])
def test_a_cache_keeps_the_reasons(tmp_path, cache):
    (tmp_path / "set").mkdir()
    data = flaws(tmp_path / "set")
    kept = "memory" if cache == "memory" else tmp_path / "cache"
    loaders = [Loader(data, Preprocess(14), 4, cache=kept, on_error="skip") for _ in range(2)]
    for loader in loaders:
        list(loader)
        list(loader)
    assert loaders[0].report() == loaders[1].report()
    assert loaders[0].report().count("\n") == 9


@pytest.mark.parametrize("name", ["turned", "empty", "text", "gone"])
def test_a_mask_that_cannot_be_used_is_an_error_where_errors_are_raised(tmp_path, name):
    data = flaws(tmp_path).where(lambda record: record.name == name)
    with pytest.raises(DataError, match=rf"{name}: .*{name}\.png"):
        list(Loader(data, Preprocess(14)))


def test_whole_masks_lose_nothing(tmp_path):
    data = flaws(tmp_path).where(lambda record: record.name == "dot")
    (batch,) = Loader(data, Preprocess(14, masks="native"))
    assert batch.has_mask.all() and int(batch.masks[0].sum()) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("drawn_on", ["upright", "stored"])
def test_a_mask_lies_over_a_photograph_that_was_turned(tmp_path, orientation, drawn_on):
    """The flaw is where the image is bright, whichever way the camera was held, and whatever the mask was drawn on."""
    flaw = np.zeros((24, 40), np.uint8)
    flaw[3:9, 5:19] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(flaw).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(turned(flaw, orientation) if drawn_on == "upright" else flaw).save(tmp_path / "m.png")
    record = Record("a", "c", True, image=tmp_path / "a.png", mask=tmp_path / "m.png")
    pixels = FileSet("set", "", [record]).pixels(0)
    assert np.array_equal(pixels.image[0].numpy(), turned(flaw, orientation))
    if drawn_on == "stored" and orientation in (2, 3, 4):  # both fit: nothing tells them apart
        assert pixels.mask_note == ""
        return
    assert pixels.mask is not None
    assert np.array_equal(pixels.mask.numpy(), pixels.image[0].numpy() > 0)
    assert ("turned along" in pixels.mask_note) == (drawn_on == "stored" and orientation >= 5)


def test_parts_are_cut_from_the_upright_image(tmp_path):
    flaw = np.zeros((24, 40), np.uint8)
    flaw[:, :10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(flaw).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(flaw).save(tmp_path / "m.png")
    part = Record("a", "c", True, image=tmp_path / "a.png", mask=tmp_path / "m.png", crop=(0, 0, 24, 20))
    pixels = FileSet("set", "", [part]).pixels(0)
    assert np.array_equal(pixels.image[0].numpy(), turned(flaw, 6)[:20])
    assert pixels.mask is not None and np.array_equal(pixels.mask.numpy(), turned(flaw, 6)[:20] > 0)
