"""Sets whose masks are drawn in JSON: labelme's, a file for each image, and COCO's, one for all."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from headlens.data.outlines import Outlines, Shape
from headlens.data.readers.folders import split_of
from headlens.data.readers.known import generic
from headlens.data.readers.paths import Paths
from headlens.data.readers.tables import parsed, text
from headlens.data.readers.tree import Root, is_normal, outside
from headlens.data.samples import Record
from headlens.errors import DataError

_BACKGROUND = {"background", "_background_", "__ignore__", "ignore"}


def _is_flaw(name: str) -> bool:
    return not is_normal(name) and name.strip().lower() not in _BACKGROUND


def _families(names: Iterable[str]) -> str:
    return "+".join(sorted({name.strip() for name in names}))


def _size(height: Any, width: Any) -> tuple[int, int] | None:
    sides = (height, width)
    return sides if all(type(side) is int and 0 < side < 2**31 for side in sides) else None


def _split(root: Root, path: Path) -> str:
    """What a folder on the way to it, or a word in its name, says."""
    parts = path.relative_to(root.path).with_suffix("").parts
    words = [*parts[:-1], *re.split(r"[^A-Za-z]+|(?<=[a-z])(?=\d)", parts[-1])]
    return next((split for word in reversed(words) if (split := split_of(word))), "test")


# labelme: a.json beside a.jpg, or label/a.json and data/a.jpg
def _json_files(root: Root, at: Path) -> Iterator[Path]:
    """In a folder, in those in it, and in those of its splits and the like: deeper, there would be other sets."""
    yield from root.files(at, ".json")
    for folder in root.folders(at):
        yield from root.files(folder, ".json")
        for inner in root.folders(folder) if generic(folder.name) else []:
            yield from root.files(inner, ".json")


def _first_of_each_folder(root: Root, at: Path) -> Iterator[Path]:
    seen: set[Path] = set()
    for path in _json_files(root, at):
        if path.parent not in seen:
            seen.add(path.parent)
            yield path


def _is_labelme(path: Path) -> bool:
    content = text(path, lenient=True)
    return '"shapes"' in content and '"imagePath"' in content


def fits_labelme(root: Root, at: Path) -> bool:
    """A folder with files of labelme in it, beside the images or in a folder of their own."""
    return at.is_dir() and any(_is_labelme(path) for path in _first_of_each_folder(root, at))


def read_labelme(root: Root, at: Path) -> Iterator[Record]:
    """An image with a shape in its file is anomalous; one without a shape, or without a file, is normal.

    Images in a folder in which none has a file are normal only if the folder is called so.
    """
    images = list(root.below(at))
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        by_stem[image.stem.casefold()].append(image)
    told: dict[Path, tuple[Path, dict[str, Any]]] = {}
    files = list(_json_files(root, at))
    alone = [called[0].parent for path in files if len(called := by_stem[path.stem.casefold()]) == 1]
    usual = Counter(alone).most_common(1)[0][0] if alone else None
    for path in files:
        try:
            content = _labelme(path)
            if content is None:
                continue
            image = _image_of(path, content, by_stem[path.stem.casefold()], root, usual)
            if image in told:
                raise DataError(f"{path}: is about {image}, as {told[image][0]} is; leave one of them")
            told[image] = path, content
        except DataError as error:
            root.refuse(error)
    annotated = {image.parent for image in told}
    without = [image for image in images if image not in told and image.parent in annotated]
    if without:
        root.note(f"{len(without)} of {len(images)} images have no file of labelme and count as normal: {without[0]}")
    for image in [*images, *(image for image in told if image not in {*images})]:
        path, content = told.get(image, (image, {}))
        shapes = _flaws(content)
        anomalous: bool | None = bool(shapes)
        if image.parent not in annotated:
            anomalous = False if is_normal(image.parent.name) else None
        mask = _labelme_mask(path, image, content, shapes) if shapes else None
        family = _families(str(shape.get("label", "")) for shape in shapes)
        family = "good" if anomalous is False else family
        yield Record(root.name(image), "", anomalous, family, _split(root, image), image, mask)


def _labelme(path: Path) -> dict[str, Any] | None:
    """What is in a file of labelme; None for any other JSON, such as a table of the set."""
    content = parsed(path)
    if "shapes" not in content or "imagePath" not in content:
        return None
    shapes = content["shapes"]
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise DataError(f"{path}: its shapes are no list of objects; save it with labelme")
    return content


def _image_of(path: Path, content: Mapping[str, Any], called: Sequence[Path], root: Root, usual: Path | None) -> Path:
    """The image beside it or in the ``usual`` folder, that which it names, or the only one of its name."""
    for folder in (path.parent, usual):
        if inside := [image for image in called if image.parent == folder]:
            called = inside
            break
    if len(called) == 1:
        return called[0]
    name = content["imagePath"]
    named = PureWindowsPath(name) if isinstance(name, str) else PureWindowsPath()
    if fitting := [image for image in called if image.name.casefold() == named.name.casefold()]:
        called = fitting
    if len(called) == 1:
        return called[0]
    if called:
        raise DataError(f"{path}: can be about {called[0]} or {called[1]}; leave one of them")
    if named.name in ("", "..") or "\0" in named.name:
        raise DataError(f"{path}: is about no image (imagePath is {name!r}); save it with labelme")
    there = [image for image in root.images(path.parent) if image.name.casefold() == named.name.casefold()]
    return there[0] if there else path.parent / named.name  # one that is missing is missed when it is read


def _flaws(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [shape for shape in content.get("shapes", []) if _is_flaw(str(shape.get("label", "")))]


def _labelme_mask(path: Path, image: Path, content: Mapping[str, Any], shapes: list[dict[str, Any]]) -> Outlines:
    drawn = (
        Shape(str(shape.get("shape_type") or "polygon"), shape.get("points"), shape.get("mask")) for shape in shapes
    )
    return Outlines(path, image.name, _size(content.get("imageHeight"), content.get("imageWidth")), tuple(drawn))


# COCO: annotations/instances_*.json, or _annotations.coco.json beside the images
_COCO_KEYS = ("images", "annotations", "categories")


def _coco(root: Root, at: Path) -> list[Path]:
    if not at.is_dir():
        return [at] if at.suffix.lower() == ".json" and _is_coco(at) else []
    return [path for path in _json_files(root, at) if _is_coco(path)]


def _is_coco(path: Path) -> bool:
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
                flaws = [one for one in about.get(image.get("id"), []) if _is_flaw(_name(names, one))]
                shapes = [_coco_shapes(flaw) for flaw in flaws]
                file = files.file(image.get("file_name"))
            except (DataError, TypeError) as error:  # TypeError: an id that is a list
                root.refuse(DataError(f"{path}: image {number}: {error}"))
                continue
            boxes += not all(shapes)
            size = _size(image.get("height"), image.get("width"))
            drawn = tuple(shape for group in shapes for shape in group)
            mask = Outlines(path, f"image {image.get('id')}", size, drawn) if flaws and all(shapes) else None
            family = _families(_name(names, flaw) for flaw in flaws) if flaws else "good"
            yield Record(root.name(file), "", bool(flaws), family, _split(root, path), file, mask)
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
