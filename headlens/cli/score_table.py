"""What ``headlens score`` writes: ``scores.csv``, a map and an overlay for each image; and how it goes on."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headlens.cli.result_names import as_text, from_text, result_names
from headlens.cli.score_overlays import Colours, Scale, overlay_png
from headlens.errors import RunError
from headlens.files import MOST_TEXT, SOFTWARE, is_result, read_regular, read_text, write_atomically
from headlens.tables import line_end

if TYPE_CHECKING:
    import numpy as np

    from headlens.units import Unit

COLUMNS = ("file", "image_score", "map_max", "joint_score", "anomalous", "map", "overlay", "bytes", "modified")
_Row = dict[str, str]
_DRAWN = "overlays"  # besides the question, in its file


@dataclass(frozen=True)
class Scored:
    """One image and what was predicted of it.

    Args:
        path: its file.
        state: what ``state_of`` said of the file before it was read.
        image: [H, W, 3] uint8.
        anomaly_map: [H, W] float32.
        image_score, map_max, joint_score: of the image; the map's maximum is that of the map as computed.
    """

    path: Path
    state: tuple[str, str]
    image: np.ndarray
    anomaly_map: np.ndarray
    image_score: float
    map_max: float
    joint_score: float


class ScoreTable:
    """The folder of results. Every batch is on disk before the next one is computed.

    Args:
        out: made if need be.
        question: what decides the results besides the images: run, threshold, size, the scores' unit, and so on; in
            JSON.
        force: start anew, whatever ``out`` holds.
        scale: of the overlays. They are drawn again, and nothing is computed, when it is another one than before.

    Raises:
        RunError: the folder cannot be written, what was finished stays; or it holds the answers to another question.
    """

    def __init__(self, out: Path, question: dict[str, Any], force: bool = False, scale: Scale = Scale.ABSOLUTE) -> None:
        self.out, self.question, self.scale = out, question, scale
        self.drawn = scale.value  # on which scale overlays are
        self.path, self.about = out / "scores.csv", out / "scores.json"
        self.threshold, self.suffix = question["threshold"], f".{question['maps']}"
        self.unit: Unit = question["unit"]
        self.count = 0
        self.rows: dict[str, _Row] = {}  # by the absolute path of the image
        self.names: dict[Path, str] = {}
        with self._writing():
            out.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and not force:
                self._check()
                self.rows = {_key(from_text(row["file"])): row for row in self._read()}
            elif self.path.exists():
                with suppress(RunError):  # so that no result of another question lies among the new ones
                    for row in self._read():
                        self._remove(row)
            self._note(self.drawn)
            self._rewrite()

    def missing(self, files: list[Path]) -> list[Path]:
        """Those without results, or with results of a file that has changed since; the others keep theirs."""
        waiting = [path for path in files if not self._done(path)]
        stale = [self.rows.pop(_key(path)) for path in waiting if _key(path) in self.rows]
        with self._writing():
            for row in stale:
                self._remove(row)
            if stale:
                self._rewrite()
            self._name(files)
        return waiting

    def _note(self, drawn: str) -> None:
        """Writes what the results answer, and on which scale overlays are."""
        self.drawn = drawn
        write_atomically(self.about, (json.dumps({**self.question, _DRAWN: drawn}, indent=1) + "\n").encode())

    def expects(self, new: int) -> bool:
        """Whether overlays are to be drawn again after ``new`` images were added: ``redraw`` has to follow."""
        if self.drawn == self.scale.value and not (new and self.scale is Scale.SET):
            return False
        with self._writing():
            self._note("unfinished")
        return True

    def redraw(self, max_pixels: int, done: Callable[[int], object]) -> None:
        """Draws the overlays of all rows, from their maps and images, on the scale that is asked for.

        Args:
            max_pixels: an image that is larger, or gone, keeps its overlay.
            done: called after each.
        """
        from headlens.data import read_image
        from headlens.errors import DataError

        rows = self._read()
        every = None
        if self.scale is Scale.SET:
            every = Colours.of((read_map(self.out / row["map"]) for row in rows), self.scale, self.unit)
        for row in rows:
            path, shown = from_text(row["file"]), read_map(self.out / row["map"])
            with suppress(DataError, OSError):
                image = read_image(path, max_pixels).permute(1, 2, 0).numpy()
                colours = every or Colours.of([shown], self.scale, self.unit)
                drawn = overlay_png(image, shown, self._title(path, float(row["joint_score"])), colours)
                with self._writing():
                    write_atomically(self.out / row["overlay"], drawn)
            done(1)
        with self._writing():
            self._note(self.scale.value)

    def _title(self, path: Path, joint_score: float) -> str:
        """Score, decision and name; of long ones the middle is left out when it is drawn."""
        from headlens.units import with_unit

        note = ""
        if self.threshold is not None:
            note = f", {'anomalous' if joint_score > self.threshold else 'normal'}"
        return f"joint score {with_unit(f'{joint_score:.3f}', self.unit)}{note}: {path.name}"

    def of(self, files: list[Path]) -> list[dict[str, str]]:
        """The rows of these images, in this order; those that have none are left out."""
        rows = {_key(from_text(row["file"])): row for row in self._read()}
        return [rows[_key(path)] for path in files if _key(path) in rows]

    def _rewrite(self) -> None:
        write_atomically(self.path, _lines([dict(zip(COLUMNS, COLUMNS, strict=True)), *self.rows.values()]))

    def _remove(self, row: _Row) -> None:
        """Takes away a map and an overlay that headlens has written."""
        native, overlay = (self.out / Path(row[name]).name for name in ("map", "overlay"))
        if is_result(overlay):
            native.unlink(missing_ok=True)
            overlay.unlink()

    def _done(self, path: Path) -> bool:
        row = self.rows.get(_key(path))
        try:
            if row is None or state_of(path) != (row["bytes"], row["modified"]):
                return False
        except OSError:
            return False
        return all((self.out / row[name]).is_file() for name in ("map", "overlay"))

    def _name(self, files: list[Path]) -> None:
        """The names of all results: none is another image's, and none a file that is not headlens's."""
        waiting = [path for path in files if _key(path) not in self.rows]
        taken = [row["map"].removesuffix(self.suffix) for row in self.rows.values()]
        names = dict(zip(files, result_names(files), strict=True))
        blocked = [name for path in waiting if self._blocked(name := names[path])]
        again = dict(zip(files, result_names(files, [*taken, *blocked]), strict=True))
        for path in waiting:
            if self._blocked(again[path]):
                place = self.out / f"{again[path]}{self.suffix}"
                raise RunError(f"{place}: would be overwritten, and headlens did not write it; name another --out")
            self.names[path] = again[path]

    def _blocked(self, name: str) -> bool:
        """Whether files of this name are no results: maps are written after their overlay, which says what it is."""
        overlay, native = self.out / f"{name}.overlay.png", self.out / f"{name}{self.suffix}"
        return (overlay.exists() or native.exists()) and not is_result(overlay)

    def add(self, batch: Iterable[Scored]) -> None:
        """Writes maps, overlays, and then their rows; raises as ``append``."""
        self.append([self._write(scored) for scored in batch])

    def append(self, rows: list[_Row]) -> None:
        """Rows of the table, in one piece; a torn line is recognised when scoring goes on.

        Raises:
            RunError: no room, or no permission.
        """
        content = _lines(rows)
        with self._writing():
            place = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            try:
                if os.write(place, content) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(place)
        self.count += len(rows)

    def _write(self, scored: Scored) -> _Row:
        name, decision, shown = self.names[scored.path], "", scored.anomaly_map
        if self.threshold is not None:
            decision = str(scored.joint_score > self.threshold).lower()
        scale = Scale.IMAGE if self.scale is Scale.SET else self.scale  # the set's is not known yet
        title = self._title(scored.path, scored.joint_score)
        drawn = overlay_png(scored.image, shown, title, Colours.of([shown], scale, self.unit))
        with self._writing():
            write_atomically(self.out / f"{name}.overlay.png", drawn)
            write_map(self.out / f"{name}{self.suffix}", scored.anomaly_map)
        values = (
            as_text(scored.path),
            *(f"{value:.6f}" for value in (scored.image_score, scored.map_max, scored.joint_score)),
            decision,
            f"{name}{self.suffix}",
            f"{name}.overlay.png",
            *scored.state,
        )
        return dict(zip(COLUMNS, values, strict=True))

    def _check(self) -> None:
        try:
            before = json.loads(read_text(self.about))
        except (OSError, ValueError):
            before = None
        again = "name another --out, or start again with --force"
        if not isinstance(before, dict):
            raise RunError(f"{self.path} exists, and there is no record of how it was made; {again}")
        self.drawn = str(before.pop(_DRAWN, Scale.ABSOLUTE.value))  # the only one in earlier versions
        differ = [
            f"{name} {before.get(name)} before, {self.question.get(name)} now"
            for name in self.question | before
            if before.get(name) != self.question.get(name)
        ]
        if differ:
            raise RunError(f"{self.path} was made with other settings: {'; '.join(differ)}; {again}")

    def _read(self) -> list[_Row]:
        """Complete rows: a line that was being written when the process was killed is left out."""
        try:
            content = read_regular(self.path, MOST_TEXT)
            text = content[: content.rfind(b"\n") + 1].decode()
            head, *rows = csv.reader(io.StringIO(text, newline=""))
        except (ValueError, csv.Error):
            head, rows = [], []
        if tuple(head) != COLUMNS:
            raise RunError(
                f"{self.path} was changed after headlens wrote it; name another --out, or start again with --force"
            )
        return [dict(zip(COLUMNS, row, strict=True)) for row in rows if len(row) == len(COLUMNS)]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            done = f"; {self.count} images are done and stay" if self.count else ""
            raise RunError(f"{self.out}: cannot be written ({error}){done}") from error


def state_of(path: Path) -> tuple[str, str]:
    """Size and time of change of a file: other ones mean that it has other contents."""
    about = path.stat()
    return str(about.st_size), f"{about.st_mtime:.6f}"


def write_map(path: Path, native: np.ndarray) -> None:
    """[H, W] float32, as numpy or as a TIFF in 32-bit floating point that names headlens as its software."""
    import numpy as np
    from PIL import Image, TiffImagePlugin

    if path.suffix == ".npy":
        np.save(path, native)
    else:
        Image.fromarray(native).save(path, tiffinfo={TiffImagePlugin.SOFTWARE: SOFTWARE})  # PIL's mode F


def read_map(path: Path) -> np.ndarray:
    """What ``write_map`` wrote, [H, W] float32."""
    import numpy as np
    from PIL import Image

    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    with Image.open(path) as image:
        return np.array(image)


def _key(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100  links are not resolved


def _lines(rows: list[_Row]) -> bytes:
    text = io.StringIO(newline="")
    for row in rows:  # a row is the same bytes whatever is written with it
        cells = [row[name] for name in COLUMNS]
        csv.writer(text, lineterminator=line_end(cells)).writerow(cells)
    return text.getvalue().encode()
