"""The procedural clips as data sets: fixed splits, clips by number, and a folder of their frames on request."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from headlens.data.procedural.belts import KINDS, NORMAL, Clip, clip, truth
from headlens.data.procedural.catalogue import CATEGORIES, ROLES, Role
from headlens.data.procedural.draw import Draw
from headlens.errors import DataError
from headlens.files import empty_folder
from headlens.printing import unknown_name

CLIPS: dict[str, Role] = {"procedural:clips": "unseen", "procedural:clips/aux": "aux"}
"""Both sets. Plain: parts that nobody has seen; ``/aux``: what detectors are trained on. What happens is the same."""
_MEMORY = 4  # clips that are painted, and not painted again for their next frame


@dataclass(frozen=True)
class Place:
    """Which clip it is: its parts, what happens, its number among those of the category, and the truth about frames.

    Args:
        anomalous: [n] bool.
    """

    category: str
    kind: str
    number: int
    anomalous: Tensor

    @property
    def name(self) -> str:
        """As ``write`` calls its folder."""
        return f"{self.category}/test/{self.kind}/{self.number:03d}"


class ClipWorld:
    """A procedural set of clips: on a CPU a clip has the same bytes whatever is asked before it.

    Half of every category is normal. The other half are their twins, of the same belt, parts and camera, in which each
    of ``KINDS`` happens in turn: nothing but what happens tells the halves apart.

    Args:
        spec: one of ``CLIPS``.
        per_category: clips of each category.
        size: pixels along a side.
        seed: another seed is another set of the same kind.

    Raises:
        DataError: an unknown spec.

    >>> world = ClipWorld("procedural:clips", per_category=4, size=56)
    >>> world.places[3].name, world.places[3].anomalous.sum() > 3
    ('screw/test/missing/003', tensor(True))
    """

    domain = "industrial"

    def __init__(self, spec: str, per_category: int = 20, size: int = 112, seed: int = 0) -> None:
        if spec not in CLIPS:
            raise DataError(unknown_name("procedural set of clips", spec, CLIPS))
        if per_category < 2 or size < 14:
            raise DataError(f"per_category is {per_category} (at least 2), size {size} (at least 14)")
        self.spec, self.per_category, self.size, self.seed = spec, per_category, size, seed
        objects = [c.name for c in CATEGORIES.values() if c.domain == self.domain and not c.texture]
        self.categories = tuple(name for name in objects if ROLES[name] == CLIPS[spec])
        self._painted: dict[int, Clip] = {}
        self._lock = Lock()

    @cached_property
    def places(self) -> list[Place]:
        """All clips, category by category."""
        return [self._place(name, number) for name in self.categories for number in range(self.per_category)]

    @cached_property
    def frames(self) -> list[tuple[int, int]]:
        """Of every frame of the set, the number of its clip, and its number there."""
        return [(which, t) for which, place in enumerate(self.places) for t in range(len(place.anomalous))]

    def _place(self, category: str, number: int) -> Place:
        normal = self.per_category // 2
        kind = NORMAL if number < normal else KINDS[(number - normal) % len(KINDS)]
        return Place(category, kind, number, truth(kind, self._draw(category, number))[1])

    def _draw(self, category: str, number: int) -> Draw:
        twin = number % (self.per_category // 2)
        return Draw.of(self.seed, f"clips/{category}", torch.tensor([twin], dtype=torch.int32))

    def clip(self, which: int) -> Clip:
        """Clip ``which``, painted, or as it was painted a moment ago."""
        with self._lock:  # threads ask for frames of one clip at one time
            if which not in self._painted:
                place = self.places[which]
                draw = self._draw(place.category, place.number)
                self._painted[which] = clip(CATEGORIES[place.category], place.kind, draw, self.size)
                while len(self._painted) > _MEMORY:
                    del self._painted[next(iter(self._painted))]
            return self._painted[which]


def write_clips(world: ClipWorld, out: Path, progress: Callable[[], object] = lambda: None) -> int:
    """Writes clips as folders of frames (``category/test/kind/000/000.png``), and when something happens in them.

    ``intervals.csv`` beside the categories has the clip, its first frame in which something happens, and the one behind
    the last. ``progress`` is called after every clip.

    Returns:
        How many clips were written.

    Raises:
        DataError: ``out`` has something in it already.
    """
    from PIL import Image

    empty_folder(out)
    rows = []
    for which, place in enumerate(world.places):
        folder = out / place.name
        folder.mkdir(parents=True)
        for number, frame in enumerate(world.clip(which).frames):
            Image.fromarray(frame.permute(1, 2, 0).numpy()).save(folder / f"{number:03d}.png")
        if place.kind != NORMAL:
            happens = place.anomalous.nonzero().flatten().tolist()
            rows.append((place.name, happens[0], happens[-1] + 1))
        progress()
    with (out / "intervals.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("clip", "start", "end"))
        table.writerows(rows)
    return len(world.places)
