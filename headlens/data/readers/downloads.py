"""Public data sets as they are downloaded, where folders alone do not tell: DAGM, KolektorSDD, HeadCT."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from headlens.data.images import read_mask
from headlens.data.readers.folders import split_of
from headlens.data.readers.tree import Root, records
from headlens.data.samples import Record
from headlens.errors import DataError

_PARTS = 3  # of a picture of KolektorSDD, along its height


def _judged(record: Record, flaw: bool) -> Record:
    return replace(record, anomalous=flaw, family="defect" if flaw else "good")


# ClassN/{Train,Test}/*.PNG, ClassN/{Train,Test}/Label/*_label.PNG
def _dagm(root: Root) -> Iterator[tuple[str, Path, Path, str]]:
    """Category, pictures, labels, split. The archive of each class has the class's folder in it once more."""
    own = list(_dagm_class(root, root.path))
    yield from own or (row for folder in root.folders(root.path) for row in _dagm_class(root, folder))


def _dagm_class(root: Root, outer: Path) -> Iterator[tuple[str, Path, Path, str]]:
    for category in [outer, root.find(outer, outer.name.lower())]:
        for folder in root.folders(category) if category else []:
            labels, split = root.find(folder, "label"), split_of(folder.name)
            if labels and split and root.images(folder):
                yield outer.name, folder, labels, split


def fits_dagm(root: Root, at: Path) -> bool:
    """Some class has ``Train`` or ``Test`` with pictures and a folder ``Label`` in it."""
    return at.is_dir() and any(True for _ in _dagm(root))


def read_dagm(root: Root, at: Path) -> Iterator[Record]:
    """A picture is anomalous if it has a label, or if ``Labels.txt`` says so."""
    for category, folder, labels, split in _dagm(root):
        listing = root.find_file(labels, "labels.txt")
        lines = listing.read_text(encoding="utf-8-sig", errors="replace").splitlines() if listing else []
        fields = [line.split() for line in lines]
        told = {Path(line[2]).stem for line in fields if len(line) > 2 and line[1] == "1"}  # number, flaw, picture, …
        masks = root.images(labels)
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
            if whole.mask is None:
                root.refuse(DataError(f"{whole.image}: has no label beside it (*_label.bmp); copy it in"))
                continue
            try:
                label = read_mask(whole.mask)
            except DataError as error:
                root.refuse(error)
                continue
            height, width = label.shape
            for part in range(_PARTS):
                top, bottom = (height * k // _PARTS for k in (part, part + 1))
                cut = replace(whole, name=f"{whole.name}_{part}", crop=(0, top, width, bottom))
                yield _judged(cut, bool(label[top:bottom].any()))


# head_ct/NNN.png, labels.csv
def _headct(root: Root) -> tuple[Path, list[list[str]]] | None:
    listing = root.find_file(root.path, "labels.csv")
    if listing is None:
        return None
    with listing.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    return (listing, rows[1:]) if rows and rows[0][0].lower() == "id" and len(rows[0]) == 2 else None


def fits_headct(root: Root, at: Path) -> bool:
    """A ``labels.csv`` whose two columns are ``id`` and something else."""
    return at.is_dir() and _headct(root) is not None


def read_headct(root: Root, at: Path) -> Iterator[Record]:
    """The number in the table is the name of the picture, which has zeros in front."""
    found = _headct(root)
    if found is None:
        raise DataError(f"{at}: has no labels.csv with the columns id and hemorrhage")
    listing, rows = found
    folders = [root.path, *root.folders(root.path)]
    folders += [inner for folder in folders[1:] for inner in root.folders(folder)]
    numbered = {int(image.stem): image for folder in folders for image in root.images(folder) if image.stem.isdecimal()}
    for line, row in enumerate(rows, 2):
        cells = [cell for cell in row if cell]
        if len(cells) != 2 or not cells[0].isdecimal() or cells[1] not in ("0", "1"):
            root.refuse(DataError(f"{listing}: line {line} is {','.join(row)!r}, not a number and 0 or 1"))
            continue
        # a picture that is not there is missed when it is read
        image = numbered.get(int(cells[0]), folders[min(1, len(folders) - 1)] / f"{int(cells[0]):03d}.png")
        flaw = cells[1] == "1"
        yield Record(root.name(image), "brain", flaw, "hemorrhage" if flaw else "good", "test", image)
