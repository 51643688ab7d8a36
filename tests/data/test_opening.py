"""``open``: what it takes, what it refuses, and that no listing or link leads out of a set."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headlens.data import open
from headlens.data.procedural import World, write
from headlens.data.readers import Root
from headlens.data.readers.paths import Paths
from headlens.errors import DataError
from tests.data import trees


# Paths that lead elsewhere
@pytest.fixture
def house(tmp_path) -> Path:
    """A set with a secret beside it, and one with a name that begins alike."""
    trees.picture(tmp_path, "set/in.png")
    trees.picture(tmp_path, "set/deep/er.png")
    trees.picture(tmp_path, "secret.png")
    trees.picture(tmp_path, "set2/other.png")
    return tmp_path / "set"


@pytest.mark.parametrize("key", ["image", "mask"])
@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "deep/../../secret.png",
        "..\\secret.png",
        "../set2/other.png",
        "../set/../secret.png",
        "{there}/secret.png",
        "{there}/set2/other.png",
        "{there}/set/../secret.png",
        "C:\\secret.png",
        "//host/share/secret.png",
        "..",
        "\0",
        "/",
    ],
)
def test_records_outside_the_root_are_refused(house, key, path):
    row = {"image": "in.png", "label": 1} | {key: path.format(there=house.parent)}
    trees.text(house, "a.jsonl", json.dumps(row) + "\n" + json.dumps({"image": "deep/er.png", "label": 0}))
    with pytest.raises(DataError) as caught:
        open(house / "a.jsonl")
    assert "a.jsonl" in str(caught.value)
    refused: list[DataError] = []
    data = open(house / "a.jsonl", refuse=refused.append)
    assert [record.name for record in data.records] == ["deep/er"]
    assert len(refused) == 1


def test_links(house):
    """Out of the set only where it is allowed; within it, and to the set itself, always."""
    (house / "out.png").symlink_to(house.parent / "secret.png")
    with pytest.raises(DataError, match=r"out\.png: a link that leads out"):
        open(house)
    assert {r.name for r in open(house, follow_links=True).records} == {"in", "out"}
    refused: list[DataError] = []
    assert {r.name for r in open(house, refuse=refused.append).records} == {"in"}
    assert len(refused) == 1
    (house / "out.png").unlink()
    (house / "elsewhere").symlink_to(house.parent)
    trees.text(house, "a.jsonl", json.dumps({"image": "elsewhere/secret.png"}))
    with pytest.raises(DataError, match="leads out"):
        open(house / "a.jsonl")
    assert len(open(house / "a.jsonl", follow_links=True)) == 1
    (house / "elsewhere").unlink()
    (house / "a.jsonl").unlink()
    (house / "again.png").symlink_to("deep/er.png")
    (house / "round").symlink_to(".")
    assert {r.name for r in open(house).records} == {"again", "in"}
    (house.parent / "door").symlink_to(house)
    assert {r.name for r in open(house.parent / "door").records} == {"again", "in"}


@pytest.mark.parametrize("name", ["a" * 5000 + ".png", "..png", "a.", "😀.png", " ", "a\nb.png", "con/aux.png"])
def test_odd_names_in_a_listing_are_files_that_are_not_there(tmp_path, name):
    trees.text(tmp_path, "a.jsonl", json.dumps({"image": f"deep/{name}", "label": 1}))
    data = open(tmp_path / "a.jsonl")
    assert data.records[0].image == tmp_path / "deep" / name.strip()
    with pytest.raises(DataError):
        data.pixels(0)


def test_links_in_circles_end(tmp_path):
    trees.picture(tmp_path, "set/a/b/x.png")
    (tmp_path / "set/a/b/up").symlink_to("../..")
    data = open(tmp_path / "set", "images")
    assert [r.name for r in data.records] == ["a/b/x"]


parts = st.sampled_from(
    ["..", ".", "set", "set2", "in.png", "secret.png", "deep", "er.png", "", "~", "door", "C:", "\0"]
)


@settings(deadline=None, max_examples=300, derandomize=True)
@given(st.lists(parts, max_size=7), st.sampled_from(["/", "\\", "//"]), st.sampled_from(["", "/", "there", "C:\\"]))
def test_nothing_a_listing_says_leads_outside(listed, slash, start):
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder).resolve()
        for name in ("set/in.png", "set/deep/er.png", "secret.png", "set2/other.png"):
            trees.text(there, name, "")
        (there / "set/door").symlink_to(there)
        text = (f"{there}/" if start == "there" else start) + slash.join(listed)
        try:
            found = Paths(Root(there / "set"), [text]).file(text)
        except DataError:
            return
        assert found.is_relative_to(there / "set")
        assert ".." not in found.parts
        assert Path(os.path.realpath(found)).is_relative_to(there / "set")


# open
def test_procedural_sets_are_the_folders_they_are_written_to(tmp_path):
    options = {"per_category": 4, "size": 28, "seed": 3}
    for spec in ("procedural:industrial", "procedural:medical/novel"):
        painted = open(spec, **options)
        write(World(spec, **options), tmp_path / spec)
        stored = open(tmp_path / spec)
        assert painted.domain == stored.domain == World(spec).domain
        assert painted.has_masks
        assert painted.has_normals
        place = {record.name: i for i, record in enumerate(stored.records)}
        assert set(place) == {record.name for record in painted.records}
        for i, record in enumerate(painted.records):
            other, pixels, same = (
                stored.records[place[record.name]],
                painted.pixels(i),
                stored.pixels(place[record.name]),
            )
            assert (record.category, record.anomalous, record.family, record.split) == (
                other.category,
                other.anomalous,
                other.family,
                other.split,
            )
            assert torch.equal(pixels.image, same.image)
            assert pixels.mask is not None
            if pixels.mask.any() or not record.anomalous:
                assert same.mask is not None
                assert torch.equal(pixels.mask, same.mask)
            else:  # a flaw smaller than a pixel: an empty file says nothing of why
                assert same.mask is None and "nothing is marked" in same.mask_note


def test_a_part_of_a_procedural_set_has_the_same_pixels():
    whole = open("procedural:medical", per_category=4, size=28)
    part = open("procedural:medical", category="mammography", per_category=4, size=28)
    assert part.categories == ("mammography",)
    for i, record in enumerate(part.records):
        j = whole.records.index(record)
        assert torch.equal(part.pixels(i).image, whole.pixels(j).image)
    twice = whole.where(lambda r: r.category == "mammography").where(lambda r: bool(r.anomalous))
    assert torch.equal(twice.pixels(0).image, part.pixels(2).image)


def test_a_category_is_chosen_or_named(tmp_path):
    trees.mvtec(tmp_path / "set")
    assert open(tmp_path / "set", category="bottle").categories == ("bottle",)
    with pytest.raises(DataError, match="no category 'cup'; available: bottle, metal_nut"):
        open(tmp_path / "set", category="cup")
    trees.plain(tmp_path / "pictures")
    assert open(tmp_path / "pictures", category="cup").categories == ("cup",)
    assert open(tmp_path / "pictures").categories == ("pictures",)
    one = open(tmp_path / "pictures/a.png", category="cup")
    assert [(r.name, r.category, r.anomalous) for r in one.records] == [("a", "cup", None)]


def test_splits(tmp_path):
    trees.mvtec(tmp_path / "set")
    counts = {split: len(open(tmp_path / "set", split=split)) for split in ("test", "train", "all")}
    assert counts == {"test": 10, "train": 4, "all": 14}
    with pytest.raises(DataError, match="no images of the split 'valid', only of test, train"):
        open(tmp_path / "set", split="valid")
    with pytest.raises(DataError, match="unknown split 'tests'"):
        open(tmp_path / "set", split="tests")


def test_a_folder_in_a_folder(tmp_path):
    told = trees.yes_no(tmp_path / "archive/brain_tumor_dataset/data")
    data = open(tmp_path / "archive")
    assert {r.name for r in data.records} == set(told)
    assert (data.name, data.domain, data.categories) == ("archive", "medical", ("brain",))


def test_from_within(tmp_path, monkeypatch):
    trees.mvtec(tmp_path / "mvtec")
    monkeypatch.chdir(tmp_path / "mvtec/bottle")
    inside = open(".")
    monkeypatch.chdir(tmp_path)
    assert {r.name for r in inside.records} == {r.name for r in open("mvtec", category="bottle").records}
    assert not open("mvtec").records[0].image.is_absolute()


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("nowhere", {}, "no such folder"),
        ("pics", {}, "did you mean .*pictures"),
        ("pictures", {"layout": "mvtek"}, "unknown layout 'mvtek'.*did you mean mvtec"),
        ("pictures", {"layout": "mvtec"}, "no images, read as mvtec"),
        ("pictures", {"layout": "csv"}, "not a csv file"),
        ("pictures", {"layout": "meta"}, "no meta.json"),
        ("pictures", {"layout": "visa"}, "split_csv"),
        ("pictures", {"layout": "headct"}, "labels.csv"),
        ("pictures", {"root": "nowhere"}, "nowhere.*no such folder"),
        ("pictures", {"size": 3}, "size: only procedural sets"),
        ("pictures/notes.txt", {}, "no layout fits"),
        ("hollow", {}, "no layout fits.*mvtec"),
        ("procedural:food", {}, "unknown procedural set"),
        ("procedural:medical", {"layout": "mvtec"}, "generated, not read"),
        ("procedural:medical", {"split": "train"}, "no images of the split 'train'"),
        ("procedural:medical", {"per_category": "x"}, "per_category='x': procedural sets have"),
        ("procedural:medical", {"sizes": 3}, "sizes=3: procedural sets have per_category, size, seed"),
        ("procedural:medical", {"size": 56.0}, "size=56.0: .* whole numbers"),
        ("~nobody-of-this-name/x", {}, "~nobody-of-this-name/x: cannot be opened"),
        ("a" * 5000, {}, "aaa: cannot be opened"),
    ],
)
def test_what_cannot_be_opened(tmp_path, monkeypatch, spec, options, message):
    trees.plain(tmp_path / "pictures")
    (tmp_path / "hollow").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        open(spec, **options)
    assert spec[:200] in str(caught.value) or options


def test_the_data_set_stays_small_when_it_is_asked_for_less(tmp_path):
    trees.mvtec(tmp_path / "set")
    data = open(tmp_path / "set", max_pixels=7)
    part = data.where(lambda record: record.family == "crack")
    assert {record.family for record in part.records} == {"crack"}
    assert (part.name, part.domain) == (data.name, data.domain)
    with pytest.raises(DataError, match="max_pixels = 7"):
        part.pixels(0)


def test_root_is_for_listings(tmp_path):
    """A folder of pictures is its own root: nothing else of the root given is read."""
    trees.mvtec(tmp_path / "set")
    with pytest.raises(DataError, match="only a listing can lie elsewhere"):
        open(tmp_path / "set/bottle", "mvtec", root=tmp_path / "set")
    with pytest.raises(DataError, match="no layout fits"):
        open(tmp_path / "set/bottle", root=tmp_path / "set")


def test_frames_can_be_stored(tmp_path):
    import pandas as pd

    for make, name in ((trees.mvtec, "set"), (trees.ksdd, "sdd")):
        trees_made = make(tmp_path / name)
        data = open(tmp_path / name, split="all")
        data.frame.to_parquet(tmp_path / "frame.parquet")
        frame = pd.read_parquet(tmp_path / "frame.parquet")
        assert set(frame["name"]) == set(trees_made)
        assert frame["image"].tolist() == [str(record.image) for record in data.records]
        assert frame["mask"].isna().tolist() == [record.mask is None for record in data.records]


def test_names_of_sets_count_before_those_around_them(tmp_path):
    for name in ("liver-project/widgets", "brain/images", "retina/01"):
        trees.yes_no(tmp_path / name)
    widgets = open(tmp_path / "liver-project/widgets")
    assert (widgets.domain, widgets.categories) == ("", ("widgets",))
    assert (open(tmp_path / "brain/images").domain, open(tmp_path / "brain/images").categories) == (
        "medical",
        ("brain",),
    )
    assert open(tmp_path / "retina/01").categories == ("retina",)
    shutil.copytree(tmp_path / "retina/01", tmp_path / "skin-study/parts/inner")
    assert open(tmp_path / "skin-study").categories == ("skin",)
    assert open(tmp_path / "skin-study/parts").categories == ("parts",)


def test_what_fits_further_down_is_named(tmp_path):
    """CVC-ClinicDB from Kaggle: the same set twice, and a table that is none of images."""
    for kind in ("PNG", "TIF"):
        trees.pairs(tmp_path / kind, "Original", "Ground Truth", kind=f".{kind.lower()}")
    trees.text(tmp_path, "metadata.csv", "sequence_id,png_image_path\n1,PNG/Original/1.png\n")
    with pytest.raises(DataError, match=r"Open one of these: .*PNG \(pairs\), .*TIF \(pairs\)\. Looked for"):
        open(tmp_path)
    assert len(open(tmp_path / "PNG")) == 4


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    """It is empty, and told to ``refuse`` where there is one."""
    trees.mvtec(tmp_path / "set")
    listed = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "crack":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"crack: cannot be listed \(Permission denied\)"):
        open(tmp_path / "set")
    told: list[DataError] = []
    data = open(tmp_path / "set", refuse=told.append)
    assert {record.family for record in data.records} == {"good"}
    assert sum("cannot be listed" in str(error) for error in told) == 4  # test and ground_truth, of two categories


def test_a_path_in_a_folder_that_is_closed(tmp_path, monkeypatch):
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", denied)
    with pytest.raises(DataError, match=r"a\.png: cannot be opened \(Permission denied\)"):
        open(tmp_path / "in" / "a.png")


def test_a_picture_that_is_listed_often(tmp_path):
    """Names stay unique, also against those that look numbered, in no more than the time of the list."""
    trees.text(tmp_path, "b.csv", "image\na.png\na.png\na.png#2\na.png\n")
    seconds = []
    for count in (2_500, 10_000):
        trees.text(tmp_path, "a.csv", "image\n" + "a.png\n" * count)
        start = time.process_time()
        names = [record.name for record in open(tmp_path / "a.csv").records]
        seconds.append(time.process_time() - start)
    assert seconds[1] < 10 * seconds[0], "four times as many take four times as long, not sixteen"
    assert names[:3] == ["a.png", "a.png#2", "a.png#3"]
    assert len({*names}) == 10_000
    assert len({record.name for record in open(tmp_path / "b.csv").records}) == 4


def test_what_is_neither_a_file_nor_a_folder(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    for path, kind in ((tmp_path / "a.csv", "a pipe"), (Path("/dev/zero"), "a device")):
        with pytest.raises(DataError, match=rf"{path.name}: cannot be opened \(is {kind}, not a regular file\)"):
            open(path)


def test_a_pipe_or_an_endless_device_among_images(tmp_path):
    """Each is a record that cannot be read, at once."""
    for name in ("a.png", "b.png", "c.png"):
        trees.picture(tmp_path, name)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    data = open(tmp_path, follow_links=True)
    assert [record.name for record in data.records] == ["a", "b", "c", "device", "pipe"]
    for i in (3, 4):
        with pytest.raises(DataError, match=rf"{data.records[i].name}\.png: "):
            data.pixels(i)


@pytest.mark.parametrize("loop", ["loop", "loop.png", "aloop"])
def test_a_link_to_itself_hides_nothing(tmp_path, loop):
    for name in ("part/test/good/a.png", "part/test/bad/b.png"):
        trees.picture(tmp_path, name)
    for folder in ("part/test/bad", "part/test", "."):
        (tmp_path / folder / loop).symlink_to(loop)
    told: list[DataError] = []
    names = {record.name for record in open(tmp_path, refuse=told.append).records}
    assert names - {"part/test/bad/loop"} == {"part/test/good/a", "part/test/bad/b"}
    assert not told


@pytest.fixture
def deep(tmp_path, monkeypatch) -> Iterator[int]:
    """How many folders an image lies in: more than Python recurses, which removing them must not do either."""
    folders = 1200
    monkeypatch.chdir(tmp_path)
    for _ in range(folders):
        Path("d").mkdir()
        os.chdir("d")
    Path("a.png").touch()
    bottom = os.open(".", os.O_RDONLY)
    os.chdir(tmp_path)
    yield folders
    os.fchdir(bottom)
    Path("a.png").unlink()
    for _ in range(folders):
        os.chdir("..")
        Path("d").rmdir()
    os.close(bottom)


def test_a_folder_within_a_thousand_folders(tmp_path, deep):
    assert [record.name for record in open(tmp_path, "images").records] == ["d/" * deep + "a"]


def test_a_large_folder_is_listed_once(tmp_path, monkeypatch):
    for i in range(300):
        (tmp_path / f"{i}.png").write_bytes(b"")
    looked: list[Path] = []
    listed = os.scandir

    def scandir(path: Path) -> object:
        looked.append(Path(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert len(open(tmp_path)) == 300
    assert looked == [tmp_path]
