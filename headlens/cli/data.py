"""``headlens data``: what sets and layouts there are, what is wrong with a folder, and procedural sets as folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from headlens.cli import options
from headlens.cli.common import with_options
from headlens.cli.ending import Verbs
from headlens.cli.output import OUTPUT, Output
from headlens.printing import printable
from headlens.progress import bar
from headlens.tables import Table

data = typer.Typer(cls=Verbs, help="Data sets: layouts, checking, protocols, procedural worlds.", no_args_is_help=True)


@data.command("list")
@with_options
def list_(output: Output = OUTPUT) -> None:
    """List the folder layouts that are recognised, and the procedural sets with their categories and flaws."""
    from headlens.data import layouts
    from headlens.data.procedural import ALL_SPECS, CLIPS, ClipWorld, world_of
    from headlens.data.procedural.belts import KINDS

    rows: list[dict[str, Any]] = []
    for spec in ALL_SPECS:
        world = world_of(spec)
        flaws = sorted({family for category in world.categories for family in world.families(category)})
        rows.append({"spec": spec, "categories": list(world.categories), "families": flaws})
    for spec in CLIPS:
        rows.append({"spec": spec, "categories": list(ClipWorld(spec).categories), "families": sorted(KINDS)})
    title = "Layouts of folders and listings, in the order in which they are tried:"
    known = Table(["layout", "what"], [list(item) for item in layouts().items()], name="layouts", title=title)
    cells = [[row["spec"], ", ".join(row["categories"]), ", ".join(row["families"])] for row in rows]
    procedural = Table(["set", "categories", "flaws"], cells, name="procedural", title="Procedural sets:")
    output.show(known, procedural, document={"layouts": layouts(), "procedural": rows})


@data.command()
@with_options
def check(
    path: Annotated[Path, typer.Argument(help="Folder with a data set, or a listing.")],
    layout: Annotated[str | None, typer.Option(help="One of `headlens data list`.", show_default="recognised")] = None,
    category: Annotated[str | None, typer.Option(help="Only this category.", show_default="all")] = None,
    split: Annotated[str, typer.Option(help="test, train, valid or all.")] = "all",
    root: Annotated[Path | None, typer.Option(help="Folder that the paths of a listing are relative to.")] = None,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Follow links that lead out of the folder.")
    ] = False,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    most: Annotated[int, typer.Option(help="Problems to show of each kind; other forms have all.", min=0)] = 5,
    output: Output = OUTPUT,
) -> None:
    """Read every image and mask, and report all problems at once.

    Exits with 0 if there are no errors (warnings are allowed), 1 if there are errors, 2 if no data set could be opened.
    """
    from headlens.data import open
    from headlens.data.checking import check
    from headlens.errors import DataError

    refused: list[DataError] = []
    about: dict[str, Any] = {"category": category, "split": split, "root": root}
    about |= {"follow_links": follow_links, "max_pixels": max_pixels}
    try:
        dataset = open(path, layout, refuse=refused.append, **about)
    except DataError as error:
        if output.json:
            about = {"ok": False, "error": str(error), "refused": list(map(str, refused))}
            typer.echo(json.dumps(about, indent=1))
        else:
            for line in [*refused[:most], error]:
                typer.echo(f"headlens: {printable(str(line))}", err=not output.for_people)
        raise typer.Exit(2) from error
    with bar(len(dataset)) as done:

        def advance() -> None:
            done.update()
            if done.n == done.total:
                done.set_description("looking for duplicates")

        report = check(dataset, refused, progress=advance)
    rows = [{"severity": problem.severity, **vars(problem)} for problem in report.problems]
    about = {"ok": report.ok, "name": report.name, "domain": dataset.domain}
    about |= {"layout": getattr(dataset, "layout", None), "images": report.images}
    about |= {"metrics": dataset.metrics, "counts": report.counts, "problems": rows}
    cells = [["" if value is None else printable(str(value)) for value in row.values()] for row in rows]
    found = Table(["severity", "kind", "record", "file", "message"], cells, name="problems")
    text = f"{dataset!r}\nmetrics: {', '.join(dataset.metrics) or 'none'}\n{report.summary(most)}"
    output.show(found, document=json.loads(json.dumps(about, default=str)), text=text)
    if not report.ok:
        raise typer.Exit(1)


@data.command()
@with_options
def protocols(output: Output = OUTPUT) -> None:
    """List which data sets the literature trains and tests on, and those of the procedural worlds."""
    from headlens.data.protocol import PROTOCOLS

    cells = [[p.name, f"{', '.join(p.train)} ({p.train_split} split)", ", ".join(p.test), p.about] for p in PROTOCOLS]
    document = [vars(protocol) for protocol in PROTOCOLS]
    output.show(Table(["protocol", "train", "test", "note"], cells, name="protocols"), document=document)


@data.command()
def make(
    spec: Annotated[str, typer.Argument(help="One of `headlens data list`, such as procedural:industrial.")],
    out: Annotated[Path, typer.Option(help="New or empty folder.", file_okay=False)],
    per_category: Annotated[int, typer.Option(help="Images, or clips, per category; half are normal.", min=2)] = 80,
    size: Annotated[int, typer.Option(help="Image side in pixels.", min=14, max=4096)] = 224,
    seed: Annotated[int, typer.Option(help="Seed of the images.")] = 0,
) -> None:
    """Write a procedural set in MVTec's layout, with captions and severities in samples.csv, or its clips as frames.

    Generated images and real ones are in folders 1_fake and 0_real of each generator.
    """
    from headlens.data.procedural import CLIPS, ClipWorld, world_of, write, write_clips

    if spec in CLIPS:
        clips = ClipWorld(spec, per_category, size, seed)
        with bar(len(clips.places)) as done:
            count = write_clips(clips, out, progress=done.update)
        typer.echo(f"{count} clips of {len(clips.categories)} categories in {out} ({spec}, {size} px, seed {seed})")
        return
    world = world_of(spec, per_category=per_category, size=size, seed=seed)
    with bar(len(world)) as done:
        count = write(world, out, progress=done.update)
    typer.echo(f"{count} images of {len(world.categories)} categories in {out} ({spec}, {size} px, seed {seed})")
