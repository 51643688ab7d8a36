"""What every process of these tests does: ``work`` in one of two, or a call in the test's own.

All verbs run on the folder ``bolts`` beside, which has a picture that cannot be read, and on the run ``one/run``.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from headlens import data, heads, parallel
from headlens.backbone import architecture_from_config, assemble
from headlens.cli import app, main
from headlens.detectors.methods.headclip import HeadCLIP
from headlens.detectors.methods.registry import METHODS, preset
from headlens.detectors.stages import TrainingConfig
from headlens.heads import ablation
from headlens.training import trainer
from headlens.training.evaluation import evaluate
from tests.backbone.models import tiny_config
from tests.training.two_stages import KNOWN, TwoStages, TwoStagesConfig

SMALL = {"taps": (1, 3), "local_start": 1, "deep": 2, "deep_tokens": 3, "context": 5, "streams": ("global", "local")}
ABLATE = ("ablate", "--layer", 23, "--metric", "pixel_aupro", "--metric", "image_ap", "--batch", 2, "--device", "cpu")


def call(*arguments: object) -> None:
    app([str(argument) for argument in arguments], standalone_mode=False)


def painted(folder: Path, category: str, count: int) -> None:
    """MVTec's layout: ``count`` test images, every second one with a bright square; and one to train on."""
    for number in range(count):
        flawed = number % 2
        pixels = np.random.default_rng(number).integers(90, 130, (56, 56, 3), dtype=np.uint8)
        if flawed:
            mask, top = np.zeros((56, 56), np.uint8), 6 * number % 40
            mask[top : top + 12, 20:34] = 255
            pixels[mask > 0] = 250
            path = folder / category / "ground_truth" / "spot" / f"{number}_mask.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)
        path = folder / category / "test" / ("spot" if flawed else "good") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (folder / category / "train" / "good").mkdir(parents=True)
    Image.fromarray(pixels).save(folder / category / "train" / "good" / "0.png")


def train(folder: Path, batch: int) -> None:
    """The run ``folder/run``, of the folder ``plates`` beside."""
    call(
        *("train", "--data", folder.parent / "plates", "--epochs", 2, "--size", 56),
        *("--batch", batch, "--out", folder / "run", "--cpu"),
    )


def train_stages(folder: Path, share: int) -> None:
    """Two stages on a tiny CLIP: ``folder/stages/whole/run``, and ``folder/stages/cut/run``, which is killed in both.

    The second one has a schedule, and augments its images.

    Args:
        folder: that they are written to.
        share: images of a step of the first stage on this process, half as many as of the second.
    """
    pictures = data.open("procedural:industrial/aux", category="wood", per_category=10, size=32)
    config = TrainingConfig(epochs=3, batch=2 * share, save_every=1, lr=0.01)  # 2 steps, and 3 of the second stage
    for name, killed_at in {"whole": (), "cut": (2, 4)}.items():
        for last in (*killed_at, 0):
            clip = assemble(
                architecture_from_config(tiny_config(vocab_size=49408, context_length=32), "tiny"), None, seed=4
            )
            settings = TwoStagesConfig(text_batch=share, milestones=(1,), augmented=True)
            detector, out = TwoStages(clip, settings), folder / "stages" / name / "run"

            def progress(row: dict[str, object], last: int = last) -> None:
                if row["step"] == last:
                    raise InterruptedError

            with patch.dict(METHODS, KNOWN), suppress(InterruptedError):
                trainer.train(detector, pictures, config, out, cpu=True, progress=progress)


def every_verb(folder: Path) -> None:
    """Files in ``folder``: what the shared verbs write, and frames that are no verb's."""
    beside = folder.parent
    given = ("--run", beside / "one" / "run", "--data", beside / "bolts")
    call(*ABLATE, *given, "--out", folder / "lens")
    call("importance", "--screen", 1, *given, "--batch", 2, "--device", "cpu", "--out", folder / "lens")
    small = (*given, "--batch", 2, "--device", "cpu", "--out", folder / "lens")
    call("contributions", "--check", *small)
    pool = folder / "pool.txt"  # both processes write the same
    pool.write_text("a scratch\nwood\nmetal\na crack\n", encoding="utf-8")
    call("name", "--layer", 23, "--head", 3, "--phrases", 2, "--pool", pool, *small)
    call("weights", *small)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        call("eval", *given, "--batch", 2, "--device", "cpu", "--json")
    if said.getvalue():  # the main process's
        (folder / "eval.json").write_text(said.getvalue(), encoding="utf-8")
    clip = assemble(architecture_from_config(tiny_config(vocab_size=49408, context_length=32), "tiny"), None, seed=4)
    detector = HeadCLIP(clip, preset("headclip", **SMALL), seed=1).requires_grad_(False)
    pictures = data.open("procedural:industrial/aux", per_category=5, size=32).where(
        lambda record: record.category in ("wood", "nut")
    )
    bars: list[int] = []
    swept = heads.ablate(detector, pictures, kind="mean", batch=3, replicates=20, progress=bars.append)
    exact = evaluate(detector, pictures, batch=3, exact=True)
    if parallel.current().main:
        assert sum(bars) == len(pictures)
        swept.save(folder / "mean.parquet")
        exact.frame.to_parquet(folder / "exact.parquet")
        exact.scores.to_parquet(folder / "scores.parquet")


def all_together(folder: Path) -> None:
    """Two processes, half a batch each."""
    with parallel.ranks() as own:
        assert own.size == 2
        train(folder, 5)
        train_stages(folder, 2)
        every_verb(folder)


def killed(folder: Path) -> None:
    """A sweep whose second process is killed in its first batch."""
    measure = ablation.measure

    def measured(*arguments: object) -> object:
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return measure(*arguments)

    ablation.measure = measured
    beside = folder.parent
    given = ("--run", beside / "one" / "run", "--data", beside / "bolts")
    sys.argv = ["headlens", *map(str, (*ABLATE, *given, "--out", folder / "lens"))]
    main()


def work(rank: int, place: Path, ports: list[int]) -> None:
    """All of it, with what ``torchrun`` says to a process in its environment, and with its output in files."""
    for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
        os.dup2(os.open(place / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT), stream.fileno())
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ.update(own, LOCAL_WORLD_SIZE="2", MASTER_PORT=str(ports[0]))
    torch.set_num_threads(1)
    all_together(place / "two")
    os.environ["MASTER_PORT"] = str(ports[1])  # of a new meeting; the first one's port may not be free yet
    killed(place / "cut")
