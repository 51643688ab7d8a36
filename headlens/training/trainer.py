"""The training loop: on one device or several, interrupted at any step and gone on with to the same weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from headlens.data import Batch, DataSet, Loader, Preprocess
from headlens.data.loading import ahead
from headlens.detectors.headclip import Detector
from headlens.errors import ConfigError, RunError
from headlens.training.calibration import calibrate
from headlens.training.config import TrainingConfig
from headlens.training.features import features_of
from headlens.training.losses import objective
from headlens.training.run import CONFIG, save_run
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
) -> dict[str, Any]:
    """Trains ``detector`` on ``dataset`` and writes the run folder ``out``; goes on where a killed run stopped.

    All that is left to chance, the order of images, follows from the seed and the epoch: a run that was killed and
    started again ends with the weights of one that was not, to the bit, on the same device.

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

    Returns:
        The card.

    Raises:
        ConfigError: nothing to learn, hooks at the detector, or too few images for a step.
        RunError: ``out`` holds another run, or cannot be written.
        KeyboardInterrupt: after the state was saved.
    """
    if hooks := detector.hooks:
        raise ConfigError(f"the folder of a run does not say what the hook at {hooks[0]} does: remove it, then train")
    groups = _groups(detector, config)
    if (out / CONFIG).exists():
        raise RunError(f"{out} holds a finished run; name another folder")
    AcceleratorState._reset_state()  # an earlier training in this process may have had another precision
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision="bf16" if config.precision == "bfloat16" else "no",
        gradient_accumulation_steps=config.accumulate,
    )
    device, world = accelerator.device, accelerator.num_processes
    detector.to(device)
    optimizer = torch.optim.Adam(groups, betas=config.betas)

    size = config.size or detector.image_size
    loader = Loader(dataset, Preprocess(size), config.batch, cache="memory", on_error="skip", normalise=False)
    loss = Objective(detector, len(dataset))
    readable = []
    for batch in loader:  # once, in the order of the set: finds what cannot be read, and fills caches in one way only
        readable += batch.index.tolist()
        if loss.store is not None and loss.store.keeps:
            with torch.no_grad(), accelerator.autocast():
                loss.features(batch, loader.preprocess.normalise(batch.images.to(device)))

    at_once = config.batch * world * config.accumulate
    per_epoch = len(readable) // at_once
    if not per_epoch:
        raise ConfigError(f"one step takes {at_once} images, {dataset.name} has {len(readable)}: make batches smaller")
    steps = config.epochs * per_epoch
    same = {
        "backbone": detector.backbone.provenance.sha256,
        "detector": detector.config.table(),
        "training": config.table(),
        "data": [dataset.name, len(readable), (about or {}).get("painted")],
        "processes": world,
    }
    log = load_state(out, detector, optimizer, same)
    module, optimizer = accelerator.prepare(loss, optimizer)
    done, before, start = len(log), log[-1]["seconds"] if log else 0.0, time.monotonic()
    begin(done, steps)

    def keep() -> None:
        if accelerator.is_main_process:
            save_state(out, detector, optimizer, log, same)

    settled = True  # weights, moments and log are of the same step
    try:
        terms: dict[str, Tensor] = {}
        for batch in ahead(_batches(loader, readable, config, accelerator.process_index, world, done, steps)):
            images = loader.preprocess.normalise(batch.images.to(device, non_blocking=device.type != "cpu"))
            settled = False
            with accelerator.accumulate(module):
                with accelerator.autocast():
                    found = module(batch, images)
                accelerator.backward(found["image"] + config.pixel_weight * found["pixel"])
                optimizer.step()
                optimizer.zero_grad()
            terms = {name: terms.get(name, 0) + term.detach() / config.accumulate for name, term in found.items()}
            if not accelerator.sync_gradients:
                continue
            values = {name: float(accelerator.reduce(term, "mean")) for name, term in terms.items()}
            terms = {}
            log.append({"step": len(log) + 1, "seconds": round(before + time.monotonic() - start, 2), **values})
            settled = True
            progress(log[-1])
            if len(log) % config.save_every == 0 or len(log) == steps:
                keep()
    except KeyboardInterrupt:
        if settled:  # else the state that was saved before is the last whole one
            keep()
        raise
    facts = {
        "trained_on": dataset.name,
        "domain": dataset.domain,
        "images": len(readable),
        "skipped": [skipped.record.name for skipped in loader.skipped],
        "steps": steps,
        "processes": world,
        "selection": "the last step; nothing was selected",
        # With float32 features, as the run will be scored.
        **calibrate(detector, loader, readable, loss.features if config.precision == "float32" else None),
    }
    card: dict[str, Any] = {}
    if accelerator.is_main_process:
        card = save_run(out, detector, config, {**facts, **(about or {})}, log)
        (out / STATE).unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return card


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
