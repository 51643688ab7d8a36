"""``check``: finds all problems of a data set at once, before a long run finds them one by one."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from torch import Tensor

from headlens import html
from headlens.data.decoding import GATE
from headlens.data.folders import FileSet
from headlens.data.images import MAX_PIXELS, read_upright
from headlens.data.mask_checks import Seen, of_image, of_marks, of_set, seen
from headlens.data.mask_sources import files_of, read_marked
from headlens.data.samples import DataSet, Record
from headlens.errors import DataError
from headlens.files import sha256_of
from headlens.printing import printable

if TYPE_CHECKING:
    import pandas as pd

Severity = Literal["error", "warning"]
Read = TypeVar("Read")

KINDS: dict[str, tuple[Severity, str]] = {
    "empty": ("error", "no image at all"),
    "refused": ("error", "reported by the reader: a record that it left out, or a mask that belongs to no image"),
    "same-name": ("error", "several records with one name"),
    "reading": ("warning", "how the folder was read, which may not be as intended"),
    "missing-image": ("error", "the image file is missing"),
    "unreadable-image": ("error", "the image file cannot be read"),
    "missing-mask": ("error", "the mask file is missing"),
    "unreadable-mask": ("error", "the mask file cannot be read"),
    "mask-size": ("error", "the mask has another shape than its image, which counts without it"),
    "mask-scaled": ("warning", "the mask is larger or smaller than its image, which it is resized to"),
    "empty-mask": ("error", "nothing is marked in the mask of an anomalous image"),
    "marked-normal": ("error", "something is marked in the mask of a normal image"),
    "mask-is-image": ("error", "the mask is the image itself"),
    "inverted-masks": ("warning", "more than half is marked in nearly all masks of a category"),
    "all-marked": ("warning", "everything is marked in the mask of an anomalous image"),
    "lost-mask": ("warning", "a mask vanishes when it is resized"),
    "same-mask": ("warning", "different images with the same mask"),
    "ignore-label": ("warning", "labels of masks of which one may mean that the pixel is to be ignored"),
    "mask-labels": ("warning", "masks with several labels, which all count as anomalous"),
    "orientation": ("warning", "an image that its EXIF data rotates, and it is unknown whether its mask is rotated"),
    "no-mask": ("error", "an anomalous image without a mask, in a category that has masks"),
    "duplicate-across-splits": ("error", "one image in several splits"),
    "duplicate-across-categories": ("error", "one image in several categories"),
    "duplicate-across-labels": ("error", "one image both as normal and as anomalous"),
    "duplicate": ("warning", "one image several times, with the same split, category and label"),
    "no-normals": ("error", "a category without normal test images, in a set or a layout that has them"),
    "only-anomalous": ("warning", "no normal image, in a layout without them: image metrics are undefined"),
}
"""What is looked for, how bad it is, and what it means."""

# Layouts with a place for them.
_HAS_NORMALS = {"mvtec", "visa", "realiad", "bmad", "classes", "dagm", "ksdd", "headct"}
_ACROSS = {"splits": "split", "categories": "category", "labels": "anomalous"}


@dataclass(frozen=True)
class Problem:
    """One problem.

    Args:
        kind: one of ``KINDS``.
        record: name of the record or the category; empty if it concerns the set.
        file: the file to look at, if there is one.
        message: a description of the problem.
    """

    kind: str
    record: str
    file: Path | None
    message: str

    @property
    def severity(self) -> Severity:
        """``error``, or ``warning`` for what may be intended."""
        return KINDS[self.kind][0]


@dataclass(frozen=True)
class Report(html.Shown):
    """What ``check`` found in ``images`` records of the set ``name``. ``str`` shows the first few of each kind."""

    name: str
    images: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """No errors; there may be warnings."""
        return all(problem.severity == "warning" for problem in self.problems)

    @property
    def counts(self) -> dict[str, int]:
        """How many of each kind, in the order of ``KINDS``, without those that do not occur."""
        counts = Counter(problem.kind for problem in self.problems)
        return {kind: counts[kind] for kind in KINDS if kind in counts}

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each problem."""
        import pandas as pd

        rows = [{**vars(problem), "severity": problem.severity} for problem in self.problems]
        return pd.DataFrame(rows, columns=["severity", "kind", "record", "file", "message"])

    def _repr_html_(self) -> str:
        """What a notebook shows: what is wrong, file by file."""
        shown = self.frame[["severity", "kind", "record", "message"]]
        facts = {"images": self.images, "found": "no errors" if self.ok else "errors"}
        return html.card(f"Report on {self.name}", facts, html.table(shown, most=20) if len(shown) else "")

    def summary(self, most: int = 5) -> str:
        """Counts by kind, and the first ``most`` of each."""
        lines = []
        for kind, count in self.counts.items():
            severity, meaning = KINDS[kind]
            lines.append(f"{severity}: {kind}, {count}x: {meaning}")
            named = [problem.message for problem in self.problems if problem.kind == kind]
            lines += [f"  {printable(message)}" for message in named[:most]]
            if count > most:
                lines.append(f"  ... and {count - most} more")
        errors = sum(problem.severity == "error" for problem in self.problems)
        warnings = len(self.problems) - errors
        lines.append(f"{printable(self.name)}: {self.images} images, {errors} errors, {warnings} warnings")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary()


