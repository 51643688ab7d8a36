"""Clips: images that belong together, as the frames of a video do. A single image is a clip of one.

A score depends on its clip alone: batches are cut so that no clip is parted, and a batch says which of its images are
one clip in the same breath as what they show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar, overload

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shown(Sequence[str]):
    """What the images of a batch show: the category of each; and how many of them are one clip.

    Methods that read images one by one use it as a sequence of categories.

    Args:
        categories: [B].
        lengths: images of each clip, in order; they add up to B.

    >>> shown = Shown.of([("belt", "a"), ("belt", "a"), ("street", "")])
    >>> list(shown), shown.lengths
    (['belt', 'belt', 'street'], (2, 1))
    """

    categories: tuple[str, ...]
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, images: Iterable[tuple[str, str]]) -> Shown:
        """Of pairs: the category of an image, and the name of its clip, empty for an image that is of none."""
        images = list(images)
        return cls(tuple(category for category, _ in images), tuple(map(len, runs([clip for _, clip in images]))))

    @overload
    def __getitem__(self, which: int) -> str: ...

    @overload
    def __getitem__(self, which: slice) -> Sequence[str]: ...

    def __getitem__(self, which: int | slice) -> str | Sequence[str]:
        return self.categories[which]

    def __len__(self) -> int:
        return len(self.categories)


def lengths_of(categories: Sequence[str], images: int) -> tuple[int, ...]:
    """How many of a batch's images are one clip, in order; one each where categories are no ``Shown``.

    >>> lengths_of(["street", "street"], 2)
    (1, 1)
    """
    return categories.lengths if isinstance(categories, Shown) else (1,) * images


def runs(clips: Sequence[str]) -> list[range]:
    """Which images are one clip: neighbours with the same name, by their numbers; an image without one is alone.

    >>> runs(["a", "a", "", "", "b"])
    [range(0, 2), range(2, 3), range(3, 4), range(4, 5)]
    """
    ranges, start = [], 0
    for clip, group in groupby(clips):
        count = len(list(group))
        ranges += [range(start, start + count)] if clip else [range(i, i + 1) for i in range(start, start + count)]
        start += count
    return ranges


def pieces(clips: Sequence[str], least: int) -> list[range]:
    """Images cut into pieces of ``least`` of them and more, up to the end of a clip; the last may have fewer.

    >>> pieces(["a", "a", "a", "", ""], 2)
    [range(0, 3), range(3, 5)]
    """
    cut, start = [], 0
    for clip in runs(clips):
        if clip.stop - start >= least:
            cut.append(range(start, clip.stop))
            start = clip.stop
    return [*cut, range(start, len(clips))] if start < len(clips) else cut


def unparted(items: Iterable[Item], least: int, clip_of: Callable[[Item], str]) -> Iterator[list[Item]]:
    """The same pieces of items that come one by one.

    >>> [len(piece) for piece in unparted("aaabb", 2, str)]
    [3, 2]
    """
    piece: list[Item] = []
    for item in items:
        if len(piece) >= least and not (clip_of(item) and clip_of(item) == clip_of(piece[-1])):
            yield piece
            piece = []
        piece.append(item)
    if piece:
        yield piece


def kind_key(name: str) -> str:
    """Names of kinds of anomalies as they are compared: in lower case, letters and digits alone.

    >>> kind_key("RoadAccidents") == kind_key("road accidents")
    True
    """
    return "".join(letter for letter in name.lower() if letter.isalnum())
