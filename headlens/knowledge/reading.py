"""Files of rows: one JSON object a line. Everything that is wrong is named with its line."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from headlens.errors import DataError
from headlens.files import read_regular, read_text, write_atomically
from headlens.knowledge.rows import ANY, Row, plain, row_of
from headlens.printing import printable, reason

CONTEXT = 77
"""Tokens that CLIP reads, with those of the sentence's start and end."""
SHOWN = 5
"""Faults that the error of ``read`` names; ``check`` names all."""


@dataclass(frozen=True)
class Placed:
    """A row and the number of its line, from 1."""

    line: int
    row: Row


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with a line.

    Args:
        line: its number, from 1.
        message: what is wrong.
        severity: ``warning`` for what may be meant that way.
    """

    line: int
    message: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}"


@dataclass(frozen=True)
class Clash(Fault):
    """A row that repeats an earlier one, or contradicts it."""

    contradicts: bool = False


def examine(path: str | Path, context: int = CONTEXT) -> tuple[list[Placed], list[Fault]]:
    """The rows of a file that are sound by themselves, and all faults of the file in the order of lines.

    Args:
        path: the file.
        context: tokens that the text encoder reads.

    Raises:
        DataError: no such file, or one that is no text.
    """
    placed: list[Placed] = []
    faults: list[Fault] = []
    for number, line in _lines(Path(path)):
        try:
            row = row_of(_parsed(line))
            check_length(row, context)
            placed.append(Placed(number, row))
        except DataError as error:
            faults.append(Fault(number, str(error)))
    if not placed and not faults:
        raise DataError(f"{path}: has no rows; expected a JSON object on each line")
    faults += clashes(placed)
    return placed, sorted(faults, key=lambda fault: fault.line)


def read(path: str | Path, context: int = CONTEXT) -> tuple[Row, ...]:
    """The rows of a file without a fault.

    Raises:
        DataError: no such file, or faults, of which the first are named with their lines.

    >>> import tempfile
    >>> row = Row("industrial", "*", "normal", "The surface is even.", "headlens")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder) / "base.jsonl", [row])
    ...     read(Path(folder) / "base.jsonl") == (row,)
    True
    """
    placed, faults = examine(path, context)
    if faults:
        more = f"; and {len(faults) - SHOWN} more: `headlens knowledge check` names all" if len(faults) > SHOWN else ""
        raise DataError(f"{path}: {'; '.join(map(str, faults[:SHOWN]))}{more}")
    return tuple(one.row for one in placed)


def write(path: str | Path, rows: Iterable[Row]) -> None:
    """Writes rows as a file that ``read`` reads; whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    try:
        write_atomically(Path(path), encoded(rows))
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({reason(error)}); name another file, or make room") from error


def encoded(rows: Iterable[Row]) -> bytes:
    """A file's content: a JSON object for each row, in UTF-8."""
    return "".join(json.dumps(row.table(), ensure_ascii=False) + "\n" for row in rows).encode()


def check_length(row: Row, context: int = CONTEXT) -> None:
    """Refuses a sentence that CLIP would cut off.

    Raises:
        DataError: with the number of its tokens.
    """
    count = tokens(row.sentence)
    if count > context:
        raise DataError(
            f"the sentence has {count} tokens, of which {context} are read; make it shorter: {row.sentence}"
        )


def tokens(sentence: str) -> int:
    """Tokens of a sentence as CLIP's tokenizer parts it, with start and end.

    >>> tokens("The surface is even.")
    7
    """
    return len(_tokenizer().encode(sentence)) + 2


def clashes(placed: Sequence[Placed]) -> Iterator[Clash]:
    """Rows that repeat or contradict an earlier one. Case, spaces and the final stop do not count.

    A sentence contradicts itself where it is normal and anomalous for one category, or for one and for all.

    >>> even = [Row("industrial", name, state, "It is even.", "me") for name, state in
    ...         (("tile", "normal"), ("tile", "normal"), ("*", "anomalous"), ("wood", "normal"))]
    >>> for fault in clashes([Placed(line, row) for line, row in enumerate(even, 1)]):
    ...     print(fault)
    line 2: repeats line 1: It is even.
    line 3: is anomalous, but normal in line 1, for the same category: It is even.
    line 4: is normal, but anomalous in line 3, for the same category: It is even.
    """
    first: dict[tuple[str, ...], int] = {}
    states: dict[tuple[str, ...], int] = {}
    for one in placed:
        row = one.row
        category = plain_category(row)
        earlier = first.setdefault((*said(row), category, row.image, row.state), one.line)
        if earlier != one.line:
            yield Clash(one.line, f"repeats line {earlier}: {row.sentence}")
            continue
        other = "anomalous" if row.state == "normal" else "normal"
        # Under "" is the first line of each state in any category: what holds for all meets every one of them.
        meets = [category, "" if category == ANY else ANY]
        if against := [states[key] for name in meets if (key := (*said(row), name, other)) in states]:
            what = f"is {row.state}, but {other} in line {min(against)}, for the same category"
            yield Clash(one.line, f"{what}: {row.sentence}", contradicts=True)
        for name in (category, ""):
            states.setdefault((*said(row), name, row.state), one.line)


def said(row: Row) -> tuple[str, str]:
    """Its domain and its sentence as they are compared.

    >>> said(Row("Industrial", "tile", "normal", "The Tile is  even.", "me"))
    ('industrial', 'the tile is even')
    """
    return plain(row.domain), " ".join(row.sentence.casefold().split()).rstrip(".! ")


def plain_category(row: Row) -> str:
    """Its category as it is compared; ``*`` stays."""
    return ANY if row.category == ANY else plain(row.category)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with something in them, whichever way they end, and their numbers."""
    try:
        content = _text(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {reason(error)}; expected a text file with a JSON object on each line") from error
    return ((number, line) for number, line in enumerate(StringIO(content, newline=None), 1) if line.strip())


def _text(path: Path) -> str:
    """In place of bytes that are not UTF-8 there are surrogates, so that their line can be named."""
    try:
        return read_text(path)
    except ValueError:
        content = read_regular(path)
        if b"\0" in content:
            raise
        return content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")


def _parsed(line: str) -> Any:
    if odd := next((c for c in line if "\udc80" <= c <= "\udcff"), None):
        raise DataError(f"has the byte 0x{ord(odd) - 0xDC00:02X}, which is not UTF-8; save the file as UTF-8")
    try:
        return json.loads(line.rstrip("\n"), object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        why = f"{error.msg} at character {error.colno}"  # its own line is always 1
    except (ValueError, RecursionError) as error:
        why = reason(error)
    raise DataError(f"is not JSON ({why}): {printable(line.strip()):.60}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    counts = Counter(key for key, _ in pairs)
    if twice := [key for key, count in counts.items() if count > 1]:
        raise DataError(f"has the key {twice[0]!r:.60} more than once")
    return dict(pairs)


@cache
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()
