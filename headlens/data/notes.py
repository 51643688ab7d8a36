"""What is to be said of a data set's images after a pass over it: which did not count, or not as stored, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from headlens.printing import alike, printable

if TYPE_CHECKING:
    from headlens.data.loading import Loader

Notes = dict[str, dict[str, str]]
"""For each kind of note, names of images and the reason for each."""
KINDS = {
    "skipped": "left out",
    "unmasked": "without a usable mask",
    "adjusted": "with a mask that was adjusted",
}
_EXAMPLES = 3


def notes_here(loader: Loader) -> Notes:
    """What a loader has met so far in this process."""
    return {
        kind: {one.record.name: one.reason.removeprefix(f"{one.record.name}: ") for one in getattr(loader, kind)}
        for kind in KINDS
    }


def notes_of(loader: Loader) -> Notes:
    """What a loader has met so far on every rank; all ranks must ask."""
    from headlens import parallel

    parts = parallel.current().gathered(notes_here(loader))
    joined = {kind: {name: why for part in parts for name, why in part[kind].items()} for kind in KINDS}
    order = {record.name: place for place, record in enumerate(loader.dataset.records)}
    return {kind: dict(sorted(reasons.items(), key=lambda item: order[item[0]])) for kind, reasons in joined.items()}


def lines(notes: Mapping[str, Mapping[str, str]], kinds: Iterable[str] = KINDS, of: str = "") -> list[str]:
    """A line for each kind that there are notes of: how many images, and an example of every sort of reason.

    Args:
        notes: as ``notes_of`` gives them; other keys are passed by.
        kinds: which.
        of: what the images are of, such as the data set's name.

    >>> lines({"skipped": {"a/1": "/x/1.png: cut short at 99", "a/2": "/x/2.png: cut short at 7"}}, of="bolts")
    ['2 images of bolts left out: a/1 (/x/1.png: cut short at 99) and 1 more like it']
    """
    said = []
    for kind in kinds:
        if not (reasons := notes.get(kind)):
            continue
        examples = [
            f"{first} ({reason})" + (f" and {len(others)} more like it" if others else "")
            for (first, reason), *others in alike(reasons.items(), lambda item: item[1])
        ]
        count = f"{len(reasons)} {'image' if len(reasons) == 1 else 'images'}" + (f" of {of}" if of else "")
        more = f"; and {len(examples) - _EXAMPLES} other reasons" if len(examples) > _EXAMPLES else ""
        said.append(printable(f"{count} {KINDS[kind]}: {'; '.join(examples[:_EXAMPLES])}{more}"))
    return said
