"""How verbs print tables, whatever the verb: for people, or as CSV, JSON, Markdown and LaTeX."""

from __future__ import annotations

import json
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path

import typer

from headlens.cli import options
from headlens.cli.logs import is_quiet
from headlens.errors import ConfigError
from headlens.tables import Table


@dataclass(frozen=True)
class Output:
    """The form of a verb's tables, as its options say.

    Raises:
        ConfigError: several forms for one standard output, or a file of CSV that is called something else.
    """

    csv: options.Csv = None
    json: options.Json = False
    markdown: options.Markdown = False
    latex: options.Latex = False

    def __post_init__(self) -> None:
        forms = [f"--{name}" for name in ("json", "markdown", "latex") if getattr(self, name)]
        if len(forms) > 1:
            raise ConfigError(f"{' and '.join(forms)} are different forms of the same output: choose one")
        if self.csv is not None and self.csv.suffix != ".csv":
            raise ConfigError(f"--csv {self.csv}: the name of the file ends in .csv")

    @property
    def for_people(self) -> bool:
        """Whether standard output is read by people, and not by a program."""
        return not (self.json or self.markdown or self.latex)

    def say(self, text: str = "") -> None:
        """What is not part of a table, unless ``--quiet``; on standard error where a program reads standard output."""
        if not is_quiet():
            typer.echo(fitted(text), err=not self.for_people)

    def show(self, *tables: Table, document: object = None, text: str | None = None) -> None:
        """Prints tables, and writes them as CSV if asked: those of the first name to the file, others to FILE.NAME.csv.

        As JSON they are an object with a list of records for each name; ``document`` is printed instead, if given, and
        to people ``text``, if that is not empty.
        """
        if self.json:
            typer.echo(json.dumps(_records(tables) if document is None else document, indent=1))
        elif self.markdown or self.latex:
            typer.echo("\n\n".join(table.markdown() if self.markdown else table.latex() for table in tables))
        elif text is None:
            typer.echo("\n\n".join(shown(table) for table in tables))
        elif text:
            typer.echo(text)
        if self.csv is not None:
            self.say("\n" + ", ".join(map(str, _write_csv(self.csv, tables))))


OUTPUT = Output()


def shown(table: Table) -> str:
    """A table with its title and its note, as wide as the terminal."""
    parts = [fitted(table.title), table.text(width())]
    return "\n\n".join(part for part in parts if part) + (f"\n{fitted(table.note)}" if table.note else "")


def fitted(text: str) -> str:
    """Lines of text, those that are wider than the terminal broken at spaces; names of files stay whole."""
    lines = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip()))
        wrapper = textwrap.TextWrapper(width(), subsequent_indent=indent)
        wrapper.break_long_words = wrapper.break_on_hyphens = False
        lines += wrapper.wrap(line) or [""]
    return "\n".join(lines)


def width() -> int:
    """Characters of a line: those of the terminal, or what the environment says as ``COLUMNS``; 80 in a pipe."""
    return max(shutil.get_terminal_size((80, 24)).columns, 40)


def _by_name(tables: tuple[Table, ...]) -> dict[str, list[Table]]:
    named: dict[str, list[Table]] = {}
    for table in tables:
        named.setdefault(table.name, []).append(table)
    return named


def _records(tables: tuple[Table, ...]) -> dict[str, list[dict[str, object]]]:
    return {name: [row for part in parts for row in part.records()] for name, parts in _by_name(tables).items()}


def _write_csv(path: Path, tables: tuple[Table, ...]) -> list[Path]:
    from headlens.results import beside, write

    written: list[Path] = []
    for name, parts in _by_name(tables).items():
        first, *others = (part.csv() for part in parts)
        text = first + "".join(part.partition("\n")[2] for part in others)  # under the first one's header
        written.append(beside(path, name) if written else path)
        write(written[-1], text.encode())
    return written
