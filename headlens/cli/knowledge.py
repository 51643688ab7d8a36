"""``headlens knowledge``: what is known of normal and anomalous things, checked, shown, and built by local models."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headlens.cli import options
from headlens.cli.common import Source, data_of, device_of, shown_by, with_options
from headlens.cli.ending import Verbs
from headlens.cli.output import OUTPUT, Output, shown
from headlens.errors import ConfigError, DataError
from headlens.printing import did_you_mean, printable
from headlens.progress import bar
from headlens.tables import Table

if TYPE_CHECKING:
    import pandas as pd

    from headlens.heads import PromptParts
    from headlens.knowledge import Row
    from headlens.knowledge.questions import To

knowledge = typer.Typer(cls=Verbs, help="Sentences about normal and anomalous states.", no_args_is_help=True)

File = Annotated[Path | None, typer.Argument(help="JSONL file, one row per line.", show_default="the base that ships")]
Sets = Annotated[list[str] | None, typer.Option(help="A folder, a listing, or a procedural set; may be repeated.")]
Folder = Annotated[
    Path | None, typer.Option(help="Local folder of a transformers model.", file_okay=False, show_default="none")
]
Context = Annotated[int, typer.Option(help="Context length of the text encoder, in tokens.", min=3)]
BASE, ANSWERS = "knowledge.jsonl", "answers.jsonl"  # in the folder of a build


@knowledge.command()
@with_options
def check(
    file: File = None,
    data: Sets = None,
    domain: options.DataDomain = None,
    per_category: options.PerCategory = 80,
    follow_links: options.FollowLinks = False,
    context: Context = 77,
    most: Annotated[int, typer.Option(help="Errors and warnings to show; other forms have all.", min=0)] = 20,
    output: Output = OUTPUT,
) -> None:
    """Report all errors in a file, line by line, and how much of a data set it covers.

    Exits with 0 if there are no errors (warnings are allowed), 1 if there are errors, 2 if the file or a data set could
    not be opened.
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
        if output.json:
            typer.echo(json.dumps({"ok": False, "error": str(error)}))
        else:
            typer.echo(f"headlens: {printable(str(error))}", err=not output.for_people)
        raise typer.Exit(2) from error
    errors = sum(fault.severity == "error" for _, fault in faults)
    table = coverage(rows, datasets)
    told = [{"file": str(path), **vars(fault)} for path, fault in faults]
    cells = [[printable(str(value)) for value in row.values()] for row in told]
    names = list(told[0]) if told else ["file", *(one.name for one in fields(Fault))]
    lines = [printable(f"{fault.severity}: {path}: {fault}") for path, fault in faults[:most]]
    lines += [f"... and {len(faults) - most} more"] if len(faults) > most else []
    lines += [shown(covered(table)) if len(table) else "no valid row"]
    lines += [f"{len(rows)} valid rows; {errors} errors, {len(faults) - errors} warnings"]
    report = {"ok": not errors, "rows": len(rows), "faults": told, "coverage": table.to_dict("records")}
    output.show(Table(names, cells, name="faults"), covered(table), document=report, text="\n".join(lines))
    if errors:
        raise typer.Exit(1)


def covered(frame: pd.DataFrame) -> Table:
    """How many sentences, and images, there are of each category."""
    rows = [list(map(str, row)) for row in frame.itertuples(index=False)]
    return Table(list(frame.columns), rows, len(frame.columns) - 2, "coverage", frame=frame)


@knowledge.command()
@with_options
def show(
    file: File = None,
    domain: Annotated[str | None, typer.Option(help="Only this one.", show_default="all")] = None,
    category: Annotated[str | None, typer.Option(help="Print the sentences of this category.")] = None,
    most: Annotated[
        int | None, typer.Option("--rows", help="Rows of the printed table.", min=1, show_default="all")
    ] = None,
    output: Output = OUTPUT,
) -> None:
    """Print the number of sentences per category, or the sentences of one category."""
    from headlens.knowledge import coverage, load, shipped
    from headlens.knowledge.reading import plain_category
    from headlens.knowledge.rows import ANY, STATES, plain

    rows = (shipped() if file is None else load(file)).rows
    if domain is not None:
        domains = {plain(row.domain): row.domain for row in rows}
        if plain(domain) not in domains:
            raise ConfigError(f"no row has the domain {domain!r}; available: {', '.join(domains.values())}")
        rows = tuple(row for row in rows if plain(row.domain) == plain(domain))
    if category is None:
        output.show(first_rows(covered(coverage(rows)), most))
        return
    named = [row for row in rows if plain_category(row) == plain(category)]
    if not named:
        hint = did_you_mean(category, {row.category for row in rows})
        raise ConfigError(f"no row has the category {category!r}{hint}")
    about = {plain(row.domain) for row in named}
    known = [row for row in rows if plain(row.domain) in about and plain_category(row) in (ANY, plain(category))]
    sentences = [
        [state, printable(row.sentence + (f" ({row.image})" if row.image else ""))]
        for state in STATES
        for row in known
        if row.state == state
    ]
    output.show(first_rows(Table(["state", "sentence"], sentences, name="sentences"), most))


