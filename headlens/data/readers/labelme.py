"""labelme: a file in JSON for each image, beside it or in a folder of its own."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path, PureWindowsPath
from typing import Any

from headlens.data.readers.drawn import family_of, flaws, labelme, outlines
from headlens.data.readers.known import generic
from headlens.data.readers.splits import split_on_the_way
from headlens.data.readers.tables import text
from headlens.data.readers.tree import Root, is_normal
from headlens.data.samples import Record
from headlens.errors import DataError


def json_files(root: Root, at: Path) -> Iterator[Path]:
    """In a folder, in those in it, and in those of its splits and the like: deeper, there would be other sets."""
    yield from root.files(at, ".json")
    for folder in root.folders(at):
        yield from root.files(folder, ".json")
        for inner in root.folders(folder) if generic(folder.name) else []:
            yield from root.files(inner, ".json")


def _some_of_each_folder(root: Root, at: Path) -> Iterator[Path]:
    """The first three: one or two can be about the set (``classes.json``), and all together can be large."""
    for _, files in groupby(json_files(root, at), key=lambda path: path.parent):
        yield from islice(files, 3)


def is_labelme(path: Path) -> bool:
    """Whether a JSON file has the keys of labelme."""
    content = text(path, lenient=True)
    return '"shapes"' in content and '"imagePath"' in content


def fits_labelme(root: Root, at: Path) -> bool:
    """A folder with files of labelme in it, beside the images or in a folder of their own; or one such file."""
    if not at.is_dir():
        return at.suffix.lower() == ".json" and is_labelme(at)
    return any(is_labelme(path) for path in _some_of_each_folder(root, at))


def read_labelme(root: Root, at: Path) -> Iterator[Record]:
    """An image with a shape in its file is anomalous; one without a shape, or without a file, is normal.

    Images in a folder in which none has a file are normal only if the folder is called so.
    """
    images = list(root.below(root.path))
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        by_stem[image.stem.casefold()].append(image)
    told: dict[Path, tuple[Path, dict[str, Any]]] = {}
    files = list(json_files(root, at)) if at.is_dir() else [at]
    alone = [called[0].parent for path in files if len(called := by_stem[path.stem.casefold()]) == 1]
    usual = Counter(alone).most_common(1)[0][0] if alone else None
    for path in files:
        try:
            content = labelme(path)
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
    if not at.is_dir():
        images = []
    elif without:
        root.note(f"{len(without)} of {len(images)} images have no file of labelme and count as normal: {without[0]}")
    for image in dict.fromkeys([*images, *told]):
        path, content = told.get(image, (image, {}))
        shapes = flaws(content)
        anomalous: bool | None = bool(shapes)
        if image.parent not in annotated:
            anomalous = False if is_normal(image.parent.name) else None
        mask = outlines(path, image, content) if shapes else None
        family = family_of(str(shape.get("label", "")) for shape in shapes)
        family = "good" if anomalous is False else family
        yield Record(root.name(image), "", anomalous, family, split_on_the_way(root, image), image, mask)


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
