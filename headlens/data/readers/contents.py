"""What a folder of images holds: images, and masks, in folders called so or next to their images."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from headlens.data.readers.tree import SPLITS, Root, stem

_TRUTH = ("ground_truth", "groundtruth", "ground truth", "ground-truth", "gt", "masks", "mask")
_SPLIT = "|".join(word for words in SPLITS.values() for word in words)
IMAGE_FOLDER = re.compile(rf"(?i)(?:({_SPLIT})[-_ ]?)?(?:images?|imgs?|originals?|frames?)")
MASK_FOLDER = re.compile(rf"(?i)(?:({_SPLIT})[-_ ]?)?(?:masks?|labels?|gts?|ground[-_ ]?truths?|annotations?)")
_LABELS = re.compile(r"(?i)(labels?|anno(tation)?s?)$")


@dataclass(frozen=True)
class Contents:
    """One folder: images and masks right in it, and folders in it that hold masks of its images, or of its folders'."""

    folder: Path
    images: list[Path]
    masks: list[Path]
    mask_folders: list[Path]


def contents(root: Root, at: Path) -> Iterator[Contents]:
    """What ``at`` and the folders below it hold, by name, without folders of masks."""
    folders_of_masks = cache(partial(mask_folders, root))
    for folder in root.walk(at, folders_of_masks):
        masks = _masks_in(root, folder)
        images = [path for path in root.images(folder) if path not in masks]
        yield Contents(folder, images, sorted(masks), folders_of_masks(folder))


def is_mask(root: Root, path: Path) -> bool:
    """Whether ``path``, an image file or a folder below the root, is a mask, or one of masks, in ``contents`` of it."""
    way = [at for at in (path, *path.parents) if at != root.path and at.is_relative_to(root.path)]
    return path in _masks_in(root, path.parent) or any(at in mask_folders(root, at.parent) for at in way)


def _masks_in(root: Root, folder: Path) -> set[Path]:
    return {*masks_among(root.images(folder)), *magnetic_masks(root, folder)}


def masks_among(files: Sequence[Path]) -> list[Path]:
    """Those that are called as masks of others: ``a_mask.png`` where there is ``a.png``."""
    stems = {path.stem for path in files}
    return [path for path in files if stem(path) != path.stem and stem(path) in stems]


def is_truth(folder: Path) -> bool:
    """Whether it is called as folders of masks are: what is in it shows no anomaly, but where one is."""
    return folder.name.lower() in _TRUTH


def mask_folders(root: Root, at: Path) -> list[Path]:
    """Folders in ``at`` that are called as folders of masks are, where there are images for them to be about.

    ``label`` can also be what images show: such a folder holds masks only beside images, or a folder called so.
    """
    folders = root.folders(at)
    named = [one for one in folders if is_truth(one) or MASK_FOLDER.fullmatch(one.name) or stem(one) != one.stem]
    others = [folder for folder in folders if folder not in named]
    if not named or root.images(at) or any(IMAGE_FOLDER.fullmatch(folder.name) for folder in others):
        return named
    about_others = any(image for folder in others for image in root.below(folder))
    return [folder for folder in named if about_others and not _LABELS.search(folder.name)]


def magnetic_masks(root: Root, at: Path) -> list[Path]:
    """The masks in a folder ``MT_<Flaw>/Imgs``; none in any other."""
    here = at.absolute()
    if here.name.lower() != "imgs" or not re.match(r"(?i)mt_[a-z]", here.parent.name):
        return []
    return [path for path in root.images(at) if path.suffix.lower() not in (".jpg", ".jpeg")]
