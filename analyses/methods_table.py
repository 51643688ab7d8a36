"""Asks the lens about every preset, and writes what it answers: ``headlens/overview.json``, and the table of a page.

    python analyses/methods_table.py
    python analyses/methods_table.py --costs

It takes a minute. The page is ``docs/methods.md``: what stands between its two markers is replaced. ``--costs`` only
writes the table of ``docs/full-size.md``, from what ``full_methods.py --csv`` has measured.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from headlens.overview import FILE, Row, rows
from headlens.tables import markdown
from headlens.training.compared import COST_COLUMNS, cost_rows, costs
from headlens.works import FUNCTIONS

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"
MARKS = ("<!-- what works: written by analyses/methods_table.py -->", "<!-- what works: end -->")
COSTS_PAGE = PAGE.with_name("full-size.md")
COSTS_MARKS = ("<!-- costs: written by analyses/methods_table.py -->", "<!-- costs: end -->")
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


def costs_table() -> str:
    """What methods cost at full size, by device."""
    tables = []
    for (setting, device), part in costs().groupby(["setting", "device"], sort=False):
        cells = [[f"`{name}`", *others] for name, *others in cost_rows(part)]
        tables.append(f"{setting}, on {device}:\n\n{markdown(COST_COLUMNS, cells, numbers=len(COST_COLUMNS) - 1)}")
    return "\n\n".join(tables)


def parted(page: str, marks: tuple[str, str] = MARKS) -> tuple[str, str, str]:
    """A page up to its table, the table, and the page behind it."""
    before, rest = page.split(marks[0], 1)
    inside, behind = rest.split(marks[1], 1)
    return f"{before}{marks[0]}\n\n", inside.strip("\n"), f"\n\n{marks[1]}{behind}"


def replaced(page: Path, marks: tuple[str, str], text: str) -> None:
    """Writes a page with another table."""
    begin, _, end = parted(page.read_text(encoding="utf-8"), marks)
    page.write_text("".join([begin, text, end]), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--costs", action="store_true", help="only the table of docs/full-size.md")
    args = parser.parse_args()
    replaced(COSTS_PAGE, COSTS_MARKS, costs_table())
    if args.costs:
        return
    made = rows()
    FILE.write_text(json.dumps([row._asdict() for row in made], indent=1) + "\n", encoding="utf-8")
    replaced(PAGE, MARKS, table(made))


if __name__ == "__main__":
    main()
