"""Listings: tables, meta.json and their kin, as they are published, as strangers write them, and broken."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headlens.files
from headlens.data import FileSet, open
from headlens.data.readers import Root
from headlens.data.readers.paths import Paths
from headlens.errors import DataError
from tests.data import annotated, trees


def test_meta_with_the_deviations_that_are_about(tmp_path):
    """The roots of those who wrote it, other cases and kinds of slash, and only one split."""
    prefixes = [
        "",
        "./",
        "/home/them/data/set/",
        "/home/them/elsewhere/",
        "../data/set/",
        "C:\\\\data\\\\set\\\\",
        "data/set/",
    ]
    for number, prefix in enumerate(prefixes):
        root = tmp_path / str(number) / "set"
        told = annotated.meta(root, prefix, str.title)
        trees.agree(open(root, split="all"), told, root)
    root = tmp_path / "own" / "set"
    told = annotated.meta(root, str(root.absolute()) + "/")
    trees.agree(open(root, split="all"), told, root)
    trees.agree(open(root / "meta.json", split="all"), told, root)
    content = json.loads((root / "meta.json").read_text())
    del content["train"]
    for rows in content["test"].values():
        for row in rows:
            del row["cls_name"], row["specie_name"]
            row["anomaly"] = float(row["anomaly"])
            if not row["mask_path"]:
                del row["mask_path"]
    (root / "meta.json").write_text(json.dumps(content), encoding="utf-8-sig")
    facts = {r.name: (r.category, r.anomalous, r.family, r.mask and r.mask.name) for r in open(root).records}
    assert facts == {"one/00": ("one", False, "good", None), "one/01": ("one", True, "", "01.png")}


def test_meta_beside_the_sets(tmp_path):
    """VCP-CLIP's and Bayes-PFL's: one file beside the folders, named."""
    trees.mvtec(tmp_path / "mvtec")
    row = {"img_path": "mvtec/bottle/test/crack/000.png", "mask_path": "", "cls_name": "bottle", "specie_name": "crack"}
    trees.text(tmp_path, "meta_mvtec.json", json.dumps({"test": {"bottle": [row | {"anomaly": 1}]}}))
    data = open(tmp_path / "meta_mvtec.json")
    assert [(r.name, r.anomalous, r.family) for r in data.records] == [("mvtec/bottle/test/crack/000", True, "crack")]


def test_a_listing_somewhere_else(tmp_path):
    told = annotated.jsonl(tmp_path / "data")
    (tmp_path / "metadata").mkdir()
    moved = shutil.move(tmp_path / "data/full-shot.jsonl", tmp_path / "metadata/full-shot.jsonl")
    data = open(moved, root=tmp_path / "data")
    trees.agree(data, told, tmp_path / "data")
    assert data.name == "data"


def test_realiad_by_one_file(tmp_path):
    told = annotated.realiad(tmp_path)
    listing = tmp_path / "realiad_jsons/realiad_jsons_sv/pcb.json"
    data = open(listing, root=tmp_path, split="all")
    trees.agree(data, {k: it for k, it in told.items() if it.category == "pcb" and it.split == "test"}, tmp_path)


def test_realiad_with_another_protocol(tmp_path):
    """Its other folders of listings, by name."""
    told = annotated.realiad(tmp_path)
    other = tmp_path / "realiad_jsons/realiad_jsons_sv"
    trees.agree(open(other, root=tmp_path), {k: it for k, it in told.items() if it.split == "test"}, tmp_path)
    with pytest.raises(DataError, match="no images of the split 'train'"):
        open(other, root=tmp_path, split="train")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_with_little_in_them(tmp_path, delimiter):
    for name in ("a", "b"):
        trees.picture(tmp_path, f"{name}.png")
    trees.mask(tmp_path, "m.png")
    rows = ["PATH", "Mask"], ["a.png", ""], ["b.png", "m.png"]
    trees.text(tmp_path, "t.csv", "\r\n".join(delimiter.join(row) for row in rows))
    told = {"a": trees.Told(tmp_path.name, None), "b": trees.Told(tmp_path.name, True, mask="m.png")}
    trees.agree(open(tmp_path / "t.csv"), told, tmp_path)
    trees.text(tmp_path, "t.csv", "image\na.png\na.png\n")
    assert [r.name for r in open(tmp_path / "t.csv").records] == ["a.png", "a.png#2"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", False),
        ("1", True),
        ("1.0", True),
        (0.0, False),
        (True, True),
        (False, False),
        ("Normal", False),
        ("anomaly", True),
        ("OK", False),
        ("NG", True),
        ("", None),
        (None, None),
        (float("nan"), None),
    ],
)
def test_labels(tmp_path, value, expected):
    trees.text(tmp_path, "a.jsonl", json.dumps({"image": "a.png", "label": value}))
    assert open(tmp_path / "a.jsonl").records[0].anomalous is expected


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("meta.json", "{", "is not JSON"),
        ("meta.json", "[" * 100_000, "is not JSON"),
        ("meta.json", "[]", "holds a list"),
        ("meta.json", "{}", "neither train nor test"),
        ("meta.json", '{"test": []}', "list of records"),
        ("meta.json", '{"test": {"a": [7]}}', "test, a, record 0: '7' is not a record"),
        ("meta.json", '{"test": {"a": [{"anomaly": 1}]}}', "no image"),
        ("meta.json", '{"test": {"a": [{"img_path": "a.png", "anomaly": 2}]}}', "the label 2 is neither"),
        ("meta.json", '{"test": {"a": [{"img_path": "a.png", "mask_path": 3}]}}', "the mask is 3"),
        ("a.jsonl", '{"image": "a.png"}\n{"image"', "line 2: .* is not a record"),
        ("a.csv", "image,split\na.png,bottle\n", "line 2: the split 'bottle' is none of train, test, valid"),
        ("a.csv", "picture,split\na.png,test\n", "has the columns picture, split"),
        ("a.csv", "", "has the columns"),
        ("a.csv", 'image,label\n"a.png,1\n', "line . is not csv"),
        ("labels.csv", "id,hemorrhage\n0,2\n", "line 2 is '0,2'"),
    ],
)
def test_listings_that_are_wrong(tmp_path, file, content, message):
    """The message names the file and the place; what can be left out is told to ``refuse`` where there is one."""
    trees.picture(tmp_path, "b/a.png")
    trees.text(tmp_path, file, content)
    spec = tmp_path if file == "labels.csv" else tmp_path / file
    with pytest.raises(DataError, match=message) as caught:
        open(spec)
    assert str(tmp_path / file) in str(caught.value)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"image\n\xff\xfe.png\n")
    with pytest.raises(DataError, match="UTF-8") as caught:
        open(tmp_path / "a.csv")
    assert "a.csv" in str(caught.value)


# Paths
@pytest.mark.parametrize("order", [1, -1])
def test_a_missing_file_is_not_another_one_further_up(tmp_path, order):
    """Of relative paths nothing is dropped; of absolute ones what is dropped of all of them."""
    for name in ("cam1/test/good/001.png", "test/good/000.png"):
        trees.picture(tmp_path, name)
    for front in ("", "./", "/home/u/proj/", "C:\\u\\proj\\"):
        rows = [f"{front}cam1/test/good/000.png,1", f"{front}cam1/test/good/001.png,1", f"{front}test/good/000.png,0"]
        trees.text(tmp_path, "l.csv", "\n".join(["image,label", *rows[::order]]))
        found = [(r.name, r.anomalous) for r in open(tmp_path / "l.csv").records][::order]
        expected = [("cam1/test/good/000", True), ("cam1/test/good/001", True), ("test/good/000", False)]
        assert found == expected, front


def test_a_missing_mask_is_not_another_one_further_up(tmp_path):
    trees.picture(tmp_path, "cup/test/crack/000.png")
    trees.mask(tmp_path, "ground_truth/crack/000_mask.png")
    row = {"img_path": "cup/test/crack/000.png", "mask_path": "cup/ground_truth/crack/000_mask.png", "anomaly": 1}
    trees.text(tmp_path, "meta.json", json.dumps({"test": {"cup": [row]}}))
    assert open(tmp_path).records[0].mask == tmp_path / "cup/ground_truth/crack/000_mask.png"


def test_the_name_of_the_root_in_a_relative_path(tmp_path):
    """It is dropped unless it, or what stands in front of it, is in the root once more."""
    trees.picture(tmp_path, "cup/a.png")
    trees.text(tmp_path, "cup/l.csv", "image\nold/cup/a.png\ncup/a.png\n")
    assert {r.image for r in open(tmp_path / "cup/l.csv").records} == {tmp_path / "cup/a.png"}
    (tmp_path / "cup/cup").mkdir()
    trees.text(tmp_path, "cup/l.csv", "image\ncup/a.png\n")
    assert open(tmp_path / "cup/l.csv").records[0].image == tmp_path / "cup/cup/a.png"


folders = st.lists(st.sampled_from(["cam1", "cam2", "test", "good"]), min_size=1, max_size=3).map("/".join)
files = st.tuples(folders, st.sampled_from(["0.png", "1.png"])).map("/".join)
fronts = st.sampled_from(["", "/data/them/", "/data/x/", "C:\\data\\", "../x/", "old/x/"])


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.lists(files, min_size=1, max_size=8, unique=True), st.sets(files), fronts, st.randoms())
def test_every_listed_file_is_itself_or_missing(listed, unlisted, front, random):
    """Whatever else there is, and in any order: one file that is there tells what stands in front of all of them."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "x"
        for name in {listed[0], *unlisted}:
            trees.text(root, name, "")
        random.shuffle(listed)
        paths = Paths(Root(root), [front + name for name in listed])
        assert [paths.file(front + name) for name in listed] == [root / name for name in listed]


