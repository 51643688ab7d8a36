"""Public data sets as they are downloaded, where folders alone do not tell: DAGM, KolektorSDD, HeadCT, ELPV, …."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from headlens.data.mask_sources import read_marked
from headlens.data.readers.contents import magnetic_masks
from headlens.data.readers.paths import Paths
from headlens.data.readers.splits import split_of
from headlens.data.readers.tables import columns, table, text
from headlens.data.readers.tree import Root, records
from headlens.data.samples import Record
from headlens.errors import DataError

_PARTS = 3  # of a picture of KolektorSDD, along its height


def _judged(record: Record, flaw: bool) -> Record:
    return replace(record, anomalous=flaw, family="defect" if flaw else "good")


def _marks(root: Root, record: Record, called: str) -> Tensor | None:
    """What is marked in the mask in the image's folder, [H, W] bool; None where it is refused, missing or damaged."""
    if record.mask is None:
        root.refuse(DataError(f"{record.image}: has no mask in its folder ({called}); copy it in"))
        return None
    try:
        return read_marked(record.mask, (1, 1), root.max_pixels)
    except DataError as error:
        root.refuse(error)
        return None


# ClassN/{Train,Test}/*.PNG, ClassN/{Train,Test}/Label/*_label.PNG
def _dagm(root: Root) -> Iterator[tuple[str, Path, Path | None, str]]:
    """Category, pictures, labels, split. The archive of each class has the class's folder in it once more."""
    own = list(_dagm_class(root, root.path))
    yield from own or (row for folder in root.folders(root.path) for row in _dagm_class(root, folder))


def _dagm_class(root: Root, outer: Path) -> Iterator[tuple[str, Path, Path | None, str]]:
    for category in [outer, root.find(outer, outer.name.lower())]:
        for folder in root.folders(category) if category else []:
            split = split_of(folder.name)
            if split and root.images(folder):
                yield outer.name, folder, root.find(folder, "label"), split


def fits_dagm(root: Root, at: Path) -> bool:
    """Some class has ``Train`` or ``Test`` with pictures and a folder ``Label`` in it."""
    return at.is_dir() and any(labels for _, _, labels, _ in _dagm(root))


def read_dagm(root: Root, at: Path) -> Iterator[Record]:
    """A picture is anomalous if it has a label, or if ``Labels.txt`` says so; without either, nobody knows."""
    for category, folder, labels, split in _dagm(root):
        listing = root.find_file(labels, "labels.txt") if labels else None
        masks = root.images(labels) if labels else []
        if listing is None and not masks:
            root.refuse(DataError(f"{folder}: neither Label/Labels.txt nor Label/*_label.PNG; copy them in again"))
            continue
        fields = [line.split() for line in text(listing, lenient=True).splitlines()] if listing else []
        told = {Path(line[2]).stem for line in fields if len(line) > 2 and line[1] == "1"}  # number, flaw, picture, …
        for record in records(root, root.images(folder), masks, category=category, anomalous=None, split=split):
            yield _judged(record, record.mask is not None or record.name.rpartition("/")[2] in told)


# kosNN/PartK.jpg, kosNN/PartK_label.bmp
def _ksdd(root: Root) -> list[Path]:
    folders = [folder for folder in root.folders(root.path) if re.fullmatch(r"(?i)kos\d+", folder.name)]
    return [folder for folder in folders if any(_is_label(path) for path in root.images(folder))]


def _is_label(path: Path) -> bool:
    return path.stem.lower().endswith("_label")


def fits_ksdd(root: Root, at: Path) -> bool:
    """Folders ``kosNN`` with pictures and ``*_label`` side by side."""
    return at.is_dir() and bool(_ksdd(root))


