"""Layouts with a listing: meta.json, jsonl, csv, VisA's csv and Real-IAD's json. All become the same rows."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from headlens.data.readers import coco, labelme
from headlens.data.readers.layout import layout
from headlens.data.readers.paths import Paths
from headlens.data.readers.tables import MASK_COLOURS, columns, key, names_keys, parsed, table, text
from headlens.data.readers.tree import SPLITS, Root, is_normal, needed, split_of
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
"""What the columns of listings are called, in any case; the first with anything in it counts."""

_ANOMALOUS = re.compile(
    r"anomaly|anomalous|abnormal|defect(ive)?|bad|ng|ko|nok|nio|fail(ed)?|yes|ungood|"
    r"true|wahr|vrai|verdadero|vero"  # spreadsheets write booleans in their language
)
_NORMAL = re.compile(r"none|io|pass(ed)?|false|falsch|faux|falso")
_EMPTY = {"", "-", "nan", "none", "null", "n/a", "#n/a"}
_NUMBERS = {"0", "1", "0.0", "1.0", "0,0", "1,0", "true", "false"}
_MOST_ROWS = 500_000

Listed = tuple[str, Any, dict[str, str]]
"""Where a row stands, the row, and what holds for it where it does not say otherwise."""
_TEST = {"split": "test"}


def _cells(row: Mapping[str, Any], what: str) -> dict[str, Any]:
    """What stands under the keys for ``what``, without what is empty; the family ``none`` is normal."""
    empty = _EMPTY - {"none"} if what == "family" else _EMPTY
    cells = {key: row[key].strip() if isinstance(row[key], str) else row[key] for key in KEYS[what] if key in row}
    return {key: v for key, v in cells.items() if v is not None and v == v and str(v).lower() not in empty}


def _only(row: Mapping[str, Any], what: str, meaning: Callable[[Any], object] = lambda value: None) -> Any:
    """The first value for ``what``, None if there is none; several that mean something must mean the same."""
    cells = _cells(row, what)
    means = {key: meant for key, value in cells.items() if (meant := meaning(value)) is not None}
    if len({*means.values()}) > 1:
        said = ", ".join(f"{key} = {cells[key]!r}" for key in means)
        raise DataError(f"contradicts itself: {said}; leave out the columns that are not about the {what}")
    return next(iter(cells.values()), None)


def _meaning(value: Any) -> bool | None:
    """0 and 1 as numbers of any kind, or in words; None for what is no label."""
    word = str(value).lower()
    if is_normal(word) or _NORMAL.fullmatch(word):
        return False
    if _ANOMALOUS.fullmatch(word):
        return True
    try:
        return {0.0: False, 1.0: True}.get(float(re.sub(r"^(-?\d+),(\d+)$", r"\1.\2", word)))
    except ValueError:
        return None


def label_of(value: Any) -> bool:
    """Whether a label says that something is wrong.

    >>> label_of("NG"), label_of("1,0"), label_of(0.0)
    (True, True, False)
    """
    if (meant := _meaning(value)) is None:
        raise DataError(f"the label {value!r} is neither 0 nor 1 (kinds of flaw go into a column `family`)")
    return meant


def _record(paths: Paths, row: Mapping[str, Any], usual: Mapping[str, str]) -> Record:
    """One row; what is wrong with it is raised without saying where it stands."""
    if not isinstance(row, dict):
        raise DataError(f"{str(row)[:60]!r} is not a record")
    image_text, mask_text, category, family = (_only(row, what) for what in ("image", "mask", "category", "family"))
    label, word = _only(row, "label", _meaning), _only(row, "split", lambda value: split_of(str(value)))
    if not isinstance(image_text, str):
        raise DataError(f"no image ({image_text!r}); its key is one of {', '.join(KEYS['image'])}")
    if not isinstance(mask_text, str | None):
        raise DataError(f"the mask is {mask_text!r}, which is not a path")
    image = paths.file(image_text)
    mask = paths.file(mask_text) if mask_text else None
    family = "" if family is None else str(family)
    anomalous: bool | None = None
    if label is not None:
        anomalous = label_of(label)
    elif family.lower() in _NUMBERS:
        raise DataError(f"the family {family!r} is a label among kinds of flaw; put it in a column `label`")
    elif family or mask:  # a table of images and masks alone does not say that the others are normal
        anomalous = not (is_normal(family) or family.lower() == "none")
    if anomalous is False:
        family = "good"
    elif family.lower() == "none":
        family = ""
    split = usual.get("split") if word is None else split_of(str(word))
    if split is None:
        raise DataError(f"the split {word!r} is none of {', '.join(SPLITS)}")
    category = usual.get("category", "") if category is None else str(category)
    return Record(paths.root.name(image), category, anomalous, family, split, image, mask)


def _records(root: Root, listing: Path, listed: Iterable[Listed]) -> Iterator[Record]:
    """Of all rows of a listing: which machine's paths these are, and whether its families are labels, all say."""
    rows = [(place, _lower(row), usual) for place, row, usual in islice(listed, _MOST_ROWS + 1)]
    if len(rows) > _MOST_ROWS:
        raise DataError(f"{listing}: has more than {_MOST_ROWS:,} rows; make several listings of it")
    records = [row for _, row, _ in rows if isinstance(row, dict)]
    texts = (cell for row in records for what in ("image", "mask") for cell in _cells(row, what).values())
    paths = Paths(root, (text for text in texts if isinstance(text, str)))
    families = [value for row in records for value in _cells(row, "family").values()]
    labels = not any(_cells(row, "label") for row in records) and None not in map(_meaning, families)
    for place, row, usual in rows:
        if labels and isinstance(row, dict) and (cells := _cells(row, "family")):
            others = {name: value for name, value in row.items() if name not in cells}
            row = others | {"label": _meaning(next(iter(cells.values())))}
        try:
            yield _record(paths, row, usual)
        except (DataError, RecursionError) as error:
            root.refuse(DataError(f"{listing}: {place}: {error}"))