@pytest.mark.parametrize("path", ["\ud800/b.png", "\ud800.png", "a\0.png", "."])
def test_paths_that_no_file_can_have(tmp_path, path):
    trees.text(tmp_path, "a.jsonl", json.dumps({"image": path}) + "\n" + json.dumps({"image": "a.png"}))
    with pytest.raises(DataError, match=r"a\.jsonl: line 1: the path .* names no file"):
        open(tmp_path / "a.jsonl")
    refused: list[DataError] = []
    assert [record.name for record in open(tmp_path / "a.jsonl", refuse=refused.append).records] == ["a"]
    assert len(refused) == 1


# What a row says
@pytest.mark.parametrize("key", ["defect", "family", "anomaly_class"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("0 1", [(False, "good"), (True, "")]),
        ("False True", [(False, "good"), (True, "")]),
        ("none defect", [(False, "good"), (True, "")]),
        ("OK NG", [(False, "good"), (True, "")]),
        ("good crack", [(False, "good"), (True, "crack")]),
        ("none crack", [(False, "good"), (True, "crack")]),
        ("no_defect crack", [(False, "good"), (True, "crack")]),
        ("2 crack", [(True, "2"), (True, "crack")]),
    ],
)
def test_families_that_are_labels(tmp_path, key, values, expected):
    rows = [f"{i}.png,{value.replace('_', ' ')}" for i, value in enumerate(values.split())]
    trees.text(tmp_path, "a.csv", "\n".join([f"image,{key}", *rows]))
    assert [(r.anomalous, r.family) for r in open(tmp_path / "a.csv").records] == expected


