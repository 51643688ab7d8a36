"""Sets of generated and real images: the procedural one, and folders ``0_real`` and ``1_fake`` as they are found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from headlens import data
from headlens.cli import app
from headlens.data.procedural import ALL_SPECS, World, world_of, write
from headlens.data.procedural.generated import GENERATORS, Generated
from headlens.errors import DataError

SPEC = "procedural:generated"


def tree(root: Path, *names: str) -> Path:
    """Small images of these names."""
    for name in names:
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    return root


def test_a_twin_differs_from_its_photo_by_marks_alone():
    world = Generated(SPEC, per_category=4, size=64)
    for place in range(len(world.categories)):
        photo, twin = (world[4 * place + number].image.float() / 255 for number in (0, 2))
        difference = (photo - twin).abs().mean()
        assert 0.002 < difference < 0.15, world.categories[place]
        coarse = torch.nn.functional.avg_pool2d(torch.stack([photo, twin]), 8).flatten(1)
        assert torch.corrcoef(coarse)[0, 1] > 0.95, world.categories[place]


def test_a_sample_is_the_same_whatever_is_asked_before_it_and_another_by_seed():
    world, other = Generated(SPEC, per_category=4, size=32), Generated(SPEC, per_category=4, size=32, seed=1)
    alone = Generated(SPEC, per_category=4, size=32)[6].image
    assert torch.equal([world[i] for i in range(7)][6].image, alone)
    assert not torch.equal(other[6].image, alone)
    images, masks = world.batch([6, 4])
    assert (images[0].int() - alone.int()).abs().max() <= 1 and not masks.any()


def test_training_and_test_share_neither_generators_nor_what_is_shown():
    train, test = (data.open(f"{SPEC}{split}", per_category=16, size=32) for split in ("/aux", ""))
    assert set(train.categories) == set(GENERATORS["aux"]) and set(test.categories) == set(GENERATORS["unseen"])
    assert not set(train.categories) & set(test.categories)
    assert not {record.caption for record in train.records} & {record.caption for record in test.records}
    assert test.metrics == ("image_auroc", "image_ap", "image_f1max") and test.domain == "generated"
    halves = [{r.caption for r in test.records if r.anomalous is kind} for kind in (False, True)]
    assert halves[0] == halves[1], "what is shown says nothing about its kind"


@pytest.mark.parametrize("per_category", [2, 5])
def test_a_written_set_is_read_as_it_is_generated(per_category, tmp_path):
    world = world_of(SPEC, per_category=per_category, size=32)
    write(world, tmp_path / "set")
    made, read = data.open(SPEC, per_category=per_category, size=32), data.open(tmp_path / "set")
    assert read.layout == "generators" and read.domain == made.domain and not read.has_masks
    place = {record.name: i for i, record in enumerate(read.records)}
    assert len(place) == len(made)
    for i, record in enumerate(made.records):
        found = read.records[place[record.name]]
        for field in ("category", "anomalous", "family", "split", "caption"):
            assert getattr(found, field) == getattr(record, field)
        assert torch.equal(read.pixels(place[record.name]).image, made.pixels(i).image)


def test_splits_generators_and_what_is_shown_are_told_by_folders(tmp_path):
    names = (
        "test/progan/air_plane/0_real/a",
        "test/progan/air_plane/1_fake/b",
        "test/crn/0_Real/c",
        "test/crn/1_FAKE/d",
    )
    root = tree(tmp_path, *names, "train/progan/cat/0_real/e", "train/progan/cat/1_fake/f")
    read = data.open(root, split="all")
    rows = {(r.split, r.category, r.caption, r.anomalous) for r in read.records}
    plane, cat = "a photo of an air plane", "a photo of a cat"
    assert rows == {
        *(("test", "progan", plane, kind) for kind in (False, True)),
        *(("test", "crn", "", kind) for kind in (False, True)),
        *(("train", "progan", cat, kind) for kind in (False, True)),
    }
    assert set(data.open(root).categories) == {"progan", "crn"}
    alone = data.open(root / "test" / "crn")
    assert alone.categories == ("crn",) and len(alone) == 2


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("gan/1_fake/a", "gan/1_fake/b"), "gan has no image in 0_real; copy some there"),
        (("gan/0_real/a",), "gan has no image in 1_fake; copy some there"),
        (
            ("gan/0_real/a", "gan/1_fake/b", "gan/1_fake/more/c"),
            "images in a folder of the family '1_fake' are not read",
        ),
    ],
)
def test_trees_of_which_nothing_can_be_told_are_refused(names, said, tmp_path):
    with pytest.raises(DataError, match=said):
        data.open(tree(tmp_path, *names))
    refused: list[DataError] = []
    assert len(data.open(tmp_path, refuse=refused.append)) and said in str(refused[0])


def test_empty_folders_of_both_kinds_are_no_set(tmp_path):
    for kind in ("0_real", "1_fake"):
        (tmp_path / "gan" / kind).mkdir(parents=True)
    with pytest.raises(DataError, match="gan has no image in 0_real or 1_fake"):
        data.open(tmp_path)
    shutil.rmtree(tmp_path / "gan" / "1_fake")
    with pytest.raises(DataError, match="gan has no image in 0_real or 1_fake"):
        data.open(tmp_path)


def test_at_a_shell(tmp_path):
    said = CliRunner().invoke(app, ["data", "list"], catch_exceptions=False).output
    assert all(spec in said for spec in ALL_SPECS) and "generators" in said
    made = ["data", "make", SPEC, "--out", str(tmp_path / "set"), "--per-category", "2", "--size", "28"]
    assert "8 images of 4 categories" in CliRunner().invoke(app, made, catch_exceptions=False).output
    assert (tmp_path / "set" / "blocks" / "terrazzo" / "1_fake" / "001.png").is_file()
    with pytest.raises(DataError, match="unknown procedural set 'procedural:fakes'"):
        world_of("procedural:fakes")
    with pytest.raises(DataError, match="unknown procedural set"):
        World(SPEC)
