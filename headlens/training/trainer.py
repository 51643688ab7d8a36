"""The training loop: on one device or several, interrupted at any step and gone on with to the same weights."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from headlens.data import Batch, DataSet, Loader, Preprocess
from headlens.data.loading import ahead
from headlens.data.notes import notes_here
from headlens.detectors.detector import Detector, check_size
from headlens.detectors.losses import objective
from headlens.detectors.stages import TrainingConfig
from headlens.errors import ConfigError, RunError
from headlens.launch import alone, launched
from headlens.training.calibration import calibrate
from headlens.training.features import features_of
from headlens.training.interrupt import Stopped, stop_requested
from headlens.training.run import new_run, save_run
from headlens.training.state import STATE, load_state, save_state


class Objective(nn.Module):
    """The detector and its loss as one module, so that gradients are averaged over processes.

    Args:
        detector: what is trained.
        images: how many there are.
    """

    def __init__(self, detector: Detector, images: int) -> None:
        super().__init__()
        self.detector = detector
        self.features, self.store = features_of(detector, images)

    def forward(self, batch: Batch, images: Tensor) -> dict[str, Tensor]:
        """A batch on the CPU, its normalised images [B, 3, h, w] on the device, to the terms of ``objective``."""
        detector, masks = self.detector, batch.masks
        if isinstance(masks, Tensor):  # before the forward, which a copy would wait for
            masks = masks.to(images.device, non_blocking=True)
        features = self.features(batch, images)
        text = detector.text_of([record.category for record in batch.records])
        prediction = detector.score(features, text)
        if not isinstance(masks, Tensor):  # a set without masks: has_mask is False everywhere
            masks = torch.zeros_like(prediction.anomaly_map, dtype=torch.bool)
        return objective(prediction, batch.labels, masks, batch.has_mask)


def train(
    detector: Detector,
    dataset: DataSet,
    config: TrainingConfig,
    out: Path,
    *,
    about: Mapping[str, Any] | None = None,
    cpu: bool = False,
    begin: Callable[[int, int], object] = lambda step, steps: None,
    progress: Callable[[dict[str, float]], object] = lambda row: None,
    notify: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Trains ``detector`` on ``dataset`` and writes the run folder ``out``; goes on where a killed run stopped.

    All that is left to chance, the order of images, follows from the seed and the epoch: a run that was killed and
    started again ends with the weights of one that was not, to the bit, on the same device.

    Ctrl-C and SIGTERM end it after the step that is being taken, with the state saved; a second one at once.

    Args:
        detector: with something to learn; changed in place.
        dataset: the auxiliary set. Pictures that cannot be read are left out and named in the card; labels and masks
            that are missing count for nothing.
        config: everything else. ``batch`` is per process.
        out: a new folder, or one in which this same training has begun.
        about: what else goes into the card.
        cpu: leave GPUs alone.
        begin: called with the step that the run begins at, and how many there will be.
        progress: called with the row of the log after every step.
        notify: called when a first Ctrl-C or SIGTERM has come.

    Returns:
        The card.

    Raises:
        ConfigError: nothing to learn, hooks at the detector, or too few images for a step.
        RunError: ``out`` holds another run, is in use, or cannot be written; a loss that is not finite.
        Stopped: a KeyboardInterrupt, after the state was saved.
    """
    if hooks := detector.hooks:
        raise ConfigError(f"the folder of a run does not say what the hook at {hooks[0]} does: remove it, then train")
    groups = _groups(detector, config)
    if config.size:
        check_size(config.size, detector.backbone.vision.cfg)
    AcceleratorState._reset_state()  # an earlier training in this process may have had another precision
    with nullcontext() if launched() else alone():
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision="bf16" if config.precision == "bfloat16" else "no",
            gradient_accumulation_steps=config.accumulate,
        )
    main = accelerator.is_main_process
    with new_run(out) if main else nullcontext():
        accelerator.wait_for_everyone()
        detector.to(accelerator.device)
        optimizer = torch.optim.Adam(groups, betas=config.betas)
        size = config.size or detector.image_size
        loader = Loader(dataset, Preprocess(size), config.batch, cache="memory", on_error="skip", normalise=False)
        loss = Objective(detector, len(dataset))
        readable = _readable(loader, loss, accelerator)

        at_once = config.batch * accelerator.num_processes * config.accumulate
        per_epoch = len(readable) // at_once
        if not per_epoch:
            raise ConfigError(
                f"one step takes {at_once} images, {dataset.name} has {len(readable)}: make batches smaller"
            )
        steps = config.epochs * per_epoch
        same = {
            "backbone": detector.backbone.provenance.sha256,
            "detector": detector.config.table(),
            "training": config.table(),
            "data": [dataset.name, len(readable), (about or {}).get("painted")],
            "processes": accelerator.num_processes,
        }
        log = load_state(out, detector, optimizer, same)
        begin(len(log), steps)
        with stop_requested(notify) as requested:
            for row, stop in _steps(loss, optimizer, loader, readable, config, accelerator, log, steps, requested):
                progress(row)
                if main and (stop or len(log) % config.save_every == 0 or len(log) == steps):
                    save_state(out, detector, optimizer, log, same)
                if stop:
                    accelerator.wait_for_everyone()
                    raise Stopped(len(log), steps, requested() or signal.SIGTERM)
        facts = {
            "trained_on": dataset.name,
            "domain": dataset.domain,
            "images": len(readable),
            **notes_here(loader),
            "steps": steps,
            "processes": accelerator.num_processes,
            "selection": "the last step; nothing was selected",
            # With float32 features, as the run will be scored.
            **calibrate(detector, loader, readable, loss.features if config.precision == "float32" else None),
        }
        card: dict[str, Any] = {}
        if main:
            card = save_run(out, detector, config, {**facts, **(about or {})}, log)
            (out / STATE).unlink(missing_ok=True)
        accelerator.wait_for_everyone()
        return card


