"""Files of text: tables of any delimiter, JSON, and one error for whatever is wrong with them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from headlens.errors import DataError

Row = tuple[str, dict[str, str]]
"""Where it stands, and its cells by column."""


def text(path: Path, errors: str = "strict") -> str:
    """What is in it.

    Raises:
        DataError: it cannot be read, or is not UTF-8 (unless ``errors`` says what to do about that).
    """
    try:
        return path.read_text(encoding="utf-8-sig", errors=errors)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); make it readable, or take it away") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not text in UTF-8 ({error}); save it as that") from error


def parsed(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__} where an object with train and test is expected")
    return content


def table(path: Path) -> tuple[list[str], Iterator[Row]]:
    """Columns in lower case, and the rows; fields separated by commas, semicolons or tabs.

    Raises:
        DataError: it cannot be read or, also from the rows, is not csv.
    """
    lines = _lines(path, text(path))
    _, head = next(lines, ("", []))
    columns = [cell.strip().lower() for cell in head]
    return columns, ((place, dict(zip(columns, cells, strict=False))) for place, cells in lines)


def columns(path: Path) -> list[str]:
    """Those of ``table``, to recognise it by, whatever the encoding.

    Raises:
        DataError: nobody may read the file, or its first line is not csv.
    """
    head = islice(_lines(path, text(path, "replace")), 1)
    return [cell.strip().lower() for _, cells in head for cell in cells]


def _lines(path: Path, content: str) -> Iterator[tuple[str, list[str]]]:
    """Lines that are not blank, each with its place."""
    mark = max(",;\t", key=content.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=mark, strict=True)
    try:
        for cells in reader:
            if cells:
                yield f"line {reader.line_num}", cells
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num} is not csv ({error})") from error