def check(
    dataset: DataSet,
    refused: Iterable[DataError] = (),
    workers: int | None = None,
    progress: Callable[[], object] = lambda: None,
) -> Report:
    """Reads every image and every mask, and compares all files; continues after errors.

    Args:
        dataset: a data set; open it with ``split="all"`` to find duplicates across splits.
        refused: errors that the reader passed to ``refuse``.
        workers: threads; Python's default when None.
        progress: called after every record.

    >>> from headlens.data.folders import FileSet
    >>> from headlens.data.samples import Record
    >>> gone = Record("bottle/test/good/000", "bottle", False, image=Path("nowhere/000.png"))
    >>> report = check(FileSet("mine", "industrial", [gone]))
    >>> report.ok, report.counts
    (False, {'missing-image': 1})
    """
    problems = [Problem("refused", "", None, str(error)) for error in refused]
    problems += [Problem("reading", "", None, line) for line in getattr(dataset, "notes", ())]
    if not dataset.records:
        problems.append(Problem("empty", "", None, f"{dataset.name}: there is no image in it"))
    masked = {record.category for record in dataset.records if record.anomalous and record.mask}

    def look(i: int) -> tuple[list[Problem], Seen | None]:
        with GATE:
            return _one(dataset, i, masked)

    masks = []
    with ThreadPoolExecutor(workers) as pool:
        for noted, mask in pool.map(look, range(len(dataset))):  # whose end, also by Ctrl-C, cancels what still waits
            problems += noted
            masks += [mask] if mask else []
            progress()
    content = contents(file for record in dataset.records for file in record.files)
    problems += [Problem(*finding) for finding in of_set(masks, content)]
    named = Counter(record.name for record in dataset.records)
    twice = [(name, f"{name}: {count} records have this name") for name, count in named.items() if count > 1]
    problems += [Problem("same-name", name, None, message) for name, message in twice]
    problems += [*_duplicates(dataset.records, content), *_normals(dataset)]
    return Report(dataset.name, len(dataset), tuple(problems))


