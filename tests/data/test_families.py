"""Which picture a mask is of, where masks lie in all kinds of places; and masks and pictures that would get lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headlens.data import DataSet, open
from headlens.data.mask_sources import files_of
from headlens.data.readers.tree import is_normal
from headlens.errors import DataError, HeadlensWarning
from tests.data import trees


def built(root: Path, *files: str) -> Path:
    """Pictures, and a mask where a name says so."""
    for name in files:
        (trees.mask if "mask" in name or "truth" in name or "/gt/" in name else trees.picture)(root, name)
    return root


def masks(data: DataSet) -> dict[str, str | None]:
    """The file of every record's mask, of anomalous ones with an exclamation mark."""
    names = {r.name: "+".join(file.name for file in files_of(r.mask)) or None for r in data.records}
    return {r.name + "!" * bool(r.anomalous): names[r.name] for r in data.records}


@pytest.mark.parametrize(
    ("folder", "ending"),
    [("part/test/masks", "_mask.png"), ("part/test/Ground_Truth", ".png"), ("part/gt", ".bmp"), ("part/mask", ".PNG")],
)
def test_folders_of_masks_are_no_family(tmp_path, folder, ending):
    """Also beside the families, as Crane's sets are prepared."""
    built(tmp_path, *(f"part/test/{family}/{i}.png" for family in ("good", "bad") for i in range(2)))
    for i in range(2):
        trees.mask(tmp_path, f"{folder}/{i}{ending}")
    assert masks(open(tmp_path)) == {
        "part/test/good/0": None,
        "part/test/good/1": None,
        "part/test/bad/0!": f"0{ending}",
        "part/test/bad/1!": f"1{ending}",
    }


@pytest.mark.parametrize("folder", ["masks", "ground_truth", "GT"])
def test_classes_with_a_folder_of_masks(tmp_path, folder):
    built(tmp_path, "normal/0.png", "normal/n.png", "tumor/0.png", "cyst/a.png")
    for name in ("0_mask.png", "n.png", "cyst/a.png"):
        trees.mask(tmp_path, f"{folder}/{name}", 0 if name == "n.png" else 255)
    told: list[DataError] = []
    expected = {"normal/0": None, "normal/n": "n.png", "tumor/0!": "0_mask.png", "cyst/a!": "a.png"}
    assert masks(open(tmp_path, refuse=told.append)) == expected
    assert not told
    assert {record.family for record in open(tmp_path).records} == {"good", "tumor", "cyst"}


def test_masks_right_beside_their_pictures(tmp_path):
    """As in BUSI, where one picture has several masks, which count together."""
    names = [
        f"{kind}/{kind} ({i}){role}.png" for kind in ("normal", "benign") for i in (1, 2) for role in ("", "_mask")
    ]
    built(tmp_path, *names, "benign/benign (2)_mask_1.png")
    told: list[DataError] = []
    assert masks(open(tmp_path, refuse=told.append)) == {
        "normal/normal (1)": "normal (1)_mask.png",
        "normal/normal (2)": "normal (2)_mask.png",
        "benign/benign (1)!": "benign (1)_mask.png",
        "benign/benign (2)!": "benign (2)_mask.png+benign (2)_mask_1.png",
    }
    assert not told
    built(tmp_path, "benign/benign (2)_gt.png")  # another word for a mask: nobody says which counts
    assert masks(open(tmp_path, refuse=told.append))["benign/benign (2)!"] is None
    assert len(told) == 3
    built(tmp_path / "mvtec", "part/test/bad/0.png", "part/test/bad/0_mask.png", "part/test/good/0.png")
    expected = {"part/test/bad/0!": "0_mask.png", "part/test/good/0": None}
    assert masks(open(tmp_path / "mvtec")) == expected


