"""The checker, on a set that is broken in every way it knows, one by one and all at once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headlens.data.checking import KINDS, Problem, check, contents
from headlens.data.folders import FileSet
from headlens.data.samples import DataSet, Pixels, Record
from headlens.errors import DataError

CATEGORIES, EACH = ("bottle", "cable"), 12


def save(path: Path, size: tuple[int, int], seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def save_mask(path: Path, size: tuple[int, int], marked: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, np.uint8)
    at = sum(path.name.encode()) % 9
    mask[3 + at : 7 + at, 2:5] = 255 * marked
    Image.fromarray(mask).save(path)


def healthy(root: Path) -> list[Record]:
    """Two categories with normal training pictures, and half and half to test on."""
    records = []
    for at, category in enumerate(CATEGORIES):
        for i in range(EACH):
            split, flaw = ("train" if i < 2 else "test"), i >= EACH // 2 + 1
            family = "crack" if flaw else "good"
            name = f"{category}/{split}/{family}/{i:03d}"
            image, mask = root / f"{name}.png", root / f"{category}/ground_truth/{family}/{i:03d}_mask.png"
            save(image, (20, 24), 100 * at + i)
            if flaw:
                save_mask(mask, (20, 24))
            records.append(Record(name, category, flaw, family, split, image, mask if flaw else None))
    return records


# Each breaks one record, and is given records that nothing else has touched: (first normal, first anomalous, root)
def no_image(normal, flawed, root):
    flawed.image.unlink()
    return {}


def cut_image(normal, flawed, root):
    flawed.image.write_bytes(flawed.image.read_bytes()[:200])
    return {}


def no_mask_file(normal, flawed, root):
    flawed.mask.unlink()
    return {}


def bad_mask(normal, flawed, root):
    flawed.mask.write_bytes(b"no picture")
    return {}


def other_size(normal, flawed, root):
    save_mask(flawed.mask, (24, 20))
    return {}


def scaled_mask(normal, flawed, root):
    save_mask(flawed.mask, (20, 25))
    return {}


def empty_mask(normal, flawed, root):
    save_mask(flawed.mask, (20, 24), marked=False)
    return {}


def marked_normal(normal, flawed, root):
    mask = root / "extra" / f"{normal.image.stem}_{normal.category}.png"
    save_mask(mask, (20, 24))
    return {normal: replace(normal, mask=mask)}


def all_marked(normal, flawed, root):
    Image.fromarray(np.full((20, 24), 255, np.uint8)).save(flawed.mask)
    return {}


def speck(normal, flawed, root):
    """A pixel of an image that is so much wider than what it is resized to."""
    Image.new("L", (5000, 20), sum(flawed.name.encode()) % 256).save(flawed.image)
    mask = np.zeros((20, 5000), np.uint8)
    mask[3, 7] = 255
    Image.fromarray(mask).save(flawed.mask)
    return {}


def image_as_mask(normal, flawed, root):
    with Image.open(flawed.image) as image:
        pixels = np.array(image)
    pixels[0, 0] = 0
    Image.fromarray(pixels).save(flawed.image)
    shutil.copy(flawed.image, flawed.mask)
    return {}


def photograph(normal, flawed, root):
    """Turned by 180 degrees: the mask fits before and after."""
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(flawed.image) as image:
        image.save(flawed.image, exif=exif)
    return {}


def no_outline(normal, flawed, root):
    return {flawed: replace(flawed, mask=None)}


BREAKS = {
    "missing-image": no_image,
    "unreadable-image": cut_image,
    "missing-mask": no_mask_file,
    "unreadable-mask": bad_mask,
    "mask-size": other_size,
    "mask-scaled": scaled_mask,
    "empty-mask": empty_mask,
    "marked-normal": marked_normal,
    "no-mask": no_outline,
    "all-marked": all_marked,
    "lost-mask": speck,
    "mask-is-image": image_as_mask,
    "orientation": photograph,
}


def broken(root: Path, kinds: list[str]) -> FileSet:
    records = healthy(root)
    fresh = [(n, f) for c in CATEGORIES for n, f in zip(*halves(records, c), strict=False)]
    assert len(kinds) <= len(fresh)
    for kind, (normal, flawed) in zip(kinds, fresh, strict=False):
        changed = BREAKS[kind](normal, flawed, root)
        records = [changed.get(record, record) for record in records]
    return FileSet("mine", "industrial", records, "mvtec")


def halves(records: list[Record], category: str) -> tuple[list[Record], list[Record]]:
    mine = [record for record in records if record.category == category and record.split == "test"]
    return [r for r in mine if not r.anomalous], [r for r in mine if r.anomalous]


def kinds(report) -> set[str]:
    return {problem.kind for problem in report.problems}


def test_a_healthy_set_has_no_problems(tmp_path):
    calls = []
    report = check(FileSet("mine", "", healthy(tmp_path), "mvtec"), progress=lambda: calls.append(1))
    assert report.problems == ()
    assert report.ok
    assert report.counts == {}
    assert str(report) == f"mine: {2 * EACH} images, 0 errors, 0 warnings"
    assert len(calls) == 2 * EACH


@pytest.mark.parametrize("kind", BREAKS)
def test_each_break_is_that_one_problem(tmp_path, kind):
    dataset = broken(tmp_path, [kind])
    (problem,) = check(dataset).problems
    assert problem.kind == kind
    assert problem.severity == KINDS[kind][0]
    (record,) = [r for r in dataset.records if r.name == problem.record]
    assert problem.file == (record.mask if ("mask" in kind and kind != "no-mask") or "marked" in kind else record.image)
    assert str(problem.file) in problem.message
    assert record.name in problem.message


@settings(deadline=None, max_examples=20, derandomize=True)
@given(chosen=st.lists(st.sampled_from(sorted(BREAKS)), max_size=8), workers=st.sampled_from([1, 4]))
def test_any_breaks_together_are_all_told(tmp_path_factory, chosen, workers):
    report = check(broken(tmp_path_factory.mktemp("set"), chosen), workers=workers)
    assert report.counts == {kind: chosen.count(kind) for kind in KINDS if kind in chosen}
    assert report.ok == all(KINDS[kind][0] == "warning" for kind in chosen)


def masks_of(tmp_path: Path, change) -> list[Problem]:
    """What is wrong with a set whose anomalous images of one category have other masks."""
    records = healthy(tmp_path)
    _, flawed = halves(records, "cable")
    for i, record in enumerate(flawed):
        with Image.open(record.mask) as mask:
            Image.fromarray(np.asarray(change(np.asarray(mask) > 0, i), np.uint8)).save(record.mask)
    return list(check(FileSet("mine", "", records, "mvtec")).problems)


def test_a_pipe_is_there_but_no_image(tmp_path):
    records = healthy(tmp_path)
    records[0].image.unlink()
    os.mkfifo(records[0].image)
    (problem,) = check(FileSet("mine", "", records, "mvtec")).problems
    assert (problem.kind, problem.file) == ("unreadable-image", records[0].image)
    assert "is a pipe" in problem.message


def test_inverted_masks(tmp_path):
    (problem,) = masks_of(tmp_path, lambda mask, i: ~mask * 255)
    assert (problem.kind, problem.record, problem.severity) == ("inverted-masks", "cable", "warning")
    assert f"more than half is marked in 5 of 5 masks, such as {problem.file}" in problem.message
    assert masks_of(tmp_path / "some", lambda mask, i: (mask if i % 2 else ~mask) * 255) == []


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([1, 2], "mask-labels"),
        ([1, 255], "ignore-label"),
        ([100, 255], "mask-labels"),
        ([1], None),
        ([255], None),
        (range(1, 200), None),
    ],
    ids=str,
)
def test_labels_that_count_as_one(tmp_path, labels, kind):
    def change(mask: np.ndarray, i: int) -> np.ndarray:
        values = np.zeros_like(mask, np.uint8)
        values[:8] = np.resize(labels, (8, 24)) if len(labels) > 9 else 0
        values[mask] = np.resize(labels, mask.sum())
        values[19, i] = labels[-1]
        return values

    problems = masks_of(tmp_path, change)
    assert [problem.kind for problem in problems] == ([kind] if kind else [])
    if kind:
        assert f"5 masks have the labels {labels[0]}, {labels[1]}" in problems[0].message
        assert str(problems[0].file) in problems[0].message


def test_one_mask_for_many_images(tmp_path):
    def same(count: int):
        return lambda mask, i: (np.roll(mask, i, 1) if i >= count else np.eye(20, 24) > 0) * 255

    (problem,) = masks_of(tmp_path, same(3))
    assert (problem.kind, problem.severity) == ("same-mask", "warning")
    assert f"2 other images have the same mask, {problem.file}" in problem.message
    assert masks_of(tmp_path / "two", same(2)) == []


def test_a_photograph_on_its_side(tmp_path):
    """A mask of the upright image is right and needs no word; one of the stored pixels is turned along, and told."""
    for drawn_on in ("upright", "stored"):
        records = healthy(tmp_path / drawn_on)
        flawed = halves(records, "cable")[1][0]
        exif = Image.Exif()
        exif[0x0112] = 6
        with Image.open(flawed.image) as image, Image.open(flawed.mask) as mask:
            image.save(flawed.image, exif=exif)
            if drawn_on == "upright":
                mask.transpose(Image.Transpose.ROTATE_270).save(flawed.mask)
        problems = check(FileSet("mine", "", records, "mvtec")).problems
        assert [problem.kind for problem in problems] == ([] if drawn_on == "upright" else ["orientation"])


def test_both_files_of_one_record(tmp_path):
    dataset = broken(tmp_path, ["missing-image"])
    (gone,) = [record for record in dataset.records if not record.image.exists()]
    gone.mask.write_bytes(b"no picture")
    assert check(dataset).counts == {"missing-image": 1, "unreadable-mask": 1}


# Duplicates
@pytest.mark.parametrize(
    "kind, change",
    [
        ("duplicate-across-splits", {"split": "train", "category": "cable"}),
        ("duplicate-across-categories", {"category": "cable"}),
        ("duplicate-across-labels", {"anomalous": True, "mask": "own"}),
        ("duplicate", {}),
    ],
)
@pytest.mark.parametrize("how", ["copy", "same file", "link"])
def test_duplicates(tmp_path, kind, change, how):
    records = healthy(tmp_path)
    normal = halves(records, "bottle")[0][0]
    image = normal.image
    if how == "copy":
        image = tmp_path / "copy.dat"
        image.write_bytes(normal.image.read_bytes())
    elif how == "link":
        image = tmp_path / "link.png"
        image.symlink_to(normal.image)
    if "mask" in change:
        save_mask(tmp_path / "own.png", (20, 24))
        change = {**change, "mask": tmp_path / "own.png"}
    report = check(FileSet("mine", "", [*records, replace(normal, name="again", image=image, **change)], "mvtec"))
    assert kinds(report) == {kind}
    (problem,) = report.problems
    assert problem.record == normal.name
    assert "again" in problem.message
    assert report.ok == (kind == "duplicate")


def test_parts_of_one_file_are_no_duplicates(tmp_path):
    records = healthy(tmp_path)
    normal = halves(records, "bottle")[0][0]
    parts = [replace(normal, name=f"part{i}", crop=(0, 5 * i, 24, 5 * i + 5)) for i in range(4)]
    rest = [record for record in records if record != normal]
    assert check(FileSet("mine", "", [*rest, *parts], "mvtec")).problems == ()
    again = replace(parts[1], name="again", split="train")
    assert kinds(check(FileSet("mine", "", [*rest, *parts, again], "mvtec"))) == {"duplicate-across-splits"}
    beyond = replace(normal, name="beyond", crop=(0, 10, 24, 21))
    (problem,) = check(FileSet("mine", "", [*records, beyond], "mvtec")).problems
    assert (problem.kind, problem.record) == ("unreadable-image", "beyond")


@settings(deadline=None, max_examples=30, derandomize=True)
@given(files=st.lists(st.binary(max_size=4), max_size=12))
def test_contents_are_equal_exactly_if_the_bytes_are(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / str(i) for i in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    found = contents([*paths, folder / "gone", folder])
    assert set(found) == set(paths)
    assert all(
        (found[a] == found[b]) == (x == y)
        for a, x in zip(paths, files, strict=True)
        for b, y in zip(paths, files, strict=True)
    )
    assert all(
        found[p] in (f"{len(d)} bytes", hashlib.sha256(d).hexdigest()) for p, d in zip(paths, files, strict=True)
    )


# The set as a whole
def test_categories_without_normals(tmp_path):
    records = [r for r in healthy(tmp_path) if r.category == "bottle" or r.anomalous]
    (problem,) = check(FileSet("mine", "", records, "csv")).problems
    assert (problem.kind, problem.record) == ("no-normals", "cable")


@pytest.mark.parametrize("layout, kind", [("pairs", "only-anomalous"), ("mvtec", "no-normals")])
def test_sets_that_are_anomalous_by_design(tmp_path, layout, kind):
    """Where the layout has no folder for normal pictures, that there are none is no mistake of the owner."""
    records = [r for r in healthy(tmp_path) if r.category == "bottle" and r.anomalous]
    report = check(FileSet("mine", "", records, layout))
    assert kinds(report) == {kind}
    assert report.ok == (layout == "pairs")


def test_training_pictures_alone_need_no_anomalies(tmp_path):
    assert check(FileSet("mine", "", [r for r in healthy(tmp_path) if r.split == "train"])).problems == ()


def test_pictures_of_which_nobody_says_anything(tmp_path):
    records = [replace(r, anomalous=None, mask=None, family="") for r in healthy(tmp_path)]
    assert check(FileSet("mine", "", records, "images")).problems == ()


def test_one_name_twice_nothing_at_all_and_what_the_reader_refused(tmp_path):
    records = healthy(tmp_path)
    assert check(FileSet("mine", "", [*records, replace(records[0], image=records[1].image)])).counts == {
        "same-name": 1,
        "duplicate": 1,
    }
    report = check(FileSet("mine", "", []), [DataError("../x.png: outside"), DataError("y")])
    assert report.counts == {"empty": 1, "refused": 2}
    assert [p.message for p in report.problems if p.kind == "refused"] == ["../x.png: outside", "y"]


def test_masks_are_missed_where_the_category_has_some(tmp_path):
    """A category that nobody outlined is no mistake in a set where others are."""
    records = [replace(r, mask=None) if r.category == "cable" else r for r in healthy(tmp_path)]
    assert check(FileSet("mine", "", records, "mvtec")).problems == ()
    flawed = halves(records, "bottle")[1][0]
    (problem,) = check(FileSet("mine", "", [replace(r, mask=None) if r == flawed else r for r in records])).problems
    assert (problem.kind, problem.record) == ("no-mask", flawed.name)


def test_many_copies_make_a_short_message(tmp_path):
    records = healthy(tmp_path)
    normal = halves(records, "bottle")[0][0]
    copies = [replace(normal, name=f"copy{i:03d}") for i in range(300)]
    (problem,) = check(FileSet("mine", "", [*records, *copies], "mvtec")).problems
    assert problem.message.endswith("copy003 (test), copy004 (test) and 295 more")
    assert max(map(len, str(check(FileSet("mine", "", [*records, *copies], "mvtec"))).splitlines())) < 300


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.text(), st.text(), st.lists(st.text(max_size=20), max_size=4))
def test_no_name_breaks_the_lines_of_the_report(name, file, refused):
    """Nor moves the cursor: one line for the kind, one for each problem, one for the sum."""
    dataset = FileSet(name, "", [Record(file, "box", False, image=Path("nowhere") / "x.png")])
    report = check(dataset, map(DataError, refused))
    text = report.summary(9)
    assert text.count("\n") == sum(2 if kind == "missing-image" else 1 + len(refused) for kind in report.counts)
    assert text.replace("\n", "").isprintable()


def test_sets_that_are_made_rather_than_read():
    class Made(DataSet):
        def pixels(self, i: int) -> Pixels:
            import torch

            if i == 2:
                raise DataError("the painter is ill")
            return Pixels(torch.zeros(3, 8, 8, dtype=torch.uint8), torch.full((8, 8), i == 1))

        def where(self, keep):
            raise NotImplementedError

    records = [Record(f"r{i}", "wall", i in (1, 3)) for i in range(4)]
    report = check(Made("made", "", records))
    assert [(p.kind, p.record) for p in report.problems] == [("unreadable-image", "r2"), ("empty-mask", "r3")]


# Report
def test_the_report_for_people_and_for_machines(tmp_path):
    dataset = broken(tmp_path, ["missing-image"] * 4 + ["empty-mask"])
    report = check(dataset)
    lines = report.summary(2).splitlines()
    assert lines[0] == "error: missing-image, 4x: the image file is missing"
    assert [line[:2] for line in lines[1:4]] == ["  "] * 3
    assert lines[3] == "  ... and 2 more"
    assert lines[-1] == f"mine: {2 * EACH} images, 5 errors, 0 warnings"
    frame = report.frame
    assert list(frame.columns) == ["severity", "kind", "record", "file", "message"]
    assert len(frame) == 5
    json.loads(frame.astype(str).to_json(orient="records"))


def test_a_folder_where_a_file_should_be(tmp_path):
    dataset = FileSet("mine", "", healthy(tmp_path), "mvtec")
    dataset.records[5].image.unlink()
    dataset.records[5].image.mkdir()
    assert check(dataset).counts == {"missing-image": 1}


def test_ctrl_c_stops_it():
    """What is waiting is not read any more."""
    before, reads = threading.active_count(), []

    class Slow(DataSet):
        def pixels(self, i: int) -> Pixels:
            reads.append(i)
            time.sleep(0.002)
            raise DataError("nothing")

        def where(self, keep):
            raise NotImplementedError

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(Slow("slow", "", [Record(str(i), "wall", False) for i in range(500)]), workers=2, progress=interrupt)
    assert threading.active_count() == before
    assert 0 < len(reads) < 250
