"""What readers see of a data set's folder: files by name, masks by stem, and nothing outside of it."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from headlens.data.images import SUFFIXES
from headlens.data.samples import Record
from headlens.errors import DataError

NORMAL = frozenset(
    ["good", "ok", "no", "normal", "normals", "healthy", "negative", "nondefective", "non_defective", "defect_free"]
)
"""Folders and labels, in lower case, that say that nothing is wrong."""

_JUNK = {"__macosx", "@eadir", "thumbs.db", "desktop.ini"}  # what archives and file managers leave behind
_ROLE = re.compile(r"(?i)[ ._-]+(mask|label|gt|seg|segmentation|ground[ _-]?truth|annotation|anno)s?$")


def _raise(error: DataError) -> None:
    raise error


class Root:
    """A data set's folder. It may be a link itself; what is in it must be in it.

    Args:
        path: the folder.
        refuse: called with a ``DataError`` for everything that is left out; by default it is raised.
        follow_links: whether links may lead out of the folder, as in stores that keep files elsewhere (DVC, git-annex).
    """

    def __init__(
        self, path: Path, refuse: Callable[[DataError], object] | None = None, follow_links: bool = False
    ) -> None:
        self.path, self.refuse, self.follow_links = path, refuse or _raise, follow_links
        self._real = os.path.realpath(path)
        self._seen: dict[Path, tuple[list[Path], list[Path]]] = {}
        self._inside: dict[str, bool] = {}
        self._strip = 0  # leading parts that the last path of a listing had too many

    def name(self, path: Path) -> str:
        """What a record of this file is called: its path below the root without suffix."""
        return path.relative_to(self.path).with_suffix("").as_posix()

    def folders(self, at: Path) -> list[Path]:
        """Folders in ``at`` by name, without hidden ones."""
        return self._look(at)[0]

    def files(self, at: Path, *suffixes: str) -> list[Path]:
        """Files in ``at`` by name that end in one of ``suffixes``, in any case."""
        return [path for path in self._look(at)[1] if path.suffix.lower() in suffixes]

    def images(self, at: Path) -> list[Path]:
        """Pictures in ``at`` by name."""
        return self.files(at, *SUFFIXES)

    def find(self, at: Path, *names: str) -> Path | None:
        """The folder in ``at`` with the first of these (lower-case) names that there is, in any case."""
        return self._first(self.folders(at), names)

    def find_file(self, at: Path, *names: str) -> Path | None:
        """The same for a file."""
        return self._first(self._look(at)[1], names)

    @staticmethod
    def _first(paths: list[Path], names: Sequence[str]) -> Path | None:
        there = {path.name.lower(): path for path in reversed(paths)}
        return next((there[name] for name in names if name in there), None)

    def _look(self, at: Path) -> tuple[list[Path], list[Path]]:
        if at not in self._seen:
            folders: list[Path] = []
            files: list[Path] = []
            try:
                with os.scandir(at) as entries:
                    for entry in entries:
                        if entry.name.startswith(".") or entry.name.lower() in _JUNK:
                            continue
                        path = at / entry.name
                        if entry.is_symlink() and not self._contained(path):
                            self.refuse(outside(path, self.path, "a link that leads out of"))
                            continue
                        (folders if entry.is_dir() else files).append(path)
            except OSError as error:
                raise DataError(f"{at}: cannot be listed ({error.strerror})") from error
            self._seen[at] = (sorted(folders), sorted(files))
        return self._seen[at]

    def _contained(self, path: Path) -> bool:
        real = os.path.realpath(path)
        return self.follow_links or real == self._real or real.startswith(self._real.rstrip(os.sep) + os.sep)

    def listed(self, text: str, listing: Path) -> Path | None:
        """The file that a listing calls ``text``: relative to the root, with either kind of slash.

        Published listings also hold paths of the machine they were written on, with the root's path in front. Of a
        path that is not there as it stands, what follows the root's own name is taken; of an absolute one also what
        follows any other folder, if that is a file in the root. Nothing outside the root is ever returned: such paths
        are refused. A missing file inside is returned, and missed when it is read.
        """
        windows = PureWindowsPath(text)
        parts = [part for part in re.split(r"[\\/]+", text[len(windows.drive) :]) if part not in ("", ".")]
        absolute, climbing = bool(windows.drive or windows.root), ".." in parts
        if not parts or "\0" in text:
            self.refuse(DataError(f"{listing}: the path {text!r} names no file"))
            return None
        for strip in self._candidates(parts, absolute, climbing):
            path = self.path.joinpath(*parts[strip:])
            if ".." not in parts[strip:] and os.path.isfile(path):  # noqa: PTH113 a name can be too long, which Path raises
                self._strip = strip
                break
        else:
            path = self.path.joinpath(*parts)
            if absolute and not climbing and Path(text).is_relative_to(self.path.absolute()):
                path = self.path / Path(text).relative_to(self.path.absolute())
            elif absolute or climbing:
                self.refuse(outside(text, self.path, f"in {listing}, a path outside"))
                return None
        folder = str(path.parent)
        if folder not in self._inside:
            self._inside[folder] = self._contained(path.parent)
        leads_on = os.path.islink(path)  # noqa: PTH114
        if not self._inside[folder] or (leads_on and not self._contained(path)):
            self.refuse(outside(path, self.path, f"in {listing}, a link that leads out of"))
            return None
        return path

    def _candidates(self, parts: list[str], absolute: bool, climbing: bool) -> list[int]:
        """How many leading parts to drop, the likeliest first."""
        own = {self.path.name, Path(self._real).name}
        after = [i + 1 for i, part in enumerate(parts[:-1]) if part in own]
        whole = [] if absolute or climbing else [0]
        last = [self._strip] if self._strip in after or (not climbing and 0 < self._strip < len(parts) - 1) else []
        later = [] if climbing else range(1, len(parts) - 1)  # a file's name alone is not enough to know it by
        return [*whole, *last, *after, *later]


def records(root: Root, images: Sequence[Path], masks: Sequence[Path], **told: Any) -> Iterator[Record]:
    """One record for each image, with its mask by name and what else is ``told`` of all of them."""
    for image, mask in zip(images, pair(images, masks), strict=True):
        yield Record(root.name(image), image=image, mask=mask, **told)


def outside(what: object, root: Path, how: str) -> DataError:
    """The error for something that is not in the root."""
    return DataError(f"{what}: {how} {root}; copy it in, or name the folder that holds it all (root=, follow_links=)")


def stem(path: Path) -> str:
    """The name of a mask without what says that it is one: ``003_mask.png`` is about ``003``."""
    return _ROLE.sub("", path.stem)


def pair(images: Sequence[Path], masks: Sequence[Path]) -> list[Path | None]:
    """The mask of each image by name, never by position; None where there is none, or no telling which.

    Equal names come first, then equal stems, stems without ``_mask`` and the like, and the same in any case. A mask
    goes to one image only.

    >>> masks = pair([Path("a.jpg"), Path("b.jpg"), Path("C.jpg")], [Path("c_mask.png"), Path("a.png")])
    >>> [mask and mask.name for mask in masks]
    ['a.png', None, 'c_mask.png']
    """
    found: dict[Path, Path] = {}
    ways: list[tuple[Callable[[Path], str], Callable[[Path], str]]] = [
        (lambda p: p.name, lambda p: p.name),
        (lambda p: p.stem, lambda p: p.stem),
        (lambda p: p.stem, stem),
        (lambda p: p.stem.casefold(), lambda p: p.stem.casefold()),
        (lambda p: p.stem.casefold(), lambda p: stem(p).casefold()),
    ]
    waiting, free = list(images), list(masks)
    for of_image, of_mask in ways:
        named: dict[str, list[Path]] = defaultdict(list)
        for mask in free:
            named[of_mask(mask)].append(mask)
        asking = Counter(map(of_image, waiting))
        for image in waiting:
            key = of_image(image)
            if asking[key] == len(named[key]) == 1:
                found[image] = named[key][0]
        taken = set(found.values())
        waiting = [image for image in waiting if image not in found]
        free = [mask for mask in free if mask not in taken]
    return [found.get(image) for image in images]
