"""``headlens train``: a detector from an auxiliary set, as a run folder."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from headlens.cli import options
from headlens.cli.common import shared
from headlens.training.shipped import BACKBONE

Positions = Enum(
    "Positions", {"BICUBIC": "bicubic", "BICUBIC_PLAIN": "bicubic-plain", "BILINEAR": "bilinear"}, type=str
)


@shared
def train(
    data: Annotated[
        list[str],
        typer.Option(help="Training set: a folder, a listing, or procedural:industrial/aux; several are joined."),
    ],
    out: Annotated[Path, typer.Option(help="Run folder; an interrupted run resumes.", file_okay=False)],
    preset: Annotated[
        str,
        typer.Option(
            help="A method with its settings: headclip, anomalyclip, anomalyclip-published, crane, april-gan, aa-clip, "
            "aa-clip-medical, adaclip, kanoclip, c2p-clip, vadclip, vadclip-ucf, vadclip-xd. The last three are of "
            "clips."
        ),
    ] = "headclip",
    backbone: Annotated[
        str, typer.Option(help="An embedded backbone, mini-captions or mini, or an open_clip name.")
    ] = BACKBONE,
    weights: Annotated[str | None, typer.Option(help="A tag, such as openai, or a weight file.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file whose tables detector and training change settings.", exists=True, dir_okay=False),
    ] = None,
    descriptions: options.Descriptions = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training set.", min=1)] = None,
    batch: Annotated[int | None, typer.Option(help="Images per step on each device.", min=1)] = None,
    size: Annotated[int | None, typer.Option(help="Image side in pixels.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of initial values and image order.", min=0)] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Run the forward pass in bfloat16.")] = False,
    positions: Annotated[
        Positions,
        typer.Option(help="How position embeddings are resized: open_clip's way, AdaCLIP's, or AnomalyCLIP's."),
    ] = Positions.BICUBIC,
    act_fn: options.ActFn = None,
    because: options.Because = None,
    per_category: options.PerCategory = 40,
    split: Annotated[
        str,
        typer.Option(help="Split of the training set; zero-shot methods train on the test split of another set."),
    ] = "test",
    data_seed: Annotated[int, typer.Option(help="Seed of a procedural set's images.", min=0)] = 0,
    every: options.Every = 1,
    domain: options.DataDomain = None,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    follow_links: options.FollowLinks = False,
    cpu: Annotated[bool, typer.Option("--cpu", help="Do not use GPUs.")] = False,
) -> None:
    """Train a detector. Ctrl-C saves; the same command resumes and ends with the same weights.

    On several GPUs: `torchrun --nproc-per-node 2 -m headlens train …`; --batch is per process.
    """
    from headlens import parallel
    from headlens.backbone import load
    from headlens.cli.common import data_of, phrased, tables
    from headlens.data import JoinedSet
    from headlens.data.notes import lines
    from headlens.detectors.methods.registry import build, check_training, config_of, table_of
    from headlens.detectors.methods.registry import preset as preset_
    from headlens.detectors.stages import TrainingConfig
    from headlens.training.interrupt import Stopped
    from headlens.training.trainer import train as train_

    given = tables(config)
    flags: dict[str, Any] = {"epochs": epochs, "batch": batch, "size": size, "seed": seed}
    flags["precision"] = "bfloat16" if bf16 else None
    settings = given["training"] | {name: value for name, value in flags.items() if value is not None}
    with _settings_of(config):
        training = TrainingConfig.of(settings)
        table = table_of(preset_(preset))
        if given["detector"].get("method", table["method"]) != table["method"]:
            table, preset = {}, given["detector"]["method"]  # which has not the settings of the preset
        chosen = config_of(table | given["detector"])
        check_training(chosen, training)
    phrases = phrased(chosen, descriptions)
    procedural = any(one.startswith("procedural:") for one in data)
    world = {"per_category": per_category, "seed": data_seed} if procedural else None
    world = world | {"every": every} if world and every > 1 else world
    about_set = (per_category, max_pixels, domain, follow_links, data_seed, split)
    sets = [data_of(one, *about_set, every=every) for one in data]
    dataset = sets[0] if len(sets) == 1 else JoinedSet(sets)
    clip = load(backbone, weights, position_rule=positions.value, act_fn=cast(Any, act_fn), because=because)
    with _settings_of(config):
        detector = build(clip, chosen, training.seed, **phrases)
    passes = " + ".join(str(stage.epochs or training.epochs) for stage in detector.stages(training))
    typer.echo(f"{clip}\n{dataset}\n{preset}, {passes} epochs, seed {training.seed}")

    def begin(step: int, steps: int) -> None:
        if step:
            typer.echo(f"resumes at step {step} of {steps}")

    def notify() -> None:
        with suppress(OSError):  # not through a buffer, which may be in the middle of something else
            os.write(sys.stderr.fileno(), b"\nstops after this step; press again to stop at once\n")

    try:
        about = {"preset": preset, "procedural": world}
        hooks: dict[str, Any] = {"notify": notify} if parallel.current().main else {}
        card = train_(detector, dataset, training, out, about=about, cpu=cpu, begin=begin, **hooks)
    except Stopped as stopped:
        typer.echo(f"{stopped}; the same command resumes")
        raise typer.Exit(128 + stopped.number) from None
    except KeyboardInterrupt:
        typer.echo(f"interrupted between two steps; the same command resumes from what is saved in {out}, if anything")
        raise typer.Exit(128 + signal.SIGINT) from None
    if card:
        typer.echo(f"{out}: {card['steps']} steps on {card['images']} images; threshold {card['threshold']}")
        for line in lines(card, of=dataset.name):
            typer.echo(line, err=True)


@contextmanager
def _settings_of(config: Path | None) -> Iterator[None]:
    """Errors of settings say which file they are from."""
    from headlens.errors import ConfigError

    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{config}: {error}" if config is not None else str(error)) from error
