"""``headlens import``: published prompts as a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def import_(
    file: Annotated[Path, typer.Argument(help="A .pth file of AnomalyCLIP's or Crane's prompts.", dir_okay=False)],
    out: Annotated[Path, typer.Option(help="The run folder.", file_okay=False)],
    trained_on: Annotated[
        str | None, typer.Option(help="The set that its authors trained on, for the card.", show_default="not said")
    ] = None,
    backbone: Annotated[str, typer.Option(help="The CLIP that they were learned on.")] = "ViT-L-14-336-quickgelu",
    weights: Annotated[str | None, typer.Option(help="Its tag or weight file.")] = "openai",
    size: Annotated[int, typer.Option(help="Pixels along a side.", min=1)] = 518,
) -> None:
    """Make a run of a published checkpoint, to score, evaluate and analyse it like any other.

    AnomalyCLIP's folder 9_12_4_multiscale was trained on VisA, 9_12_4_multiscale_visa on MVTec.
    """
    from headlens.backbone import load
    from headlens.detectors.detector import check_size
    from headlens.detectors.methods.published import published_detector, read_prompts
    from headlens.training.run import new_run, save_run

    prompts = read_prompts(file)
    about = {
        "preset": prompts.preset,
        "imported": {"file": file.name, "sha256": prompts.sha256, "not_taken": prompts.not_taken},
        "threshold": None,
        **({} if trained_on is None else {"trained_on": trained_on}),
    }
    with new_run(out):
        clip = load(backbone, weights, size, position_rule="bilinear")
        check_size(size, clip.vision.cfg)
        save_run(out, published_detector(prompts, clip), None, about)
    typer.echo(
        f"{clip}\n{out}: {prompts.preset}, {prompts.context.shape[1]} tokens of context, "
        f"deep prompts in {len(prompts.deep)} blocks"
    )
    if prompts.not_taken:
        typer.echo(f"{prompts.not_taken}.")