def test_masks_that_labelme_draws_beside_pictures_of_a_family(tmp_path):
    """Where a family has no masks in files: a set in MVTec's layout that somebody annotated."""
    built(tmp_path, "part/test/good/0.png", "part/test/bad/0.png", "part/test/bad/1.png", "part/test/bad/2.png")
    built(tmp_path, "part/ground_truth/bad/2_mask.png")
    shape = {"label": "dent", "points": [[1, 1], [5, 1], [5, 5], [1, 5]], "shape_type": "polygon"}
    for name in ("good/0", "bad/0", "bad/2"):
        trees.text(tmp_path, f"part/test/{name}.json", json.dumps({"shapes": [shape], "imagePath": "x.png"}))
    trees.text(tmp_path, "part/test/bad/1.json", "{}")
    data = open(tmp_path)
    assert masks(data) == {
        "part/test/good/0": None,
        "part/test/bad/0!": "0.json",
        "part/test/bad/1!": None,
        "part/test/bad/2!": "2_mask.png",
    }
    mask = data.pixels([record.name for record in data.records].index("part/test/bad/0")).mask
    assert mask is not None
    assert mask.sum() == 16
    trees.text(tmp_path, "part/test/bad/1.json", "no json")
    with pytest.raises(DataError, match=r"bad/1\.json: is not JSON"):
        open(tmp_path)


def test_a_mask_goes_to_one_picture(tmp_path):
    """Families that share a flat folder can use one name twice."""
    names = ["crack/000", "crack/001", "hole/000", "hole/002", "good/000", "good/003"]
    built(tmp_path, *(f"part/test/{name}.png" for name in names))
    built(tmp_path, *(f"part/ground_truth/00{i}_mask.png" for i in range(3)))
    told: list[DataError] = []
    assert masks(open(tmp_path, refuse=told.append)) == {
        "part/test/crack/000!": None,
        "part/test/crack/001!": "001_mask.png",
        "part/test/hole/000!": None,
        "part/test/hole/002!": "002_mask.png",
        "part/test/good/000": None,
        "part/test/good/003": None,
    }
    assert len(told) == 1
    assert "000_mask.png: a mask that belongs to no image, or to several" in str(told[0])
    assert len(open(tmp_path)) == 6  # nothing that would have to stop


def test_a_mask_of_one_split_is_not_that_of_another(tmp_path):
    built(tmp_path, "part/test/bad/0.png", "part/valid/bad/0.png", "part/valid/bad/1.png", "part/test/good/0.png")
    built(tmp_path, "part/ground_truth/bad/0.png", "part/ground_truth/bad/1.png")
    found = masks(open(tmp_path, split="all"))
    assert found["part/valid/bad/1!"] == "1.png"
    assert found["part/test/bad/0!"] is found["part/valid/bad/0!"] is None


@pytest.mark.parametrize(
    "mask", ["part/ground_truth/bad/000_mask.png", "part/ground_truth/flaw/0.png", "part/test/masks/0_m.png"]
)
def test_masks_that_never_fit_are_no_set_without_masks(tmp_path, mask):
    built(tmp_path, "part/test/good/0.png", "part/test/bad/0.png", mask)
    with pytest.raises(DataError, match="none of 1 masks belongs to exactly one image") as caught:
        open(tmp_path)
    assert str(tmp_path / mask) in str(caught.value)
    told: list[DataError] = []
    assert len(open(tmp_path, refuse=told.append)) == 2
    assert len(told) == 2
    built(tmp_path, "part/test/bad/1.png", "part/ground_truth/bad/1.png")
    if "/test/" not in mask:  # then there would be two folders of masks
        assert len(open(tmp_path)) == 3


def test_a_mask_without_its_picture_in_a_set_of_pairs(tmp_path):
    trees.pairs(tmp_path)
    told: list[DataError] = []
    assert len(open(tmp_path, refuse=told.append)) == 4
    assert [str(tmp_path / "masks/7.png") in str(error) for error in told] == [True]


