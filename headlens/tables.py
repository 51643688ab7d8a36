"""Rows of text as tables: for a terminal of any width, in Markdown, LaTeX, CSV and as records for JSON."""

from __future__ import annotations

import csv
import io
import math
import re
import textwrap
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_GAP = "  "
_NARROW = 8  # characters that a column of text has at least, where there is no room for its cells
_LATEX = {letter: "\\" + letter for letter in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: f"${letter}$" for letter in "<>|"},
    "±": r"$\pm$",
    "−": "$-$",
}


@dataclass(frozen=True)
class Table:
    """Cells of text under a header.

    Args:
        header: a name for each column.
        rows: a cell for each name. What qualifies a number is in its cell, behind a space: ``90.0 ±1.2``.
        numbers: the last so many columns are numbers. Those before them say what a row is.
        name: of the table in JSON; tables of one name are parts of one.
        title: what stands above it in a terminal.
        note: what stands below it in a terminal.
        frame: what CSV and JSON hold, unrounded and with all rows; the cells themselves when None.
        bold: row and column of the cells that LaTeX prints bold, from 0; see ``best``.

    >>> table = Table(["run", "I-AUROC", "AUPRO"], [["one", "90.0 ±1.2", "71.0"], ["two", "8.5 ±10.0", "-"]], 2)
    >>> print(table.text())
    run     I-AUROC  AUPRO
    one  90.0 ±1.2    71.0
    two   8.5 ±10.0      -
    >>> print(table.text(width=16))
    run     I-AUROC
    one  90.0 ±1.2
    two   8.5 ±10.0
    <BLANKLINE>
    run  AUPRO
    one   71.0
    two      -
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int = 0
    name: str = "table"
    title: str = ""
    note: str = ""
    frame: pd.DataFrame | None = None
    bold: Collection[tuple[int, int]] = ()

    def text(self, width: int = 80) -> str:
        """The cells in columns, no line longer than ``width`` where numbers allow it.

        Names of columns take several lines where that saves room, then text is wrapped, and then columns of numbers
        that do not fit go below, behind the same first columns. A number is never broken.
        """
        first = len(self.header) - self.numbers
        cells = zip(self.header, *self.rows, strict=True)
        columns = [_Column(name, values, place >= first) for place, (name, *values) in enumerate(cells)]
        texts, numbers = columns[:first], columns[first:]
        if _width(columns) > width:
            for column in columns:
                column.wrap_name()
            room = width - _width(numbers)
            _wrap_texts(texts, room if room >= width // 3 else width // 2)  # if numbers go below anyway
        return "\n\n".join(_joined([*texts, *part]) for part in _parts(numbers, width - _width(texts)))

    def markdown(self) -> str:
        """A Markdown table."""
        return markdown(self.header, self.rows, self.numbers)

    def latex(self) -> str:
        """A LaTeX tabular under a comment with the title; it needs the package booktabs."""
        title = "".join(f"% {line}\n" for line in self.title.splitlines())
        return title + latex(self.header, self.rows, self.numbers, self.bold)

    def csv(self) -> str:
        """All rows, unrounded, with a header."""
        if self.frame is not None:
            return csv_of(self.frame)
        text = io.StringIO()
        csv.writer(text, lineterminator=line_end(cell for row in self.rows for cell in row)).writerows(
            [self.header, *self.rows]
        )
        return text.getvalue()

    def records(self) -> list[dict[str, Any]]:
        """A record for each row, unrounded, of what JSON holds; NaN is null."""
        if self.frame is not None:
            names = list(map(str, self.frame.columns))
            rows = self.frame.itertuples(index=False, name=None)
            return [dict(zip(names, map(_plain, row), strict=True)) for row in rows]
        return [dict(zip(self.header, cells, strict=True)) for cells in self.rows]


def _plain(value: Any) -> Any:
    """A value of a frame as JSON has it: no numpy, no NaN and no infinity."""
    value = value.item() if hasattr(value, "item") else value
    unknown = str(value) == "<NA>" or (isinstance(value, float) and not math.isfinite(value))
    return None if unknown else value


class _Column:
    """A column in a terminal: its name and its cells, each as lines of text."""

    def __init__(self, name: str, cells: Sequence[str], number: bool) -> None:
        self.number = number
        self._name, self._cells = name, _aligned(cells) if number else list(cells)
        self.name = [name]
        self.cells = [[cell] for cell in self._cells]

    @property
    def width(self) -> int:
        """Characters of its longest line."""
        return max(len(line) for cell in (self.name, *self.cells) for line in cell)

    def wrap_name(self) -> None:
        """Breaks the name so that it is no wider than the cells, or than its longest word."""
        words, cells = map(len, self._name.split() or [""]), map(len, self._cells)
        self.name = _wrapped(self._name, max(*words, *cells, 1))

    def wrap(self, width: int) -> None:
        """Breaks name and cells into lines of at most that width."""
        self.name = _wrapped(self._name, width)
        self.cells = [_wrapped(cell, width) for cell in self._cells]


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width) or [""]


def _aligned(cells: Sequence[str]) -> list[str]:
    """Numbers below each other, and what qualifies them below each other, too."""
    values, others = zip(*(_divided(cell) for cell in cells), strict=True) if cells else ((), ())
    left, right = max(map(len, values), default=0), max(map(len, others), default=0)
    return [
        value.rjust(left) + (f" {other:{right}}" if right else "") for value, other in zip(values, others, strict=True)
    ]


def _divided(cell: str) -> tuple[str, str]:
    """A number, and what qualifies it: an interval, or how many it is the mean of."""
    value, _, other = cell.partition(" ")
    return (value, other) if value[-1:].isdigit() else (cell, "")


def _width(columns: Sequence[_Column]) -> int:
    """Of columns with the gaps in front of them; the first has none, and is counted as if it had."""
    return sum(len(_GAP) + column.width for column in columns)


def _wrap_texts(columns: Sequence[_Column], room: int) -> None:
    """Breaks the cells of the widest columns, until all fit into ``room`` characters; those of the first one last."""
    first, others = columns[:1], columns[1:]
    least = len(others) * (len(_GAP) + 2 * _NARROW)
    if others and room - _width(first) >= least:
        columns, room = others, room - _width(first)
    widths = [column.width for column in columns]
    most = max(widths, default=0)
    while most > _NARROW and sum(len(_GAP) + min(width, most) for width in widths) > room:
        most -= 1
    for column, width in zip(columns, widths, strict=True):
        if width > most:
            column.wrap(most)


def _parts(columns: Sequence[_Column], room: int) -> list[Sequence[_Column]]:
    """Columns next to each other in ``room`` characters, as few parts as that allows, of about the same number each."""
    for parts in range(1, len(columns) + 1):
        count = -(-len(columns) // parts)
        made = [columns[at : at + count] for at in range(0, len(columns), count)]
        if count == 1 or all(_width(part) <= room for part in made):
            return made
    return [columns]


def _joined(columns: Sequence[_Column]) -> str:
    """The lines of columns that stand next to each other."""
    lines = []
    tallest = max(len(column.name) for column in columns)
    rows = zip(*([[""] * (tallest - len(column.name)) + column.name, *column.cells] for column in columns), strict=True)
    for row in rows:
        for number in range(max(map(len, row))):
            cells = (cell[number] if number < len(cell) else "" for cell in row)
            padded = (
                cell.rjust(column.width) if column.number else cell.ljust(column.width)
                for cell, column in zip(cells, columns, strict=True)
            )
            lines.append(_GAP.join(padded).rstrip())
    return "\n".join(lines)


def line_end(values: Iterable[object]) -> str:
    r"""How lines of a CSV end: with a carriage return where a value has one.

    Python before 3.13 quotes a carriage return only then, and readers take it for the end of a row where it is not.

    >>> line_end(["a.png"]), line_end(["a\r.png", 1.5])
    ('\n', '\r\n')
    """
    return "\r\n" if any(isinstance(value, str) and "\r" in value for value in values) else "\n"


def csv_of(frame: pd.DataFrame) -> str:
    """A frame as CSV, without its index."""
    return frame.to_csv(index=False, lineterminator=line_end(frame.select_dtypes(exclude="number").to_numpy().flat))


def number(value: float, form: str) -> str:
    """A number in a cell, and ``-`` for NaN.

    >>> number(0.5, "+.2f"), number(float("nan"), "+.2f")
    ('+0.50', '-')
    """
    return format(value, form) if value == value else "-"


def interval(value: float, low: float, high: float, form: str) -> str:
    """A number with its interval, and without it where there is none.

    >>> interval(0.5, 0.25, 0.75, ".2f"), interval(0.5, float("nan"), float("nan"), ".1f")
    ('0.50 [0.25, 0.75]', '0.5')
    """
    between = f" [{low:{form}}, {high:{form}}]" if value == value and low == low else ""
    return number(value, form) + between


def best(values: Sequence[float], of: Sequence[object] | None = None) -> set[int]:
    """Places of the largest of the numbers; with ``of``, of those that are of the same. NaN is none of them.

    There is no best of one.

    >>> sorted(best([1, 3, 3, float("nan")])), sorted(best([1, 3, 2, 1], ["a", "a", "b", "c"]))
    ([1, 2], [1])
    """
    groups: dict[object, list[int]] = {}
    for place, value in enumerate(values):
        if value == value:
            groups.setdefault(of[place] if of is not None else None, []).append(place)
    several = (places for places in groups.values() if len(places) > 1)
    return {place for places in several for place in places if values[place] == max(values[p] for p in places)}


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    r"""A Markdown table of rows with a cell for each name in the header; the last ``numbers`` columns are flush right.

    >>> print(markdown(["method", "AUROC"], [["Head|CLIP", "90.0"]], numbers=1))
    | method | AUROC |
    |---|---:|
    | Head\|CLIP | 90.0 |
    """
    rule = "|" + "---|" * (len(header) - numbers) + "---:|" * numbers
    first, *rest = ("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |" for cells in (header, *rows))
    return "\n".join([first, rule, *rest])


def latex(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: int = 0,
    bold: Collection[tuple[int, int]] = (),
) -> str:
    r"""The same as a LaTeX tabular; it needs the package booktabs.

    Numbers are below each other, and so is what qualifies them. ``bold`` are rows and columns of cells, from 0.

    >>> print(latex(["method", "AUROC", "n"], [["Head_CLIP", "90.0 ±1.2", "3"], ["CLIP", "8.0", "-5"]], 2, {(0, 1)}))
    \begin{tabular}{lr@{\,}lr}
    \toprule
    method & \multicolumn{2}{r}{AUROC} & n \\
    \midrule
    Head\_CLIP & \textbf{90.0} & $\pm$1.2 & 3    \\
    CLIP       & 8.0           &          & $-$5 \\
    \bottomrule
    \end{tabular}
    """
    every = [list(cells) for cells in rows]
    first = len(header) - numbers
    spec, head, columns = "", [], []
    for place, name in enumerate(header):
        cells = [row[place] for row in every]
        strong = {row for row, column in bold if column == place}
        if place < first:
            spec += "l"
            head.append(escaped(name))
            columns.append([_strong(escaped(cell), row in strong) for row, cell in enumerate(cells)])
            continue
        parts = [tuple(map(_signed, _divided(cell))) for cell in cells]
        columns.append([_strong(value, row in strong) for row, (value, _) in enumerate(parts)])
        if any(other for _, other in parts):
            columns.append([other for _, other in parts])
            head.append(rf"\multicolumn{{2}}{{r}}{{{escaped(name)}}}")
            spec += r"r@{\,}l"
        else:
            head.append(escaped(name))
            spec += "r"
    widths = [max(map(len, column), default=0) for column in columns]
    lines = [
        [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)] for cells in zip(*columns, strict=True)
    ]
    return tabular(spec, row(head), map(row, lines))


def tabular(columns: str, header: str, lines: Iterable[str]) -> str:
    """Lines as ``row`` makes them, with booktabs' rules around them, as a LaTeX tabular."""
    begin, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
    return "\n".join([begin, r"\toprule", header, r"\midrule", *lines, r"\bottomrule", end])


def row(cells: Iterable[str]) -> str:
    """One line of a LaTeX table."""
    return " & ".join(cells) + r" \\"


def escaped(cell: str) -> str:
    r"""Text as LaTeX prints it.

    >>> escaped("50 %_x")
    '50 \\%\\_x'
    """
    return "".join(_LATEX.get(letter, letter) for letter in cell)


def _strong(cell: str, strong: bool) -> str:
    return rf"\textbf{{{cell}}}" if strong else cell


def _signed(number: str) -> str:
    """A number as LaTeX prints it, with minus signs for hyphens."""
    return re.sub(r"-(?=\d)", "$-$", escaped(number))
