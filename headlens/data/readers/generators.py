"""Generated and real images in folders ``1_fake`` and ``0_real`` of each generator, as sets for deepfake detection lie.

progan/airplane/{0_real,1_fake}/0001.png      between generator and kind: what images show, where it is known
test/stargan/{0_real,1_fake}/0001.png         around generators: a split
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from headlens.data.procedural.captions import shown
from headlens.data.readers.families import refuse_below
from headlens.data.readers.layout import layout
from headlens.data.readers.tree import Root, records, split_of
from headlens.data.samples import Record
from headlens.errors import DataError

KINDS = ("0_real", "1_fake")
_DEEP = 4  # split, generator, what is shown, and one more


def _pairs(root: Root, at: Path) -> list[Path]:
    """Folders, at most so deep, that hold a folder of either kind."""
    found, waiting = [], [(root.path, 0)]
    while waiting:
        folder, deep = waiting.pop()
        if root.find(folder, *KINDS):
            found.append(folder)
        elif deep < _DEEP:
            waiting += [(inner, deep + 1) for inner in reversed(root.folders(folder))]
    return found


@layout("generators", "0_real/ and 1_fake/ in a folder of each generator", _pairs, "generated")
def generators(root: Root, at: Path) -> Iterator[Record]:
    """The category is the generator: the first folder that is no split. What is between it and the kind is shown.

    A generator without images of both kinds is refused: nothing can be told apart there.
    """
    kinds: dict[tuple[str, str], set[str]] = defaultdict(set)  # of the images of each split and generator
    for folder in _pairs(root, at):
        way = folder.relative_to(root.path).parts
        split = split_of(way[0]) if way else None
        category, *things = way[1:] if split else way or (folder.absolute().name,)
        for kind, anomalous in zip(KINDS, (False, True), strict=True):
            if inner := root.find(folder, kind):
                refuse_below(root, inner, root.folders(inner))
                images, family = root.images(inner), "generated" if anomalous else "good"
                facts = {"category": category, "anomalous": anomalous, "split": split or "test", "family": family}
                kinds[split or "test", category].update([kind] if images else [])
                yield from records(root, images, [], **facts, caption=shown(" ".join(things)) if things else "")
    for (_, category), present in kinds.items():
        if absent := [kind for kind in KINDS if kind not in present]:
            root.refuse(
                DataError(
                    f"{root.path}: {category} has no image in {' or '.join(absent)}; copy some there, such as the real "
                    f"images that its generated ones are compared with, or move {category} elsewhere"
                )
            )
