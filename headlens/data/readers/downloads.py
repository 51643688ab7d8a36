"""Public data sets as they are downloaded, where folders alone do not tell: DAGM, KolektorSDD, HeadCT, ELPV, …."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from torch import Tensor

from headlens.data.mask_sources import read_marked
from headlens.data.readers.contents import magnetic_masks
from headlens.data.readers.layout import layout
from headlens.data.readers.paths import Paths
from headlens.data.readers.tables import columns, table, text
from headlens.data.readers.tree import Root, needed, records, split_of
from headlens.data.samples import Record
from headlens.errors import DataError


def _judged(record: Record, anomalous: bool) -> Record:
    return replace(record, anomalous=anomalous, family="defect" if anomalous else "good")


# ClassN/{Train,Test}/*.PNG, ClassN/{Train,Test}/Label/*_label.PNG
def _dagm_folders(root: Root) -> Iterator[tuple[str, Path, Path | None, str]]:
    """Category, images, labels, split. The archive of each class has the class's folder in it once more."""
    here = list(_dagm_class(root, root.path))
    yield from here or (row for folder in root.folders(root.path) for row in _dagm_class(root, folder))


def _dagm_class(root: Root, outer: Path) -> Iterator[tuple[str, Path, Path | None, str]]:
    for category in [outer, root.find(outer, outer.name.lower())]:
        for folder in root.folders(category) if category else []:
            split = split_of(folder.name)
            if split and root.images(folder):
                yield outer.name, folder, root.find(folder, "label"), split


def _has_labels(root: Root, at: Path) -> bool:
    return any(labels for _, _, labels, _ in _dagm_folders(root))


@layout("dagm", "DAGM from Kaggle: Train and Test with Label inside", _has_labels, "industrial")
def dagm(root: Root, at: Path) -> Iterator[Record]:
    """An image is anomalous if it has a label, or if ``Labels.txt`` says so; without either it has no label."""
    for category, folder, labels, split in _dagm_folders(root):
        listing = root.find_file(labels, "labels.txt") if labels else None
        masks = root.images(labels) if labels else []
        if listing is None and not masks:
            root.refuse(DataError(f"{folder}: neither Label/Labels.txt nor Label/*_label.PNG; copy them in again"))
            continue
        fields = [line.split() for line in text(listing, lenient=True).splitlines()] if listing else []
        listed = {Path(line[2]).stem for line in fields if len(line) > 2 and line[1] == "1"}  # number, label, image, …
        for record in records(root, root.images(folder), masks, category=category, anomalous=None, split=split):
            yield _judged(record, record.mask is not None or record.name.rpartition("/")[2] in listed)


# KolektorSDD: kosNN/PartK.jpg, kosNN/PartK_label.bmp; KolektorSDD2: {train,test}/NNNNN.png, {train,test}/NNNNN_GT.png
def _called(root: Root, folder: Path, pattern: str) -> list[Path]:
    """Images in a folder whose names without suffix fit that of the pattern, in any case."""
    return [path for path in root.images(folder) if fnmatch(path.stem.lower(), Path(pattern).stem.lower())]


def _commutators(root: Root, folder: Path, pattern: str, split: str = "test") -> Iterator[tuple[Record, Tensor]]:
    """Images in a folder, and what is marked in the masks called by ``pattern`` in the same, [H, W] bool.

    Only masks say what is normal: an image without one, or with one that cannot be read, is refused.
    """
    masks = _called(root, folder, pattern)
    images = [path for path in root.images(folder) if path not in {*masks}]
    for record in records(root, images, masks, category="electrical commutators", anomalous=None, split=split):
        try:
            if record.mask is None:
                raise DataError(f"{record.image}: has no mask in its folder ({pattern}); copy it in")
            yield record, read_marked(record.mask, (1, 1), root.max_pixels)
        except DataError as error:
            root.refuse(error)


def _kos_folders(root: Root, at: Path) -> list[Path]:
    folders = [folder for folder in root.folders(root.path) if re.fullmatch(r"(?i)kos\d+", folder.name)]
    return [folder for folder in folders if _called(root, folder, "*_label.bmp")]


