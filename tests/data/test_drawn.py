"""labelme and COCO as people leave them; and tables of what colours mean."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headlens.data import FileSet, check, open
from headlens.errors import DataError
from tests.data import annotated, trees

SQUARE = {"label": "dent", "shape_type": "polygon", "points": [[1, 1], [5, 1], [5, 5], [1, 5]]}
BOX = np.zeros((9, 12), bool)
BOX[1:5, 1:5] = True


def labelled(root: Path, name: str, image: str, *shapes: dict[str, Any], **more: Any) -> None:
    """A file of labelme called ``name`` about ``image``."""
    content = {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": image, "imageData": None}
    trees.text(root, name, json.dumps(content | {"imageHeight": 9, "imageWidth": 12} | more))


def facts(root: Path, **options: Any) -> tuple[dict[str, tuple[bool | None, str]], list[str]]:
    """What is true of each image, and what is refused."""
    told: list[DataError] = []
    records = open(root, split="all", refuse=told.append, **options).records
    return {record.name: (record.anomalous, record.family) for record in records}, [str(error) for error in told]


def marked(root: Path, name: str) -> np.ndarray:
    data = open(root, split="all", refuse=lambda error: None)
    mask = data.pixels([record.name for record in data.records].index(name)).mask
    assert mask is not None
    return mask.numpy()


# labelme
def test_labelme_beside_its_images(tmp_path):
    """With and without shapes, without a file, and with shapes that say that nothing is wrong."""
    for name in ("a", "b", "c", "d"):
        trees.picture(tmp_path, f"{name}.jpg")
    labelled(tmp_path, "a.json", "a.jpg", SQUARE, SQUARE | {"label": "scratch"})
    labelled(tmp_path, "b.json", "b.jpg")
    labelled(tmp_path, "c.json", "c.jpg", SQUARE | {"label": "OK"}, SQUARE | {"label": "_background_"})
    good = (False, "good")
    assert facts(tmp_path) == ({"a": (True, "dent+scratch"), "b": good, "c": good, "d": good}, [])
    assert np.array_equal(marked(tmp_path, "a"), BOX)
    data = open(tmp_path, refuse=lambda error: None)
    assert isinstance(data, FileSet)
    assert data.notes == (f"1 of 4 images have no file of labelme and count as normal: {tmp_path / 'd.jpg'}",)


@pytest.mark.parametrize(
    "image", ["..\\pictures\\a.jpg", "C:\\Users\\me\\a.jpg", "../pictures/a.jpg", "a.jpg", "", None, 5]
)
def test_labelme_in_a_folder_of_its_own(tmp_path, image):
    trees.picture(tmp_path, "pictures/a.jpg")
    labelled(tmp_path, "json/a.json", image, SQUARE)
    assert facts(tmp_path) == ({"pictures/a": (True, "dent")}, [])
    assert np.array_equal(marked(tmp_path, "pictures/a"), BOX)


def test_labelme_in_folders_of_splits_and_of_normal_images(tmp_path):
    for name in ("train/good/1", "train/bad/1", "test/good/1", "test/bad/1", "other/1"):
        trees.picture(tmp_path, f"{name}.jpg")
    for split in ("train", "test"):
        labelled(tmp_path, f"{split}/bad/1.json", "1.jpg", SQUARE)
    data = open(tmp_path, "labelme", split="all")
    assert {(record.name, record.anomalous, record.split) for record in data.records} == {
        ("train/good/1", False, "train"),
        ("train/bad/1", True, "train"),
        ("test/good/1", False, "test"),
        ("test/bad/1", True, "test"),
        ("other/1", None, "test"),
    }


def test_labelme_that_is_about_no_image_or_two(tmp_path):
    for name in ("x/a.jpg", "y/a.jpg", "z/b.jpg"):
        trees.picture(tmp_path, name)
    labelled(tmp_path, "json/a.json", "a.jpg", SQUARE)
    labelled(tmp_path, "json/b.json", "b.jpg", SQUARE)
    labelled(tmp_path, "z/b.json", "b.jpg", SQUARE)
    labelled(tmp_path, "json/gone.json", "gone.jpg", SQUARE)
    labelled(tmp_path, "json/broken.json", "b.jpg", shapes={"a": 1})
    found, told = facts(tmp_path)
    assert found == {
        "x/a": (None, ""),
        "y/a": (None, ""),
        "z/b": (True, "dent"),
        "json/gone": (True, "dent"),
    }
    assert len(told) == 3
    assert f"json/a.json: can be about {tmp_path / 'x/a.jpg'} or {tmp_path / 'y/a.jpg'}; leave one of them" in told[0]
    assert "json/broken.json: its shapes are not a list of objects" in told[1]
    assert f"z/b.json: is about {tmp_path / 'z/b.jpg'}, as {tmp_path / 'json/b.json'} is; leave one of them" in told[2]


def test_a_shape_that_cannot_be_drawn_is_found_by_the_checker(tmp_path):
    for name in ("a", "b", "c"):
        trees.picture(tmp_path, f"{name}.jpg")
    labelled(tmp_path, "a.json", "a.jpg", SQUARE | {"points": [[1, 1]]})
    labelled(tmp_path, "b.json", "b.jpg", SQUARE, imageHeight=90, imageWidth=30)
    report = check(open(tmp_path, refuse=lambda error: None))
    assert {"unreadable-mask", "mask-size"} <= {*report.counts}
    assert f"{tmp_path / 'a.json'}: a.jpg: shape 1: a polygon has 1 points" in str(report)


def test_what_is_drawn_on_an_image_that_cannot_be_read_is_not_called_empty(tmp_path):
    trees.picture(tmp_path, "b.jpg")
    (tmp_path / "a.jpg").write_bytes(b"no image")
    for name in ("a", "b"):
        labelled(tmp_path, f"{name}.json", f"{name}.jpg", SQUARE, imageHeight=None, imageWidth=None)
    assert check(open(tmp_path)).counts == {"unreadable-image": 1, "only-anomalous": 1}


def test_one_file_of_labelme(tmp_path):
    for name in ("a", "b"):
        trees.picture(tmp_path, f"{name}.jpg")
        labelled(tmp_path, f"{name}.json", f"{name}.jpg", SQUARE)
    assert [(record.name, record.anomalous) for record in open(tmp_path / "b.json").records] == [("b", True)]


def test_json_of_other_tools_stops_no_reader(tmp_path):
    """A list beside images of MVTec's layout, and among files of labelme; what is cut short may be labelme's."""
    for family in ("good", "dent"):
        trees.picture(tmp_path / "set", f"test/{family}/000.png")
    trees.text(tmp_path / "set", "test/dent/000.json", "[]")
    assert [record.mask for record in open(tmp_path / "set").records] == [None, None]
    for name in ("a", "b"):
        trees.picture(tmp_path / "flat", f"{name}.jpg")
        labelled(tmp_path / "flat", f"{name}.json", f"{name}.jpg", SQUARE)
    trees.text(tmp_path / "flat", "classes.json", '["dent"]')
    trees.text(tmp_path / "flat", "_about.json", '{"by": "us"}')
    assert [record.anomalous for record in open(tmp_path / "flat").records] == [True, True]
    trees.text(tmp_path / "flat", "b.json", '{"shapes": [')
    with pytest.raises(DataError, match=r"b\.json: is not JSON"):
        open(tmp_path / "flat", layout="labelme")


# COCO
def coco(
    root: Path, name: str, images: list[Any], annotations: list[Any], categories: Any = ({"id": 1, "name": "dent"},)
) -> None:
    content = {"images": images, "annotations": annotations, "categories": list(categories)}
    trees.text(root, name, json.dumps(content))


RING = [1, 1, 5, 1, 5, 5, 1, 5]


def image_row(number: int, name: str) -> dict[str, Any]:
    return {"id": number, "file_name": name, "height": 9, "width": 12}


def flaw(image: int, **more: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": image, "category_id": 1, "segmentation": [RING], "bbox": [1, 1, 4, 4]} | more


@pytest.mark.parametrize(
    ("listing", "folder", "written"),
    [
        ("annotations/instances_val2017.json", "val2017", "{}"),
        ("annotations/instances_default.json", "images/default", "{}"),
        ("result.json", "images", "images\\{}"),
        ("result.json", "images", "/home/them/project/images/{}"),
        ("test/_annotations.coco.json", "test", "{}"),
        ("coco.json", ".", "./{}"),
    ],
)
def test_coco_wherever_its_images_are(tmp_path, listing, folder, written):
    for name in ("a", "b"):
        trees.picture(tmp_path / "set", f"{folder}/{name}.jpg")
    rows = [image_row(7, written.format("a.jpg")), image_row(8, written.format("b.jpg"))]
    coco(tmp_path / "set", listing, rows, [flaw(7)])
    data = open(tmp_path / "set", split="all", refuse=lambda error: None)
    assert isinstance(data, FileSet)
    assert data.layout == "coco"
    assert [(record.image, record.anomalous) for record in data.records] == [
        (tmp_path / "set" / folder / "a.jpg", True),
        (tmp_path / "set" / folder / "b.jpg", False),
    ]
    mask = data.pixels(0).mask
    assert mask is not None
    assert np.array_equal(mask.numpy(), BOX)
    assert open(tmp_path / "set" / listing, root=tmp_path / "set", split="all").records == data.records


def test_annotations_that_say_that_nothing_is_wrong(tmp_path):
    trees.picture(tmp_path, "a.jpg")
    coco(tmp_path, "c.json", [image_row(1, "a.jpg")], [flaw(1)], [{"id": 1, "name": "Normal"}])
    assert facts(tmp_path) == ({"a": (False, "good")}, [])


def test_boxes_without_an_outline_are_no_mask(tmp_path):
    """Not even beside one: the mask would lack a flaw."""
    for name in ("a", "b", "c"):
        trees.picture(tmp_path, f"{name}.jpg")
    rows = [image_row(i, f"{name}.jpg") for i, name in enumerate("abc")]
    coco(tmp_path, "c.json", rows, [flaw(0), flaw(1, segmentation=[]), flaw(1), flaw(2), flaw(2)])
    data = open(tmp_path, refuse=lambda error: None)
    assert isinstance(data, FileSet)
    assert [record.mask is None for record in data.records] == [False, True, False]
    assert [record.anomalous for record in data.records] == [True, True, True]
    assert data.notes == (f"1 of 3 images of {tmp_path / 'c.json'} have boxes without an outline, and so no mask",)


def test_what_cannot_be_right_in_coco_is_told(tmp_path):
    trees.picture(tmp_path, "a.jpg")
    rows = [image_row(1, "a.jpg"), image_row(2, "../../x.jpg"), {"id": [3]}, image_row(4, "a.jpg")]
    annotations = [flaw(1), flaw(99), flaw(4, category_id=5), flaw(1, segmentation=[[1, 2, 3]])]
    coco(tmp_path, "c.json", rows, annotations[:3])
    found, told = facts(tmp_path)
    assert found == {"a": (True, "dent")}
    assert len(told) == 4
    assert "annotations of 1 images that it does not list, such as 99" in told[0]
    assert "image 1: ../../x.jpg: a path outside" in told[1]
    assert "image 2: " in told[2]
    assert "image 3: an annotation has the category 5" in told[3]
    coco(tmp_path, "c.json", rows[:1], annotations[3:])
    with pytest.raises(DataError, match=r"c\.json: image 0: a polygon is not a list of alternating x and y"):
        open(tmp_path)
    for broken in (
        {"images": 5, "annotations": [], "categories": []},
        {"images": [5], "annotations": [], "categories": []},
    ):
        trees.text(tmp_path, "c.json", json.dumps(broken))
        with pytest.raises(DataError, match=r"c\.json: its 'images' are not a list of objects"):
            open(tmp_path)


@pytest.mark.parametrize("make", [annotated.coco, annotated.bsdata])
def test_damaged_annotations(tmp_path, make):
    """Keys and values of other kinds, and bytes changed: records and masks, or errors that name the file."""
    make(tmp_path)
    path = sorted(tmp_path.rglob("*.json"))[-1]
    sound, chance = path.read_text(), random.Random(0)
    odd: list[Any] = [None, -1, 0, 1e999, "x", [], {}, [[]], True, 10**30, [1, 2, 3], {"size": [1, 1], "counts": "~"}]

    def harm(value: Any) -> Any:
        if chance.random() < 0.04:
            return chance.choice(odd)
        if isinstance(value, dict):
            return {key: harm(inner) for key, inner in value.items() if chance.random() > 0.01}
        return [harm(inner) for inner in value] if isinstance(value, list) else value

    for _ in range(150):
        if chance.random() < 0.7:
            path.write_text(json.dumps(harm(json.loads(sound))))
        else:
            start = chance.randrange(len(sound))
            path.write_text(
                sound[:start] + chance.choice(["", "{", '"', "9" * 40]) + sound[start + chance.randrange(9) :]
            )
        told: list[DataError] = []
        try:
            report = check(open(tmp_path, split="all", refuse=told.append), told, workers=1)
            assert report.images > 0
        except DataError as error:
            told.append(error)
        assert all(str(tmp_path) in str(error) and "\n" not in str(error) for error in told)


# Colours
def test_colours_that_a_table_explains(tmp_path):
    """The part is green and a flaw red: without a table all of it would be flaw."""
    root = tmp_path / "set"
    trees.mvtec(root)
    codes = np.zeros((9, 12, 3), np.uint8)
    codes[2:6, 2:9], codes[3:5, 3:5] = (0, 255, 0), (255, 0, 0)
    for path in root.glob("*/ground_truth/*/*.png"):
        Image.fromarray(codes).save(path)
    trees.text(root, "mask_colours.csv", "Colour,label\n#000000,normal\n0 255 0,0\n#FF0000,anomalous\n")
    for place in (root, root / "bottle"):
        data = open(place, category="bottle")
        i = next(i for i, record in enumerate(data.records) if record.anomalous)
        mask = data.pixels(i).mask
        assert mask is not None
        assert np.array_equal(mask.numpy(), (codes == (255, 0, 0)).all(-1))
        assert check(data).ok
    trees.text(root, "mask_colours.csv", "colour;label\n0;good\n#ff0000;1,0\n")
    assert "24 pixels have colours without a meaning, such as #00ff00" in str(check(open(root)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("colour,name\n#000000,part\n", "has the columns colour, name; colour and label are needed"),
        ("colour,label\nred,1\n", "line 2: 'red' is not a colour"),
        ("colour,label\n256,1\n", "line 2: '256' is not a colour"),
        ("colour,label\n1,part\n", "line 2: the label 'part' is neither 0 nor 1"),
        ("colour,label\n1,1\n#010101,0\n", "line 3: #010101 is both normal and anomalous"),
        ("colour,label\n1,2,3,1\n", "line 2 has 4 cells"),
    ],
)
def test_tables_of_colours_that_cannot_be_right(tmp_path, content, message):
    trees.mvtec(tmp_path)
    trees.text(tmp_path, "mask_colours.csv", content)
    with pytest.raises(DataError) as caught:
        open(tmp_path)
    assert f"{tmp_path / 'mask_colours.csv'}: {message}" in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_table_of_colours_that_cannot_be_read_is_not_passed_over(tmp_path):
    trees.mvtec(tmp_path)
    os.mkfifo(tmp_path / "mask_colours.csv")
    with pytest.raises(DataError, match=r"mask_colours\.csv: cannot be read \(is a pipe"):
        open(tmp_path)