def read_ksdd(root: Root, at: Path) -> Iterator[Record]:
    """Each picture is three, cut along its height; a part is anomalous where its label is.

    This reads the labels: nothing else says which parts are normal. There is no official split; all are ``test``.
    """
    for folder in _ksdd(root):
        images = [path for path in root.images(folder) if not _is_label(path)]
        labels = [path for path in root.images(folder) if _is_label(path)]
        for whole in records(root, images, labels, category="electrical commutators", anomalous=None):
            label = _marks(root, whole, "*_label.bmp")
            if label is None:
                continue
            height, width = label.shape
            for part in range(_PARTS):
                top, bottom = (height * k // _PARTS for k in (part, part + 1))
                cut = replace(whole, name=f"{whole.name}_{part}", crop=(0, top, width, bottom))
                yield _judged(cut, bool(label[top:bottom].any()))


# {train,test}/NNNNN.png, {train,test}/NNNNN_GT.png
def _ksdd2(root: Root) -> list[tuple[str, Path]]:
    splits = [(split, folder) for folder in root.folders(root.path) if (split := split_of(folder.name))]
    return [(split, folder) for split, folder in splits if any(map(_is_truth, root.images(folder)))]


def _is_truth(path: Path) -> bool:
    return path.stem.lower().endswith("_gt")


def fits_ksdd2(root: Root, at: Path) -> bool:
    """Folders of splits with pictures and ``*_GT`` side by side."""
    return at.is_dir() and bool(_ksdd2(root))


def read_ksdd2(root: Root, at: Path) -> Iterator[Record]:
    """A picture is anomalous where something is marked in its ``*_GT``, which is read for that."""
    for split, folder in _ksdd2(root):
        images = [path for path in root.images(folder) if not _is_truth(path)]
        masks = [path for path in root.images(folder) if _is_truth(path)]
        for record in records(root, images, masks, category="electrical commutators", anomalous=None, split=split):
            marked = _marks(root, record, "*_GT.png")
            if marked is not None:
                yield _judged(record, bool(marked.any()))


# head_ct/NNN.png, labels.csv
def _headct(root: Root) -> Path | None:
    return root.find_file(root.path, "labels.csv")


def fits_headct(root: Root, at: Path) -> bool:
    """A ``labels.csv`` with the columns ``id`` and ``hemorrhage``."""
    listing = _headct(root) if at.is_dir() else None
    return listing is not None and columns(listing)[:2] == ["id", "hemorrhage"]


def read_headct(root: Root, at: Path) -> Iterator[Record]:
    """The number in the table is the name of the picture, which has zeros in front."""
    listing = _headct(root)
    if listing is None or not fits_headct(root, at):
        raise DataError(f"{at}: has no labels.csv with the columns id and hemorrhage")
    pictures = [image for image in root.below(root.path) if image.stem.isdecimal()]
    numbered = defaultdict(list)  # other folders, of overlays for instance, count only where there is no head_ct
    for image in [image for image in pictures if image.parent.name.lower() == "head_ct"] or pictures:
        numbered[_number(image.stem)].append(image)
    usual = root.find(root.path, "head_ct") or root.path
    for place, row in table(listing, root.refuse)[1]:
        number, flaw = (cell.strip() for cell in [*row.values(), "", ""][:2])
        if not number.isdecimal() or flaw not in ("0", "1"):
            shown = ",".join(row.values())[:60]
            root.refuse(DataError(f"{listing}: {place} is {shown!r}, not a number and 0 or 1"))
            continue
        images = numbered[_number(number)]
        if len(images) > 1:
            names = " and ".join(map(str, images))
            root.refuse(DataError(f"{listing}: {place} can be {names}; leave only one of them in {root.path}"))
            continue
        # a picture that is not there is missed when it is read
        image = images[0] if images else usual / f"{number:0>3}.png"
        anomalous = flaw == "1"
        yield Record(root.name(image), "brain", anomalous, "hemorrhage" if anomalous else "good", "test", image)


def _number(digits: str) -> str:
    return digits.lstrip("0")


# MT_<Flaw>/Imgs/*.jpg, and a mask of the same name as png beside each
def _magnetic(root: Root) -> list[tuple[Path, Path]]:
    """Folders of a flaw, and of its images and masks."""
    flaws = [folder for folder in [root.path, *root.folders(root.path)] if re.match(r"(?i)mt_[a-z]", folder.name)]
    inner = [(flaw, root.find(flaw, "imgs")) for flaw in flaws]
    return [(flaw, folder) for flaw, folder in inner if folder and root.images(folder)]


def fits_magnetic(root: Root, at: Path) -> bool:
    """Folders ``MT_<Flaw>/Imgs`` with images."""
    return at.is_dir() and bool(_magnetic(root))


def read_magnetic(root: Root, at: Path) -> Iterator[Record]:
    """The jpg is the image, the png its mask; ``MT_Free`` is normal."""
    for flaw, folder in _magnetic(root):
        masks = magnetic_masks(root, folder)
        images = [path for path in root.images(folder) if path not in {*masks}]
        kind = flaw.name[3:].lower()
        anomalous = kind != "free"
        facts = {"category": "magnetic tile", "anomalous": anomalous, "family": kind if anomalous else "good"}
        yield from records(root, images, masks, **facts)


# image/001.jpg, groundTruth/001.mat
def _crackforest(root: Root) -> tuple[list[Path], list[Path]]:
    images, truth = root.find(root.path, "image", "images"), root.find(root.path, "groundtruth")
    return (root.images(images), root.files(truth, ".mat")) if images and truth else ([], [])


def fits_crackforest(root: Root, at: Path) -> bool:
    """A folder ``image``, and one ``groundTruth`` with files of MATLAB."""
    return at.is_dir() and all(_crackforest(root))


def read_crackforest(root: Root, at: Path) -> Iterator[Record]:
    """An image with a mask has a crack; the others, of which there are 38, have no label."""
    images, masks = _crackforest(root)
    for record in records(root, images, masks, category="pavement", anomalous=None):
        yield record if record.mask is None else replace(record, anomalous=True, family="crack")


# images/cell0001.png  0.3333333333333333  mono; in src/elpv_dataset/data since the repository is a package
_ELPV = re.compile(r"(\S+)[\s,;]+([01](?:\.\d+)?)[\s,;]+(mono|poly)")
_SURE = {0.0: "good", 1.0: "defective"}


def _elpv(root: Root, at: Path) -> Path | None:
    if not at.is_dir():
        return at if at.name.lower() == "labels.csv" else None
    packed: Path | None = at
    for name in ("src", "elpv_dataset", "data"):
        packed = root.find(packed, name) if packed else None
    return root.find_file(at, "labels.csv") or (root.find_file(packed, "labels.csv") if packed else None)


def fits_elpv(root: Root, at: Path) -> bool:
    """A ``labels.csv`` without a header, whose lines are an image, a probability and ``mono`` or ``poly``."""
    listing = _elpv(root, at)
    return (
        listing is not None
        and _ELPV.fullmatch(text(listing, lenient=True).strip().partition("\n")[0].strip()) is not None
    )


def read_elpv(root: Root, at: Path) -> Iterator[Record]:
    """More likely defective than not (2/3 and 1) is anomalous, as published; families tell who is sure."""
    listing = _elpv(root, at)
    if listing is None:
        raise DataError(f"{at}: has no labels.csv")
    rows = [(number, line.strip()) for number, line in enumerate(text(listing).splitlines(), 1) if line.strip()]
    told = [(number, line, _ELPV.fullmatch(line)) for number, line in rows]
    paths = Paths(root.within(listing.parent) if at.is_dir() else root, (found[1] for _, _, found in told if found))
    for number, line, found in told:
        if found is None or float(found[2]) > 1:
            root.refuse(
                DataError(f"{listing}: line {number} is {line[:60]!r}, not an image, a probability and mono or poly")
            )
            continue
        probability = float(found[2])
        anomalous = probability > 0.5
        family = _SURE.get(probability, "probably defective" if anomalous else "probably good")
        try:
            image = paths.file(found[1])
        except DataError as error:
            root.refuse(DataError(f"{listing}: line {number}: {error}"))
            continue
        category = f"{found[3]}crystalline solar cell"
        yield Record(paths.root.name(image), category, anomalous, family, "test", image)
