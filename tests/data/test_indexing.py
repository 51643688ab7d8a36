"""Sets as map-style data sets of torch: numbers, slices, iteration, ``DataLoader``; each image with its record."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset, random_split

from headlens import data
from headlens.data import DataSet, JoinedSet, Pixels
from headlens.errors import DataError

WORLD = {"category": "screw", "size": 56}


@pytest.fixture(scope="module")
def screws():
    return data.open("procedural:industrial", per_category=6, **WORLD)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of two sizes without labels."""
    place = tmp_path_factory.mktemp("photos")
    for number, width in enumerate((20, 20, 30)):
        Image.fromarray(np.full((10, width, 3), number, np.uint8)).save(place / f"{number}.png")
    return data.open(place)


@pytest.fixture(scope="module", params=["made", "files", "joined"])
def images(request, screws, folder) -> DataSet:
    return {"made": screws, "files": folder, "joined": JoinedSet([screws, folder])}[request.param]


def same(one: Pixels, other: Pixels) -> bool:
    return one.record == other.record and torch.equal(one.image, other.image)


def test_a_number_is_an_image_with_its_record(images):
    for number in range(len(images)):
        assert torch.equal(images[number].image, images.pixels(number).image)
        assert images[number].record is images.records[number]
    assert same(images[-1], images[len(images) - 1]) and same(images[np.int64(1)], images[1])


def test_a_number_that_does_not_exist_ends_the_set(images):
    for number in (len(images), -len(images) - 1):
        with pytest.raises(IndexError, match=rf"image {number} does not exist; .* has {len(images)}"):
            images[number]


@pytest.mark.parametrize(
    "part",
    [
        slice(2),
        slice(1, None),
        slice(-2, None),
        slice(0, None, 2),
        slice(None),
        slice(None, None, -1),
        slice(-2, 0, -2),
    ],
)
def test_a_slice_is_a_set(images, part):
    some = images[part]
    assert isinstance(some, DataSet) and [r.name for r in some.records] == [r.name for r in images.records[part]]
    assert all(same(some[at], images[number]) for at, number in enumerate(range(len(images))[part]))


def test_a_slice_keeps_what_the_set_is(screws):
    assert screws[:4].domain == "industrial" and screws[2:].has_masks and screws[:2].fingerprint != screws.fingerprint
    back = screws[::-1]
    assert back.domain == "industrial" and back.has_masks and back.fingerprint != screws.fingerprint
    assert [r.name for r in back[::-1].records] == [r.name for r in screws.records]
    anomalous = back.where(lambda record: record.anomalous)
    assert [r.name for r in anomalous.records] == [r.name for r in screws.records[::-1] if r.anomalous]
    assert same(anomalous[0], next(back[at] for at in range(len(back)) if back.records[at].anomalous))


def test_iteration_gives_what_numbers_give(images):
    assert all(same(image, images[number]) for number, image in enumerate(images))
    assert len(list(images)) == len(images)


@pytest.mark.parametrize("workers", [0, 1])
def test_torch_loads_it(screws, workers):
    batches = list(DataLoader(screws, batch_size=4, num_workers=workers))
    assert [len(batch["image"]) for batch in batches] == [4, 2]
    for name in ("image", "mask"):
        together = torch.cat([batch[name] for batch in batches])
        assert torch.equal(together, torch.stack([getattr(pixels, name) for pixels in screws]))
    assert [name for batch in batches for name in batch["name"]] == [record.name for record in screws.records]
    assert torch.cat([batch["label"] for batch in batches]).tolist() == [r.anomalous for r in screws.records]
    assert all(batch["has_mask"].all() and set(batch["category"]) == {"screw"} for batch in batches)


def test_an_image_without_label_and_mask_says_so(folder):
    batch = next(iter(DataLoader(folder, batch_size=2)))
    assert batch["label"].tolist() == [-1, -1] and not batch["has_mask"].any() and not batch["mask"].any()


def test_sizes_that_differ_are_refused_with_the_way_out(folder):
    with pytest.raises(DataError, match=r"images of 10 x 20, 10 x 30 pixels; headlens\.data\.Loader resizes"):
        list(DataLoader(folder, batch_size=3))
    assert [batch["image"].shape[-1] for batch in DataLoader(folder)] == [20, 20, 30]
    with pytest.raises(DataError, match="of no set"):
        next(iter(DataLoader([Pixels(torch.zeros(3, 4, 4, dtype=torch.uint8), None)])))


def test_torch_splits_it(screws):
    first, second = random_split(screws, [2, 4])
    assert isinstance(first, Subset) and len(second) == 4 and same(first[0], screws[first.indices[0]])


def test_an_image_shows_itself(screws):
    shown = Image.open(io.BytesIO(screws[5]._repr_png_()))
    assert np.array_equal(np.asarray(shown), screws[5].image.permute(1, 2, 0).numpy())
    assert (
        repr(screws[5])
        == f"Pixels({screws.records[5].name!r}, 3 x 56 x 56, {int(screws[5].mask.sum())} anomalous pixels)"
    )
    assert repr(Pixels(screws[5].image, None)) == "Pixels(3 x 56 x 56, no mask)"
