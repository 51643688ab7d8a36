"""The paths in a listing, which may have been written on another machine, as files of a root."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath

from headlens.data.readers.tree import Root, outside
from headlens.errors import DataError


class Paths:
    """The files that one listing names: relative to the root, with either kind of slash.

    Published listings also hold paths of the machine they were written on, with that machine's root in front. That is
    found from all paths together: a prefix counts if without it some path leads to a file, and of several the shortest.
    It may be any folders of an absolute path, or what ends in the root's own name. So a file that is missing stays
    missing, though another one may be called the same further up.

    Args:
        root: where the files are.
        texts: all paths in the listing.
    """

    def __init__(self, root: Root, texts: Iterable[str]) -> None:
        self.root = root
        self._prefixes: set[tuple[str, ...]] = set()
        for text in texts:
            parts, absolute = _parts(text)
            for n in self._lengths(parts, absolute):
                known = tuple(parts[:n]) in self._prefixes
                # not Path.is_file: a name can be too long, which that raises
                if known or os.path.isfile(root.path.joinpath(*parts[n:])):  # noqa: PTH113
                    self._prefixes.add(tuple(parts[:n]))
                    break

    def file(self, text: str) -> Path:
        """The file that the listing calls ``text``, which need not be there: it is missed when it is read.

        Raises:
            DataError: it lies outside of the root, or is no path at all.
        """
        parts, absolute = _parts(text)
        if not parts:
            raise DataError(f"the path {text!r} names no file")
        base, climbing = self.root.path.absolute(), ".." in parts
        n = next((n for n in self._lengths(parts, absolute) if tuple(parts[:n]) in self._prefixes), 0)
        if absolute and not climbing and Path(text).is_relative_to(base):
            path = self.root.path / Path(text).relative_to(base)
        elif n == 0 and (absolute or climbing):
            raise outside(text, self.root.path, "a path outside")
        else:
            path = self.root.path.joinpath(*parts[n:])
        if not self.root.holds(path):
            raise outside(path, self.root.path, "a link that leads out of")
        return path

    def _lengths(self, parts: list[str], absolute: bool) -> list[int]:
        """How many leading parts may be those of another machine, the fewest first."""
        climbing = ".." in parts
        if not (absolute or climbing) and (not parts or os.path.lexists(self.root.path / parts[0])):
            return []
        names = {self.root.path.absolute().name, Path(self.root.real).name}
        lengths = {n for n, part in enumerate(parts[:-1], 1) if part in names}
        if absolute and not climbing:  # a file's name alone is not enough to know it by
            lengths |= {*range(1, len(parts) - 1)}
        return sorted(n for n in lengths if ".." not in parts[n:])


def _parts(text: str) -> tuple[list[str], bool]:
    """The names in a path, none of a path that no file can have; and whether it is absolute, on any machine."""
    windows = PureWindowsPath(text)
    try:
        possible = b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        possible = False
    names = re.split(r"[\\/]+", text[len(windows.drive) :]) if possible else []
    return [name for name in names if name not in ("", ".")], bool(windows.drive or windows.root)
