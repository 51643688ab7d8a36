"""``headlens export``: a detector as one file that runs without headlens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headlens.cli import completion, options
from headlens.cli.common import data_of, refuse_options, shown_by

if TYPE_CHECKING:
    from headlens.export import Exported


def export(
    context: typer.Context,
    run: Annotated[
        str,
        typer.Option(
            help="A run folder, or the name of a shipped run such as mini-captions-industrial.",
            autocompletion=completion.runs,
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="The file to write: .onnx, or .pt2 for torch.export.", dir_okay=False)
    ] = Path("model.onnx"),
    category: options.Category = None,
    size: options.Size = None,
    threshold: Annotated[
        float | None, typer.Option(help="Threshold of the joint score.", show_default="that of the run, at its size")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set whose normal images give the threshold.",
            show_default="none",
            autocompletion=completion.data_sets,
        ),
    ] = None,
    rate: Annotated[
        float, typer.Option(help="With --data, at most this share of normal images lies above it.", min=0, max=0.99)
    ] = 0.01,
    weights: options.Weights = None,
    per_category: options.PerCategory = options.PER_CATEGORY,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    follow_links: options.FollowLinks = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite --out and its card.")] = False,
) -> None:
    """Write a detector as ONNX or for torch.export, so that it runs without headlens, and a card in JSON.

    Pixels of 0 to 1 go in, of any number of images of one size; joint scores and maps come out. The card says how
    images are resized, what the scores are, and the threshold. What is written is compared with the detector first.
    """
    from headlens.export import check_paths
    from headlens.export import export as exported
    from headlens.training.run import load_run

    check_paths(out, force)  # before anything is loaded
    if data is None:
        refuse_options(context, ("rate", "per_category", "max_pixels", "follow_links"), "goes with --data")
    loaded = load_run(run, weights=weights, device="cpu")
    if category is None:
        shown_by(loaded, None)
    normal = None if data is None else data_of(data, per_category, max_pixels, None, follow_links, category=category)
    made = exported(
        loaded,
        out,
        category=category,
        size=size,
        threshold=threshold,
        normal=normal,
        rate=rate,
        force=force,
    )
    typer.echo(f"{loaded.detector.backbone}\n{_written(made)}")


def _written(made: Exported) -> str:
    about, size = made.about, made.model.stat().st_size / 2**20
    shapes = {"pixels": about["input"]["shape"], **{name: out["shape"] for name, out in about["outputs"].items()}}
    pixels, *outputs = (f"{name} [{', '.join(map(str, shape))}]" for name, shape in shapes.items())
    lines = [
        f"{made.model}: {size:.1f} MiB, {pixels} to {' and '.join(outputs)}",
        f"{made.card}: how images are resized, what scores are; {_decision(about['threshold'])}",
        f"Largest difference from the detector: {max(about['difference'].values()):.1g}",
    ]
    return "\n".join(lines)


def _decision(threshold: dict[str, Any] | None) -> str:
    if threshold is None:
        return "no threshold"
    above = f", {threshold['above']:.2%} of {threshold['images']} lie above it" if "above" in threshold else ""
    return f"threshold {threshold['value']:.4g} from {threshold['from']}{above}"
