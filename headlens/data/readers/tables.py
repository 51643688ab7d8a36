"""Text as editors and spreadsheets save it: tables of any delimiter, JSON, and one error for whatever is wrong."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from headlens.data.images import SUFFIXES
from headlens.errors import DataError
from headlens.files import MOST_TEXT, read_regular, read_text

Row = tuple[str, dict[str, str]]
"""Where it stands, and its cells by column."""
MASK_COLOURS = "mask_colours.csv"
"""What the colours of masks mean: no listing of images."""
_MOST_JSON = MOST_TEXT // 2  # bytes, of which Python's objects take up to twenty times as many
_DELIMITERS = ",;\t"


def text(path: Path, lenient: bool = False, most: int = MOST_TEXT) -> str:
    """What is in a regular file of up to ``most`` bytes; ``lenient`` to recognise it by, whatever the encoding.

    Raises:
        DataError: it cannot be read, or is not UTF-8 nor UTF-16 with its mark (unless ``lenient``).
    """
    try:
        try:
            return read_text(path, most)
        except ValueError as error:
            if lenient:
                return read_regular(path, most).decode("utf-8", "replace")
            raise DataError(f"{path}: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); make it readable, or remove it") from error


def value_in(path: Path) -> Any:
    """What a JSON file holds; a DataError where it cannot be read."""
    try:
        return json.loads(text(path, most=_MOST_JSON))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error})") from error


def parsed(path: Path) -> dict[str, Any]:
    """The object in a JSON file; a DataError where it holds something else."""
    content = value_in(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__} where an object is expected")
    return content


def names_keys(path: Path, keys: Iterable[str]) -> bool:
    """Whether a JSON file has all these keys somewhere, to recognise it by."""
    content = text(path, lenient=True)
    return all(f'"{key}"' in content for key in keys)


def key(text: str) -> str:
    """A column or a key as it is looked for: in lower case, with ``_`` between words.

    >>> key(" Image Path"), key("is-anomaly")
    ('image_path', 'is_anomaly')
    """
    return re.sub(r"[\s_-]+", "_", text.strip().lower())


def table(path: Path, refuse: Callable[[DataError], object]) -> tuple[list[str], Iterator[Row]]:
    """Columns by ``key``, and the rows; fields separated by commas, semicolons or tabs.

    Lines without anything in them, comments (one cell that begins with ``#``) and Excel's ``sep=`` are passed over. A
    row with more cells than columns, or with fewer, is refused: a comma too many moves every cell.

    Raises:
        DataError: it cannot be read, has two columns of one name or, also from the rows, is not csv.
    """
    lines = _lines(path, text(path))
    columns = [key(cell) for cell in next(lines, ("", []))[1]]
    while columns and not columns[-1]:
        columns.pop()
    if twice := [name for name, count in Counter(columns).items() if name and count > 1]:
        raise DataError(f"{path}: has several columns called {twice[0]!r}; leave one of them")

    def rows() -> Iterator[Row]:
        for place, cells in lines:
            if len(cells) < len(columns) or any(cell.strip() for cell in cells[len(columns) :]):
                counts = f"has {len(cells)} cells ({', '.join(cells)[:60]}) where there are {len(columns)} columns"
                refuse(DataError(f"{path}: {place} {counts}; quote a cell with a comma in it, and leave none out"))
            else:
                yield place, dict(zip(columns, cells, strict=False))

    return columns, rows()


def columns(path: Path) -> list[str]:
    """Those of ``table``, to recognise it by, whatever the encoding."""
    return [key(cell) for cell in next(_lines(path, text(path, lenient=True)), ("", []))[1]]


def _lines(path: Path, content: str) -> Iterator[tuple[str, list[str]]]:
    """Lines with something in them that are no comments, each with its place."""
    mark, skipped = _delimiter(content)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=mark, strict=True)
    try:
        for cells in reader:
            filled = [cell.strip() for cell in cells if cell.strip().strip(_DELIMITERS)]
            marked = len(filled) == 1 and filled[0].startswith("#")
            comment = marked and Path(filled[0]).suffix.lower() not in SUFFIXES
            if filled and not comment and reader.line_num > skipped:
                yield f"line {reader.line_num}", cells
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num} is not csv ({error})") from error


def _delimiter(content: str) -> tuple[str, int]:
    """What separates cells, and how many lines say so before the table begins."""
    for number, line in enumerate(io.StringIO(content, newline=None), 1):
        if said := re.fullmatch(r"(?i)\s*\"?sep=(.)\"?\s*", line.rstrip("\n")):
            return said[1], number
        if line.strip() and not line.lstrip().startswith("#"):
            bare = re.sub(r'"[^"]*"', "", line)
            return max(_DELIMITERS, key=bare.count), 0
    return ",", 0
