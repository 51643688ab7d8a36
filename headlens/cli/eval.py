"""``headlens eval``: runs on data sets, every metric, and three image scores side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headlens.cli import completion, options
from headlens.cli.common import at_once, data_of, device_of, shared, with_options
from headlens.cli.output import OUTPUT, Output
from headlens.errors import ConfigError
from headlens.progress import bar
from headlens.tables import Table, best

if TYPE_CHECKING:
    import pandas as pd

    from headlens.data import DataSet
    from headlens.training.evaluation import Evaluation
    from headlens.training.run import Run
    from headlens.training.summary import Summary


@shared
@with_options
def eval_(
    run: Annotated[
        list[str],
        typer.Option(
            help="Run folders or shipped runs; seeds are averaged, with an interval.", autocompletion=completion.runs
        ),
    ],
    data: Annotated[
        list[str],
        typer.Option(help="Data sets: folders, listings or procedural sets.", autocompletion=completion.data_sets),
    ],
    domain: options.DataDomain = None,
    category: options.Category = None,
    size: options.Size = None,
    per_category: options.PerCategory = 80,
    every: options.Every = 1,
    weights: options.Weights = None,
    batch: options.FullBatch = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Exact pixel metrics; keeps all maps of a category in memory.")
    ] = False,
    timelines: Annotated[
        Path | None,
        typer.Option(help="Also draw scores over the frames of some clips, as .png or .pdf.", dir_okay=False),
    ] = None,
    precision: options.Precision = None,
    device: options.Device = None,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    follow_links: options.FollowLinks = False,
    output: Output = OUTPUT,
) -> None:
    """Print the metrics of trained detectors, with the backbone they run on.

    Runs that differ only in their seed share rows of means and 95 % intervals; other runs have rows of their own, and
    LaTeX prints the best of each category bold.
    An unreadable image is reported and left out, and the exit status is then 1; an image with an unusable mask still
    counts for image metrics.
    """
    from headlens import parallel
    from headlens.data.protocol import canonical, canonical_names
    from headlens.detectors.detector import check_size
    from headlens.precision import check_precision, default_precision
    from headlens.provenance import computed
    from headlens.training.clip_metrics import clip_table
    from headlens.training.evaluation import Evaluation, evaluate
    from headlens.training.grouping import seeds_of
    from headlens.training.run import load_runs
    from headlens.training.summary import over_seeds

    check_precision(precision)
    sets = sets_of(data, per_category, max_pixels, domain, follow_links, category, every)
    runs = load_runs(*run, weights=weights, device=device_of(device))
    if size is not None:
        check_size(size, runs[0].detector.backbone.vision.cfg)
    groups = seeds_of(runs)
    results_of: dict[Path, Evaluation] = {}
    for loaded in runs:
        with bar(sum(map(len, sets)), loaded.folder.name) as done:
            where = loaded.detector.device
            how: dict[str, Any] = {"precision": precision or default_precision(where), "progress": done.update}
            how |= {
                "batch": at_once(batch, where, 32),
                "size": size or loaded.size,
                "exact": exact,
                "cache": len(runs) > 1,
            }
            parts = [evaluate(loaded, one, **how) for one in sets]
        results_of[loaded.folder] = Evaluation.joined(parts)

    if not parallel.current().main:
        return
    rows: list[dict[str, Any]] = []
    summaries: dict[str, Summary] = {}
    clips: dict[str, list[pd.DataFrame]] = {}
    for group in groups:
        first, results = group[0], [results_of[one.folder] for one in group]
        names, summary, trained_on = [str(one.folder) for one in group], over_seeds(results), _trained_on(group[0])
        called = ", ".join(one.folder.name for one in group)
        summaries[called], clips[called] = summary, [result.of_clips for result in results]
        output.say(f"{first.detector.backbone}\n{', '.join(names)}, trained on {trained_on}\n")
        made_by = {
            "runs": names,
            "unit": results[0].unit,
            "size": size or first.size,
            **computed(first.detector, precision or default_precision(first.detector.device)),
            "backbone": vars(first.detector.backbone.provenance),
        }
        rows.append({**made_by, "metrics": json.loads(summary.frame.to_json(orient="records"))})
        if any(map(len, clips[called])):
            rows[-1]["clips"] = clip_table({called: clips[called]}).records()
    any_run = next(iter(results_of.values()))  # all have read the same images
    document = {"results": rows, **any_run.reasons(), "undefined": any_run.undefined()}
    of_clips = [clip_table(clips)] if any(len(frame) for frames in clips.values() for frame in frames) else []
    output.show(table(summaries), *of_clips, document=document)
    if timelines is not None:
        drawn = any_run.timelines().save(timelines)
        output.say(f"\n{drawn}: scores over the frames of the first clip of each kind")
    if half_width := max(each.half_width for each in results_of.values()):
        output.say(f"\nPixel metrics are within {half_width:.1g} of the exact ones (--exact keeps every map).")
    for group in groups:
        trained = canonical_names(_trained_on(group[0]))
        if known := [one.name for one in sets if canonical(one.name) in trained]:
            names = [one.folder.name for one in group]
            typer.echo(f"Not zero-shot: {', '.join(names)} were trained on {', '.join(known)}.", err=True)
    for line in [*any_run.undefined(), *any_run.lines()]:
        typer.echo(line, err=True)
    if any_run.skipped:
        raise typer.Exit(1)


def table(summaries: dict[str, Summary]) -> Table:
    """Runs by data sets, categories and metrics; names that all rows share are in its title."""
    import pandas as pd

    from headlens.metrics.table import KEYS
    from headlens.training.summary import columns_of

    frame = pd.concat([summary.frame.assign(run=run) for run, summary in summaries.items()], ignore_index=True)
    columns = columns_of(frame)
    parts = [summary.table(columns) for summary in summaries.values()]
    rows = [[run, *row] for run, part in zip(summaries, parts, strict=True) for row in part.rows]
    bold, every = set(), frame.groupby(["run", *KEYS], sort=False)["value"].first().index
    for number, name in enumerate(columns):
        values = frame[frame["metric"] == name].groupby(["run", *KEYS], sort=False)["value"].first().reindex(every)
        bold |= {(row, 3 + number) for row in best(list(values.round(3)), [key[1:] for key in values.index])}
    header, title = ["runs", *parts[0].header], ""
    sets = {row[1] for row in rows} - {"mean"}
    if len(sets) == 1:  # then the mean over sets is that of the set
        kept = [place for place, row in enumerate(rows) if row[1] != "mean"]
        title = sets.pop()
        bold = {(kept.index(row), column - 1) for row, column in bold if row in kept}
        header, rows = [header[0], *header[2:]], [[rows[place][0], *rows[place][2:]] for place in kept]
    if len(summaries) == 1:
        bold, header, rows = set(), header[1:], [row[1:] for row in rows]
    return Table(header, rows, len(columns), "metrics", title, frame=frame, bold=bold)


def sets_of(
    specs: list[str],
    per_category: int,
    max_pixels: int,
    domain: str | None,
    follow_links: bool,
    category: str | None = None,
    every: int = 1,
) -> list[DataSet]:
    """The data sets of these names, two of one name each called by its path; raises ConfigError for one set twice."""
    from headlens.printing import unicode

    about = (per_category, max_pixels, domain, follow_links)
    sets = [data_of(spec, *about, category=category, every=every) for spec in specs]
    names, prints = [one.name for one in sets], [one.fingerprint for one in sets]
    for spec, one, name in zip(specs, sets, names, strict=True):
        if prints.count(one.fingerprint) > 1:
            raise ConfigError(f"--data {spec}: this set, or a copy of it, is given twice; a set counts once")
        if names.count(name) > 1:
            one.name = unicode(str(Path(spec).expanduser().absolute()))
    return sets


def _trained_on(run: Run) -> str:
    return str(run.card.get("trained_on") or "unknown")
