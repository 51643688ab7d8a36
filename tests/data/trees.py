"""Small data sets on disk, one maker for each layout. Each returns what a reader should find.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     told = mvtec(Path(folder))
>>> told["bottle/test/crack/000"].anomalous
True
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from headlens.data import DataSet
from headlens.data.mask_sources import files_of

SIZE = (12, 9)  # width, height


@dataclass(frozen=True)
class Told:
    """What is true of one picture: files are relative to the root, without suffix where ``image`` is the name."""

    category: str
    anomalous: bool | None
    family: str = ""
    split: str = "test"
    mask: str | None = None


Tree = dict[str, Told]


def pixels(path: str | Path) -> np.ndarray:
    """[9, 12, 3] uint8 that only the file of this name has."""
    seed = zlib.crc32(os.fsencode(Path(path).as_posix()))
    return np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)


def outline(path: str | Path) -> np.ndarray:
    """[9, 12] bool, the flaw that only the mask of this name shows."""
    seed = zlib.crc32(os.fsencode(Path(path).as_posix()))
    y, x = np.random.default_rng(seed).integers(0, (6, 9))
    mask = np.zeros((SIZE[1], SIZE[0]), bool)
    mask[y : y + 3, x : x + 3] = True
    return mask


def picture(root: Path, name: str) -> None:
    """Writes ``pixels(name)``; lossless suffixes come back to the bit."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(name)).save(path)


def mask(root: Path, name: str, value: int = 255) -> None:
    """Writes ``outline(name)`` in grey."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(outline(name).astype(np.uint8) * value).save(path)


def text(root: Path, name: str, content: str) -> None:
    """Writes a text file."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def agree(data: DataSet, told: Tree, base: Path) -> None:
    """The records are those that were told, each with its own pixels."""
    assert {record.name for record in data.records} == set(told)
    assert len(data) == len(told)
    for i, record in enumerate(data.records):
        it = told[record.name]
        where = None if it.mask is None else [base / part for part in it.mask.split("; ")]
        assert (record.category, record.anomalous, record.family, record.split) == (
            it.category,
            it.anomalous,
            it.family,
            it.split,
        ), record
        assert list(files_of(record.mask)) == (where or []), record
        if record.crop is not None:
            continue  # has a test of its own
        found = data.pixels(i)
        assert record.image is not None
        if record.image.suffix.lower() in (".png", ".bmp", ".tif"):
            expected = pixels(record.image.relative_to(base))
            assert np.array_equal(found.image.permute(1, 2, 0).numpy(), expected), record
        if record.anomalous and where is not None:
            assert found.mask is not None
            expected = np.logical_or.reduce([outline(part) for part in (it.mask or "").split("; ")])
            assert np.array_equal(found.mask.numpy(), expected), record
        elif record.anomalous is False:
            assert found.mask is not None
            assert not found.mask.any()
        else:
            assert found.mask is None


def _mvtec_like(root: Path, categories: dict[str, str], normal: str, flaw: str, suffix: str, truth: str) -> Tree:
    """Categories with their image suffix; ``suffix`` and ``truth`` end the mask's stem and name."""
    told: Tree = {}
    for category, ending in categories.items():
        for split, family, number in (("train", normal, 2), ("test", normal, 2), ("test", flaw, 3)):
            for i in range(number):
                name = f"{category}/{split}/{family}/{i:03d}"
                picture(root, name + ending)
                where = None
                if family == flaw:
                    where = f"{category}/ground_truth/{family}/{i:03d}{suffix}{truth}"
                    mask(root, where)
                told[name] = Told(category, family == flaw, "good" if family == normal else flaw, split, where)
    return told


def mvtec(root: Path) -> Tree:
    """MVTec AD, with its licence file and what a file manager leaves."""
    told = _mvtec_like(root, {"bottle": ".png", "metal_nut": ".png"}, "good", "crack", "_mask", ".png")
    text(root, "license.txt", "…")
    text(root, "bottle/readme.txt", "…")
    text(root, "bottle/test/crack/.DS_Store", "")
    text(root, "bottle/test/crack/Thumbs.db", "")
    text(root, "bottle/test/crack/._000.png", "no picture")
    text(root, "__MACOSX/bottle/test/crack/000.png", "no picture")
    return told


