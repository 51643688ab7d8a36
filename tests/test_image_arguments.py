"""What arguments that name images stand for: one rule for files, folders, patterns and listings."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from headlens.cli.images import find_images
from headlens.data import open
from headlens.errors import DataError


def paint(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(path)


def names(*arguments: object) -> list[str]:
    return [path.name for path in find_images(list(map(str, arguments))).files]


def test_a_folder_holds_images_and_passes_over_what_nobody_meant(tmp_path):
    folder = tmp_path / "bottle"
    paint(folder / "test/crack/000.png", folder / "test/crack/.ipynb_checkpoints/000-checkpoint.png")
    paint(folder / "test/crack/000_mask.png", folder / "ground_truth/crack/000.png", folder / "__MACOSX/a.png")
    (folder / "test/crack/._000.png").write_bytes(b"\0\5\x16\7")
    (folder / "weights.pt").write_bytes(b"0")
    found = find_images([str(folder)])
    assert [path.name for path in found.files] == ["000.png"]
    assert found.passed == "skipped: masks (2)" and not found.unread
    # named by themselves, they are meant
    assert names(folder / "ground_truth") == ["000.png"] and names(folder / "test/crack/000_mask.png") == [
        "000_mask.png"
    ]


@pytest.mark.parametrize(
    ("masks", "image"),
    [
        ("masks/a.png", "images/a.png"),
        ("label/a.png", "img/a.png"),
        ("Label/a_label.png", "a.png"),
        ("ISBI2016_ISIC_Part1_Test_GroundTruth/a_Segmentation.png", "ISBI2016_ISIC_Part1_Test_Data/a.jpg"),
        ("screw/ground_truth/rust/a.png", "screw/test/rust/a.png"),
        ("MT_Blowhole/Imgs/a.png", "MT_Blowhole/Imgs/a.jpg"),
        ("Ground Truth/1.tif", "Original/1.tif"),
        ("benign/benign (1)_mask_1.png", "benign/benign (1).png"),
        ("kos01/Part0_label.bmp", "kos01/Part0.jpg"),
    ],
)
def test_masks_in_the_layouts_of_data_sets_are_passed_over(masks, image, tmp_path):
    paint(tmp_path / masks, tmp_path / image)
    assert find_images([str(tmp_path)]).files == [tmp_path / image]


def test_labels_can_be_what_images_show(tmp_path):
    paint(tmp_path / "label/a.png", tmp_path / "bottle/b.png", tmp_path / "masks only/masks/c.png")
    assert names(tmp_path) == ["b.png", "a.png", "c.png"]


def test_what_looks_like_an_image_and_is_not_read_is_named(tmp_path):
    folder = tmp_path / "photos"
    paint(folder / "own.png", folder / "inner/x.png", tmp_path / "elsewhere/y.png")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "inner/loop").symlink_to(folder)
    (folder / "itself.png").symlink_to(folder / "itself.png")
    (folder / "phone.HEIC").write_bytes(b"0")
    found = find_images([str(folder)])
    assert {"own.png", "x.png"} <= {path.name for path in found.files} <= {"own.png", "x.png", "itself.png"}
    line = found.unread
    assert "linked: a link that leads out" in line and "phone.HEIC: images in .heic" in line


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_named(tmp_path):
    paint(tmp_path / "a.png", tmp_path / "closed/b.png")
    (tmp_path / "closed").chmod(0)
    try:
        found = find_images([str(tmp_path)])
    finally:
        (tmp_path / "closed").chmod(0o755)
    assert [path.name for path in found.files] == ["a.png"] and "closed: cannot be listed" in found.unread


def test_what_headlens_wrote_is_no_image_wherever_it_lies(tmp_path):
    paint(tmp_path / "a.png")
    about = PngInfo()
    about.add_text("Software", "headlens")
    Image.new("L", (6, 4)).save(tmp_path / "b.png", pnginfo=about)
    Image.new("F", (6, 4)).save(tmp_path / "c.tiff", tiffinfo={305: "headlens"})
    Image.new("F", (6, 4)).save(tmp_path / "d.tiff", tiffinfo={305: "another"})
    assert names(tmp_path) == names(*sorted(tmp_path.iterdir())[:1], tmp_path / "d.tiff") == ["a.png", "d.tiff"]
    with pytest.raises(DataError, match=r"no image in it that can be read \(skipped: results of headlens \(1\)\)"):
        names(tmp_path / "b.png")


def test_patterns_brackets_home_and_duplicates(tmp_path, monkeypatch):
    paint(tmp_path / "a [1].png", tmp_path / "b.png", tmp_path / "inner/c.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert names(tmp_path / "a [1].png") == ["a [1].png"]
    assert names(tmp_path / "b.png", tmp_path, tmp_path / "inner/../b.png") == [
        "b.png",
        "a [1].png",
        "gone.png",
        "c.png",
    ]
    assert names(tmp_path / "[bi]*") == ["b.png", "c.png"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert names("~/b*.png", "~/inner") == ["b.png", "c.png"]
    monkeypatch.chdir(tmp_path)
    assert names("b.png", "./b.png", "inner/../b.png") == ["b.png"]


def test_a_listing_stands_for_its_images(tmp_path):
    paint(tmp_path / "images/a.png", tmp_path / "images/b.png", tmp_path / "masks/b.png")
    (tmp_path / "set.csv").write_text("image,label,mask\nimages/a.png,0,\nimages/b.png,1,masks/b.png\n")
    assert names(tmp_path / "set.csv") == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("gone.png", "no such file, folder or pattern"),
        ("*.tiff", "no such file, folder or pattern"),
        ("empty", "no image in it$"),
        ("phones", r"no image in it that can be read \(1 left out: .*phones/a\.heic"),
        ("pipe", "is a pipe, a socket or a device"),
        ("socket", "is a pipe, a socket or a device"),
        ("x" * 300, "cannot be opened"),
    ],
)
def test_arguments_that_name_no_image_are_refused_at_once(argument, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        Path("empty").mkdir()
        Path("phones").mkdir()
        Path("phones/a.heic").write_bytes(b"0")
        with pytest.raises(DataError, match=message):
            find_images([argument])


def test_a_data_set_of_images_holds_what_score_takes(tmp_path):
    """One rule for both, whatever folders of masks are called and wherever they lie."""
    for folder in ("photos", "photos_masks", "photos/gt", "more/label", "more/images", "deep/er"):
        for name in ("a", "a_mask", "b"):
            paint(tmp_path / folder / f"{name}.png")
    data = open(tmp_path, layout="images", refuse=lambda error: None)
    taken = find_images([str(tmp_path)])
    assert [record.image for record in data.records] == taken.files
    assert {path.parent.relative_to(tmp_path).as_posix() for path in taken.files} == {
        "photos",
        "more/images",
        "deep/er",
    }
    assert len(taken.files) == 6 and taken.passed == "skipped: masks (12)"


def test_a_pattern_passes_over_what_a_folder_would(tmp_path, monkeypatch):
    paint(tmp_path / "set/test/dent/0.png", tmp_path / "set/test/dent/0_mask.png", tmp_path / "set/__MACOSX/a.png")
    paint(tmp_path / "set/ground_truth/dent/1.png", tmp_path / "set/test/good/1.png")
    for pattern in ("set/**/*.png", "set/*"):
        found = find_images([str(tmp_path / pattern)])
        assert [path.name for path in found.files] == ["0.png", "1.png"], pattern
        assert found.files == find_images([str(tmp_path / "set")]).files
        assert found.passed == "skipped: masks (2)"
    assert names(tmp_path / "set/ground_truth/dent/*.png") == ["1.png"]  # what is named is meant
    monkeypatch.chdir(tmp_path / "set/test/dent")
    assert names("*.png") == ["0.png"] and names("0_mask.png") == ["0_mask.png"]