def contents(paths: Iterable[Path]) -> dict[Path, str]:
    """A text for each existing file, equal for two files exactly if their bytes are equal.

    It is the SHA-256 if several files have the same size; a file with a unique size is not read, and its text is that
    size.
    """
    sizes: dict[int, list[Path]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        with suppress(OSError):  # missing or closed files are reported where they are decoded
            if path.is_file():
                sizes[path.stat().st_size].append(path)
    texts = {alike[0]: f"{size} bytes" for size, alike in sizes.items() if len(alike) == 1}

    def digest(path: Path) -> None:
        with suppress(OSError):
            texts[path] = sha256_of(path)

    with ThreadPoolExecutor() as pool:
        list(pool.map(digest, (path for alike in sizes.values() if len(alike) > 1 for path in alike)))
    return texts


def several(names: Sequence[str], most: int = 5) -> str:
    """The first ``most`` of them, and how many there are beyond, for a message.

    >>> several(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _one(dataset: DataSet, i: int, masked: Container[str]) -> tuple[list[Problem], Seen | None]:
    """What is wrong with record ``i`` by itself, and its mask if it is anomalous; ``masked`` categories have masks."""
    record = dataset.records[i]
    problems: list[Problem] = []
    max_pixels = dataset.max_pixels if isinstance(dataset, FileSet) else MAX_PIXELS

    def note(kind: str, file: Path | None, message: str) -> None:
        problems.append(Problem(kind, record.name, file, f"{record.name}: {message}"))

    def read(what: str, reader: Callable[[], Read], files: tuple[Path, ...]) -> Read | None:
        try:
            return reader()
        except DataError as error:
            # Nothing, or a folder, by functions that raise nothing: anything else is there, but may be no image.
            absent = (file for file in files if not os.path.exists(file) or os.path.isdir(file))  # noqa: PTH110, PTH112
            missing = next(absent, None)
            note(f"{'missing' if missing else 'unreadable'}-{what}", missing or files[0], str(error))
            return None

    size, orientation = None, 1
    mask: Tensor | None = None
    if (file := record.image) is not None and record.frame is None:
        image = read("image", lambda: read_upright(file, max_pixels), (file,))
        if image is not None:
            size, orientation = (image[0].shape[1], image[0].shape[2]), image[1]
    if (marks := record.mask) is not None:
        mask = read("mask", lambda: read_marked(marks, size or (1, 1), max_pixels), files_of(marks))
        mask = mask if size or isinstance(marks, Path) else None  # others may be drawn in the image's size
    kinds: Iterable[tuple[str, str]] = ()
    if not problems and (
        record.image is None or record.crop or record.frame is not None
    ):  # what only the set itself knows how to read
        mask = None
        try:
            pixels = dataset.pixels(i)
            mask = pixels.mask
            kinds = [("empty-mask", pixels.mask_note)] if pixels.mask_note else ()
            kinds = kinds if mask is None else of_marks(record, mask)
        except DataError as error:
            note("unreadable-image", record.image, str(error))
    elif mask is not None:
        kinds = of_marks(record, mask) if size is None else of_image(record, size, orientation, mask)
    for kind, message in kinds:
        note(kind, record.image if kind == "orientation" else next(iter(files_of(record.mask)), None), message)
    if record.anomalous and record.image and record.mask is None and record.category in masked:
        note("no-mask", record.image, f"anomalous, without a mask; pixel metrics leave {record.image} out")
    return problems, seen(record, mask, max_pixels) if record.anomalous and mask is not None else None


def _duplicates(records: Sequence[Record], content: Mapping[Path, str]) -> Iterator[Problem]:
    """One problem for each image that occurs more than once, of the worst kind that applies."""
    alike: dict[tuple[object, ...], list[Record]] = defaultdict(list)
    for record in records:
        if record.image is not None and record.image in content:
            alike[content[record.image], record.crop, record.frame].append(record)
    for each in alike.values():
        copies = [*{record.clip or record.name: record for record in each}.values()]  # frames of a clip may be alike
        if len(copies) > 1:
            across = (kind for kind, of in _ACROSS.items() if len({getattr(record, of) for record in copies}) > 1)
            kind = next((f"duplicate-across-{kind}" for kind in across), "duplicate")
            first, *others = (f"{record.name} ({record.split})" for record in copies)
            yield Problem(kind, copies[0].name, copies[0].image, f"{first}: the same image as {several(others)}")


def _normals(dataset: DataSet) -> Iterator[Problem]:
    """Categories that are tested on without a normal image to compare anomalies with."""
    tested = [record for record in dataset.records if record.split == "test" and record.anomalous is not None]
    normal = {record.category for record in tested if not record.anomalous}
    without = [name for name in dict.fromkeys(record.category for record in tested) if name not in normal]
    anywhere = any(record.anomalous is False for record in dataset.records)
    if not anywhere and without and getattr(dataset, "layout", "") not in _HAS_NORMALS:
        yield Problem("only-anomalous", "", None, f"{dataset.name}: all {len(tested)} images are anomalous")
        return
    for name in without:
        yield Problem("no-normals", name, None, f"{name}: no normal image among those to test on")
