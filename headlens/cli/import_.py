"""``headlens import``: what a method's authors published, as a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headlens.cli import options


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            help="A .pth file: prompts of AnomalyCLIP or Crane, linear maps of APRIL-GAN, image adapters of AA-CLIP, "
            "prompts and maps of AdaCLIP.",
            dir_okay=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Run folder to write.", file_okay=False)],
    trained_on: Annotated[
        str | None, typer.Option(help="Data set its authors trained on, for the run's card.", show_default="not said")
    ] = None,
    backbone: Annotated[str, typer.Option(help="The CLIP it was trained on.")] = "ViT-L-14-336-quickgelu",
    weights: Annotated[str | None, typer.Option(help="Tag or weight file of that CLIP.")] = "openai",
    size: Annotated[int, typer.Option(help="Image side in pixels.", min=1)] = 518,
    text: Annotated[
        Path | None, typer.Option(help="File with AA-CLIP's text adapters, text_adapter.pth.", dir_okay=False)
    ] = None,
    descriptions: options.Descriptions = None,
    act_fn: options.ActFn = None,
    because: options.Because = None,
) -> None:
    """Turn a published checkpoint into a run folder, which can be scored, evaluated and analysed like any other.

    AnomalyCLIP's folder 9_12_4_multiscale was trained on VisA, 9_12_4_multiscale_visa on MVTec. APRIL-GAN, AA-CLIP and
    AdaCLIP run with plain GELU, as in their authors' code, unless --act-fn says otherwise.
    """
    from headlens.backbone import load
    from headlens.cli.common import phrased
    from headlens.detectors.detector import check_size
    from headlens.detectors.methods.importing import read_published
    from headlens.detectors.methods.registry import preset
    from headlens.files import sha256_of
    from headlens.training.run import new_run, save_run

    published = read_published(file, text)
    phrases = phrased(preset(published.preset), descriptions)
    imported = {"file": file.name, "sha256": published.sha256, "not_taken": published.not_taken}
    if text is not None:
        imported |= {"text": text.name, "text_sha256": sha256_of(text)}
    about = {
        "preset": published.preset,
        "imported": imported,
        "threshold": None,
        **({} if trained_on is None else {"trained_on": trained_on}),
    }
    said = {} if act_fn is None and because is None else {"act_fn": act_fn, "because": because}
    with new_run(out):
        clip = load(backbone, weights, size, **{**published.rules, **said})
        check_size(size, clip.vision.cfg)
        save_run(out, published.on(clip).with_config(**phrases), None, about)
    typer.echo(f"{clip}\n{out}: {published.preset}, {published.contents}")
    if published.not_taken:
        typer.echo(f"{published.not_taken}.")
