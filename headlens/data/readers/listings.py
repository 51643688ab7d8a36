"""Layouts with a listing: meta.json, jsonl, csv, VisA's csv and Real-IAD's json. All become the same rows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headlens.data.readers.folders import SPLITS, split_of
from headlens.data.readers.tree import NORMAL, Root
from headlens.data.samples import Record
from headlens.errors import DataError

KEYS = {
    "image": ["image", "img_path", "image_path", "path", "filename", "file_name", "file", "filepath", "img"],
    "mask": ["mask", "mask_path", "maskname", "mask_file", "ground_truth"],
    "label": ["anomaly", "label", "anomalous", "target", "is_anomaly"],
    "category": ["category", "cls_name", "class_name", "class", "object", "cls", "clsname"],
    "family": ["family", "specie_name", "anomaly_class", "defect", "defect_type", "label_name"],
    "split": ["split", "set", "subset", "phase"],
}
"""What the columns of listings are called, in any case; the first that there is counts."""

_FLAWED = frozenset(
    ["anomaly", "anomalous", "abnormal", "defect", "defective", "bad", "ng", "ko", "yes", "true", "ungood"]
)
_EMPTY = {"", "nan", "none", "null"}


def _cell(row: Mapping[str, Any], what: str) -> Any:
    """The value under the first of the keys for ``what`` that the row has, None if it is empty."""
    value = next((row[key] for key in KEYS[what] if key in row), None)
    if isinstance(value, str):
        value = value.strip()
    return None if value is None or value != value or str(value).lower() in _EMPTY else value


def _label(value: Any) -> bool | None:
    """0 and 1 as numbers of any kind, or in words."""
    word = str(value).lower()
    if word in NORMAL or word == "false":
        return False
    if word in _FLAWED:
        return True
    try:
        return {0.0: False, 1.0: True}[float(word)]
    except (ValueError, KeyError):
        raise DataError(f"the label {value!r} is neither 0 nor 1 (kinds of flaw go into a column `family`)") from None


def _record(root: Root, listing: Path, row: Mapping[str, Any], **usual: str) -> Record | None:
    """One row; None where its path was refused.

    Raises:
        DataError: what is wrong with it, without saying where it stands.
    """
    if not isinstance(row, dict):
        raise DataError(f"{str(row)[:60]!r} is not a record")
    lower = {str(key).strip().lower(): value for key, value in row.items()}
    found = {what: _cell(lower, what) for what in KEYS}
    if not isinstance(found["image"], str):
        raise DataError(f"no image ({found['image']!r}); its key is one of {', '.join(KEYS['image'])}")
    if not isinstance(found["mask"], str | None):
        raise DataError(f"the mask is {found['mask']!r}, which is no path")
    image = root.listed(found["image"], listing)
    mask = root.listed(found["mask"], listing) if found["mask"] else None
    if image is None or (found["mask"] and mask is None):
        return None
    family = "" if found["family"] is None else str(found["family"])
    anomalous: bool | None = None
    if found["label"] is not None:
        anomalous = _label(found["label"])
    elif family or mask:  # a table of images and masks alone does not say that the others are normal
        anomalous = family.lower() not in NORMAL
    split = usual.get("split") if found["split"] is None else split_of(str(found["split"]))
    if split is None:
        raise DataError(f"the split {found['split']!r} is none of {', '.join(SPLITS)}")
    category = usual.get("category", "") if found["category"] is None else str(found["category"])
    return Record(root.name(image), category, anomalous, "good" if anomalous is False else family, split, image, mask)


def _records(root: Root, listing: Path, rows: Iterator[tuple[str, Any]], **usual: str) -> Iterator[Record]:
    """Of rows with the place where each stands."""
    for place, row in rows:
        try:
            record = _record(root, listing, row, **usual)
        except DataError as error:
            root.refuse(DataError(f"{listing}: {place}: {error}"))
            continue
        if record is not None:
            yield record


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text in UTF-8 ({error})") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__} where an object with train and test is expected")
    return content


# meta.json
def _meta(root: Root, at: Path) -> Path | None:
    if at.is_file():
        return at if at.suffix.lower() == ".json" else None
    return root.find_file(at, "meta.json")


def fits_meta(root: Root, at: Path) -> bool:
    """A ``meta.json`` in the folder, or any json file that is named."""
    return _meta(root, at) is not None


def read_meta(root: Root, at: Path) -> Iterator[Record]:
    """``{"train": {category: [record, …]}, "test": …}``, keys in any case; either split may be missing."""
    path = _meta(root, at)
    if path is None:
        raise DataError(f"{at}: has no meta.json")
    content = _json(path)
    if not any(split_of(key) for key in content):
        raise DataError(f"{path}: has the keys {', '.join(content)[:200]}, neither train nor test")
    for key, classes in content.items():
        split = split_of(key)
        if split is None:
            continue
        if not isinstance(classes, dict) or not all(isinstance(rows, list) for rows in classes.values()):
            raise DataError(f"{path}: under {key!r}, each category must have a list of records")
        for category, rows in classes.items():
            places = ((f"{key}, {category}, record {number}", row) for number, row in enumerate(rows))
            yield from _records(root, path, places, category=category, split=split)


# Real-IAD: realiad_jsons/realiad_jsons/<category>.json, realiad_1024/<category>/…
def _realiad(root: Root, at: Path) -> list[Path]:
    if at.is_file():
        if at.suffix.lower() != ".json":
            return []
        with at.open("rb") as file:  # they begin with {"meta": {"prefix": …
            return [at] if b'"prefix"' in file.read(2000) else []
    outer = root.find(at, "realiad_jsons")
    if outer:
        return root.files(root.find(outer, "realiad_jsons") or outer, ".json")
    found = root.files(at, ".json")
    return found if found and _realiad(root, found[0]) else []


def fits_realiad(root: Root, at: Path) -> bool:
    """A folder ``realiad_jsons`` with json files in it, a folder of such files, or one."""
    return bool(_realiad(root, at))


def read_realiad(root: Root, at: Path) -> Iterator[Record]:
    """Pictures in the first of ``realiad_1024`` and its kin; ``OK`` is normal. Its json files alone need ``root=``."""
    base = root.find(root.path, "realiad_1024", "realiad_512", "realiad_256", "realiad_raw") or root.path
    for path in _realiad(root, at):
        content = _json(path)
        meta = content.get("meta")
        told = meta if isinstance(meta, dict) else {}
        prefix, normal = str(told.get("prefix", f"{path.stem}/")), str(told.get("normal_class", "OK"))
        folder = base.relative_to(root.path) / prefix

        def rows(split: str, content: dict = content, folder: Path = folder, normal: str = normal) -> Iterator:
            for number, row in enumerate(content.get(split) or []):
                if isinstance(row, dict):
                    paths = {key: str(folder / row[key]) for key in ("image_path", "mask_path") if row.get(key)}
                    row = row | paths | {"label": int(row.get("anomaly_class") != normal)}
                yield f"{split}, record {number}", row

        for split in SPLITS:
            yield from _records(root, path, rows(split), category=path.stem, split=split)


# VisA: split_csv/1cls.csv, category/Data/Images/{Normal,Anomaly}
def _visa(root: Root) -> Path | None:
    """The table; of one category it lies beside the folder."""
    beside = root.path.absolute().parent / "split_csv" / "1cls.csv"
    if root.find(root.path, "data") and beside.is_file():
        return beside
    folder = root.find(root.path, "split_csv")
    return root.find_file(folder, "1cls.csv") if folder else None


def fits_visa(root: Root, at: Path) -> bool:
    """``split_csv/1cls.csv``, or the folders that it lists, ``category/Data/Images``."""
    if not at.is_dir():
        return False
    data = [root.find(folder, "data") for folder in [at, *root.folders(at)]]
    return _visa(root) is not None or any(folder and root.find(folder, "images") for folder in data)


def read_visa(root: Root, at: Path) -> Iterator[Record]:
    """The official split of each category into its own training and test pictures."""
    path = _visa(root)
    if path is None:
        raise DataError(f"{at}: looks like VisA without split_csv/1cls.csv, which says what is test; copy it there")
    _, rows = _rows(path)
    one = root.path.absolute().name if root.find(root.path, "data") else None
    yield from _records(root, path, (line for line in rows if one in (None, line[1].get("object"))), split="test")


# csv and jsonl
def _listing(root: Root, at: Path, *suffixes: str) -> Path | None:
    """The file itself, or the only one of its kind in the folder."""
    if at.is_file():
        return at if at.suffix.lower() in suffixes else None
    found = root.files(at, *suffixes)
    return found[0] if len(found) == 1 else None


def _rows(path: Path) -> tuple[list[str], Iterator[tuple[str, dict[str, str]]]]:
    """Columns in lower case, and the rows; fields separated by commas, semicolons or tabs."""
    text = _text(path)
    head = text.partition("\n")[0]
    mark = max(",;\t", key=head.count)
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=mark, restkey="", strict=True)
    columns = [column.strip().lower() for column in table.fieldnames or ()]

    def rows() -> Iterator[tuple[str, dict[str, str]]]:
        try:
            for row in table:
                yield f"line {table.line_num}", row
        except csv.Error as error:
            raise DataError(f"{path}: line {table.line_num} is not csv ({error})") from error

    return columns, rows()


def fits_csv(root: Root, at: Path) -> bool:
    """A csv or tsv file, or the only one in the folder, with a column for images."""
    path = _listing(root, at, ".csv", ".tsv")
    return path is not None and (at.is_file() or not {*_rows(path)[0]}.isdisjoint(KEYS["image"]))


def read_csv(root: Root, at: Path) -> Iterator[Record]:
    """Columns as in ``KEYS``; only the image is a must."""
    path = _listing(root, at, ".csv", ".tsv")
    if path is None:
        raise DataError(f"{at}: not a csv file, and not a folder with exactly one")
    yield from _table(root, path)


def _table(root: Root, path: Path) -> Iterator[Record]:
    columns, rows = _rows(path)
    if {*columns}.isdisjoint(KEYS["image"]):
        raise DataError(
            f"{path}: has the columns {', '.join(columns)[:200]}; one of {', '.join(KEYS['image'])} is needed"
        )
    yield from _records(root, path, rows, split="test")


def fits_jsonl(root: Root, at: Path) -> bool:
    """A jsonl file, or the only one in the folder."""
    return _listing(root, at, ".jsonl") is not None


def read_jsonl(root: Root, at: Path) -> Iterator[Record]:
    """One record on each line, with the keys of a csv; AA-CLIP's labels are floats and its masks may be missing."""
    path = _listing(root, at, ".jsonl")
    if path is None:
        raise DataError(f"{at}: not a jsonl file, and not a folder with exactly one")

    def rows() -> Iterator[tuple[str, Any]]:
        for number, line in enumerate(_text(path).split("\n"), 1):
            try:
                if line.strip():
                    yield f"line {number}", json.loads(line)
            except (ValueError, RecursionError):
                yield f"line {number}", line  # refused as no record, in its place

    yield from _records(root, path, rows(), split="test")