def _lower(row: Any) -> Any:
    return {key(str(name)): value for name, value in row.items()} if isinstance(row, dict) else row


def _meta_file(root: Root, at: Path) -> Path | None:
    """``meta.json`` in the folder, or any json file that is named and not of COCO or labelme."""
    if at.is_dir():
        return root.find_file(at, "meta.json")
    other = at.suffix.lower() != ".json" or names_keys(at, coco.KEYS) or names_keys(at, labelme.KEYS)
    return None if other else at


@layout("meta", "meta.json of AnomalyCLIP and its kin", _meta_file, listing=True)
def meta(root: Root, at: Path) -> Iterator[Record]:
    """``{"train": {category: [record, …]}, "test": …}``, keys in any case; either split may be missing."""
    path = needed(_meta_file(root, at), f"{at}: has no meta.json")
    content = parsed(path)
    if not any(split_of(key) for key in content):
        raise DataError(f"{path}: has the keys {', '.join(content)[:200]}, neither train nor test")

    def rows() -> Iterator[Listed]:
        for word, classes in content.items():
            if (split := split_of(word)) is None:
                continue
            if not isinstance(classes, dict) or not all(isinstance(rows, list) for rows in classes.values()):
                raise DataError(f"{path}: under {word!r}, each category must have a list of records")
            for category, listed in classes.items():
                for number, row in enumerate(listed):
                    yield f"{word}, {category}, record {number}", row, {"category": category, "split": split}

    yield from _records(root, path, rows())


# Real-IAD: realiad_jsons/realiad_jsons/<category>.json, realiad_1024/<category>/…
def _realiad_files(root: Root, at: Path) -> list[Path]:
    """Json files in a folder ``realiad_jsons``, in one without it, or one such file."""
    if not at.is_dir():  # they begin with {"meta": {"prefix": …
        return [at] if at.suffix.lower() == ".json" and '"prefix"' in text(at, lenient=True)[:2000] else []
    outer = root.find(at, "realiad_jsons")
    if outer:
        return root.files(root.find(outer, "realiad_jsons") or outer, ".json")
    files = root.files(at, ".json")
    return files if files and _realiad_files(root, files[0]) else []


@layout("realiad", "Real-IAD: realiad_jsons/*.json and realiad_1024", _realiad_files, "industrial", listing=True)
def realiad(root: Root, at: Path) -> Iterator[Record]:
    """Images in the first of ``realiad_1024`` and its kin; ``OK`` is normal. Its json files alone need ``root=``."""
    sizes = [root.find(root.path, f"realiad_{size}") for size in ("1024", "512", "256", "raw")]
    base, *smaller = [*filter(None, sizes), root.path]
    root.left += [folder for folder in smaller if folder != root.path]
    for path in _realiad_files(root, at):
        content = parsed(path)
        about = content["meta"] if isinstance(content.get("meta"), dict) else {}
        normal = str(about.get("normal_class", "OK"))
        folder = base.relative_to(root.path) / str(about.get("prefix", f"{path.stem}/"))
        yield from _records(root, path, _realiad_rows(path, content, folder, normal))


