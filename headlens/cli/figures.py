"""``headlens figures``: the paper's figures and tables, from run folders."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headlens.cli import options
from headlens.cli.common import data_of, device_of
from headlens.cli.groups import GROUP, groups_of, images_by_group
from headlens.progress import bar
from headlens.training.shipped import DOMAINS, default

if TYPE_CHECKING:
    from headlens.data import DataSet
    from headlens.figures import Domain
    from headlens.training.run import Run

_RUNS = (
    "First the method, then its other seeds, the method without a part, or other methods that were trained on the same "
    "data."
)
_OTHERS, _SEEDS = ("april-gan", "aa-clip", "kanoclip"), 3
_SHORT = "The same as --group {0}=RUNS."
_DATA = "The same as --data {0}=IMAGES."


def figures(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(help="Which figures.", show_default="all")] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for figures; long results are stored in its subfolder data.")
    ] = Path("figures"),
    group: Annotated[list[str] | None, typer.Option(help=f"{GROUP} {_RUNS}")] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="NAME=IMAGES: those of a group; a folder, a listing or a procedural set.")
    ] = None,
    industrial: Annotated[
        list[str] | None,
        typer.Option(help=_SHORT.format("industrial"), show_default="without any group, those that ship"),
    ] = None,
    medical: Annotated[
        list[str] | None,
        typer.Option(help=_SHORT.format("medical"), show_default="without any group, those that ship"),
    ] = None,
    industrial_data: Annotated[str, typer.Option(help=_DATA.format("industrial"))] = "procedural:industrial",
    medical_data: Annotated[str, typer.Option(help=_DATA.format("medical"))] = "procedural:medical",
    per_category: Annotated[int, typer.Option(help="Images per category for ablation and gradients.", min=2)] = 10,
    metrics_per_category: Annotated[
        int, typer.Option(help="Images per category of a procedural set for the metrics of detectors.", min=2)
    ] = 24,
    painted: Annotated[int | None, typer.Option(help="The same, in earlier versions.", min=2, hidden=True)] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute everything again, even if results are stored.")
    ] = False,
    format: Annotated[
        list[str] | None,
        typer.Option(help="pdf, png, svg or pgf; may be repeated. pgf needs LaTeX.", show_default="pdf and png"),
    ] = None,
    width: Annotated[
        str | None,
        typer.Option(
            help="Width of a figure of one column, such as 85mm or 3.3in; those of both columns are in proportion.",
            show_default="3.3in",
        ),
    ] = None,
    font: Annotated[
        str | None, typer.Option(help="Family of an installed font.", show_default="DejaVu Sans, which ships")
    ] = None,
    font_size: Annotated[
        float | None, typer.Option(help="Points of titles and axes.", show_default="7.5, less in narrower figures")
    ] = None,
    style: Annotated[
        Path | None, typer.Option(help="Style sheet of matplotlib with other settings.", dir_okay=False)
    ] = None,
    batch: options.Batch = 8,
    seed: options.Seed = 0,
    weights: options.Weights = None,
    device: options.Device = None,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    follow_links: options.FollowLinks = False,
) -> None:
    """Make the paper's figures, each with its caption and the command that reproduces it.

    A group is a domain, or any data set, with the runs that were trained for it; without any, industrial and medical
    runs that ship are shown. Long results are stored as Parquet in OUT/data, and reused only if runs, images, settings
    and versions are the same. After an interruption, the same command resumes. Without names all figures are made; one
    that these runs or images do not allow is left out with a message. A figure of other runs, images or settings is
    never overwritten. Ablations are of a group's first run, importance of its first three, weights and metrics of all.
    An unreadable image is reported and left out, and the exit status is then 1.
    """
    from headlens.data.notes import lines
    from headlens.errors import ConfigError, HeadlensError
    from headlens.figures import FigureContext, Print, chosen, inches, make, style_sheet
    from headlens.training.run import load_groups

    wanted = chosen(names or ())  # before anything that takes long
    how = Print(
        tuple(format or ("pdf", "png")),
        None if width is None else inches(width),
        font,
        font_size,
        {} if style is None else style_sheet(style),
    )

    @contextmanager
    def progress(what: str, total: int) -> Iterator[Callable[[int], object]]:
        with bar(total, what) as done:
            yield done.update

    given = groups_of(group or (), {"industrial": industrial, "medical": medical})
    given = given or {domain: shipped(domain) for domain in DOMAINS}
    specs = list(data or ())
    for domain, images in zip(DOMAINS, (industrial_data, medical_data), strict=True):
        if images != f"procedural:{domain}":
            if domain not in given:
                raise ConfigError(f"--{domain}-data is given, but no run of that domain: name some with --{domain}")
            specs.append(f"{domain}={images}")
    named = images_by_group(specs, given)
    domains = []
    for domain, runs in load_groups(given, weights=weights, device=device_of(device)).items():
        opened = data_of(named[domain], painted or metrics_per_category, max_pixels, domain, follow_links)
        domains.append(domain_of(domain, runs, opened, per_category))
    paper = FigureContext(domains, out / "data", seed=seed, batch=batch, fresh=fresh, progress=progress)
    options = typed(context)
    failed: list[HeadlensError] = []
    for spec, made in make(
        paper, out, names or (), lambda name: shlex.join(["headlens", "figures", name, *options]), how
    ):
        if isinstance(made, HeadlensError):
            failed.append(made)
            typer.echo(f"{spec.name}: not made: {made}", err=True)
        else:
            typer.echo(f"{spec.name}: {', '.join(map(str, made))}")
    if paper.cache.reused:
        typer.echo(f"Reused from {out / 'data'}: {', '.join(dict.fromkeys(paper.cache.reused))}")
    unread = [line for name, reasons in paper.left_out.items() for line in lines({"skipped": reasons}, of=name)]
    for line in unread:
        typer.echo(line, err=True)
    broken = any(not isinstance(why, ConfigError) for why in failed)  # others are not for these runs or images
    if unread or broken or (failed and (names or len(failed) == len(wanted))):
        raise typer.Exit(1)


def shipped(domain: str) -> list[str]:
    """Names of the shipped runs of a domain: the method, the method without parts, and first seeds of other methods."""
    whole = default(domain)
    parts = [f"{whole}{part}" for part in ("", "-anomalyclip", "-shallow")]
    return parts + [f"{whole}-{method}-{seed}" for method in _OTHERS for seed in range(_SEEDS)]


def domain_of(domain: str, runs: list[Run], images: DataSet, per_category: int) -> Domain:
    """A domain's runs with its images; says what they are."""
    from headlens.figures import Domain, grouped

    group = grouped(runs)
    backbone = group.whole[0].detector.backbone.provenance.name
    typer.echo(f"{domain}, on {images}, backbone {backbone}: {', '.join(run.folder.name for run in group.placed)}")
    for name, why in group.left_out.items():
        typer.echo(f"{domain}: {name} is left out: it {why}", err=True)
    return Domain.of(domain, group, images, per_category)


_NOT_TYPED = ("names", "fresh", "help", "quiet", "verbose")


def typed(context: typer.Context) -> list[str]:
    """The options of a call that were not left at their defaults, as they would be typed; without ``--fresh``."""
    words = []
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if option.name in _NOT_TYPED or value == option.default or value in (None, ()):
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [option.opts[0], str(one)]
    return words
