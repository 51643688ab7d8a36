"""Masks of several files and of colours with a meaning: what is marked, and what it depends on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headlens.data import FileSet, Preprocess, Record, check
from headlens.data.cache import key_of
from headlens.data.mask_sources import Coloured, MaskSource, United, files_of
from headlens.errors import DataError
from tests.data import trees

RED, GREEN, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 0)


def one(root: Path, mask: Path | MaskSource) -> FileSet:
    """A set of one anomalous image with this mask."""
    trees.picture(root, "a.png")
    return FileSet("one", "", [Record("a", "part", True, image=root / "a.png", mask=mask)])


def test_several_masks_are_united(tmp_path):
    names = ["a_mask.png", "a_mask_1.png"]
    for name in names:
        trees.mask(tmp_path, name)
    data = one(tmp_path, United(tuple(tmp_path / name for name in names)))
    mask = data.pixels(0).mask
    assert mask is not None
    assert np.array_equal(mask.numpy(), trees.outline(names[0]) | trees.outline(names[1]))
    assert check(data).ok
    assert data.frame["mask"].tolist() == ["; ".join(str(tmp_path / name) for name in names)]
    (tmp_path / names[1]).unlink()
    assert "missing-mask" in check(data).counts


def test_masks_of_one_image_have_one_size(tmp_path):
    Image.new("L", (3, 4), 255).save(tmp_path / "m.png")
    trees.mask(tmp_path, "n.png")
    with pytest.raises(DataError, match=r"m\.png \(3x4\) and .*n\.png \(12x9\): masks of one image"):
        United((tmp_path / "m.png", tmp_path / "n.png")).read((9, 12), 1000)


def test_colours_with_a_meaning(tmp_path):
    """Of RGB and of palettes, whatever the order of the palette."""
    rng = np.random.default_rng(0)
    index = rng.integers(0, 3, (9, 12)).astype(np.uint8)
    for order in ([BLACK, RED, GREEN], [GREEN, BLACK, RED]):
        coded = Image.fromarray(index, "P")
        coded.putpalette([value for colour in order for value in colour])
        for image, name in ((coded, "p.png"), (coded.convert("RGB"), "rgb.png")):
            image.save(tmp_path / name)
            mask = Coloured(tmp_path / name, (RED,), (BLACK, GREEN)).read((9, 12), 1000)
            assert np.array_equal(mask.numpy(), index == order.index(RED))
            with pytest.raises(DataError, match=rf"{name}: \d+ pixels have colours without a meaning, such as #00ff00"):
                Coloured(tmp_path / name, (RED,), (BLACK,)).read((9, 12), 1000)


def test_what_a_mask_depends_on_is_in_the_keys_of_caches(tmp_path):
    trees.mask(tmp_path, "m.png")
    meanings = [Coloured(tmp_path / "m.png", (RED,), (BLACK,)), Coloured(tmp_path / "m.png", (BLACK,), (RED,))]
    sets = [one(tmp_path, mask) for mask in meanings]
    assert sets[0].fingerprint != sets[1].fingerprint
    keys = {key_of(data.records[0], Preprocess(14)) for data in sets}
    assert len(keys) == 2
    assert None not in keys
    trees.mask(tmp_path, "n.png")
    united = one(tmp_path, United((tmp_path / "m.png", tmp_path / "n.png")))
    before = united.fingerprint, key_of(united.records[0], Preprocess(14))
    Image.new("L", trees.SIZE, 1).save(tmp_path / "n.png")
    assert united.fingerprint != before[0]
    assert key_of(united.records[0], Preprocess(14)) != before[1]
    assert files_of(replace(united.records[0], mask=None).mask) == ()
