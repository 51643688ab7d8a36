"""``headlens knowledge``: what is known of normal and anomalous things, checked, shown, and built by local models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headlens.cli import options
from headlens.cli.common import bar, data_of, device_of
from headlens.errors import ConfigError, DataError
from headlens.printing import did_you_mean, printable

if TYPE_CHECKING:
    from headlens.knowledge import Row
    from headlens.knowledge.questions import To

knowledge = typer.Typer(help="Sentences about normal and anomalous states.", no_args_is_help=True)

File = Annotated[
    Path | None, typer.Argument(help="JSONL, a row on each line.", show_default="what comes with headlens")
]
Sets = Annotated[list[str] | None, typer.Option(help="A folder, a listing, or a procedural set; several, too.")]
Folder = Annotated[
    Path | None, typer.Option(help="A local folder of transformers.", file_okay=False, show_default="none is asked")
]
Context = Annotated[int, typer.Option(help="Tokens that the text encoder reads.", min=3)]
BASE, ANSWERS = "knowledge.jsonl", "answers.jsonl"  # in the folder of a build


@knowledge.command()
def check(
    file: File = None,
    data: Sets = None,
    domain: options.DataDomain = None,
    per_category: options.PerCategory = 80,
    follow_links: options.FollowLinks = False,
    context: Context = 77,
    most: Annotated[int, typer.Option(help="Faults to show.", min=0)] = 20,
    as_json: options.Json = False,
) -> None:
    """Name everything that is wrong with a file, line by line, and show what it covers of data sets.

    Exits with 0 if nothing is, or warnings alone; 1 if there are errors; 2 if the file or a set could not be opened.
    """
    from headlens.knowledge import Fault, against, coverage, examine
    from headlens.knowledge.base import SHIPPED

    faults: list[tuple[Path, Fault]] = []
    rows: list[Row] = []
    try:
        about = (per_category, options.MAX_PIXELS, domain, follow_links)
        datasets = [data_of(name, *about, split="all") for name in data or ()]
        for path in SHIPPED if file is None else (file,):
            placed, wrong = examine(path, context)
            wrong += against(placed, datasets) if datasets else []
            faults += [(path, fault) for fault in sorted(wrong, key=lambda fault: fault.line)]
            rows += [one.row for one in placed]
    except DataError as error:
        if as_json:
            typer.echo(json.dumps({"ok": False, "error": str(error)}))
        else:
            typer.echo(f"headlens: {printable(str(error))}")
        raise typer.Exit(2) from error
    errors = sum(fault.severity == "error" for _, fault in faults)
    table = coverage(rows, datasets)
    if as_json:
        told = [{"file": str(path), **vars(fault)} for path, fault in faults]
        report = {"ok": not errors, "rows": len(rows), "faults": told, "coverage": table.to_dict("records")}
        typer.echo(json.dumps(report, indent=1))
    else:
        for path, fault in faults[:most]:
            typer.echo(printable(f"{fault.severity}: {path}: {fault}"))
        if len(faults) > most:
            typer.echo(f"... and {len(faults) - most} more")
        typer.echo(table.to_string(index=False) if len(table) else "no row is sound")
        typer.echo(f"{len(rows)} rows are sound by themselves; {errors} errors, {len(faults) - errors} warnings")
    if errors:
        raise typer.Exit(1)


@knowledge.command()
def show(
    file: File = None,
    domain: Annotated[str | None, typer.Option(help="Only this one.", show_default="all")] = None,
    category: Annotated[str | None, typer.Option(help="Its sentences, in place of a table.")] = None,
) -> None:
    """Print how many sentences there are of each category, or the sentences that hold for one."""
    from headlens.knowledge import coverage, load, shipped
    from headlens.knowledge.reading import plain_category
    from headlens.knowledge.rows import ANY, STATES, plain

    rows = (shipped() if file is None else load(file)).rows
    if domain is not None:
        domains = {plain(row.domain): row.domain for row in rows}
        if plain(domain) not in domains:
            raise ConfigError(f"no row has the domain {domain!r}; there are {', '.join(domains.values())}")
        rows = tuple(row for row in rows if plain(row.domain) == plain(domain))
    if category is None:
        typer.echo(coverage(rows).to_string(index=False))
        return
    named = [row for row in rows if plain_category(row) == plain(category)]
    if not named:
        hint = did_you_mean(category, {row.category for row in rows})
        raise ConfigError(f"no row has the category {category!r}{hint}")
    about = {plain(row.domain) for row in named}
    for state in STATES:
        typer.echo(f"{state}:")
        for row in rows:
            if row.state == state and plain(row.domain) in about and plain_category(row) in (ANY, plain(category)):
                typer.echo(printable(f"  {row.sentence}" + (f" ({row.image})" if row.image else "")))


@knowledge.command()
def build(
    data: Annotated[str, typer.Option(help="A folder, a listing, or a procedural set.")],
    out: Annotated[Path, typer.Option(help="A folder, new or of an earlier build.", file_okay=False)],
    text_model: Folder = None,
    image_model: Folder = None,
    questions: Annotated[
        Path | None, typer.Option(help="TOML of what is asked.", dir_okay=False, show_default="built in")
    ] = None,
    domain: options.DataDomain = None,
    per_category: options.PerCategory = 10,
    images: Annotated[
        int | None, typer.Option(help="Of each category and state, at most.", min=1, show_default="all")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Of the longest answer.", min=1)] = 256,
    context: Context = 77,
    device: options.Device = None,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    follow_links: options.FollowLinks = False,
) -> None:
    """Ask local models about categories and images, and make rows of their answers.

    Interrupted at any moment, the same command goes on: answers are in OUT/answers.jsonl. What models say may be wrong:
    read OUT/knowledge.jsonl before anything is trained with it. An image that cannot be read is named and left out, and
    the exit status is then 1.
    """
    from headlens.knowledge.answers import Answers
    from headlens.knowledge.building import build as built_from
    from headlens.knowledge.building import plan
    from headlens.knowledge.models import model_of
    from headlens.knowledge.questions import BUILT_IN, read_questions
    from headlens.knowledge.reading import encoded, write
    from headlens.locking import locked

    folders: dict[To, Path] = {}
    folders |= {} if text_model is None else {"text": text_model}
    folders |= {} if image_model is None else {"image": image_model}
    if not folders:
        raise ConfigError("there is no model to ask: give --text-model, --image-model, or both, as local folders")
    asked = read_questions(questions or BUILT_IN)
    dataset = data_of(data, per_category, max_pixels, domain, follow_links)
    items = plan(dataset, asked, folders, images)
    with locked(out):
        answers = Answers(out / ANSWERS)
        models = {to: model_of(to, folder, device_of(device), tokens) for to, folder in folders.items()}
        with bar(len(items), unit="question") as done:
            built = built_from(dataset, items, models, answers, context, done.update)
        for line in (*built.unread, *built.left_out):
            typer.echo(f"left out: {printable(line)}")
        if not built.rows:
            raise DataError(f"no answer became a row; {out / ANSWERS} has the answers")
        path = out / BASE
        if path.exists() and path.read_bytes() != encoded(built.rows):
            raise ConfigError(f"{path}: says something else than these answers; move it away, then go on")
        write(path, built.rows)
    typer.echo(f"{path}: {len(built.rows)} rows of {len(items)} questions, {len(built.left_out)} sentences left out")
    if built.unread:
        raise typer.Exit(1)
