"""``headlens methods``: all methods in a table, what works on each of them, and what they score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from headlens.cli import completion
from headlens.cli.common import with_options
from headlens.cli.output import OUTPUT, Output
from headlens.errors import ConfigError
from headlens.printing import unknown_name
from headlens.tables import Table, best

if TYPE_CHECKING:
    import pandas as pd

    from headlens.overview import Row

_LEGEND = (
    "E: exact, as the function defines it. h: exact, with more held fixed in each image than the norms of the "
    "read-out. R: refused. -: there are no such heads, or no learned weights. E/R: of the highest layer, and of the "
    "lowest one."
)
_RESULTS = (
    "I: image AUROC of the joint score. P: pixel AUROC. PRO: AUPRO. Means over seeds and half of their 95 % intervals, "
    "in percent; without an interval: one run. Procedural images of unseen categories."
)
_SAME, _OTHER = "tested in the domain of training, or not trained", "tested in the other domain"


@with_options
def methods(
    preset: Annotated[
        str | None,
        typer.Argument(
            help="Only this one, with what is held and what refusals say.",
            show_default="all",
            autocompletion=completion.presets,
        ),
    ] = None,
    results: Annotated[
        bool, typer.Option("--results", help="What all methods score on the embedded backbone, and cost at full size.")
    ] = False,
    output: Output = OUTPUT,
) -> None:
    """Print which methods there are, what they learn and import, and which functions work on their heads.

    A method's name is what `headlens train --preset` takes. Metrics are means over seeds in percent, with 95 %
    intervals, of runs that docs/comparison.md describes; costs are those of docs/full-size.md.
    """
    from headlens.overview import BACKBONE, shipped

    if results:
        if preset is not None:
            raise ConfigError("--results prints all methods: leave out the name")
        output.show(*results_of_all())
        output.say(f"\n{_RESULTS}")
        return
    rows = shipped()
    if preset is not None:
        names = [row.preset for row in rows]
        if preset not in names:
            raise ConfigError(unknown_name("method", preset, names))
        rows = [row for row in rows if row.preset == preset]
    document = [row._asdict() for row in rows]
    if preset is not None:
        output.show(detailed(rows[0]), document=document)
        output.say(f"\n{_LEGEND}")
        return
    note = f"\nlearns: how many numbers, on {BACKBONE}. import: headlens import reads published files."
    lines = [[r.preset, r.arxiv or "-", counted(r), "yes" if r.imported else "-", r.title] for r in rows]
    every = Table(["method", "arXiv", "learns", "import", ""], lines, name="methods", note=note)
    output.show(every, works(rows), document=document)
    output.say(
        f"\n{_LEGEND}\n\nheadlens methods NAME says what is held, and why something is refused; --results what methods "
        "score."
    )


def counted(row: Row) -> str:
    """How many numbers it learns."""
    return f"{row.learned:,}" if row.learned else "nothing"


def works(rows: Sequence[Row]) -> Table:
    """Presets by functions of the lens."""
    marks = [[row.preset, *("/".join(answer) for answer in row.works.values())] for row in rows]
    return Table(["method", *rows[0].works], marks, len(rows[0].works), "works")


def detailed(row: Row) -> Table:
    """One preset, with a line for each function."""
    learned = f"{counted(row)} numbers" if row.learned else "nothing"
    imported = f"; published {row.imported} can be imported" if row.imported else ""
    title = f"{row.preset}: {row.title}" + (f" (arXiv {row.arxiv})" if row.arxiv else "")
    lines = []
    for function, answer in row.works.items():
        why = "; ".join(f"held in each image: {why}" if mark == "h" else why for mark, why in answer.items() if why)
        lines.append([function, "/".join(answer), why])
    return Table(["function", "", "why"], lines, name="works", title=f"{title}\nlearns {learned}{imported}")


def results_of_all() -> list[Table]:
    """A table for each backbone, of the domain of training and of the other one; and what methods cost, by device."""
    from headlens.training.compared import COST_COLUMNS, comparison, cost_rows, costs

    tables = []
    for backbone, of_backbone in comparison().groupby("backbone", sort=False):
        crosswise = ~of_backbone["trained"].isin(["nothing"]) & (of_backbone["trained"] != of_backbone["tested"])
        for title, part in ((_SAME, of_backbone[~crosswise]), (_OTHER, of_backbone[crosswise])):
            if len(part):
                tables.append(scored(part, f"{backbone}, {title}"))
    for (setting, device), part in costs().groupby(["setting", "device"], sort=False):
        title, numbers = f"{setting}, on {device}", len(COST_COLUMNS) - 1
        tables.append(Table(COST_COLUMNS, cost_rows(part), numbers, "costs", title, frame=part))
    return tables


def scored(frame: pd.DataFrame, title: str) -> Table:
    """Methods by domains and metrics; the best of each column is printed bold in LaTeX."""
    cells: dict[str, dict[tuple[str, str], str]] = {}
    means: dict[str, dict[tuple[str, str], float]] = {}
    for row in frame.itertuples():
        half = f" ±{row.half:.1f}" if row.half == row.half else ""  # NaN: there is no interval
        cells.setdefault(row.method, {})[row.tested, row.metric] = f"{row.mean:.1f}{half}"
        means.setdefault(row.method, {})[row.tested, row.metric] = row.mean
    columns = list(dict.fromkeys(key for of_method in cells.values() for key in of_method))
    values = [[of_method.get(key, float("nan")) for of_method in means.values()] for key in columns]
    bold = {(row, 1 + column) for column, each in enumerate(values) for row in best([round(v, 1) for v in each])}
    lines = [[name, *(of_method.get(key, "-") for key in columns)] for name, of_method in cells.items()]
    header = ["method", *(" ".join(key) for key in columns)]
    return Table(header, lines, len(columns), "results", title, frame=frame, bold=bold)
