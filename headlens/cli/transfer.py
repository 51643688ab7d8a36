"""``headlens transfer``: do the heads that one run relies on serve another run, too?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from headlens.cli import options
from headlens.cli.common import SOURCE, Source, device_of, measuring, shared, with_options
from headlens.cli.options import Streams
from headlens.cli.output import OUTPUT, Output
from headlens.cli.result_names import other_than
from headlens.cli.results import data_fact, report_notes, run_fact, save, stem_of
from headlens.errors import ConfigError
from headlens.printing import unknown_name
from headlens.tables import Table, interval, number
from headlens.training.shipped import BACKBONE, DOMAINS, default

if TYPE_CHECKING:
    import pandas as pd

    from headlens.data import DataSet
    from headlens.heads import Importance, Transfer
    from headlens.heads.ranking import Order
    from headlens.training.run import Run

BY = ("weights", "importance")
MEASURED = "measured"
_METRICS = ("image_auroc", "pixel_auroc", "pixel_aupro")


@shared
@with_options
def transfer(
    from_: Annotated[
        list[str] | None,
        typer.Option(
            "--from", help="Run whose heads are taken; may be repeated.", show_default=f"{BACKBONE}-OTHER DOMAIN"
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--to", help="Run that is measured with them.", show_default=f"{BACKBONE}-DOMAIN")
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            help="weights: learned head weights, which are put on the measured run, too, and rank heads by their "
            "distance from 1. importance: gradients of the joint margin."
        ),
    ] = BY[0],
    keep: Annotated[
        str | None,
        typer.Option(help="Numbers of best heads, such as 0,1,2,4.", show_default="0,1,2,4,8,... and all heads"),
    ] = None,
    stream: options.Stream = Streams.BOTH,
    kind: Annotated[
        str, typer.Option(help="What replaces the output of other heads: zero, mean, resample or revert.")
    ] = "zero",
    reference: Annotated[
        str | None, typer.Option(help="Data set for mean and resample.", show_default="normal images of the data")
    ] = None,
    from_data: Annotated[
        str | None, typer.Option(help="Images on which --from shows importance.", show_default="those of --data")
    ] = None,
    to_data: Annotated[
        str | None, typer.Option(help="Images on which --to shows importance.", show_default="those of --data")
    ] = None,
    random: Annotated[int, typer.Option(help="Random rankings to compare with.", min=0)] = 8,
    shuffles: Annotated[int, typer.Option(help="Shuffles of head weights to compare with.", min=0)] = 8,
    share: Annotated[float, typer.Option(help="Share of the clean run's metric that the smallest set reaches.")] = 0.95,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Metrics to measure; the smallest set is by the last.", show_default=", ".join(_METRICS)),
    ] = None,
    source: Source = SOURCE,
    batch: options.Batch = options.BATCH,
    memory: Annotated[int | None, typer.Option(help="Memory for ablated variants, in MiB.", min=1)] = None,
    seed: options.Seed = 0,
    precision: options.Precision = None,
    out: options.Out = options.OUT,
    output: Output = OUTPUT,
) -> None:
    """Measure a run with only the best heads of another run, and with the head weights of another run.

    Of each ranking only the first k heads still work, all others are replaced at once, and exactly. Compared with the
    measured run's ranking and with random ones. For example, do the weights of the medical run serve the industrial
    run, and how many of its heads does it need?

    headlens transfer --from mini-captions-medical --to mini-captions-industrial

    After an interruption, the same command resumes. An unreadable image is reported and left out, and the exit status
    is then 1.
    """
    from headlens import heads, parallel
    from headlens.heads.effects import check_metrics
    from headlens.heads.store import discard
    from headlens.training.run import load_run

    if by not in BY:
        raise ConfigError(unknown_name("--by", by, BY))
    if by == "weights" and (from_data or to_data):
        raise ConfigError("--from-data and --to-data: weights need no images; leave them out, or take --by importance")
    metrics, counts = tuple(metric or _METRICS), _counts(keep)
    check_metrics(metrics)
    loaded, images = source.open(precision, output.say)
    others = from_ or [default(next(domain for domain in DOMAINS if domain != (source.domain or "industrial")))]
    runs = [load_run(name, weights=source.weights, device=device_of(source.device)) for name in others]
    output.say("\n".join(f"heads of {run.folder.name}" for run in runs))
    if len({run.folder.name for run in runs} | {MEASURED}) <= len(runs):
        raise ConfigError("--from: two runs of one name, or one that is called 'measured'; rename a folder")
    shown = source.data_set(from_data) if from_data else images
    to_images = source.data_set(to_data) if to_data else images
    stand_ins = source.data_set(reference) if reference else None
    name = stem_of(
        "transfer",
        loaded,
        images,
        "from",
        *(run.folder.name for run in runs),
        other_than(by, BY[0]),
        *(f"{what}-{data.name}" for what, data in (("on", shown), ("measured on", to_images)) if data is not images),
        other_than(stream.value, "both"),
        other_than(kind, "zero"),
        f"with {stand_ins.name}" if stand_ins else "",
        "keep" + "+".join(map(str, counts)) if counts else "",
        other_than(random, 8, "random{}"),
        other_than(shuffles, 8, "shuffles{}"),
        other_than(share, 0.95, "share{}"),
        "+".join(metric or []),
        *source.parts(SOURCE),
        other_than(seed, 0, "seed{}"),
        precision or "",
        sources=[run_fact(run) for run in runs] if any(run_fact(run) for run in runs) else None,
        reference=stand_ins and data_fact(stand_ins),
        shown=data_fact(shown) if shown is not images else None,
        measured=data_fact(to_images) if to_images is not images else None,
    )
    parts = [out / f"{name}.parts"]

    def shows(run: Run, data: DataSet, number: int) -> Importance:
        parts.append(out / f"{name}.importance-{number}.parts")
        with measuring(run, data, f"importance of {run.folder.name}", precision=precision, gradients=True) as settings:
            return heads.importance(run, data, batch=batch, out=parts[-1], **settings)

    orders: dict[str, Order] = {run.folder.name: run for run in runs}
    if by == "importance":
        orders = {run.folder.name: shows(run, shown, number) for number, run in enumerate(runs)}
        orders[MEASURED] = shows(loaded, to_images, len(runs))
    with measuring(loaded, images, "best heads", precision=precision) as settings:
        settings |= {"kind": kind, "reference": stand_ins, "seed": seed, "metrics": metrics, "batch": batch}
        settings |= {"random": random, "shuffles": shuffles, "share": share, "metric": metrics[-1], "keep": counts}
        settings |= {"streams": None if stream is Streams.BOTH else [stream.value], "budget": memory and memory * 2**20}
        result = heads.transfer(loaded, images, orders, out=parts[0], **settings)
    if not parallel.current().main:
        return
    written = save(result, out / f"{name}.parquet")
    discard(*parts)
    output.say()
    output.show(curves(result), *gains(result))
    if result.weights.empty:
        output.say("\nNo head weights were put on the run.")
    output.say(f"\n{result.paragraph}\n\n{', '.join(map(str, written))}")
    report_notes(result.provenance, images.name)


def _counts(text: str | None) -> list[int] | None:
    """Numbers as they are typed.

    >>> _counts("0, 1,16")
    [0, 1, 16]
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if wrong := [part for part in parts if not part.isdecimal()]:
        raise ConfigError(f"--keep {text!r}: {wrong[0]!r} is no number of heads; write 0,1,2,4")
    return [int(part) for part in parts]


