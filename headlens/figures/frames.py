"""Frames that took long to compute, on disk: read again, unless anything that made them has changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd

from headlens.errors import RunError
from headlens.files import read_regular, read_text
from headlens.results import beside, read_parquet, save_frame, write

Frames = dict[str, pd.DataFrame]


class FrameCache:
    """Frames by name in a folder, each with everything that it was asked with: detector, images, settings, versions.

    Args:
        folder: where; nothing is kept without one.
        fresh: compute everything again.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for seed in (0, 0, 1):
    ...         kept = FrameCache(Path(folder))
    ...         frame = kept.of("numbers", {"seed": seed}, lambda parts: {"": pd.DataFrame({"seed": [seed]})})[""]
    ...         print(frame["seed"].tolist(), kept.reused)
    [0] []
    [0] ['numbers']
    [1] []
    """

    def __init__(self, folder: Path | None, fresh: bool = False) -> None:
        self.folder, self.fresh = folder, fresh
        self.reused: list[str] = []

    def of(
        self,
        name: str,
        asked: Mapping[str, Any],
        compute: Callable[[Path | None], Frames],
        which: Sequence[str] = ("",),
    ) -> Frames:
        """The frames of that name: as they lie there if they were made of exactly this, else computed and written.

        Args:
            name: of the files.
            asked: all that the frames depend on, as JSON.
            compute: given a folder for unfinished parts (None: there is none), the frames.
            which: keys of the frames; the first is the one without a name of its own, ``""``.

        Raises:
            RunError: the folder cannot be written.
        """
        if self.folder is None or asked.get("hooks"):  # which hook it was, a file cannot say
            return compute(None)
        asked = json.loads(json.dumps(asked))
        path = self.folder / f"{name}.parquet"
        paths = {key: beside(path, key) if key else path for key in which}
        sums = self.folder / f"{name}.sha256"
        if not self.fresh and (found := _read(paths, sums, asked)) is not None:
            self.reused.append(name)
            return found
        mark = sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
        parts = self.folder / f"{name}.{mark}.parts"
        for old in self.folder.glob(f"{name}.*.parts"):
            if old != parts or self.fresh:
                shutil.rmtree(old)
        frames = compute(parts)
        for key, path in paths.items():
            save_frame(path, frames[key], {"asked": asked})
        write(sums, _sums(paths).encode())  # last: it says that the frames belong together
        shutil.rmtree(parts, ignore_errors=True)
        return frames


def _read(paths: Mapping[str, Path], sums: Path, asked: Mapping[str, Any]) -> Frames | None:
    """What lies there, or None where a file is missing, damaged, edited, or was made of something else."""
    frames = {}
    try:
        if read_text(sums) != _sums(paths):
            return None
        for key, path in paths.items():
            frames[key], about = read_parquet(path)
            if about.get("asked") != asked:
                return None
    except (OSError, ValueError, RunError):
        return None
    return frames


def _sums(paths: Mapping[str, Path]) -> str:
    """Of the files, as ``sha256sum`` prints and checks them."""
    return "".join(f"{sha256(read_regular(path)).hexdigest()}  {path.name}\n" for path in paths.values())
