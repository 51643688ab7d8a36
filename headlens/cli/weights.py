"""``headlens weights``: what was learned about heads, and, on images, what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from headlens.cli import options
from headlens.cli.common import SOURCE, Source, measuring, shared, with_options
from headlens.cli.output import OUTPUT, Output
from headlens.cli.results import report_notes, run_fact, save, stem, stem_of
from headlens.tables import Table, number

if TYPE_CHECKING:
    import pandas as pd

    from headlens.heads import Capture


@shared
@with_options
def weights(
    data: Annotated[
        str | None,
        typer.Option(help="Also record what heads do on these images: a folder, a listing or a procedural set."),
    ] = None,
    source: Source = SOURCE,
    batch: options.Batch = options.BATCH,
    precision: options.Precision = None,
    out: options.Out = options.OUT,
    output: Output = OUTPUT,
) -> None:
    """Print and draw the grid of learned head weights.

    With --data, norms, attention statistics and margin parts of every head are written to Parquet, image by image, in
    one pass, which resumes after an interruption. An unreadable image is reported and left out, and the exit status is
    then 1.
    """
    from headlens import heads, parallel
    from headlens.precision import check_precision

    check_precision(precision)
    loaded = source.load()
    output.say(f"{loaded.detector.backbone}\n")
    captured = None
    if data is not None:
        images = source.data_set(data)
        folder = out / stem_of("capture", loaded, images, *source.parts(SOURCE), precision or "")
        with measuring(loaded, images, "capture", precision=precision) as settings:
            captured = heads.capture(loaded, images, folder, batch=batch, **settings)
    if not parallel.current().main:
        return
    written, tables = [], []
    if data is None or loaded.detector.head_weights():
        learned = heads.weights(loaded, loaded.folder.name)
        name = stem("weights", loaded.folder.name, run=run_fact(loaded))
        written += save(learned, out / f"{name}.parquet")
        for stream, rows in learned.frame.groupby("stream", sort=False):
            title = f"{loaded.folder.name}: weights of {stream} heads, from 1; layers downwards"
            tables.append(grid(rows, title))
    if captured is not None:
        written += [folder, captured.plot().save(out / f"{folder.name}.png")]
        tables.append(quantities(captured, str(images)))
    output.show(*tables)
    output.say("\n" + ", ".join(map(str, written)))
    if captured is not None:
        report_notes(captured.notes, images.name)


def grid(frame: pd.DataFrame, title: str) -> Table:
    """Layers by heads, two digits."""
    values = frame.pivot(index="layer", columns="head", values="value").iloc[::-1]
    rows = [
        [str(layer), *map("{:.2f}".format, row)] for layer, row in zip(values.index, values.to_numpy(), strict=True)
    ]
    return Table(["", *map(str, values.columns)], rows, len(values.columns), "weights", title, frame=frame)


def quantities(captured: Capture, title: str) -> Table:
    """Of each quantity: means over all heads, and the head where normal and anomalous images differ most."""
    from headlens.heads import Head

    lines = []
    for (metric, stream), rows in captured.summary.groupby(["metric", "stream"], sort=False):
        means = [rows[name].mean() for name in ("mean", "normal", "anomalous")]
        apart = (rows["anomalous"] - rows["normal"]) / rows["std"].where(rows["std"] > 0)
        furthest = ["-", "-"]
        if apart.notna().any():
            row = rows.loc[apart.abs().idxmax()]
            furthest = [str(Head(str(stream), int(row["layer"]), int(row["head"]))), f"{apart.loc[row.name]:+.2f} sd"]
        lines.append([str(metric), str(stream), furthest[0], *(number(mean, ".3f") for mean in means), furthest[1]])
    header = ["quantity", "heads", "furthest apart", "mean", "normal", "anomalous", "by"]
    return Table(header, lines, 4, "quantities", title, frame=captured.summary)
