"""``headlens data``: what sets there are, and the procedural ones as folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

data = typer.Typer(help="Data sets: the procedural worlds.", no_args_is_help=True)


@data.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """The procedural sets, their categories and flaws."""
    from headlens.data.procedural import SPECS, World

    rows = []
    for spec in SPECS:
        world = World(spec)
        flaws = sorted({family for category in world.categories for family in world.families(category)})
        rows.append({"spec": spec, "categories": list(world.categories), "families": flaws})
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        typer.echo(
            f"{row['spec']}\n  categories: {', '.join(row['categories'])}\n  flaws: {', '.join(row['families'])}"
        )


@data.command()
def make(
    spec: Annotated[str, typer.Argument(help="One of `headlens data list`, such as procedural:industrial.")],
    out: Annotated[Path, typer.Option(help="A folder that is new or empty.", file_okay=False)],
    per_category: Annotated[int, typer.Option(help="Images of each category, half of them normal.", min=2)] = 80,
    size: Annotated[int, typer.Option(help="Pixels along a side.", min=14, max=4096)] = 224,
    seed: Annotated[int, typer.Option(help="Another seed is another set of the same kind.")] = 0,
) -> None:
    """Write a procedural set in MVTec's layout, with captions and severities in samples.csv."""
    from tqdm import tqdm

    from headlens.data.procedural import World, write

    world = World(spec, per_category, size, seed)
    with tqdm(total=len(world), unit="image", disable=None) as bar:
        count = write(world, out, progress=bar.update)
    typer.echo(f"{count} images of {len(world.categories)} categories in {out} ({spec}, {size} px, seed {seed})")
