"""Asks the lens about every preset, and writes what it answers: ``headlens/overview.json``, and the table of a page.

    python analyses/methods_table.py

It takes a minute. The page is ``docs/methods.md``: what stands between its two markers is replaced.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from headlens.overview import FILE, Row, rows
from headlens.tables import markdown
from headlens.works import FUNCTIONS

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"
BEGIN, END = "<!-- what works: written by analyses/methods_table.py -->", "<!-- what works: end -->"
_WIDTH, _LONGEST = 127, 200
"""Of lines, and of messages: what follows the last colon or semicolon of a longer message is left out."""


def table(made: Sequence[Row]) -> str:
    """Presets by functions, and below it a sentence for everything that is held or refused."""
    marks = [[f"`{row.preset}`", *("/".join(row.works[name]) for name in FUNCTIONS)] for row in made]
    return "\n".join([markdown(["", *FUNCTIONS], marks), "", *notes(made)])


def notes(made: Sequence[Row]) -> list[str]:
    """A line for each thing that is held, and for each refusal: where, and what the code says of it."""
    where: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in made:
        for function, answer in row.works.items():
            for mark, why in answer.items():
                if why:
                    where.setdefault((mark, shortened(why)), {}).setdefault(function, []).append(row.preset)
    lines = []
    for (mark, why), functions in where.items():
        presets: dict[tuple[str, ...], list[str]] = {}
        for function, of_presets in functions.items():
            presets.setdefault(tuple(of_presets), []).append(function)
        places = "; ".join(f"{', '.join(of)} ({', '.join(what)})" for of, what in presets.items())
        said = f"held fixed in each image: {why}" if mark == "h" else why
        line = f"- **{mark}**, {places}: {said}."
        lines.append(fill(line, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))
    return lines


def shortened(message: str) -> str:
    """A message without what it proposes instead, where it is long."""
    while len(message) > _LONGEST and any(stop in message for stop in ";:"):
        message = message[: max(message.rfind(stop) for stop in ";:")]
    return message


def parted(page: str) -> tuple[str, str, str]:
    """A page up to its table, the table, and the page behind it."""
    (begin, rest), marks = page.split(BEGIN, 1), (f"{BEGIN}\n\n", f"\n\n{END}")
    inside, behind = rest.split(END, 1)
    return begin + marks[0], inside.strip("\n"), marks[1] + behind


def main() -> None:
    made = rows()
    FILE.write_text(json.dumps([row._asdict() for row in made], indent=1) + "\n", encoding="utf-8")
    begin, _, end = parted(PAGE.read_text(encoding="utf-8"))
    PAGE.write_text("".join([begin, table(made), end]), encoding="utf-8")


if __name__ == "__main__":
    main()
