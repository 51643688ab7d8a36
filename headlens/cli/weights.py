"""``headlens weights``: what was learned about heads, and, on pictures, what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from headlens.cli.common import (
    OUT,
    BatchOption,
    DeviceOption,
    OutOption,
    PerCategory,
    device_of,
    pictures_of,
    slug,
)

if TYPE_CHECKING:
    import pandas as pd

    from headlens.heads import Capture


def weights(
    run: Annotated[str, typer.Option(help="A run folder, or a shipped run.")] = "mini-industrial",
    data: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Also write down what heads do on these: a folder, a listing, a procedural set."),
    ] = None,
    per_category: PerCategory = 10,
    batch: BatchOption = 8,
    backbone_weights: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--weights", help="The backbone's weight file."),
    ] = None,
    device: DeviceOption = None,
    out: OutOption = OUT,
) -> None:
    """Print and draw the grid of learned head weights.

    With --data, norms, attention statistics and margin parts of every head are streamed to Parquet, image by image, in
    one pass; an interrupted one goes on.
    """
    from tqdm import tqdm

    from headlens import heads
    from headlens.heads.results import write_figure
    from headlens.training.run import load_run

    loaded = load_run(run, weights=backbone_weights, device=device_of(device))
    typer.echo(f"{loaded.detector.backbone}\n")
    written = []
    if data is None or loaded.detector.head_weights():
        found = heads.weights(loaded.detector, loaded.folder.name)
        for stream, own in found.frame.groupby("stream", sort=False):
            typer.echo(f"{loaded.folder.name}: weights of {stream} heads, from 1; layers downwards\n{grid(own)}\n")
        name = slug("weights", loaded.folder.name)
        written += [found.save(out / f"{name}.parquet"), write_figure(out / f"{name}.png", found.plot()[0])]
    if data is not None:
        pictures = pictures_of(data, per_category)
        folder = out / slug("capture", loaded.folder.name, pictures.name)
        with tqdm(total=len(pictures), unit="image", disable=None, desc="capture") as bar:
            captured = heads.capture(
                loaded.detector, pictures, folder, size=loaded.size, batch=batch, progress=bar.update
            )
        typer.echo(f"{pictures}\n\n{quantities(captured)}\n")
        written += [folder, write_figure(out / f"{folder.name}.png", captured.plot()[0])]
    typer.echo(", ".join(map(str, written)))


def grid(frame: pd.DataFrame) -> str:
    """Layers by heads, two digits."""
    table = frame.pivot(index="layer", columns="head", values="value")
    return table.iloc[::-1].map("{:.2f}".format).rename_axis(index=None, columns=None).to_string()


def quantities(captured: Capture) -> str:
    """Of each quantity: means over all heads, and the head where normal and anomalous pictures differ most."""
    import pandas as pd

    from headlens.heads import Head

    lines = []
    for (metric, stream), own in captured.summary.groupby(["metric", "stream"], sort=False):
        cells = {
            "": metric,
            "heads": stream,
            **{name: f"{own[name].mean():.3f}" for name in ("mean", "normal", "anomalous")},
        }
        apart = (own["anomalous"] - own["normal"]) / own["std"].where(own["std"] > 0)
        if apart.notna().any():
            row = own.loc[apart.abs().idxmax()]
            cells["furthest apart"] = (
                f"{Head(str(stream), int(row['layer']), int(row['head']))} {apart.loc[row.name]:+.2f} sd"
            )
        lines.append(cells)
    return pd.DataFrame(lines).fillna("-").replace("nan", "-").to_string(index=False)
