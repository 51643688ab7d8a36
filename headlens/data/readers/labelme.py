"""labelme: a file in JSON for each image, next to it or in a folder of its own; and what the labels in it mean."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path, PureWindowsPath
from typing import Any

from headlens.data.outlines import Outlines, Shape
from headlens.data.readers.known import generic
from headlens.data.readers.layout import layout
from headlens.data.readers.tables import names_keys, value_in
from headlens.data.readers.tree import Root, is_normal
from headlens.data.samples import Record
from headlens.errors import DataError

KEYS = ("shapes", "imagePath")
_BACKGROUND = {"background", "_background_", "__ignore__", "ignore"}


def is_defect(name: str) -> bool:
    """Whether what is drawn under this name is something that is wrong.

    >>> is_defect("dent"), is_defect("OK"), is_defect("_background_")
    (True, False, False)
    """
    return not is_normal(name) and name.strip().lower() not in _BACKGROUND


def family_of(names: Iterable[str]) -> str:
    """One name for all that is wrong with an image.

    >>> family_of(["scratch", "dent", "dent"])
    'dent+scratch'
    """
    return "+".join(sorted({name.strip() for name in names}))


def size_of(height: Any, width: Any) -> tuple[int, int] | None:
    """Height and width where both are numbers of pixels."""
    sides = (height, width)
    return sides if all(type(side) is int and 0 < side < 2**31 for side in sides) else None


def labelme_file(path: Path) -> dict[str, Any] | None:
    """What is in a file of labelme; None for any other JSON, such as a table of the set."""
    content = value_in(path)
    if not isinstance(content, dict) or not all(key in content for key in KEYS):
        return None
    shapes = content["shapes"]
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise DataError(f"{path}: its shapes are not a list of objects; save it with labelme")
    content.pop("imageData", None)  # all of the image once more
    return content


def defects(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The shapes in a file of labelme that are drawn around something that is wrong."""
    return [shape for shape in content.get("shapes", []) if is_defect(str(shape.get("label", "")))]


def outlines(path: Path, image: Path, content: Mapping[str, Any]) -> Outlines:
    """Those shapes as the mask of ``image``."""
    drawn = [(one.get("shape_type") or "polygon", one.get("points"), one.get("mask")) for one in defects(content)]
    shapes = tuple(Shape(str(kind), points, mask) for kind, points, mask in drawn)
    return Outlines(path, image.name, size_of(content.get("imageHeight"), content.get("imageWidth")), shapes)


def json_files(root: Root, at: Path) -> Iterator[Path]:
    """In a folder, in those in it, and in those of its splits and the like: deeper, there would be other sets."""
    yield from root.files(at, ".json")
    for folder in root.folders(at):
        yield from root.files(folder, ".json")
        for inner in root.folders(folder) if generic(folder.name) else []:
            yield from root.files(inner, ".json")


def _some_labelme(root: Root, at: Path) -> bool:
    """Of each folder the first three: one or two can be about the set (``classes.json``), and all can be large."""
    if not at.is_dir():
        return at.suffix.lower() == ".json" and names_keys(at, KEYS)
    by_folder = groupby(json_files(root, at), key=lambda path: path.parent)
    return any(names_keys(path, KEYS) for _, files in by_folder for path in islice(files, 3))


@layout("labelme", "labelme: a.json beside a.jpg, or label/a.json", _some_labelme, files=True)
def labelme(root: Root, at: Path) -> Iterator[Record]:
    """An image with a shape in its file is anomalous; one without a shape, or without a file, is normal.

    Images in a folder in which none has a file are normal only if the folder is called so.
    """
    images = list(root.below(root.path))
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        by_stem[image.stem.casefold()].append(image)
    contents: dict[Path, tuple[Path, dict[str, Any]]] = {}
    files = list(json_files(root, at)) if at.is_dir() else [at]
    alone = [called[0].parent for path in files if len(called := by_stem[path.stem.casefold()]) == 1]
    usual = Counter(alone).most_common(1)[0][0] if alone else None
    for path in files:
        try:
            content = labelme_file(path)
            if content is None:
                continue
            image = _image_of(path, content, by_stem[path.stem.casefold()], root, usual)
            if image in contents:
                raise DataError(f"{path}: is about {image}, as {contents[image][0]} is; leave one of them")
            contents[image] = path, content
        except DataError as error:
            root.refuse(error)
    annotated = {image.parent for image in contents}
    without = [image for image in images if image not in contents and image.parent in annotated]
    if not at.is_dir():
        images = []
    elif without:
        counts = f"{len(without)} of {len(images)} images"
        root.notes.append(f"{counts} have no file of labelme and count as normal: {without[0]}")
    for image in dict.fromkeys([*images, *contents]):
        path, content = contents.get(image, (image, {}))
        shapes = defects(content)
        anomalous: bool | None = bool(shapes)
        if image.parent not in annotated:
            anomalous = False if is_normal(image.parent.name) else None
        mask = outlines(path, image, content) if shapes else None
        family = "good" if anomalous is False else family_of(str(shape.get("label", "")) for shape in shapes)
        yield Record(root.name(image), "", anomalous, family, root.split_of(image), image, mask)


def _image_of(path: Path, content: Mapping[str, Any], called: Sequence[Path], root: Root, usual: Path | None) -> Path:
    """The image next to it or in the ``usual`` folder, that which it names, or the only one of its name."""
    name = content["imagePath"]
    named = (PureWindowsPath(name) if isinstance(name, str) else PureWindowsPath()).name
    for folder in (path.parent, usual):
        if inside := [image for image in called if image.parent == folder]:
            called = inside
            break
    if len(called) > 1:
        called = [image for image in called if image.name.casefold() == named.casefold()] or called
    if len(called) == 1:
        return called[0]
    if called:
        raise DataError(f"{path}: can be about {called[0]} or {called[1]}; leave one of them")
    if named in ("", "..") or "\0" in named:
        raise DataError(f"{path}: is about no image (imagePath is {name!r}); save it with labelme")
    here = [image for image in root.images(path.parent) if image.name.casefold() == named.casefold()]
    return here[0] if here else path.parent / named  # a missing one is reported when it is read
