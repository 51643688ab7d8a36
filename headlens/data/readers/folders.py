"""Layouts that are told by folders alone: what an image shows stands in the names of the folders it is in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from headlens.data.images import SUFFIXES
from headlens.data.readers.contents import IMAGE_FOLDER, MASK_FOLDER, contents, is_truth
from headlens.data.readers.families import Family, of_families, refuse_below, truth_of
from headlens.data.readers.known import known
from headlens.data.readers.layout import layout
from headlens.data.readers.tree import SPLITS, Root, is_normal, records, split_of
from headlens.data.samples import Record
from headlens.errors import DataError


def _splits(root: Root, at: Path) -> list[tuple[str, Path]]:
    return [(split, folder) for split, words in SPLITS.items() if (folder := root.find(at, *words))]


def _here_or_below(root: Root, fits: Callable[[Path], bool]) -> list[Path]:
    """The root, or else the folders in it, that fit."""
    return [root.path] if fits(root.path) else [folder for folder in root.folders(root.path) if fits(folder)]


def _inner(root: Root, at: Path) -> list[Path]:
    return [folder for folder in root.folders(at) if not is_truth(folder)]


# category/{train,test}/family, category/ground_truth/family
def _mvtec_categories(root: Root, at: Path) -> list[Path]:
    def fits(folder: Path) -> bool:
        test = root.find(folder, *SPLITS["test"])
        return test is not None and any(root.images(family) for family in _inner(root, test))

    return _here_or_below(root, fits)


@layout("mvtec", "MVTec AD: {train,test}/family and ground_truth", _mvtec_categories)
def mvtec(root: Root, at: Path) -> Iterator[Record]:
    """Normal is any family in ``NORMAL``; masks in a folder called ``ground_truth``, ``masks``, … or one inside of it.

    That folder lies next to the splits or, as others prepare it, next to the families of a split.
    """
    for category in _mvtec_categories(root, at):
        families = []
        for split, folder in _splits(root, category):
            truth = truth_of(root, category, folder)
            if split == "train":  # training images need no family
                families.append(Family(folder, root.images(folder), False, split, truth))
            for place in _inner(root, folder):
                refuse_below(root, place, root.folders(place))
                families.append(Family(place, root.images(place), not is_normal(place.name), split, truth))
        for record in of_families(root, families, category.name):
            # the same name whether the set or one category of it was opened
            yield replace(record, name=f"{category.name}/{record.name}") if category == root.path else record


# {train,valid,test}/{good,Ungood}/{img,label}
def _bmad_sets(root: Root, at: Path) -> list[Path]:
    return _here_or_below(root, lambda at: any(root.find(split, "ungood") for _, split in _splits(root, at)))


@layout("bmad", "BMAD: {train,valid,test}/{good,Ungood}", _bmad_sets)
def bmad(root: Root, at: Path) -> Iterator[Record]:
    """Images in ``img`` or right in the folder, masks in ``label`` or ``anomaly_mask`` where the set has any."""
    sets = _bmad_sets(root, at)
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
def _pairs(root: Root, at: Path) -> list[tuple[Path, Path, str]]:
    """Folders ``images`` and ``masks``, or ``test-image`` and ``test-mask``, and the like, and the split of each."""
    pairs = []
    for split, outer in [("test", root.path), *_splits(root, root.path)]:
        folders = [folder for folder in root.folders(outer) if root.images(folder)]  # also labels/ of text is about
        for word, images in _by_word(IMAGE_FOLDER, folders).items():
            masks = _by_word(MASK_FOLDER, folders).get(word, [])
            for several in (images, masks) if images and masks else ():
                if len(several) > 1:
                    names = f"{outer}: " + " and ".join(folder.name for folder in several)
                    raise DataError(f"{names} could both be images/ and masks/; move the others elsewhere")
            if masks:
                pairs.append((images[0], masks[0], split_of(word) or split))
    return pairs


def _by_word(pattern: re.Pattern[str], folders: list[Path]) -> dict[str, list[Path]]:
    """Folders whose names fit, by the split in front of them."""
    by_word: dict[str, list[Path]] = {}
    for folder in folders:
        if match := pattern.fullmatch(folder.name):
            by_word.setdefault((match[1] or "").lower(), []).append(folder)
    return by_word


@layout("pairs", "images/ and masks/, matched by name", _pairs)
def pairs(root: Root, at: Path) -> Iterator[Record]:
    """Every image is anomalous: that is what these sets are. Masks by stem."""
    for images, masks, split in _pairs(root, at):
        yield from records(root, root.images(images), root.images(masks), category="", anomalous=True, split=split)


# ISBI2016_ISIC_Part1_Test_Data, ISBI2016_ISIC_Part1_Test_GroundTruth
def _isic_folders(root: Root, at: Path) -> list[tuple[Path, Path, str]]:
    """``…ISIC…_GroundTruth``, and ``…_Data`` or ``test`` next to it."""
    pairs = []
    for truth in root.folders(root.path):
        prefix = truth.name.lower().removesuffix("groundtruth")
        if "isic" in prefix and prefix != truth.name.lower():
            split = "train" if "train" in prefix else "valid" if "valid" in prefix else "test"
            if images := root.find(root.path, f"{prefix}data", f"{prefix}input", split):
                pairs.append((images, truth, split))
    return pairs


@layout("isic", "ISIC: …_Data and …_GroundTruth", _isic_folders, "medical")
def isic(root: Root, at: Path) -> Iterator[Record]:
    """Every image has a lesion; its mask ends in ``_Segmentation``."""
    for images, truth, split in _isic_folders(root, at):
        yield from records(root, root.images(images), root.images(truth), category="skin", anomalous=True, split=split)


# yes/, no/ or NORMAL/, COVID/, …
def _classes(root: Root) -> list[tuple[Path, list[Path]]]:
    yes, no = root.find(root.path, "yes"), root.find(root.path, "no")
    classes = [yes, no] if yes and no else _inner(root, root.path)
    root.left += [folder for folder in _inner(root, root.path) if folder not in classes]  # there is a third, pred
    return [(folder, root.images(folder) or root.images(root.find(folder, "images") or folder)) for folder in classes]


def _has_classes(root: Root, at: Path) -> bool:
    """At least two folders of images, one of them with a name in ``NORMAL``."""
    if not any(is_normal(folder.name) for folder in root.folders(root.path)):
        return False
    classes = [folder for folder, images in _classes(root) if images]
    return len(classes) > 1 and any(is_normal(folder.name) for folder in classes)


@layout("classes", "yes/ and no/, or NORMAL/ and others", _has_classes)
def classes(root: Root, at: Path) -> Iterator[Record]:
    """One family for each folder; masks next to the images, or in a folder of masks next to the families.

    ``masks`` next to ``images`` are not read: in COVID-19 they outline the lungs.
    """
    truth = truth_of(root, root.path)
    families = []
    for folder, images in _classes(root):
        inside = [] if images and images[0].parent != folder else root.folders(folder)
        root.left += [place for place in root.folders(folder) if place not in inside and place != images[0].parent]
        refuse_below(root, folder, inside)
        families.append(Family(folder, images, not is_normal(folder.name), "test", truth))
    yield from of_families(root, families, "")


def _any_images(root: Root, at: Path) -> bool:
    return bool(root.images(at)) if at.is_dir() else at.suffix.lower() in SUFFIXES


@layout("images", "images without labels", _any_images, files=True)
def images(root: Root, at: Path) -> Iterator[Record]:
    """Of a folder, the images in it; where it has none, all in the folders below. None has a label.

    Masks are no images: neither ``a_mask.png`` next to ``a.png``, nor what is in folders of masks next to others.
    """
    if at.is_file():
        yield from records(root, [at], [], category="", anomalous=None)
        return
    for inside in contents(root, at):
        yield from records(root, inside.images, inside.masks, category="", anomalous=None)
        if root.images(at):
            break