@pytest.mark.parametrize("value", ["0", "1", "true", "FALSE"])
def test_a_label_among_families_is_refused(tmp_path, value):
    trees.text(tmp_path, "a.csv", f"image,defect\na.png,{value}\nb.png,crack\n")
    with pytest.raises(DataError, match=f"line 2: the family '{value}' is a label"):
        open(tmp_path / "a.csv")
    trees.text(tmp_path, "a.csv", f"image,defect,label\na.png,{value},1\nb.png,crack,1\n")
    assert [r.family for r in open(tmp_path / "a.csv").records] == [value, "crack"]


def test_the_first_key_that_says_something_counts(tmp_path):
    trees.text(tmp_path, "a.jsonl", json.dumps({"image": "", "path": "a.png", "anomaly": None, "label": 1}))
    assert [(r.name, r.anomalous) for r in open(tmp_path / "a.jsonl").records] == [("a", True)]


@pytest.mark.parametrize(
    ("row", "contradiction"),
    [
        ({"label": 0, "anomaly": 1}, "anomaly = 1, label = 0"),
        ({"label": "good", "is_anomaly": "true"}, "label = 'good', is_anomaly = 'true'"),
        ({"split": "train", "phase": "test"}, "split = 'train', phase = 'test'"),
        ({"label": 1.0, "anomaly": "NG", "target": True}, ""),
        ({"split": "test", "set": "mvtec"}, ""),
        ({"category": "cup", "class": 7}, ""),
    ],
)
def test_keys_that_contradict_each_other(tmp_path, row, contradiction):
    trees.text(tmp_path, "a.jsonl", json.dumps({"image": "a.png"} | row))
    if not contradiction:
        assert len(open(tmp_path / "a.jsonl")) == 1
        return
    with pytest.raises(DataError, match=f"line 1: contradicts itself: {contradiction}; leave out"):
        open(tmp_path / "a.jsonl")


