"""A reader that takes few of a folder's images says so, and one that takes far more of them is preferred."""

from __future__ import annotations

import warnings

import pytest
from typer.testing import CliRunner

import headlens.cli
from headlens.cli import app
from headlens.data import FileSet, check, open
from headlens.errors import DataError, HeadlensWarning
from tests.data import trees


def test_images_that_a_reader_passes_over_are_told(tmp_path):
    trees.magnetic(tmp_path)
    with pytest.warns(
        HeadlensWarning, match=r"read as images: 1 of 17 images are used; the others are e\.g\. .*MT_Blow"
    ):
        data = open(tmp_path, "images")
    assert isinstance(data, FileSet)
    assert check(data).counts["reading"] == 1
    assert check(data).ok
    told: list[DataError] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open(tmp_path, "images", refuse=told.append).where(lambda record: True).notes == data.notes  # type: ignore[attr-defined]
        open(tmp_path)
        open(tmp_path / "dataset.jpg")
    assert not told


def test_images_in_formats_that_are_not_read_are_named(tmp_path):
    trees.mvtec(tmp_path)
    trees.text(tmp_path, "bottle/test/crack/phone.HEIC", "0")
    with pytest.warns(HeadlensWarning, match=r"images in formats that are not read: 1, such as .*crack/phone\.HEIC;"):
        data = open(tmp_path)
    assert check(data).counts["reading"] == 1


def test_a_listing_of_few_images_says_so_and_is_read(tmp_path):
    trees.mvtec(tmp_path)
    trees.text(tmp_path, "meta.json", '{"test": {"bottle": [{"img_path": "bottle/test/crack/000.png", "anomaly": 1}]}}')
    with pytest.warns(HeadlensWarning, match=r"read as meta: 1 of 20 images are used"):
        assert len(open(tmp_path)) == 1


def test_what_makes_use_of_far_more_is_what_is_meant(tmp_path):
    """Two images and masks of an overview, beside a set in MVTec's layout; a picture beside the folder of the set."""
    told = trees.mvtec(tmp_path / "a")
    for name in ("images/1.png", "masks/1.png"):
        trees.picture(tmp_path / "a", name)
    assert len(open(tmp_path / "a", split="all")) == len(told)
    trees.mvtec(tmp_path / "b/set")
    trees.picture(tmp_path / "b", "overview.png")
    data = open(tmp_path / "b", split="all")
    assert isinstance(data, FileSet)
    assert (data.layout, len(data)) == ("mvtec", len(told))


def test_a_warning_is_one_line_at_a_shell(capsys):
    headlens.cli._warn(HeadlensWarning("a.png\nis\x1b[2J odd"), HeadlensWarning, "opening.py", 1)
    assert capsys.readouterr().err == "headlens: a.png\\nis\\x1b[2J odd\n"


def test_at_a_shell(tmp_path):
    trees.magnetic(tmp_path)
    shown = CliRunner().invoke(app, ["data", "check", str(tmp_path), "--layout", "images"])
    assert shown.exit_code == 0
    assert "warning: reading, 1x" in shown.output
    assert "read as images: 1 of 17 images are used" in shown.output
