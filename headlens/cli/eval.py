"""``headlens eval``: runs on data sets, every metric, and three image scores side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headlens.cli import options
from headlens.cli.common import at_once, data_of, device_of, shared
from headlens.errors import ConfigError
from headlens.progress import bar

if TYPE_CHECKING:
    from headlens.data import DataSet
    from headlens.training.evaluation import Evaluation
    from headlens.training.run import Run


@shared
def eval_(
    run: Annotated[list[str], typer.Option(help="Run folders or shipped runs; seeds are averaged, with an interval.")],
    data: Annotated[list[str], typer.Option(help="Data sets: folders, listings or procedural sets.")],
    domain: options.DataDomain = None,
    per_category: options.PerCategory = 80,
    weights: options.Weights = None,
    batch: options.FullBatch = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Exact pixel metrics; keeps all maps of a category in memory.")
    ] = False,
    precision: options.Precision = None,
    device: options.Device = None,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    follow_links: options.FollowLinks = False,
    json_: Annotated[
        Path | None,
        typer.Option(
            "--json", help="Write JSON to this file; a file with other results is never overwritten.", dir_okay=False
        ),
    ] = None,
) -> None:
    """Print the metrics of trained detectors, with the backbone they run on.

    Runs that differ only in their seed share a table of means and 95 % intervals; other runs get a table each.
    An unreadable image is reported and left out, and the exit status is then 1; an image with an unusable mask still
    counts for image metrics.
    """
    from headlens import parallel
    from headlens.cli.results import ABOUT, check_free, data_fact, digest, run_fact
    from headlens.data.protocol import canonical, canonical_names
    from headlens.files import write
    from headlens.precision import check_precision, default_precision
    from headlens.provenance import computed
    from headlens.training.evaluation import Evaluation, evaluate
    from headlens.training.grouping import seeds_of
    from headlens.training.run import load_runs
    from headlens.training.summary import over_seeds

    check_precision(precision)
    sets = sets_of(data, per_category, max_pixels, domain, follow_links)
    runs = load_runs(*run, weights=weights, device=device_of(device))
    groups = seeds_of(runs)
    question = {
        "runs": [[one.folder.name, run_fact(one)] for one in runs],
        "data": [[one.name, data_fact(one), len(one)] for one in sets],
        "how": [exact, precision],
    }
    if json_ is not None:
        check_free(json_, question)
    results_of: dict[Path, Evaluation] = {}
    for loaded in runs:
        with bar(sum(map(len, sets)), loaded.folder.name) as done:
            where = loaded.detector.device
            how: dict[str, Any] = {"precision": precision or default_precision(where), "progress": done.update}
            how |= {"batch": at_once(batch, where, 32), "size": loaded.size, "exact": exact, "cache": len(runs) > 1}
            parts = [evaluate(loaded, one, **how) for one in sets]
        results_of[loaded.folder] = Evaluation.joined(parts)

    if not parallel.current().main:
        return
    rows, said = [], []
    for group in groups:
        first, results = group[0], [results_of[one.folder] for one in group]
        names, summary, trained_on = [str(one.folder) for one in group], over_seeds(results), _trained_on(group[0])
        said.append(f"{first.detector.backbone}\n{', '.join(names)}, trained on {trained_on}\n\n{summary.markdown()}\n")
        made_by = {
            "runs": names,
            "unit": results[0].unit,
            **computed(first.detector, precision or default_precision(first.detector.device)),
            "backbone": vars(first.detector.backbone.provenance),
        }
        rows.append({**made_by, "metrics": json.loads(summary.frame.to_json(orient="records"))})
    any_run = next(iter(results_of.values()))  # all have read the same images
    if json_ is not None:
        content = {ABOUT: digest(question), "results": rows, **any_run.reasons(), "undefined": any_run.undefined()}
        write(json_, (json.dumps(content, indent=1) + "\n").encode())
    for text in said:
        typer.echo(text)
    if half_width := max(each.half_width for each in results_of.values()):
        typer.echo(f"Pixel metrics are within {half_width:.1g} of the exact ones (--exact keeps every map).")
    for group in groups:
        trained = canonical_names(_trained_on(group[0]))
        if known := [one.name for one in sets if canonical(one.name) in trained]:
            names = [one.folder.name for one in group]
            typer.echo(f"Not zero-shot: {', '.join(names)} were trained on {', '.join(known)}.", err=True)
    for line in [*any_run.undefined(), *any_run.lines()]:
        typer.echo(line, err=True)
    if any_run.skipped:
        raise typer.Exit(1)


def sets_of(
    specs: list[str], per_category: int, max_pixels: int, domain: str | None, follow_links: bool
) -> list[DataSet]:
    """The data sets of these names, two of one name each called by its path; raises ConfigError for one set twice."""
    from headlens.printing import unicode

    sets = [data_of(spec, per_category, max_pixels, domain, follow_links) for spec in specs]
    names, prints = [one.name for one in sets], [one.fingerprint for one in sets]
    for spec, one, name in zip(specs, sets, names, strict=True):
        if prints.count(one.fingerprint) > 1:
            raise ConfigError(f"--data {spec}: this set, or a copy of it, is given twice; a set counts once")
        if names.count(name) > 1:
            one.name = unicode(str(Path(spec).expanduser().absolute()))
    return sets


def _trained_on(run: Run) -> str:
    return str(run.card.get("trained_on") or "unknown")
