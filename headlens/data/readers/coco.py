"""COCO: one file in JSON for many images, with their outlines as polygons or runs."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from headlens.data.outlines import Outlines, Shape
from headlens.data.readers.drawn import family_of, is_flaw, size_of
from headlens.data.readers.labelme import json_files
from headlens.data.readers.paths import Paths
from headlens.data.readers.splits import split_on_the_way
from headlens.data.readers.tables import parsed, text
from headlens.data.readers.tree import Root, outside
from headlens.data.samples import Record
from headlens.errors import DataError

# COCO: annotations/instances_*.json, or _annotations.coco.json beside the images
_COCO_KEYS = ("images", "annotations", "categories")


def _coco(root: Root, at: Path) -> list[Path]:
    if not at.is_dir():
        return [at] if at.suffix.lower() == ".json" and is_coco(at) else []
    return [path for path in json_files(root, at) if is_coco(path)]


def is_coco(path: Path) -> bool:
    """Whether a JSON file has the keys of COCO."""
    content = text(path, lenient=True)
    return all(f'"{key}"' in content for key in _COCO_KEYS)


def fits_coco(root: Root, at: Path) -> bool:
    """A JSON file with images, annotations and categories, in the folder or two below."""
    return bool(_coco(root, at))


def read_coco(root: Root, at: Path) -> Iterator[Record]:
    """An image with an annotation of a category that is not called normal is anomalous, any other is normal.

    Polygons and runs are its mask. Where one annotation has only a box, the image has no mask: it would lack a flaw.
    """
    for path in _coco(root, at):
        content = parsed(path)
        images, annotations, categories = (_objects(path, content, key) for key in _COCO_KEYS)
        names = {category.get("id"): str(category.get("name", "")) for category in categories if _hashable(category)}
        about: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for annotation in annotations:
            if isinstance(annotation.get("image_id"), (int, str)):
                about[annotation["image_id"]].append(annotation)
        if lost := {*about} - {image.get("id") for image in images if _hashable(image)}:
            root.refuse(
                DataError(f"{path}: annotations of {len(lost)} images that it does not list, such as {lost.pop()!r}")
            )
        files = _Files(root, path, [str(image.get("file_name", "")) for image in images])
        boxes = 0
        for number, image in enumerate(images):
            try:
                flaws = [one for one in about.get(image.get("id"), []) if is_flaw(_name(names, one))]
                shapes = [_coco_shapes(flaw) for flaw in flaws]
                file = files.file(image.get("file_name"))
            except (DataError, TypeError) as error:  # TypeError: an id that is a list
                root.refuse(DataError(f"{path}: image {number}: {error}"))
                continue
            boxes += not all(shapes)
            size = size_of(image.get("height"), image.get("width"))
            drawn = tuple(shape for group in shapes for shape in group)
            mask = Outlines(path, f"image {image.get('id')}", size, drawn) if flaws and all(shapes) else None
            family = family_of(_name(names, flaw) for flaw in flaws) if flaws else "good"
            yield Record(root.name(file), "", bool(flaws), family, split_on_the_way(root, path), file, mask)
        if boxes:
            root.note(f"{boxes} of {len(images)} images of {path} have boxes without an outline, and so no mask")


def _objects(path: Path, content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    rows = content.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: its {key!r} are no list of objects, as COCO has them")
    return rows


def _hashable(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("id"), (int, str))


def _name(names: Mapping[Any, str], annotation: Mapping[str, Any]) -> str:
    category = annotation.get("category_id")
    if not isinstance(category, (int, str)) or category not in names:
        raise DataError(f"an annotation has the category {category!r}, which is none of them")
    return names[category]


def _coco_shapes(annotation: Mapping[str, Any]) -> list[Shape]:
    """The outline of one annotation, empty where it has only a box."""
    drawn = annotation.get("segmentation")
    if isinstance(drawn, dict):
        return [Shape("runs", drawn.get("size"), drawn.get("counts"))]
    rings = drawn if isinstance(drawn, list) else []
    if not all(isinstance(ring, list) and len(ring) % 2 == 0 for ring in rings):
        raise DataError("a polygon is no list of x and y in turns")
    return [Shape("polygon", list(zip(ring[::2], ring[1::2], strict=True))) for ring in rings]


class _Files:
    """Where the images of a COCO file are: beside it, or in the folder in which most of them are found."""

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
            raise DataError(f"the file_name is {name!r}, which is no path")
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