@pytest.mark.parametrize("layout", ["mvtec", "classes", "pairs"])
def test_several_folders_of_masks(tmp_path, layout):
    """Which one is meant is not decided by the alphabet; one that holds no pictures is none."""
    base, one, other = {
        "mvtec": ("part/test/bad/0.png", "part/ground_truth/bad/0.png", "part/gt/0.png"),
        "classes": ("bad/0.png", "masks/0.png", "gt/0.png"),
        "pairs": ("images/0.png", "gt/0.png", "labels/0.png"),
    }[layout]
    built(tmp_path, base, base.replace("bad", "good"), one)
    trees.text(tmp_path, other.replace("0.png", "0.txt"), "0 .5 .5 .1 .1")
    assert open(tmp_path, layout).has_masks
    trees.mask(tmp_path, other)
    with pytest.raises(DataError) as caught:
        open(tmp_path, layout)
    assert all(Path(name).parts[-2] in str(caught.value) or "bad" in name for name in (one, other))


@pytest.mark.parametrize("labels", ["labels/0.txt", "annotations/instances.json"])
def test_boxes_are_no_masks(tmp_path, labels):
    """Nobody says that the pictures of a detector all have a flaw."""
    built(tmp_path, "images/0.png", "images/1.png")
    trees.text(tmp_path, labels, "")
    with pytest.raises(DataError, match=r"no layout fits\. Open one of these: .*images \(images\)"):
        open(tmp_path)


def test_masks_among_images_without_labels_are_no_images(tmp_path):
    """Neither beside the images, where folders can use a name twice, nor in folders of their own."""
    built(tmp_path / "a", "x/1.png", "x/1_GT.png", "y/1.png", "y/1_GT.png", "y/2.png")
    assert masks(open(tmp_path / "a", "images")) == {"x/1": "1_GT.png", "y/1": "1_GT.png", "y/2": None}
    built(tmp_path / "b", "one/1.png", "two/1.png", "ground_truth/one/1.png")
    with pytest.warns(HeadlensWarning, match=r"2 of 3 images are used; the others are e\.g\. .*ground_truth"):
        assert masks(open(tmp_path / "b", "images")) == {"one/1": None, "two/1": None}
    built(tmp_path / "masks/masks", "1.png", "2.png")  # of those who make masks
    assert masks(open(tmp_path / "masks", "images")) == {"masks/1": None, "masks/2": None}


def test_pairs_in_any_case(tmp_path):
    built(tmp_path, "Test-Image/1.png", "test-MASK/1.png", "TrainVal-images/2.png", "trainval-masks/2.png")
    assert {(r.name, r.split, r.mask and r.mask.name) for r in open(tmp_path, split="all").records} == {
        ("Test-Image/1", "test", "1.png"),
        ("TrainVal-images/2", "train", "2.png"),
    }


def test_two_folders_of_pictures_for_one_of_masks(tmp_path):
    built(tmp_path, "images/1.png", "frames/1.png", "masks/1.png")
    with pytest.raises(DataError, match="frames and images"):
        open(tmp_path)


@pytest.mark.parametrize("inner", ["part/test/bad/deeper/2.png", "part/test/bad/a/b/2.png"])
def test_pictures_in_a_folder_of_a_family(tmp_path, inner):
    built(tmp_path, "part/test/good/1.png", "part/test/bad/1.png", inner)
    with pytest.raises(DataError, match=r"bad.*are not read"):
        open(tmp_path)
    told: list[DataError] = []
    assert len(open(tmp_path, refuse=told.append)) == 2
    assert len(told) == 1


def test_a_class_with_its_pictures_further_down(tmp_path):
    built(tmp_path, "normal/1.png", "tumor/1.png", "cyst/batch/1.png")
    with pytest.raises(DataError, match=r"cyst.*are not read"):
        open(tmp_path)


@pytest.mark.parametrize(
    ("word", "normal"),
    [
        *((word, True) for word in ("Good", "no_defect", "No Defect", "NO-DEFECT", "nodefect", "clean", "no anomaly")),
        *((word, True) for word in ("not_defective", "Non-Defective", "defect free", " ok ")),
        *((word, False) for word in ("nok", "good_light", "unclean", "defect", "")),
    ],
)
def test_names_of_normal_families(tmp_path, word, normal):
    assert is_normal(word) is normal
    if word.strip():
        built(tmp_path, f"part/test/{word}/0.png")
        assert [record.anomalous for record in open(tmp_path).records] == [not normal]