def curves(result: Transfer) -> Table:
    """The metric of the smallest sets over the number of best heads, in percent; random rankings from least to most."""
    rows = _means(result.frame, result.provenance["metric"])
    percent = 100 * rows.pivot(index="heads", columns="ranking", values="value")
    named = list(result.provenance["rankings"])
    others = percent.drop(columns=named)
    cells = []
    for heads, values in percent[named].iterrows():
        cells.append([str(heads), *(number(value, ".1f") for value in values)])
        if others.shape[1]:
            cells[-1].append(f"{others.loc[heads].min():.1f} to {others.loc[heads].max():.1f}")
    kind, metric = result.provenance["kind"], result.provenance["metric"].replace("_", " ")
    header = ["best heads", *named, *(["random"] if others.shape[1] else [])]
    title = f"{metric} in percent with only the best heads of a ranking (all others: {kind})"
    return Table(header, cells, len(header) - 1, "curves", title, frame=rows)


def gains(result: Transfer) -> list[Table]:
    """Head weights, where any were put on the run: their gain over no weights in points."""
    if result.weights.empty:
        return []
    lines = {}
    for metric in dict.fromkeys(result.weights["metric"]):
        rows = _means(result.weights, metric).set_index("weights")
        lines[metric.replace("_", " ")] = [
            number(100 * row.value, ".1f")
            if row.Index == "none"
            else interval(100 * row.effect, 100 * row.low, 100 * row.high, "+.1f")
            for row in rows.itertuples()
        ]
    title = "With head weights of another run: gain over none in points [95 % bootstrap interval]"
    cells = [list(row) for row in zip(map(str, rows.index), *lines.values(), strict=True)]
    return [Table(["head weights", *lines], cells, len(lines), "gains", title, frame=result.weights)]


def _means(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    return frame[(frame["category"] == "mean") & (frame["metric"] == metric)]
