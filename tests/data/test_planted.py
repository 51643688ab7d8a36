"""Mistakes that people make in a set that is otherwise as published: the checker names the file and what to do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from headlens.data import DataSet, Report, check, open
from headlens.errors import DataError
from tests.data import annotated, trees

SETS = {
    "mvtec": trees.mvtec,
    "btad": trees.btad,
    "loco": trees.loco,
    "visa": annotated.visa,
    "bmad": trees.bmad,
    "pairs": trees.pairs,
    "isic": trees.isic,
    "magnetic": trees.magnetic,
    "crackforest": annotated.crackforest,
    "busi": trees.busi,
    "bsdata": annotated.bsdata,
    "coco": annotated.coco,
    "meta": annotated.meta,
    "jsonl": annotated.jsonl,
    "csv": annotated.listed,
}
EVERY = SETS | {"elpv": annotated.elpv, "headct": annotated.headct, "yes_no": trees.yes_no}
LISTED = ("visa", "meta", "jsonl", "csv")


def checked(root: Path) -> tuple[DataSet, Report]:
    refused: list[DataError] = []
    data = open(root, split="all", refuse=refused.append)
    return data, check(data, refused, workers=1)


def one_masked(root: Path) -> Path:
    """The file of a mask of an anomalous image."""
    data = open(root, split="all", refuse=lambda error: None)
    return next(record.files[-1] for record in data.records if record.anomalous and record.mask)


@pytest.mark.parametrize("name", SETS)
def test_a_mask_that_is_lost(tmp_path, name):
    SETS[name](tmp_path)
    mask = one_masked(tmp_path)
    before = checked(tmp_path)[1].counts
    mask.unlink()
    if name == "coco":  # its images are no set any more, but for those of other splits
        assert checked(tmp_path)[0].records
        return
    data, report = checked(tmp_path)
    found = {*report.counts} - {*before}
    if name == "bsdata":  # as are the 710 images of the real set that have no file
        assert "reading" in report.counts
    elif name in LISTED:
        assert found == {"missing-mask"}
        assert str(mask) in str(report)
    else:
        stem = mask.parent.name if name == "loco" else mask.stem.replace("_mask", "").replace("_Segmentation", "")
        lost = [r for r in data.records if r.mask is None and r.image and r.image.stem == stem]
        assert len(lost) >= 1
        assert all(record.anomalous is not False or name in ("bmad", "mvtec", "btad", "loco") for record in lost)
        assert "no-mask" in report.counts or name == "crackforest"


@pytest.mark.parametrize("name", sorted({*SETS} - {"coco", "bsdata"}))  # whose files are found by what they say
def test_a_mask_that_is_called_otherwise(tmp_path, name):
    SETS[name](tmp_path)
    mask = one_masked(tmp_path)
    other = mask.with_name(f"fehler-9999{mask.suffix}") if name != "loco" else mask.parent
    mask.rename(other) if name != "loco" else mask.parent.rename(mask.parent.with_name("9999"))
    _, report = checked(tmp_path)
    lines = str(report)
    if name in LISTED:
        assert f"{mask}" in lines
        assert "missing-mask" in report.counts
    elif name == "busi":  # it is an image beside images now, and has no mask either
        assert report.counts["no-mask"] == 2
        assert str(other) in lines
    else:
        wrong = other if name != "loco" else mask.parent.with_name("9999")
        assert f"{wrong}: a mask that belongs to no image, or to several; name it like its image, or remove it" in lines


@pytest.mark.parametrize("name", EVERY)
def test_an_image_that_is_there_twice(tmp_path, name):
    EVERY[name](tmp_path)
    data, _ = checked(tmp_path)
    one = next(r for r in data.records if r.anomalous)
    other = next(r for r in data.records if r.image != one.image)
    assert one.image is not None
    assert other.image is not None
    shutil.copyfile(one.image, other.image)
    _, report = checked(tmp_path)
    assert any(kind.startswith("duplicate") for kind in report.counts)
    shown = next(problem.message for problem in report.problems if problem.kind.startswith("duplicate"))
    assert one.name in shown
    assert other.name in shown


@pytest.mark.parametrize("name", EVERY)
def test_an_image_that_is_damaged(tmp_path, name):
    EVERY[name](tmp_path)
    data, _ = checked(tmp_path)
    image = data.records[0].image
    assert image is not None
    image.write_bytes(image.read_bytes()[:40])
    _, report = checked(tmp_path)
    assert report.counts["unreadable-image"] == 1
    assert str(image) in str(report)
