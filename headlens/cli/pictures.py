"""Picture files as a shell names them."""

from __future__ import annotations

from pathlib import Path


def found(pictures: list[str], out: Path) -> list[Path]:
    """The picture files that arguments name, each once, in order; in folders, none of what was written to ``out``.

    Raises:
        DataError: an argument that names nothing.
    """
    from glob import glob, has_magic

    from headlens.data.images import SUFFIXES
    from headlens.errors import DataError

    files: list[Path] = []
    for given in pictures:
        path = Path(given).expanduser()
        if path.is_dir():
            own = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            own = [file for file in own if not file.resolve().is_relative_to(out.resolve())]
        elif path.exists() or not has_magic(given):
            own = [path] if path.is_file() else []
        else:
            own = sorted(file for file in map(Path, glob(given, recursive=True)) if file.is_file())  # noqa: PTH207
        if not own:
            what = "no picture in it" if path.is_dir() else "no such file, folder or pattern"
            raise DataError(f"{given}: {what}")
        files += own
    return list(dict.fromkeys(files))


def unique_names(files: list[Path]) -> list[str]:
    """Names for results: the files' own, with as many folders in front as it takes to tell them apart.

    >>> unique_names([Path("a/x.png"), Path("b/x.png"), Path("b/y.png")])
    ['a-x.png', 'b-x.png', 'y.png']
    """
    from collections import Counter

    names = [file.name for file in files]
    depth = 1
    while len(set(names)) < len(names) and depth < max(len(file.absolute().parts) for file in files):
        depth += 1
        twice = {name for name, count in Counter(names).items() if count > 1}
        names = [
            "-".join(file.absolute().parts[1:][-depth:]) if name in twice else name
            for name, file in zip(names, files, strict=True)
        ]
    return names


def unique(names: list[str]) -> list[str]:
    """The names, those that came before with a number behind.

    >>> unique(["a-b", "a-b", "c"])
    ['a-b', 'a-b-2', 'c']
    """
    found: list[str] = []
    for name in names:
        number, own = 1, name
        while own in found:
            number += 1
            own = f"{name}-{number}"
        found.append(own)
    return found