def first_rows(table: Table, most: int | None) -> Table:
    """A table of so many rows; CSV and JSON have all."""
    if most is None or len(table.rows) <= most:
        return table
    import pandas as pd

    every = pd.DataFrame(table.rows, columns=list(table.header)) if table.frame is None else table.frame
    return replace(table, rows=table.rows[:most], note=f"... and {len(table.rows) - most} more", frame=every)


@knowledge.command()
def build(
    data: Annotated[str, typer.Option(help="A folder, a listing, or a procedural set.")],
    out: Annotated[Path, typer.Option(help="Folder, new or of an earlier build.", file_okay=False)],
    text_model: Folder = None,
    image_model: Folder = None,
    questions: Annotated[
        Path | None, typer.Option(help="TOML file of questions.", dir_okay=False, show_default="built in")
    ] = None,
    domain: options.DataDomain = None,
    per_category: options.PerCategory = 10,
    images: Annotated[
        int | None, typer.Option(help="Images per category and state, at most.", min=1, show_default="all")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens per answer, at most.", min=1)] = 256,
    context: Context = 77,
    device: options.Device = None,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    follow_links: options.FollowLinks = False,
) -> None:
    """Ask local models about categories and images, and turn their answers into rows.

    After an interruption, the same command resumes: answers are in OUT/answers.jsonl. Models may be wrong: read
    OUT/knowledge.jsonl before you train with it. An unreadable image is reported and left out, and the exit status is
    then 1.
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
            raise DataError(f"no answer could be turned into a row; see {out / ANSWERS}")
        path = out / BASE
        if path.exists() and path.read_bytes() != encoded(built.rows):
            raise ConfigError(f"{path}: differs from these answers; move it, then continue")
        write(path, built.rows)
    typer.echo(f"{path}: {len(built.rows)} rows of {len(items)} questions, {len(built.left_out)} sentences left out")
    if built.unread:
        raise typer.Exit(1)


@knowledge.command()
def explain(
    images: Annotated[list[str], typer.Argument(help="Files, folders, listings or patterns.")],
    run: options.Run = None,
    domain: options.Domain = None,
    base: Annotated[
        Path | None, typer.Option(help="JSONL file of sentences.", dir_okay=False, show_default="shipped")
    ] = None,
    nearest: Annotated[int, typer.Option(help="Nearest sentences per prompt.", min=1)] = 3,
    category: options.Category = None,
    limit: options.Limit = None,
    size: options.Size = None,
    weights: options.Weights = None,
    device: options.Device = None,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    follow_links: options.FollowLinks = False,
    out: options.Out = options.OUT,
) -> None:
    """Show which prompts of a run produce the map of each image, and the sentences nearest to these prompts.

    An unreadable image is reported and left out, and the exit status is then 1.
    """
    from headlens.cli.images import find_images
    from headlens.cli.result_names import name_slug, result_names, slug
    from headlens.cli.results import free_name, of_image, save
    from headlens.data import read_image
    from headlens.heads import prompt_parts
    from headlens.knowledge import load

    listed = find_images(images, follow_links, limit)
    known = None if base is None else load(base)
    loaded = Source(domain, run, size=size, weights=weights, device=device).load()
    typer.echo(f"{loaded.detector.backbone}\n{printable(loaded.folder.name)}\n")
    category = shown_by(loaded, category)
    for path, name in zip(listed.files, result_names(listed.files, spell=name_slug), strict=True):
        try:
            image = read_image(path, max_pixels)
        except DataError as error:
            listed.leave_out(error)
            continue
        parts = prompt_parts(loaded, image, base=known, nearest=nearest, size=loaded.size, category=category)
        parts = of_image(parts, path, image.numpy())
        place = out / free_name(out, slug("knowledge", loaded.folder.name, name), {".parquet": parts.provenance})
        written = save(parts, place.with_name(f"{place.name}.parquet"))
        typer.echo(f"{printable(str(path))}\n{said(parts)}\n  {', '.join(map(str, written))}\n")
    listed.finish(out / "knowledge-left_out.txt")


def said(parts: PromptParts) -> str:
    """Prompts as they add to the peak of a map, each with its nearest sentences."""
    near = dict(list(parts.sentences.groupby(["state", "prompt"])))
    lines = ["  logits that prompts add to the map's peak, and the sentences they are nearest to (cosine):"]
    for row in parts.frame.sort_values("peak", ascending=False).itertuples():
        each = [f"{one.sentence} ({one.cosine:.2f}, {one.said_of})" for one in near[row.state, row.prompt].itertuples()]
        lines.append(printable(f"  {row.peak:+.2f} {row.state} {row.prompt}: {'; '.join(each)}"))
    return "\n".join(lines)
