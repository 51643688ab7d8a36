"""Clips: a folder of frames for each, or a video file; when something happens in them stands in a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from headlens.data.readers.layout import layout
from headlens.data.readers.tables import table
from headlens.data.readers.tree import SPLITS, Root, is_normal
from headlens.data.samples import Record
from headlens.data.videos import VIDEOS, frame_count
from headlens.errors import DataError

INTERVALS = "intervals.csv"
Intervals = dict[str, list[tuple[int, int]]]
"""By the name of a clip: the first frame in which something happens, and the one behind the last."""


def _splits(root: Root, at: Path) -> list[tuple[str, Path]]:
    return [(split, folder) for split, words in SPLITS.items() if (folder := root.find(at, *words))]


def _clips(root: Root, family: Path) -> list[Path]:
    """Folders with images, and videos."""
    return [*(folder for folder in root.folders(family) if root.images(folder)), *root.files(family, *VIDEOS)]


def _categories(root: Root, at: Path) -> list[Path]:
    """The root, or else the folders in it, that have clips in folders of families in a split."""

    def fits(folder: Path) -> bool:
        families = [family for _, split in _splits(root, folder) for family in root.folders(split)]
        return any(_clips(root, family) for family in families if not root.images(family))

    return [root.path] if fits(root.path) else [folder for folder in root.folders(root.path) if fits(folder)]


@layout("clips", "clips: {train,test}/family/clip, a folder of frames or a video, and intervals.csv", _categories)
def clips(root: Root, at: Path) -> Iterator[Record]:
    """Frames by name. Which of an anomalous clip's are anomalous is unknown, if it is not in ``intervals.csv``."""
    categories = _categories(root, at)
    intervals = _intervals(root, root.path)
    for category in categories:
        intervals |= {} if category == root.path else _intervals(root, category)
    waiting = {*intervals}
    for category in categories:
        for split, folder in _splits(root, category):
            for family in root.folders(folder):
                for clip in _clips(root, family):
                    name = clip.relative_to(root.path).with_suffix("" if clip.is_file() else clip.suffix).as_posix()
                    waiting.discard(name)
                    yield from _frames(clip, name, category, split, intervals.get(name), root)
    if waiting:
        what = f"{min(waiting)!r} is in {INTERVALS}, and no clip; clips are called by their paths, without suffix"
        root.refuse(DataError(f"{root.path}: {what}"))


def _frames(
    clip: Path, name: str, category: Path, split: str, when: list[tuple[int, int]] | None, root: Root
) -> Iterator[Record]:
    # the same name whether the set or one category of it was opened
    shown = f"{category.name}/{name}" if category == root.path else name
    files: list[tuple[str, Path, int | None]]
    if clip.is_file():
        files = [(f"{number:05d}", clip, number) for number in range(frame_count(clip))]
    else:
        files = [(image.stem, image, None) for image in root.images(clip)]
    family = clip.parent.name
    for number, (called, file, frame) in enumerate(files):
        happens = False if is_normal(family) else None
        if happens is None and when is not None:
            happens = any(start <= number < end for start, end in when)
        kind = "good" if happens is False else family
        yield Record(f"{shown}/{called}", category.name, happens, kind, split, file, clip=shown, frame=frame)


def _intervals(root: Root, at: Path) -> Intervals:
    """What ``intervals.csv`` in a folder says: columns clip, start and end, in frames from 0, the end excluded."""
    path = root.find_file(at, INTERVALS)
    if path is None:
        return {}
    columns, rows = table(path, root.refuse)
    if missing := [name for name in ("clip", "start", "end") if name not in columns]:
        raise DataError(f"{path}: has no column {missing[0]!r}; columns are clip, start and end, in frames from 0")
    prefix = "" if at == root.path else f"{at.relative_to(root.path).as_posix()}/"
    intervals: Intervals = {}
    for place, cells in rows:
        start, end = cells["start"].strip(), cells["end"].strip()
        if not (start.isdigit() and end.isdigit() and int(start) < int(end)):
            root.refuse(
                DataError(f"{path}: {place} says {start!r} to {end!r}; both are frames, from 0, the end excluded")
            )
            continue
        intervals.setdefault(prefix + cells["clip"].strip(), []).append((int(start), int(end)))
    return intervals