def btad(root: Path) -> Tree:
    """ok and ko; bmp and png; masks of another kind than their images."""
    return _mvtec_like(root, {"01": ".bmp", "02": ".png"}, "ok", "ko", "", ".png")


def converted_visa(root: Path) -> Tree:
    """VisA as others convert it, inside one more folder."""
    return _mvtec_like(root / "1cls", {"candle": ".JPG"}, "good", "bad", "", ".png")


def ksdd(root: Path) -> Tree:
    """KolektorSDD as released: 31 rows, so that three parts are not of one size; a flaw in the middle or none."""
    told: Tree = {}
    for k, flaw in enumerate((True, False)):
        name = f"kos{k + 1:02d}/Part{k}"
        (root / name).parent.mkdir(parents=True)
        Image.fromarray(np.full((31, 10), 90 + k, np.uint8)).save(root / f"{name}.jpg")
        label = np.zeros((31, 10), np.uint8)
        label[12:15, 2:6] = 255 * flaw
        Image.fromarray(label).save(root / f"{name}_label.bmp")
        for part in range(3):
            here = flaw and part == 1
            told[f"{name}_{part}"] = Told(
                "electrical commutators", here, "defect" if here else "good", "test", f"{name}_label.bmp"
            )
    return told


def ksdd2(root: Path) -> Tree:
    """KolektorSDD2: an empty mask beside every normal image."""
    told: Tree = {}
    for split in ("train", "test"):
        for i in range(3):
            name = f"{split}/{10_000 + i}"
            picture(root, f"{name}.png")
            mask(root, f"{name}_GT.png", 255 * (i == 1))
            told[name] = Told("electrical commutators", i == 1, "defect" if i == 1 else "good", split, f"{name}_GT.png")
    return told


def bmad(root: Path, masks: str = "label", flawed: str = "Ungood", pictures: str = "img/") -> Tree:
    """BMAD's brain; with masks in normal folders too, as it has them; ``masks`` empty for sets without."""
    told: Tree = {}
    base = "Brain_AD"
    picture(root, f"{base}/train/good/00001_60.png")
    told[f"{base}/train/good/00001_60"] = Told("brain", False, "good", "train")
    for split in ("valid", "test"):
        for kind, flaw in (("good", False), (flawed, True)):
            for i in range(2):
                name = f"{base}/{split}/{kind}/{pictures}{i:05d}_60"
                where = f"{base}/{split}/{kind}/{masks}/{i:05d}_60.png" if masks else None
                picture(root, name + ".png")
                if where:
                    mask(root, where, 255 * flaw)
                told[name] = Told("brain", flaw, kind, split, where)
    return told


def yes_no(root: Path) -> Tree:
    """BrainMRI or Br35H: any suffix and case, and pictures of nobody knows what in a third folder."""
    told = {}
    for name, flaw in (("yes/Y1.jpg", True), ("yes/Y 2.JPEG", True), ("no/1 no.jpeg", False), ("no/No11.jpg", False)):
        picture(root, name)
        told[name.rpartition(".")[0]] = Told("brain", flaw, "yes" if flaw else "good")
    picture(root, "pred/pred0.jpg")
    return told


def covid(root: Path) -> Tree:
    """The COVID-19 radiographs: lungs outlined in ``masks``, tables beside the folders."""
    told = {}
    for family in ("COVID", "NORMAL", "Viral Pneumonia"):
        for i in (1, 2):
            name = f"{family}/images/{family}-{i}"
            picture(root, f"{name}.png")
            mask(root, f"{family}/masks/{family}-{i}.png")
            told[name] = Told("chest", family != "NORMAL", "good" if family == "NORMAL" else family)
        text(root, f"{family}.metadata.xlsx", "")
    text(root, "README.md.txt", "…")
    return told