def _readable(loader: Loader, loss: Objective, accelerator: Accelerator) -> list[int]:
    """Once, in the order of the set: finds what can be read, and fills caches in one way only."""
    readable = []
    for batch in loader:
        readable += batch.index.tolist()
        if loss.store is not None and loss.store.keeps:
            with torch.no_grad(), accelerator.autocast():
                loss.features(batch, loader.preprocess.normalise(batch.images.to(accelerator.device)))
    return readable


def _steps(
    loss: Objective,
    optimizer: torch.optim.Optimizer,
    loader: Loader,
    readable: list[int],
    config: TrainingConfig,
    accelerator: Accelerator,
    log: list[dict[str, float]],
    steps: int,
    requested: Callable[[], int],
) -> Iterator[tuple[dict[str, float], bool]]:
    """Takes the steps that ``log`` does not have yet; after each, its row, and whether any process is to stop."""
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    module, optimizer = accelerator.prepare(loss, optimizer)
    before, start = log[-1]["seconds"] if log else 0.0, time.monotonic()
    terms: dict[str, Tensor] = {}
    for batch in ahead(_batches(loader, readable, config, rank, world, len(log), steps)):
        images = loader.preprocess.normalise(batch.images.to(device, non_blocking=device.type != "cpu"))
        with accelerator.accumulate(module):
            with accelerator.autocast():
                found = module(batch, images)
            accelerator.backward(found["image"] + config.pixel_weight * found["pixel"])
            optimizer.step()
            optimizer.zero_grad()
        terms = {name: terms.get(name, 0) + term.detach() / config.accumulate for name, term in found.items()}
        if not accelerator.sync_gradients:
            continue
        stop = torch.tensor(float(requested() > 0), device=device)
        *values, stopping = accelerator.reduce(torch.stack([*terms.values(), stop]), "mean").tolist()
        row = {"step": len(log) + 1, "seconds": round(before + time.monotonic() - start, 2)}
        row |= dict(zip(terms, values, strict=True))
        terms = {}
        if not all(map(math.isfinite, values)):
            raise RunError(
                f"the loss of step {len(log) + 1} is not finite: {row}; take a smaller lr or lr_heads, or precision "
                "float32, and another folder"
            )
        log.append(row)
        yield row, stopping > 0


def _groups(detector: Detector, config: TrainingConfig) -> list[dict[str, Any]]:
    parts = ((detector.prompts, config.lr), (detector.weights, config.lr_heads))
    groups = [{"params": list(part.parameters()), "lr": lr} for part, lr in parts if part is not None]
    if not any(group["params"] for group in groups):
        raise ConfigError("there is nothing to learn in this detector: no learned prompts and no head weights")
    return groups


def _batches(
    loader: Loader, readable: list[int], config: TrainingConfig, rank: int, world: int, done: int, steps: int
) -> Iterator[Batch]:
    """This process's share of the batches from step ``done`` on, every epoch in an order of its own."""
    at_once = config.batch * world * config.accumulate
    per_epoch = len(readable) // at_once
    for epoch in range(done // per_epoch, config.epochs):
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
        order = torch.randperm(len(readable), generator=generator)[: per_epoch * at_once]
        mine = order.unflatten(0, (-1, world, config.batch))[:, rank]  # (micro-steps, batch)
        begun = (done - epoch * per_epoch) * config.accumulate if epoch == done // per_epoch else 0
        yield from loader.batches([readable[i] for i in mine[begun:].flatten().tolist()])
