"""Mosaics against PIL's; what is in them, and what their labels and masks say."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from headlens import data
from headlens.data.samples import DataSet, Pixels, Record
from headlens.errors import DataError
from headlens.training.mosaics import Mosaics

SIZE = 32
FAMILIES = ("good", "good", "good", "good", "good", "good", "hole", "hole", "crack")


class Shelf(DataSet):
    """Two categories of nine images; those that are ``broken`` cannot be read."""

    has_masks = True
    broken: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()  # anomalous ones without a mask

    def pixels(self, i):
        if i in self.broken:
            raise DataError("torn")
        generator = torch.Generator().manual_seed(i)
        image = torch.randint(256, (3, 40, 30), generator=generator, dtype=torch.uint8)
        mask = torch.zeros(40, 30, dtype=torch.bool)
        mask[5 + i : 30, 4:12] = self.records[i].family != "good"
        return Pixels(image, None if i in self.unknown else mask)

    def where(self, keep):
        return Shelf(self.name, self.domain, filter(keep, self.records))


@pytest.fixture
def shelf() -> Shelf:
    records = [
        Record(f"{category}/{number}", category, family != "good", family)
        for category in ("nut", "leaf")
        for number, family in enumerate(FAMILIES)
    ]
    return Shelf("shelf", "industrial", records)


def mosaics_of(shelf, probability=0.5, seed=0, size=SIZE) -> Mosaics:
    loader = data.Loader(shelf, data.Preprocess(size), 3, on_error="skip", normalise=False, cache="memory")
    return Mosaics(loader, range(len(shelf)), probability, seed)


def of_all(mosaics, rows=(range(18),), epoch=0) -> dict[int, tuple]:
    """Image, mask, whether it is known, label and record of each number."""
    return {
        number: (
            batch.images[at],
            None if batch.masks is None else batch.masks[at],
            bool(batch.has_mask[at]),
            int(batch.labels[at]),
            batch.records[at],
        )
        for batch in mosaics.batches([list(row) for row in rows], epoch)
        for at, number in enumerate(batch.index.tolist())
    }


@pytest.mark.parametrize("size", [31, 32])
def test_a_mosaic_is_that_of_pil(size, shelf):
    """As it is published: side by side, then resized; masks bilinear, then above a half."""
    mosaics = mosaics_of(shelf, size=size)
    plain, shown = of_all(mosaics_of(shelf, 0.0, size=size)), of_all(mosaics)
    several = [number for number in range(18) if len(mosaics.tiles(number, 0)) == 4]
    assert 5 <= len(several) <= 13
    for number in range(18):
        tiles = mosaics.tiles(number, 0)
        if number not in several:
            assert tiles == (number,) and torch.equal(shown[number][0], plain[number][0])
            continue
        image, mask = Image.new("RGB", (2 * size, 2 * size)), Image.new("L", (2 * size, 2 * size))
        for place, tile in enumerate(tiles):
            corner = (place % 2 * size, place // 2 * size)
            image.paste(to_pil_image(plain[tile][0]), corner)
            mask.paste(Image.fromarray(plain[tile][1].numpy().astype(np.uint8) * 255), corner)
        small = mask.resize((size, size), Image.Resampling.BILINEAR)
        assert torch.equal(shown[number][0], pil_to_tensor(image.resize((size, size), Image.Resampling.BICUBIC)))
        assert np.array_equal(shown[number][1].numpy(), np.array(small) > 127)


def test_label_mask_and_category_are_of_all_four(shelf):
    shelf.unknown = (6, 15)
    mosaics = mosaics_of(shelf, 1.0)
    seen = set()
    for number, (_, mask, has_mask, label, record) in of_all(mosaics).items():
        tiles = [shelf.records[tile] for tile in mosaics.tiles(number, 0)]
        assert {tile.category for tile in tiles} == {record.category} and record is shelf.records[number]
        assert label == any(tile.anomalous for tile in tiles)
        assert has_mask == (not {6, 15} & {*mosaics.tiles(number, 0)})
        if has_mask:
            assert mask.any() == label
        seen.add((label, has_mask))
    assert {(1, True), (1, False)} <= seen


def test_a_label_that_is_not_known_is_not_unless_another_is_anomalous(shelf):
    shelf.records = tuple(
        Record(one.name, one.category, None if one.family == "hole" else one.anomalous, one.family)
        for one in shelf.records
    )
    mosaics = mosaics_of(shelf, 1.0)
    seen = Counter()
    for epoch in range(3):
        for number, (_, _, _, label, _) in of_all(mosaics, epoch=epoch).items():
            families = {shelf.records[tile].family for tile in mosaics.tiles(number, epoch)}
            assert label == (1 if "crack" in families else -1 if "hole" in families else 0)
            seen[label] += 1
    assert len(seen) == 3


def test_kinds_are_drawn_before_images(shelf):
    mosaics = mosaics_of(shelf, 0.2)
    tiles = [mosaics.tiles(number, epoch) for number in range(18) for epoch in range(400)]
    several = [four for four in tiles if len(four) == 4]
    assert len(several) / len(tiles) == pytest.approx(0.2, abs=0.02)
    families = Counter(shelf.records[tile].family for four in several for tile in four)
    assert [families[name] / families.total() for name in ("good", "hole", "crack")] == pytest.approx(
        [1 / 3] * 3, abs=0.03
    )
    numbers = Counter(tile for four in several for tile in four if shelf.records[tile].family == "good")
    assert len(numbers) == 12 and max(numbers.values()) < 1.5 * min(numbers.values())


def test_its_number_decides_and_not_its_batch(shelf):
    whole = of_all(mosaics_of(shelf))
    cut = of_all(mosaics_of(shelf), [[4, 11], [3, 17, 0, 8], [9]])
    assert list(cut) == [4, 11, 3, 17, 0, 8, 9]
    assert all(torch.equal(one[at], whole[number][at]) for number, one in cut.items() for at in (0, 1))
    for other in (of_all(mosaics_of(shelf, seed=1)), of_all(mosaics_of(shelf), epoch=1)):
        assert sum(torch.equal(other[number][0], whole[number][0]) for number in whole) < 12


def test_what_can_no_longer_be_read_is_left_out(shelf):
    shelf.broken = (8, 17)  # the only cracks
    mosaics = mosaics_of(shelf)
    tiles = {number: mosaics.tiles(number, 0) for number in range(18)}
    left = [number for number in range(18) if not {8, 17} & {*tiles[number]}]
    assert list(of_all(mosaics, [range(9), [8], range(9, 18)])) == left and 8 < len(left) < 18


def test_without_masks_images_are_the_same(shelf):
    whole, shelf.has_masks = of_all(mosaics_of(shelf)), False
    for number, (image, mask, has_mask, label, _) in of_all(mosaics_of(shelf)).items():
        assert torch.equal(image, whole[number][0]) and label == whole[number][3]
        assert mask is None and not has_mask