def pairs(root: Path, images: str = "images", masks: str = "masks", suffix: str = "", kind: str = ".png") -> Tree:
    """A polyp set. 2 and 10 sort differently as text; 5 has no mask, and mask 7 no image."""
    told = {}
    for i in (1, 2, 10, 5):
        where = None if i == 5 else f"{masks}/{i}{suffix}.png"
        picture(root, f"{images}/{i}{kind}")
        if where:
            mask(root, where)
        told[f"{images}/{i}"] = Told("colon", True, mask=where)
    mask(root, f"{masks}/7{suffix}.png")
    return told


def tn3k(root: Path) -> Tree:
    """Training and test folders side by side."""
    told = {}
    for split, word in (("train", "trainval"), ("test", "test")):
        for i in range(2):
            name, where = f"{word}-image/{i:04d}", f"{word}-mask/{i:04d}.png"
            picture(root, name + ".jpg")
            mask(root, where)
            told[name] = Told("thyroid", True, split=split, mask=where)
    return told


def isic(root: Path) -> Tree:
    """ISIC 2016, part 1."""
    told = {}
    for split, word in (("train", "Training"), ("test", "Test")):
        for i in (3, 12):
            base = f"ISBI2016_ISIC_Part1_{word}"
            name, where = f"{base}_Data/ISIC_{i:07d}", f"{base}_GroundTruth/ISIC_{i:07d}_Segmentation.png"
            picture(root, name + ".jpg")
            mask(root, where)
            told[name] = Told("skin", True, split=split, mask=where)
    return told


def plain(root: Path) -> Tree:
    """Pictures."""
    for name in ("a.png", "B.JPG", "c d.tif"):
        picture(root, name)
    text(root, "notes.txt", "")
    return {name: Told(root.name, None) for name in ("a", "B", "c d")}


def magnetic(root: Path) -> Tree:
    """Magnetic tile, as its repository lies on disk: a picture of it, and a mask beside every image, of MT_Free too."""
    told: Tree = {}
    for flaw, number in (("Blowhole", 3), ("Crack", 2), ("Free", 3)):
        for i in range(number):
            name = f"MT_{flaw}/Imgs/exp{i + 1}_num_{1000 + i}"
            picture(root, f"{name}.jpg")
            mask(root, f"{name}.png", 255 * (flaw != "Free"))
            family = "good" if flaw == "Free" else flaw.lower()
            told[name] = Told("magnetic tile", flaw != "Free", family, "test", f"{name}.png")
    picture(root, "dataset.jpg")
    text(root, "README.md", "This is the datasets of the upcoming paper")
    return told


def busi(root: Path) -> Tree:
    """BUSI: the first mask of an image has no number, normal images have empty ones."""
    told: Tree = {}
    for family in ("benign", "malignant", "normal"):
        for i in (1, 2, 10):
            name = f"{family}/{family} ({i})"
            picture(root, f"{name}.png")
            masks = [
                f"{name}_mask.png",
                *(f"{name}_mask_{k}.png" for k in range(1, i % 3 if family == "benign" else 1)),
            ]
            for where in masks:
                mask(root, where, 255 * (family != "normal"))
            flaw = family != "normal"
            told[name] = Told("breast", flaw, family if flaw else "good", "test", "; ".join(masks))
    return told


def loco(root: Path) -> Tree:
    """MVTec LOCO: a folder of masks for each image, each mask with a value of its own."""
    told: Tree = {}
    for split, family in (("train", "good"), ("validation", "good"), ("test", "good"), ("test", "logical_anomalies")):
        for i in range(2):
            name = f"breakfast_box/{split}/{family}/{i:03d}"
            picture(root, f"{name}.png")
            masks = [f"breakfast_box/ground_truth/{family}/{i:03d}/{k:03d}.png" for k in range(i + 1)]
            masks = masks if family != "good" else []
            for k, where in enumerate(masks):
                mask(root, where, 255 - k)
            split_ = "valid" if split == "validation" else split
            told[name] = Told("breakfast_box", family != "good", family, split_, "; ".join(masks) or None)
    return told
