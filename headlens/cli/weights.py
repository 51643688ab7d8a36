"""``headlens weights``: what was learned about heads, and, on images, what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from headlens.cli import options
from headlens.cli.common import data_of, device_of, measuring, shared
from headlens.cli.results import other_than, report_notes, run_fact, save, stem, stem_of
from headlens.training.shipped import default

if TYPE_CHECKING:
    import pandas as pd

    from headlens.heads import Capture


@shared
def weights(
    run: Annotated[str, typer.Option(help="A run folder, or the name of a shipped run.")] = default("industrial"),
    data: Annotated[
        str | None,
        typer.Option(help="Also record what heads do on these images: a folder, a listing or a procedural set."),
    ] = None,
    domain: options.DataDomain = None,
    per_category: options.PerCategory = 10,
    batch: options.Batch = 8,
    backbone_weights: options.Weights = None,
    device: options.Device = None,
    precision: options.Precision = None,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    follow_links: options.FollowLinks = False,
    out: options.Out = options.OUT,
) -> None:
    """Print and draw the grid of learned head weights.

    With --data, norms, attention statistics and margin parts of every head are written to Parquet, image by image, in
    one pass, which resumes after an interruption. An unreadable image is reported and left out, and the exit status is
    then 1.
    """
    from headlens import heads, parallel
    from headlens.precision import check_precision
    from headlens.training.run import load_run

    check_precision(precision)
    loaded = load_run(run, weights=backbone_weights, device=device_of(device))
    typer.echo(f"{loaded.detector.backbone}\n")
    captured = None
    if data is not None:
        images = data_of(data, per_category, max_pixels, domain, follow_links)
        each = other_than(per_category, 10, "{}-each")
        folder = out / stem_of("capture", loaded, images, each, precision or "")
        with measuring(loaded, images, "capture", precision=precision) as settings:
            captured = heads.capture(loaded, images, folder, batch=batch, **settings)
    if not parallel.current().main:
        return
    written = []
    if data is None or loaded.detector.head_weights():
        learned = heads.weights(loaded, loaded.folder.name)
        name = stem("weights", loaded.folder.name, run=run_fact(loaded))
        written += save(learned, out / f"{name}.parquet")
        for stream, rows in learned.frame.groupby("stream", sort=False):
            typer.echo(f"{loaded.folder.name}: weights of {stream} heads, from 1; layers downwards\n{grid(rows)}\n")
    if captured is not None:
        written += [folder, captured.plot().save(out / f"{folder.name}.png")]
        typer.echo(f"{images}\n\n{quantities(captured)}\n")
    typer.echo(", ".join(map(str, written)))
    if captured is not None:
        report_notes(captured.notes, images.name)


def grid(frame: pd.DataFrame) -> str:
    """Layers by heads, two digits."""
    table = frame.pivot(index="layer", columns="head", values="value")
    return table.iloc[::-1].map("{:.2f}".format).rename_axis(index=None, columns=None).to_string()


def quantities(captured: Capture) -> str:
    """Of each quantity: means over all heads, and the head where normal and anomalous images differ most."""
    import pandas as pd

    from headlens.heads import Head

    lines = []
    for (metric, stream), rows in captured.summary.groupby(["metric", "stream"], sort=False):
        cells = {"": metric, "heads": stream}
        cells |= {name: f"{rows[name].mean():.3f}" for name in ("mean", "normal", "anomalous")}
        apart = (rows["anomalous"] - rows["normal"]) / rows["std"].where(rows["std"] > 0)
        if apart.notna().any():
            row = rows.loc[apart.abs().idxmax()]
            head = Head(str(stream), int(row["layer"]), int(row["head"]))
            cells["furthest apart"] = f"{head} {apart.loc[row.name]:+.2f} sd"
        lines.append(cells)
    return pd.DataFrame(lines).fillna("-").replace("nan", "-").to_string(index=False)
