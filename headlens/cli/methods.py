"""``headlens methods``: all methods in a table, what works on each of them, and what they score."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from headlens.cli import options
from headlens.errors import ConfigError
from headlens.printing import did_you_mean

if TYPE_CHECKING:
    import pandas as pd

    from headlens.overview import Row

_LEGEND = """\
E: exact, as the function defines it. h: exact, with more held fixed in each image than the norms of the read-out.
R: refused. -: there are no such heads, or no learned weights. E/R: of the highest layer, and of the lowest one."""
_SAME, _OTHER = "tested in the domain of training, or not trained", "tested in the other domain"


def methods(
    preset: Annotated[
        str | None, typer.Argument(help="Only this one, with what is held and what refusals say.", show_default="all")
    ] = None,
    results: Annotated[
        bool, typer.Option("--results", help="What all methods score on the embedded backbone, in both domains.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Print which methods there are, what they learn and import, and which functions work on their heads.

    A method's name is what `headlens train --preset` takes. Metrics are means over seeds in percent, with 95 %
    intervals, of runs that docs/comparison.md describes.
    """
    from headlens.overview import BACKBONE, shipped

    if results:
        if preset is not None:
            raise ConfigError("--results prints all methods: leave out the name")
        _print_results(as_json)
        return
    rows = shipped()
    if preset is not None:
        names = [row.preset for row in rows]
        if preset not in names:
            raise ConfigError(f"unknown method {preset!r}{did_you_mean(preset, names)}; there are {', '.join(names)}")
        rows = [row for row in rows if row.preset == preset]
    if as_json:
        typer.echo(json.dumps([row._asdict() for row in rows], indent=1))
    elif preset is not None:
        typer.echo("\n".join(detailed(rows[0])))
    else:
        lines = [("method", "arXiv", "learns", "import", "")]
        lines += [(r.preset, r.arxiv or "-", counted(r), "yes" if r.imported else "-", r.title) for r in rows]
        typer.echo("\n".join(aligned(lines)))
        typer.echo(f"\nlearns: how many numbers, on {BACKBONE}. import: headlens import reads published files.\n")
        typer.echo("\n".join(works(rows)))
        typer.echo(f"\n{_LEGEND}\n")
        typer.echo(
            "headlens methods NAME says what is held, and why something is refused; --results what methods score."
        )


def counted(row: Row) -> str:
    """How many numbers it learns."""
    return f"{row.learned:,}" if row.learned else "nothing"


def works(rows: Sequence[Row]) -> list[str]:
    """Presets by functions of the lens, as lines; the first two are the names of the functions."""
    first, second, last = [""], [""], ""
    for function in rows[0].works:
        word, _, rest = function.partition(" ")
        first.append("" if word == last else word)
        second.append(rest)
        last = word
    marks = [[row.preset, *("/".join(answer) for answer in row.works.values())] for row in rows]
    return aligned([first, second, *marks])


def detailed(row: Row) -> list[str]:
    """One preset, with a line for each function."""
    learned = f"{counted(row)} numbers" if row.learned else "nothing"
    imported = f"; published {row.imported} can be imported" if row.imported else ""
    about = [f"{row.preset}: {row.title}" + (f" (arXiv {row.arxiv})" if row.arxiv else "")]
    about += [f"learns {learned}{imported}", ""]
    lines = []
    for function, answer in row.works.items():
        why = "; ".join(f"held in each image: {why}" if mark == "h" else why for mark, why in answer.items() if why)
        lines.append((function, "/".join(answer), why))
    return [*about, *aligned(lines), "", *_LEGEND.splitlines()]


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Cells in columns of their widths."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(n) for cell, n in zip(line, widths, strict=True)).rstrip() for line in lines]


def _print_results(as_json: bool) -> None:
    from headlens.training.compared import comparison

    frame = comparison()
    if as_json:
        typer.echo(frame.to_json(orient="records", indent=1))
        return
    for backbone, of_backbone in frame.groupby("backbone", sort=False):
        crosswise = ~of_backbone["trained"].isin(["nothing"]) & (of_backbone["trained"] != of_backbone["tested"])
        for title, part in ((_SAME, of_backbone[~crosswise]), (_OTHER, of_backbone[crosswise])):
            if len(part):
                typer.echo("\n".join([f"{backbone}, {title}", *scored(part), ""]))
    typer.echo("I: image AUROC of the joint score. P: pixel AUROC. PRO: AUPRO. Means over seeds and half of their")
    typer.echo("95 % intervals, in percent; without an interval: one run. Procedural images of unseen categories.")


def scored(frame: pd.DataFrame) -> list[str]:
    """Methods by domains and metrics, as lines; the first two are domains and metrics."""
    cells: dict[str, dict[tuple[str, str], str]] = {}
    for row in frame.itertuples():
        half = f" ±{row.half:.1f}" if row.half == row.half else ""  # NaN: there is no interval
        cells.setdefault(row.method, {})[row.tested, row.metric] = f"{row.mean:.1f}{half}"
    columns = list(dict.fromkeys(key for of_method in cells.values() for key in of_method))
    domains = [domain if metric == columns[0][1] else "" for domain, metric in columns]
    lines = [[name, *(of_method.get(key, "-") for key in columns)] for name, of_method in cells.items()]
    return aligned([["", *domains], ["", *(metric for _, metric in columns)], *lines])
