"""``headlens report``: one HTML file about a run, which opens without anything installed."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from headlens.cli import options
from headlens.cli.common import SOURCE, Source, at_once, device_of, layers_of, with_options
from headlens.cli.output import OUTPUT
from headlens.cli.results import report_notes


@with_options
def report(
    source: Source = SOURCE,
    out: Annotated[Path, typer.Option(help="The file to write.", dir_okay=False)] = Path("report.html"),
    against: Annotated[
        str | None, typer.Option(help="A second run to compare with: a run folder, or the name of a shipped run.")
    ] = None,
    worst: Annotated[
        int, typer.Option(help="Show this many false negatives, and as many false positives.", min=0, max=20)
    ] = 4,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            help="Ablate this layer: 18, a range such as 3-6, or all; may be repeated.",
            show_default="the 4 most important",
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="Method of the attribution. An unknown name lists them.")] = "legrad",
    batch: options.FullBatch = None,
    seed: options.Seed = 0,
    precision: options.Precision = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite --out.")] = False,
) -> None:
    """Write one HTML file about a run, for colleagues who have nothing installed.

    It says what the run is, and has metrics with intervals, the images that the run gets most wrong under their maps,
    head weights, importance of all heads, a few layers ablated, and where all of it came from. A part that the images
    or the method do not allow is left out, and the file says why. It needs no network, and prints to PDF.

    An unreadable image is reported and left out, and the exit status is then 1.
    """
    from headlens.precision import default_precision
    from headlens.report.cases import check
    from headlens.report.report import check_path
    from headlens.report.report import report as made
    from headlens.training.run import load_run

    check_path(out, force)
    check(method, worst)
    run, images = source.open(precision, OUTPUT.say)
    other = load_run(against, weights=source.weights, device=device_of(source.device)) if against else None
    layers = layers_of(layer) if layer else None
    if layer and layers is None:
        layers = list(range(run.detector.backbone.vision.cfg.n_layers))
    done = made(
        run,
        images,
        against=other,
        layers=layers,
        method=method,
        worst=worst,
        size=source.size,
        batch=at_once(batch, run.detector.device, 16),
        precision=precision or default_precision(run.detector.device, gradients=True),
        seed=seed,
        command=shlex.join(["headlens", *sys.argv[1:]]),
    )
    done.save(out, force=force)
    for part, why in done.left_out.items():
        OUTPUT.say(f"left out: {part}: {why}")
    OUTPUT.say(f"{out}: {len(done.html) / 2**20:.1f} MiB, {len(done.measured.evaluation.scores)} images")
    report_notes(done.measured.evaluation.reasons(), images.name)