def _realiad_rows(path: Path, content: Mapping[str, Any], folder: Path, normal: str) -> Iterator[Listed]:
    for split in SPLITS:
        listed = content.get(split) or []
        if not isinstance(listed, list):
            raise DataError(f"{path}: under {split!r} is {str(listed)[:60]!r}, where a list of records is expected")
        for number, row in enumerate(listed):
            if isinstance(row, dict):
                files = {name: row[name] for name in ("image_path", "mask_path") if isinstance(row.get(name), str)}
                row = row | {name: str(folder / file) for name, file in files.items() if file}
                row["label"] = int(row.get("anomaly_class") != normal)
            yield f"{split}, record {number}", row, {"category": path.stem, "split": split}


# VisA: split_csv/1cls.csv, category/Data/Images/{Normal,Anomaly}
def _visa_table(root: Root) -> Path | None:
    """The table; of one category it lies next to the folder."""
    outside = root.path.absolute().parent / "split_csv" / "1cls.csv"
    if root.find(root.path, "data") and outside.is_file():
        return outside
    folder = root.find(root.path, "split_csv")
    return root.find_file(folder, "1cls.csv") if folder else None


def _is_visa(root: Root, at: Path) -> bool:
    """``split_csv/1cls.csv``, or the folders that it lists, ``category/Data/Images/Normal``."""
    data = [root.find(folder, "data") for folder in [at, *root.folders(at)]]
    images = [root.find(folder, "images") for folder in data if folder]
    return _visa_table(root) is not None or any(folder and root.find(folder, "normal", "anomaly") for folder in images)


@layout("visa", "VisA as released: split_csv/1cls.csv", _is_visa, "industrial")
def visa(root: Root, at: Path) -> Iterator[Record]:
    """The official split of each category into its training and test images."""
    why = "looks like VisA without split_csv/1cls.csv, which says what is test; copy it there"
    path = needed(_visa_table(root), f"{at}: {why}")
    _, rows = table(path, root.refuse)
    one = root.path.absolute().name if root.find(root.path, "data") else None
    listed = ((place, row, _TEST) for place, row in rows if one in (None, row.get("object")))
    for record in _records(root, path, listed):
        # the same name whether the set or one category of it was opened
        yield replace(record, name=f"{one}/{record.name}") if one else record


# csv and jsonl
def _listing(root: Root, at: Path, *suffixes: str) -> Path | None:
    """The file itself, or the only one of its kind in the folder."""
    if at.is_file():
        return at if at.suffix.lower() in suffixes else None
    files = [path for path in root.files(at, *suffixes) if path.name.lower() != MASK_COLOURS]
    return files[0] if len(files) == 1 else None


def _is_csv(root: Root, at: Path) -> bool:
    """A csv or tsv file, or the only one in the folder, with a column for images."""
    path = _listing(root, at, ".csv", ".tsv")
    return path is not None and (at.is_file() or not {*columns(path)}.isdisjoint(KEYS["image"]))


@layout("csv", "a table of images", _is_csv, listing=True)
def csv_table(root: Root, at: Path) -> Iterator[Record]:
    """Columns as in ``KEYS``; only the image is a must."""
    path = needed(_listing(root, at, ".csv", ".tsv"), f"{at}: not a csv file, and not a folder with exactly one")
    head, rows = table(path, root.refuse)
    if {*head}.isdisjoint(KEYS["image"]):
        raise DataError(f"{path}: has the columns {', '.join(head)[:200]}; one of {', '.join(KEYS['image'])} is needed")
    yield from _records(root, path, ((place, row, _TEST) for place, row in rows))


def _is_jsonl(root: Root, at: Path) -> bool:
    """A jsonl file, or the only one in the folder, with a key for images on its first line."""
    path = _listing(root, at, ".jsonl")
    if path is None or at.is_file():
        return path is not None
    first = _lower(_parsed_line(next(_filled_lines(text(path, lenient=True)), (0, ""))[1]))
    return isinstance(first, dict) and not {*first}.isdisjoint(KEYS["image"])


def _filled_lines(content: str) -> Iterator[tuple[int, str]]:
    """Lines with something in them, whichever way they end, and their numbers."""
    return ((number, line) for number, line in enumerate(io.StringIO(content, newline=None), 1) if line.strip())


def _parsed_line(line: str) -> Any:
    """What it says, or the line itself, which is refused as no record in its place."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line


@layout("jsonl", "one JSON record on each line, as AA-CLIP's", _is_jsonl, listing=True)
def json_lines(root: Root, at: Path) -> Iterator[Record]:
    """One record on each line, with the keys of a csv; AA-CLIP's labels are floats and its masks may be missing."""
    path = needed(_listing(root, at, ".jsonl"), f"{at}: not a jsonl file, and not a folder with exactly one")
    lines = _filled_lines(text(path))
    yield from _records(root, path, ((f"line {number}", _parsed_line(line), _TEST) for number, line in lines))
