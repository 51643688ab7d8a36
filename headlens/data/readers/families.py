"""Images in one folder for each family, and their masks: in folders of masks, or right beside them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from headlens.data.mask_sources import MaskSource, files_of, united
from headlens.data.readers.contents import is_truth, masks_among
from headlens.data.readers.labelme import defects, labelme_file, outlines
from headlens.data.readers.tree import Root, pair, stem
from headlens.data.samples import Record
from headlens.errors import DataError


@dataclass(frozen=True)
class Family:
    """A folder of images, some of which can be masks of others.

    Args:
        folder: its name is that of the anomaly.
        files: all images in it.
        anomalous, split: of its images; see ``Record``.
        truth: the folder of masks that it shares with others, if there is one.
    """

    folder: Path
    files: Sequence[Path]
    anomalous: bool
    split: str
    truth: Path | None

    @cached_property
    def masks(self) -> list[Path]:
        """Those of the files that are called as masks of others; see ``masks_among``."""
        return masks_among(self.files)

    @cached_property
    def images(self) -> list[Path]:
        """The others."""
        masks = {*self.masks}
        return [path for path in self.files if path not in masks]


def truth_of(root: Root, *at: Path) -> Path | None:
    """The only folder of masks in one of these folders.

    Raises:
        DataError: there are several with images in them.
    """
    truths = [folder for outer in at for folder in root.folders(outer) if is_truth(folder)]
    filled = [folder for folder in truths if any(root.below(folder))]
    if len(filled) > 1:
        raise DataError(f"{' and '.join(map(str, filled))} both hold masks; move those that are not meant elsewhere")
    return filled[0] if filled else None


def refuse_below(root: Root, family: Path, folders: Sequence[Path]) -> None:
    """Refuses images in folders of a family, which may not belong to it."""
    for folder in folders:
        if any(root.below(folder)):
            root.left.append(folder)
            what = f"images in a folder of the family {family.name!r} are not read"
            root.refuse(DataError(f"{folder}: {what}; move them out"))


def of_families(root: Root, families: Sequence[Family], category: str) -> Iterator[Record]:
    """One record for each image.

    Its mask lies next to it (``003.png``, ``003_mask.png``), in the folder of the shared masks that is called as the
    family, or among the shared masks themselves. Those are tried for anomalous images first, as normal ones of the
    same names need none; a mask that could be that of several images is that of none. A folder called as an image is
    one mask in parts, as in MVTec LOCO.
    """
    mask_of: dict[Path, Path | MaskSource] = {}
    masks: dict[Path, list[Path]] = {}
    parts: dict[Path, list[Path]] = {}
    sharing: dict[Path, list[Family]] = defaultdict(list)
    for family in families:
        masks[family.folder] = family.masks
        mask_of |= _paired(family.images, family.masks)
        if family.truth:
            inner = root.folders(family.truth)
            parts |= {part: root.images(part) for folder in inner for part in root.folders(folder)}
            masks[family.truth] = root.images(family.truth)
            for folder in inner:
                masks[folder] = [*root.images(folder), *(part for part in root.folders(folder) if parts[part])]
            if family.anomalous or family.split != "train":
                sharing[root.find(family.truth, family.folder.name.lower()) or family.truth].append(family)
    for folder, group in sharing.items():
        waiting = [(path, family.anomalous) for family in group for path in family.images if path not in mask_of]
        images = [path for path, anomalous in waiting if anomalous]
        mask_of |= _paired(images, masks[folder])
        names = {path.stem.casefold() for path in images}
        others = [mask for mask in masks[folder] if names.isdisjoint([mask.stem.casefold(), stem(mask).casefold()])]
        mask_of |= _paired([path for path, anomalous in waiting if not anomalous], others)
    for family in families:
        mask_of |= _drawn(root, [path for path in family.images if family.anomalous and path not in mask_of])
    taken = {file for mask in mask_of.values() for file in files_of(mask)}
    root.unpaired += [mask for group in masks.values() for mask in group if mask not in taken]
    for family in families:
        name = family.folder.name if family.anomalous else "good"
        for path in family.images:
            mask = mask_of.get(path)
            if isinstance(mask, Path) and mask in parts:
                mask = united(parts[mask])
            yield Record(root.name(path), category, family.anomalous, name, family.split, path, mask)


def _drawn(root: Root, images: Sequence[Path]) -> dict[Path, Path | MaskSource]:
    """What is drawn in the files of labelme next to some of these images."""
    masks: dict[Path, Path | MaskSource] = {}
    for image in images:
        try:
            path = root.beside(image, ".json")
            if path and (content := labelme_file(path)) and defects(content):
                masks[image] = outlines(path, image, content)
        except DataError as error:
            root.refuse(error)
    return masks


def _paired(images: Sequence[Path], masks: Sequence[Path]) -> dict[Path, Path | MaskSource]:
    return {image: mask for image, mask in zip(images, pair(images, masks), strict=True) if mask is not None}
