"""Layouts that are told by folders alone: what a picture is stands in the names of the folders it is in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from headlens.data.images import SUFFIXES
from headlens.data.readers.contents import IMAGE_FOLDER, MASK_FOLDER, contents, is_truth
from headlens.data.readers.families import Family, refuse_below, told, truth_of
from headlens.data.readers.known import known
from headlens.data.readers.splits import SPLITS, split_of
from headlens.data.readers.tree import Root, is_normal, records
from headlens.data.samples import Record
from headlens.errors import DataError


def _splits(root: Root, at: Path) -> list[tuple[str, Path]]:
    return [(split, folder) for split, words in SPLITS.items() if (folder := root.find(at, *words))]


# category/{train,test}/family, category/ground_truth/family
def _mvtec_categories(root: Root) -> list[Path]:
    def fits(folder: Path) -> bool:
        test = root.find(folder, *SPLITS["test"])
        return test is not None and any(root.images(family) for family in _inner(root, test))

    return [root.path] if fits(root.path) else [folder for folder in root.folders(root.path) if fits(folder)]


def _inner(root: Root, at: Path) -> list[Path]:
    """Folders of pictures rather than masks."""
    return [folder for folder in root.folders(at) if not is_truth(folder)]


def fits_mvtec(root: Root, at: Path) -> bool:
    """Some folder, or this one, has ``test/<family>/`` with pictures in it."""
    return at.is_dir() and bool(_mvtec_categories(root))


def read_mvtec(root: Root, at: Path) -> Iterator[Record]:
    """Normal is any family in ``NORMAL``; masks in a folder called ``ground_truth``, ``masks``, … or one inside of it.

    That folder lies beside the splits or, as others prepare it, beside the families of a split.
    """
    for category in _mvtec_categories(root):
        families = []
        for split, folder in _splits(root, category):
            truth = truth_of(root, category, folder)
            if split == "train":  # training pictures need no family
                families.append(Family(folder, root.images(folder), False, split, truth))
            for place in _inner(root, folder):
                refuse_below(root, place, root.folders(place))
                families.append(Family(place, root.images(place), not is_normal(place.name), split, truth))
        for record in told(root, families, category.name):
            # the same name whether the set or one category of it was opened
            yield replace(record, name=f"{category.name}/{record.name}") if category == root.path else record


# {train,valid,test}/{good,Ungood}/{img,label}
def _bmad_sets(root: Root) -> list[Path]:
    def fits(folder: Path) -> bool:
        return any(root.find(split, "ungood") for _, split in _splits(root, folder))

    return [root.path] if fits(root.path) else [folder for folder in root.folders(root.path) if fits(folder)]


def fits_bmad(root: Root, at: Path) -> bool:
    """Some folder, or this one, has ``test/Ungood`` or ``valid/Ungood``, in any case."""
    return at.is_dir() and bool(_bmad_sets(root))


def read_bmad(root: Root, at: Path) -> Iterator[Record]:
    """Pictures in ``img`` or right in the folder, masks in ``label`` or ``anomaly_mask`` where the set has any."""
    sets = _bmad_sets(root)
    for folder in sets:  # two of them show the retina
        category = folder.name if len(sets) > 1 else known([folder.name])[1] or folder.name
        for split, part in _splits(root, folder):
            for anomalous, kind in ((False, root.find(part, "good")), (True, root.find(part, "ungood"))):
                if kind is None:
                    continue
                images, masks = root.find(kind, "img", "images"), root.find(kind, "label", "anomaly_mask")
                facts = {"category": category, "anomalous": anomalous, "split": split}
                facts["family"] = kind.name if anomalous else "good"
                yield from records(root, root.images(images or kind), root.images(masks) if masks else [], **facts)


# images/, masks/
def _pairs(root: Root) -> Iterator[tuple[Path, Path, str]]:
    for split, at in [("test", root.path), *_splits(root, root.path)]:
        folders = [folder for folder in root.folders(at) if root.images(folder)]  # also labels/ of text is about
        for word, images in _by_word(IMAGE_FOLDER, folders).items():
            masks = _by_word(MASK_FOLDER, folders).get(word, [])
            for several in (images, masks) if images and masks else ():
                if len(several) > 1:
                    names = " and ".join(folder.name for folder in several)
                    raise DataError(f"{at}: {names} can both be meant by images/ and masks/; move the others elsewhere")
            if masks:
                yield images[0], masks[0], split_of(word) or split


def _by_word(pattern: re.Pattern[str], folders: list[Path]) -> dict[str, list[Path]]:
    """Folders whose names fit, by the split in front of them."""
    found: dict[str, list[Path]] = {}
    for folder in folders:
        if match := pattern.fullmatch(folder.name):
            found.setdefault((match[1] or "").lower(), []).append(folder)
    return found


def fits_pairs(root: Root, at: Path) -> bool:
    """A folder called ``images`` and one called ``masks``, or ``test-image`` and ``test-mask``, and the like."""
    return at.is_dir() and any(True for _ in _pairs(root))


def read_pairs(root: Root, at: Path) -> Iterator[Record]:
    """Every picture has a flaw: that is what these sets are. Masks by stem."""
    for images, masks, split in _pairs(root):
        yield from records(root, root.images(images), root.images(masks), category="", anomalous=True, split=split)


# ISBI2016_ISIC_Part1_Test_Data, ISBI2016_ISIC_Part1_Test_GroundTruth
def _isic(root: Root) -> Iterator[tuple[Path, Path, str]]:
    for truth in root.folders(root.path):
        prefix = truth.name.lower().removesuffix("groundtruth")
        if "isic" not in prefix or prefix == truth.name.lower():
            continue
        split = "train" if "train" in prefix else "valid" if "valid" in prefix else "test"
        images = root.find(root.path, f"{prefix}data", f"{prefix}input", split)
        if images is not None:
            yield images, truth, split


def fits_isic(root: Root, at: Path) -> bool:
    """``…ISIC…_GroundTruth`` beside ``…_Data``, or beside ``test``."""
    return at.is_dir() and any(True for _ in _isic(root))


def read_isic(root: Root, at: Path) -> Iterator[Record]:
    """Every picture has a lesion; its mask ends in ``_Segmentation``."""
    for images, truth, split in _isic(root):
        facts = {"category": "skin", "anomalous": True, "split": split}
        yield from records(root, root.images(images), root.images(truth), **facts)


# yes/, no/ or NORMAL/, COVID/, …
def _classes(root: Root) -> list[tuple[Path, list[Path]]]:
    yes, no = root.find(root.path, "yes"), root.find(root.path, "no")
    found = [yes, no] if yes and no else _inner(root, root.path)
    root.left += [folder for folder in _inner(root, root.path) if folder not in found]  # yes and no have a third: pred
    return [(folder, root.images(folder) or root.images(root.find(folder, "images") or folder)) for folder in found]


def fits_classes(root: Root, at: Path) -> bool:
    """At least two folders of pictures, one of them with a name in ``NORMAL``."""
    if not at.is_dir() or not any(is_normal(folder.name) for folder in root.folders(root.path)):
        return False
    classes = [folder for folder, images in _classes(root) if images]
    return len(classes) > 1 and any(is_normal(folder.name) for folder in classes)


def read_classes(root: Root, at: Path) -> Iterator[Record]:
    """One family for each folder; masks beside the pictures, or in a folder of masks beside the families.

    ``masks`` beside ``images`` are not read: in COVID-19 they outline the lungs.
    """
    truth = truth_of(root, root.path)
    families = []
    for folder, images in _classes(root):
        inside = [] if images and images[0].parent != folder else root.folders(folder)
        root.left += [place for place in root.folders(folder) if place not in inside and place != images[0].parent]
        refuse_below(root, folder, inside)
        families.append(Family(folder, images, not is_normal(folder.name), "test", truth))
    yield from told(root, families, "")


# pictures
def fits_images(root: Root, at: Path) -> bool:
    """Pictures right in the folder, or one picture."""
    return bool(root.images(at)) if at.is_dir() else at.suffix.lower() in SUFFIXES


def read_images(root: Root, at: Path) -> Iterator[Record]:
    """Of a folder, the pictures in it; where it has none, all in the folders below. Nobody says what they are.

    Masks are no pictures: neither ``a_mask.png`` beside ``a.png``, nor what is in folders of masks beside others.
    """
    if at.is_file():
        yield from records(root, [at], [], category="", anomalous=None)
        return
    for inside in contents(root, at):
        yield from records(root, inside.images, inside.masks, category="", anomalous=None)
        if root.images(at):
            break
