"""What a layout is: how a data set lies on disk, and what reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from headlens.data.readers.tree import Root
from headlens.data.samples import Record

Reader = Callable[[Root, Path], Iterator[Record]]


@dataclass(frozen=True)
class Layout:
    """How a data set lies on disk.

    Args:
        name: what users call it.
        about: one line.
        look: what there is of it in a folder, or a file; empty, None or False where there is nothing. It looks at names
            and headers of tables, never into images.
        read: its records, of all splits; an empty category where the layout has none.
        domain: where every set of this layout has the same.
        listing: whether a file lists the records, so that ``at`` need not be where the images are.
        files: whether one file can be opened, and not only a folder.
    """

    name: str
    about: str
    look: Callable[[Root, Path], object]
    read: Reader
    domain: str = ""
    listing: bool = False
    files: bool = False

    def fits(self, root: Root, at: Path) -> bool:
        """Whether a folder, or a file, looks like it."""
        return (at.is_dir() or self.listing or self.files) and bool(self.look(root, at))


def layout(
    name: str, about: str, look: Callable[[Root, Path], object], domain: str = "", **options: bool
) -> Callable[[Reader], Layout]:
    """Makes the function below it the reader of a layout; see ``Layout``."""
    return lambda read: Layout(name, about, look, read, domain, **options)