@layout("ksdd", "KolektorSDD: kosNN/PartK, each cut in three", _kos_folders, "industrial")
def ksdd(root: Root, at: Path) -> Iterator[Record]:
    """Each image is three, cut along its height; a part is anomalous where its label is. All are ``test``."""
    for folder in _kos_folders(root, at):
        for whole, label in _commutators(root, folder, "*_label.bmp"):
            height, width = label.shape
            for part in range(3):
                top, bottom = (height * k // 3 for k in (part, part + 1))
                cut = replace(whole, name=f"{whole.name}_{part}", crop=(0, top, width, bottom))
                yield _judged(cut, bool(label[top:bottom].any()))


def _gt_folders(root: Root, at: Path) -> list[tuple[str, Path]]:
    splits = [(split, folder) for folder in root.folders(root.path) if (split := split_of(folder.name))]
    return [(split, folder) for split, folder in splits if _called(root, folder, "*_GT.png")]


@layout("ksdd2", "KolektorSDD2: {train,test}/NNNNN and NNNNN_GT", _gt_folders, "industrial")
def ksdd2(root: Root, at: Path) -> Iterator[Record]:
    """An image is anomalous where something is marked in its ``*_GT``, which is read for that."""
    for split, folder in _gt_folders(root, at):
        for record, marked in _commutators(root, folder, "*_GT.png", split):
            yield _judged(record, bool(marked.any()))


# head_ct/NNN.png, labels.csv
def _hemorrhages(root: Root, at: Path) -> Path | None:
    listing = root.find_file(root.path, "labels.csv")
    return listing if listing and columns(listing)[:2] == ["id", "hemorrhage"] else None


@layout("headct", "HeadCT: labels.csv with id and hemorrhage", _hemorrhages, "medical")
def headct(root: Root, at: Path) -> Iterator[Record]:
    """The number in the table is the name of the image, which has zeros in front."""
    listing = needed(_hemorrhages(root, at), f"{at}: has no labels.csv with the columns id and hemorrhage")
    images = [image for image in root.below(root.path) if image.stem.isdecimal()]
    numbered = defaultdict(list)  # other folders, of overlays for instance, count only where there is no head_ct
    for image in [image for image in images if image.parent.name.lower() == "head_ct"] or images:
        numbered[image.stem.lstrip("0")].append(image)
    usual = root.find(root.path, "head_ct") or root.path
    for place, row in table(listing, root.refuse)[1]:
        number, label = (cell.strip() for cell in [*row.values(), "", ""][:2])
        if not number.isdecimal() or label not in ("0", "1"):
            shown = ",".join(row.values())[:60]
            root.refuse(DataError(f"{listing}: {place} is {shown!r}, not a number and 0 or 1"))
            continue
        # a missing image is reported when it is read
        image, *others = numbered[number.lstrip("0")] or [usual / f"{number:0>3}.png"]
        if others:
            names = " and ".join(map(str, [image, *others]))
            root.refuse(DataError(f"{listing}: {place} can be {names}; leave only one of them in {root.path}"))
            continue
        anomalous = label == "1"
        yield Record(root.name(image), "brain", anomalous, "hemorrhage" if anomalous else "good", "test", image)


# MT_<Flaw>/Imgs/*.jpg, and a mask of the same name as png next to each
def _magnetic_folders(root: Root, at: Path) -> list[tuple[Path, Path]]:
    defects = [folder for folder in [root.path, *root.folders(root.path)] if re.match(r"(?i)mt_[a-z]", folder.name)]
    inner = [(defect, root.find(defect, "imgs")) for defect in defects]
    return [(defect, folder) for defect, folder in inner if folder and root.images(folder)]


@layout("magnetic-tile", "magnetic tile: MT_<Flaw>/Imgs with jpg and png", _magnetic_folders, "industrial")
def magnetic_tile(root: Root, at: Path) -> Iterator[Record]:
    """The jpg is the image, the png its mask; ``MT_Free`` is normal."""
    for defect, folder in _magnetic_folders(root, at):
        masks = magnetic_masks(root, folder)
        images = [path for path in root.images(folder) if path not in {*masks}]
        kind = defect.name[3:].lower()
        anomalous, family = kind != "free", "good" if kind == "free" else kind
        yield from records(root, images, masks, category="magnetic tile", anomalous=anomalous, family=family)


# image/001.jpg, groundTruth/001.mat
def _crackforest_files(root: Root) -> tuple[list[Path], list[Path]]:
    images, truth = root.find(root.path, "image", "images"), root.find(root.path, "groundtruth")
    return (root.images(images), root.files(truth, ".mat")) if images and truth else ([], [])


@layout(
    "crackforest",
    "CrackForest: image/ and groundTruth/*.mat",
    lambda root, at: all(_crackforest_files(root)),
    "industrial",
)
def crackforest(root: Root, at: Path) -> Iterator[Record]:
    """An image with a mask has a crack; the others, of which there are 38, have no label."""
    images, masks = _crackforest_files(root)
    for record in records(root, images, masks, category="pavement", anomalous=None):
        yield record if record.mask is None else replace(record, anomalous=True, family="crack")


# images/cell0001.png  0.3333333333333333  mono; in src/elpv_dataset/data since the repository is a package
_ELPV = re.compile(r"(\S+)[\s,;]+([01](?:\.\d+)?)[\s,;]+(mono|poly)")


def _elpv_listing(root: Root, at: Path) -> Path | None:
    if not at.is_dir():
        return at if at.name.lower() == "labels.csv" else None
    packed: Path | None = at
    for name in ("src", "elpv_dataset", "data"):
        packed = root.find(packed, name) if packed else None
    return root.find_file(at, "labels.csv") or (root.find_file(packed, "labels.csv") if packed else None)


def _is_elpv(root: Root, at: Path) -> bool:
    """A ``labels.csv`` without a header, whose lines are an image, a probability and ``mono`` or ``poly``."""
    listing = _elpv_listing(root, at)
    head = text(listing, lenient=True).strip().partition("\n")[0] if listing else ""
    return _ELPV.fullmatch(head.strip()) is not None


@layout("elpv", "ELPV: labels.csv of images, probabilities, mono or poly", _is_elpv, "industrial", listing=True)
def elpv(root: Root, at: Path) -> Iterator[Record]:
    """More likely defective than not (2/3 and 1) is anomalous, as published; families tell who is sure."""
    listing = needed(_elpv_listing(root, at), f"{at}: has no labels.csv")
    rows = [(number, line.strip()) for number, line in enumerate(text(listing).splitlines(), 1) if line.strip()]
    matches = [(number, line, _ELPV.fullmatch(line)) for number, line in rows]
    paths = Paths(root.within(listing.parent) if at.is_dir() else root, (match[1] for *_, match in matches if match))
    for number, line, match in matches:
        try:
            if match is None or float(match[2]) > 1:
                raise DataError(f"{line[:60]!r} is not an image, a probability and mono or poly")
            image = paths.file(match[1])
        except DataError as error:
            root.refuse(DataError(f"{listing}: line {number}: {error}"))
            continue
        probability = float(match[2])
        anomalous = probability > 0.5
        sure = {0.0: "good", 1.0: "defective"}
        family = sure.get(probability, "probably defective" if anomalous else "probably good")
        category = f"{match[3]}crystalline solar cell"
        yield Record(paths.root.name(image), category, anomalous, family, "test", image)
