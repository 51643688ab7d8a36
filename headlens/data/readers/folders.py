"""Layouts that are told by folders alone: what a picture is stands in the names of the folders it is in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from headlens.data.images import SUFFIXES
from headlens.data.readers.known import known
from headlens.data.readers.tree import NORMAL, Root, records
from headlens.data.samples import Record

SPLITS = {
    "train": ("train", "training", "trainval"),
    "test": ("test", "testing"),
    "valid": ("valid", "validation", "val"),
}
"""Names of folders and words in listings, in lower case, that stand for a split."""

_TRUTH = ("ground_truth", "groundtruth", "ground truth", "gt", "masks", "mask")
_SPLIT = "|".join(word for words in SPLITS.values() for word in words)
_PICTURES = re.compile(rf"(?i)(?:({_SPLIT})[-_ ]?)?(?:images?|imgs?|originals?|frames?)")
_MASKS = re.compile(rf"(?i)(?:({_SPLIT})[-_ ]?)?(?:masks?|labels?|gts?|ground[-_ ]?truths?|annotations?)")


def split_of(word: str | None) -> str | None:
    """The split that a word stands for; None if it stands for none.

    >>> split_of("Training"), split_of("val"), split_of("bottle")
    ('train', 'valid', None)
    """
    return next((split for split, words in SPLITS.items() if word and word.lower() in words), None)


def _splits(root: Root, at: Path) -> list[tuple[str, Path]]:
    return [(split, folder) for split, words in SPLITS.items() if (folder := root.find(at, *words))]


def _family(folder: Path) -> tuple[str, bool]:
    normal = folder.name.lower() in NORMAL
    return ("good" if normal else folder.name), not normal


# category/{train,test}/family, category/ground_truth/family
def _mvtec_categories(root: Root) -> list[Path]:
    def fits(folder: Path) -> bool:
        test = root.find(folder, *SPLITS["test"])
        return test is not None and any(root.images(family) for family in root.folders(test))

    return [root.path] if fits(root.path) else [folder for folder in root.folders(root.path) if fits(folder)]


def fits_mvtec(root: Root, at: Path) -> bool:
    """Some folder, or this one, has ``test/<family>/`` with pictures in it."""
    return at.is_dir() and bool(_mvtec_categories(root))


def read_mvtec(root: Root, at: Path) -> Iterator[Record]:
    """Normal is any family in ``NORMAL``; masks in ``ground_truth/<family>``, or in ``ground_truth`` itself."""
    for category in _mvtec_categories(root):
        truth = root.find(category, *_TRUTH)
        for split, folder in _splits(root, category):
            loose = [(folder, "good", False)] if split == "train" else []  # training pictures need no family
            for place, family, anomalous in [*loose, *((f, *_family(f)) for f in root.folders(folder))]:
                own = truth and root.find(truth, place.name.lower())
                masks = root.images(own) if own else root.images(truth) if truth and anomalous else []
                told = {"category": category.name, "anomalous": anomalous, "family": family, "split": split}
                for record in records(root, root.images(place), masks, **told):
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
    for folder in _bmad_sets(root):
        category = known([folder.name])[1] or folder.name
        for split, part in _splits(root, folder):
            for anomalous, kind in ((False, root.find(part, "good")), (True, root.find(part, "ungood"))):
                if kind is None:
                    continue
                images, masks = root.find(kind, "img", "images"), root.find(kind, "label", "anomaly_mask")
                told = {"category": category, "anomalous": anomalous, "split": split}
                told["family"] = kind.name if anomalous else "good"
                yield from records(root, root.images(images or kind), root.images(masks) if masks else [], **told)


# images/, masks/
def _pairs(root: Root) -> Iterator[tuple[Path, Path, str]]:
    for split, at in [("test", root.path), *_splits(root, root.path)]:
        masks = {m[1]: folder for folder in root.folders(at) if (m := _MASKS.fullmatch(folder.name))}
        for folder in root.folders(at):
            match = _PICTURES.fullmatch(folder.name)
            if match and match[1] in masks:
                yield folder, masks[match[1]], split_of(match[1]) or split


def fits_pairs(root: Root, at: Path) -> bool:
    """A folder called ``images`` and one called ``masks``, or ``test-image`` and ``test-mask``, and the like."""
    return at.is_dir() and any(True for _ in _pairs(root))


def read_pairs(root: Root, at: Path) -> Iterator[Record]:
    """Every picture has a flaw: that is what these sets are. Masks by stem."""
    for images, masks, split in _pairs(root):
        told = {"category": "", "anomalous": True, "split": split}
        yield from records(root, root.images(images), root.images(masks), **told)


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
        told = {"category": "skin", "anomalous": True, "split": split}
        yield from records(root, root.images(images), root.images(truth), **told)


# yes/, no/ or NORMAL/, COVID/, …
def _classes(root: Root) -> list[tuple[Path, list[Path]]]:
    yes, no = root.find(root.path, "yes"), root.find(root.path, "no")
    found = [yes, no] if yes and no else root.folders(root.path)  # yes and no have a nameless third: pred
    pictures = [(folder, root.images(folder) or root.images(root.find(folder, "images") or folder)) for folder in found]
    return [(folder, images) for folder, images in pictures if images]


def fits_classes(root: Root, at: Path) -> bool:
    """At least two folders of pictures, one of them with a name in ``NORMAL``."""
    if not at.is_dir() or not any(folder.name.lower() in NORMAL for folder in root.folders(root.path)):
        return False
    classes = _classes(root)
    return len(classes) > 1 and any(not _family(folder)[1] for folder, _ in classes)


def read_classes(root: Root, at: Path) -> Iterator[Record]:
    """One family for each folder. ``masks`` beside ``images`` are not read: in COVID-19 they outline the lungs."""
    for folder, images in _classes(root):
        family, anomalous = _family(folder)
        yield from records(root, images, [], category="", anomalous=anomalous, family=family)


# pictures
def fits_images(root: Root, at: Path) -> bool:
    """Pictures right in the folder, or one picture."""
    return bool(root.images(at)) if at.is_dir() else at.suffix.lower() in SUFFIXES


def read_images(root: Root, at: Path) -> Iterator[Record]:
    """Of a folder, the pictures in it; where it has none, all in the folders below. Nobody says what they are."""
    images = [at] if at.is_file() else root.images(at) or list(_below(root, at, set()))
    yield from records(root, images, [], category="", anomalous=None)


def _below(root: Root, at: Path, seen: set[str]) -> Iterator[Path]:
    """Links can lead in circles."""
    real = os.path.realpath(at)
    if real not in seen:
        seen.add(real)
        yield from root.images(at)
        for folder in root.folders(at):
            yield from _below(root, folder, seen)
