"""COCO: one file in JSON for many images, with their outlines as polygons or runs."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from headlens.data.outlines import Outlines, Shape
from headlens.data.readers.labelme import family_of, is_defect, json_files, size_of
from headlens.data.readers.layout import layout
from headlens.data.readers.paths import Paths
from headlens.data.readers.tables import names_keys, parsed
from headlens.data.readers.tree import Root, outside
from headlens.data.samples import Record
from headlens.errors import DataError

KEYS = ("images", "annotations", "categories")


def _coco_files(root: Root, at: Path) -> list[Path]:
    """annotations/instances_*.json, or _annotations.coco.json next to the images: in the folder or two below."""
    files = json_files(root, at) if at.is_dir() else [at]
    return [path for path in files if path.suffix.lower() == ".json" and names_keys(path, KEYS)]


@layout("coco", "COCO: JSON with images, annotations, categories", _coco_files, listing=True)
def coco(root: Root, at: Path) -> Iterator[Record]:
    """An image with an annotation of a category that is not called normal is anomalous, any other is normal.

    Polygons and runs are its mask. Where one annotation has only a box, the image has no mask: it would lack a defect.
    """
    for path in _coco_files(root, at):
        content = parsed(path)
        images, annotations, categories = (_objects(path, content, key) for key in KEYS)
        names = {number: str(category.get("name", "")) for number, category in _by_id(categories, "id")}
        about: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for number, annotation in _by_id(annotations, "image_id"):
            about[number].append(annotation)
        if lost := {*about} - {number for number, _ in _by_id(images, "id")}:
            what = f"annotations of {len(lost)} images that it does not list, such as {lost.pop()!r}"
            root.refuse(DataError(f"{path}: {what}"))
        files = _Files(root, path, [str(image.get("file_name", "")) for image in images])
        boxes = 0
        for number, image in enumerate(images):
            try:
                defects = [one for one in about.get(image.get("id"), []) if is_defect(_name(names, one))]
                shapes = [_shapes(defect) for defect in defects]
                file = files.file(image.get("file_name"))
            except (DataError, TypeError) as error:  # TypeError: an id that is a list
                root.refuse(DataError(f"{path}: image {number}: {error}"))
                continue
            boxes += not all(shapes)
            size = size_of(image.get("height"), image.get("width"))
            drawn = tuple(shape for group in shapes for shape in group)
            mask = Outlines(path, f"image {image.get('id')}", size, drawn) if defects and all(shapes) else None
            family = family_of(_name(names, defect) for defect in defects) if defects else "good"
            yield Record(root.name(file), "", bool(defects), family, root.split_of(path), file, mask)
        if boxes:
            counts = f"{boxes} of {len(images)} images of {path}"
            root.notes.append(f"{counts} have boxes without an outline, and so no mask")


def _objects(path: Path, content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    rows = content.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: its {key!r} are not a list of objects, as COCO has them")
    return rows


def _by_id(rows: Sequence[dict[str, Any]], key: str) -> list[tuple[int | str, dict[str, Any]]]:
    return [(row[key], row) for row in rows if isinstance(row.get(key), int | str)]


def _name(names: Mapping[Any, str], annotation: Mapping[str, Any]) -> str:
    category = annotation.get("category_id")
    if not isinstance(category, (int, str)) or category not in names:
        raise DataError(f"an annotation has the category {category!r}, which is not one of them")
    return names[category]


def _shapes(annotation: Mapping[str, Any]) -> list[Shape]:
    drawn = annotation.get("segmentation")
    if isinstance(drawn, dict):
        return [Shape("runs", drawn.get("size"), drawn.get("counts"))]
    rings = drawn if isinstance(drawn, list) else []
    if not all(isinstance(ring, list) and len(ring) % 2 == 0 for ring in rings):
        raise DataError("a polygon is not a list of alternating x and y")
    return [Shape("polygon", list(zip(ring[::2], ring[1::2], strict=True))) for ring in rings]


class _Files:
    """Where the images of a COCO file are: next to it, or in the folder in which most of them are found."""

    def __init__(self, root: Root, listing: Path, names: Sequence[str]) -> None:
        self.paths = Paths(root, names)
        inner = [folder for outer in root.folders(root.path) for folder in [outer, *root.folders(outer)]]
        counts: Counter[Path] = Counter()
        sample = names[:: max(1, len(names) // 200)]
        for folder in dict.fromkeys([listing.parent, root.path, *inner]):
            counts[folder] = sum(os.path.isfile(folder / name) for name in map(_plain, sample) if name)  # noqa: PTH113
        self.root, self.folder = root, max(counts, key=lambda folder: counts[folder])
        self.inside = counts[self.folder] > 0 and root.holds(self.folder)

    def file(self, name: Any) -> Path:
        """Raises DataError: it lies outside of the root, or is no name."""
        if not isinstance(name, str):
            raise DataError(f"the file_name is {name!r}, which is not a path")
        plain = _plain(name)
        if not self.inside or not plain:
            return self.paths.file(name)
        if not self.root.holds(self.folder / plain):
            raise outside(self.folder / plain, self.root.path, "a link that leads out of")
        return self.folder / plain


def _plain(name: str) -> str:
    """A relative path with the slashes of this machine; empty for any other."""
    parts = re.split(r"[\\/]+", name)
    usable = name and "\0" not in name and len(name) < 1024 and ".." not in parts and not PureWindowsPath(name).anchor
    return "/".join(parts) if usable else ""
