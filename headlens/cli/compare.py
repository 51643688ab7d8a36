"""``headlens compare``: what do groups of runs make of the same heads?"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headlens.cli import options
from headlens.cli.common import data_of, device_of, with_options
from headlens.cli.comparison_text import agreement, differing, pairwise, split
from headlens.cli.groups import GROUP, groups_of, images_by_group
from headlens.cli.output import OUTPUT, Output
from headlens.cli.result_names import other_than, slug
from headlens.cli.results import data_fact, report_notes, run_fact, save, stem
from headlens.errors import ConfigError
from headlens.printing import unknown_name
from headlens.progress import bar
from headlens.training.shipped import DOMAINS, default

if TYPE_CHECKING:
    from headlens.data import DataSet
    from headlens.results import Result
    from headlens.training.run import Run

OF = ("weights", "importance", "ablate", "contributions", "name")
FIRST = 4  # fewer cannot show at a rate of 5 % that groups differ
"""Seeds of a shipped run that are measured where no run is named: it takes a pass over images for each, or more."""
_SHORT = "The same as --group {0}=RUNS."


def _shown(domain: str) -> str:
    return f"without any group {default(domain)}; of what is measured on images its first {FIRST} seeds"


@with_options
def compare(
    group: Annotated[list[str] | None, typer.Option(help=GROUP)] = None,
    industrial: Annotated[
        list[str] | None, typer.Option(help=_SHORT.format("industrial"), show_default=_shown("industrial"))
    ] = None,
    medical: Annotated[
        list[str] | None, typer.Option(help=_SHORT.format("medical"), show_default=_shown("medical"))
    ] = None,
    of: Annotated[
        str,
        typer.Option(
            help="weights, which are learned; or what a verb measures on images: importance, ablate (one head at a "
            "time), contributions or name."
        ),
    ] = OF[0],
    factors: Annotated[
        str | None,
        typer.Option(
            help="Split the variance between runs over two factors, or one, such as method/domain. Groups are then "
            "named by a level of each: --group headclip/food=RUNS."
        ),
    ] = None,
    stream: Annotated[
        str | None, typer.Option(help="Only heads of this stream: global or local.", show_default="all")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Images to measure on: for all runs, or NAME=IMAGES for those of one group.",
            show_default="procedural:GROUP",
        ),
    ] = None,
    domain: options.DataDomain = None,
    per_category: options.PerCategory = 4,
    k: Annotated[int, typer.Option(help="Number of top heads whose overlap is measured.", min=1)] = 20,
    level: Annotated[float, typer.Option(help="False discovery rate below which heads are said to differ.")] = 0.05,
    rows: options.Rows = options.ROWS,
    batch: options.Batch = options.BATCH,
    weights: options.Weights = None,
    device: options.Device = None,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    follow_links: options.FollowLinks = False,
    out: options.Out = options.OUT,
    output: Output = OUTPUT,
) -> None:
    """Compare the same heads in groups of runs (domains, methods, data sets), with runs as the unit of uncertainty.

    Without any group, industrial and medical runs that ship are compared. By default all but weights is measured on
    images of each group's domain, so that both detectors and images differ; with --data FOLDER all runs see the same
    images, and only the detectors differ. An unreadable image is reported and left out, and the exit status is then 1.
    """
    from headlens import heads
    from headlens.data.notes import KINDS
    from headlens.heads.store import discard
    from headlens.training.run import load_groups

    if of not in OF:
        raise ConfigError(unknown_name("--of", of, OF))
    if data and of == "weights":
        raise ConfigError(f"--data: weights need no images; leave it out, or compare --of {', '.join(OF[1:])}")
    if domain is not None and not data:
        raise ConfigError("--domain says what the images of --data are; leave it out, or name --data")
    short = {"industrial": industrial, "medical": medical}
    asked = groups_of(group or (), short)
    if not group:
        asked = {domain: asked.get(domain) or _runs(domain, of) for domain in DOMAINS}
    levels = {name: tuple(part.strip() for part in name.split("/")) for name in asked}
    said = [*asked] if group else [Path(given).name for given in [*(industrial or []), *(medical or [])]]
    if factors:
        said = [level for each in heads.check_design(levels.values(), factors.split("/")) for level in each]
    else:
        heads.check_groups(asked)
    device = device_of(device)
    runs = load_groups(asked, weights=weights, device=device)
    first = next(run for several in runs.values() for run in several)
    names = {name: [run.folder.name for run in several] for name, several in runs.items()}
    output.say("\n".join([str(first.detector.backbone), *(f"{d}: {', '.join(each)}" for d, each in names.items())]))
    sets: dict[str, DataSet] = {}
    if of != "weights":
        named = images_by_group(data or (), runs)
        opened = {spec: data_of(spec, per_category, max_pixels, domain, follow_links) for spec in named.values()}
        sets = {name: opened[spec] for name, spec in named.items()}
        output.say("\n".join(f"{name} runs on {images}" for name, images in sets.items()))
    facts = {side: [[run.folder.name, run_fact(run)] for run in several] for side, several in runs.items()}
    seen = [*dict.fromkeys(map(data_fact, sets.values()))]
    name = stem(
        "variance" if factors else "compare",
        of,
        factors or "",
        *said,
        stream or "",
        other_than(k, 20, "top{}"),
        other_than(level, 0.05, "level{}"),
        other_than(per_category if sets else 4, 4, "{}-each"),
        *(dict.fromkeys(images.name for images in sets.values()) if data else ()),
        runs=facts if group or industrial or medical else None,
        data=(seen if len(seen) > 1 else seen[0]) if data else None,
    )
    parts = out / f"{name}.parts"
    seen_on_images = measured(of, runs, sets, batch, parts) if sets else {}
    sources: dict[str, Any] = seen_on_images or runs
    result: heads.Variance | heads.Comparison
    if factors:
        result = heads.variance(
            {levels[name]: each for name, each in sources.items()}, factors.split("/"), stream=stream
        )
    else:
        result = heads.compare(sources, stream=stream, k=k, level=level)
    saved, figure = save(result, out / f"{name}.parquet")
    discard(*parts.glob("*/*"))
    if not any(parts.glob("*/*")):
        shutil.rmtree(parts, ignore_errors=True)
    if isinstance(result, heads.Variance):
        tables, files = split(result), f"{saved} (all numbers), {figure}"
    else:
        tables = [*([agreement(result)] if len(runs) == 2 else pairwise(result)), differing(result, rows)]
        files = f"{saved} (each head), {saved.with_suffix('.agreement.parquet')} (agreement), {figure}"
    output.say()
    output.show(*tables)
    output.say(f"\n{result.paragraph}\n\n{files}")
    every = [one.provenance for results in seen_on_images.values() for one in results]
    notes = {kind: {name: why for about in every for name, why in about.get(kind, {}).items()} for kind in KINDS}
    report_notes(notes, " and ".join(dict.fromkeys(images.name for images in sets.values())))


def _runs(domain: str, of: str) -> list[str]:
    """What is compared where no run is named."""
    name = default(domain)
    return [name] if of == "weights" else [f"{name}-{seed}" for seed in range(FIRST)]


def measured(
    of: str, runs: dict[str, list[Run]], sets: dict[str, DataSet], batch: int, parts: Path
) -> dict[str, list[Result]]:
    """What a verb measures of every head of every run, on the images of its group."""
    from headlens import heads

    functions: dict[str, Callable[..., Result]] = {
        "importance": heads.importance,
        "ablate": partial(heads.ablate, metrics=(), replicates=1),
        "contributions": heads.contributions,
        "name": heads.name_heads,
    }
    results: dict[str, list[Result]] = {group: [] for group in runs}
    for group, several in runs.items():
        with bar(len(sets[group]) * len(several), group) as done:
            for number, run in enumerate(several):
                out = parts / slug(group) / f"{number}-{run.folder.name}"
                results[group].append(functions[of](run, sets[group], batch=batch, out=out, progress=done.update))
    return results