# Files that are no listings
@pytest.mark.parametrize("head", ['"image"x,label', f"image,label,{'x' * 200_000}"])
def test_headers_that_are_no_csv(tmp_path, head):
    trees.picture(tmp_path, "a.png")
    trees.text(tmp_path, "a.csv", f"{head}\na.png,1\n")
    for spec in (tmp_path, tmp_path / "a.csv"):
        with pytest.raises(DataError, match=r"a\.csv: line 1 is not csv"):
            open(spec)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.csv", "Größe,x\n1,2".encode("latin-1")),
        ("log.jsonl", b'{"loss": 1}\n'),
        ("log.jsonl", b"\xff\xfe"),
        ("log.jsonl", b""),
        ("x.json", b"\xff\xfe"),
    ],
)
def test_files_that_happen_to_lie_beside_pictures(tmp_path, name, content):
    trees.picture(tmp_path, "a.png")
    (tmp_path / name).write_bytes(content)
    data = open(tmp_path)
    assert isinstance(data, FileSet)
    assert (data.layout, len(data)) == ("images", 1)


def test_a_folder_called_data_is_not_yet_visa(tmp_path):
    told = trees.pairs(tmp_path / "kvasir/data")
    for place in (tmp_path, tmp_path / "kvasir"):
        assert {r.name for r in open(place).records} == set(told)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"test": [{"image_path": 5}]}, r"test, record 0: no image \(5\)"),
        ({"test": [{"image_path": ["x"]}]}, r"test, record 0: no image \(\['x'\]\)"),
        ({"test": [{"image_path": "a.png", "mask_path": 5}]}, "test, record 0: the mask is 5"),
        ({"test": 5}, "under 'test' is '5', where a list of records is expected"),
    ],
)
def test_realiad_with_values_of_other_kinds(tmp_path, content, message):
    trees.text(tmp_path, "realiad_jsons/pcb.json", json.dumps({"meta": {"prefix": "pcb/"}} | content))
    with pytest.raises(DataError, match=rf"pcb\.json: {message}"):
        open(tmp_path)


@pytest.mark.parametrize("name", ["labels.csv", "x.json", "a.jsonl"])
def test_files_that_nobody_may_read(tmp_path, monkeypatch, name):
    trees.picture(tmp_path, "a.png")
    trees.text(tmp_path, name, "id,hemorrhage\n1,1\n")

    def denied(path: Path, *_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(headlens.files.os, "open", denied)
    with pytest.raises(DataError, match=rf"{name}: cannot be read \(Permission denied\)"):
        open(tmp_path)
