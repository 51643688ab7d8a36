"""The training loop, on one or several devices; interrupted at any step, it resumes to the same weights."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from headlens.clips import runs
from headlens.data import Batch, DataSet, Loader, Preprocess
from headlens.data.loading import ahead
from headlens.data.notes import notes_here
from headlens.detectors.detector import Detector, check_size
from headlens.detectors.losses import with_off_diagonal
from headlens.detectors.methods.registry import PRESETS, check_training
from headlens.detectors.scoring import Prediction
from headlens.detectors.stages import Answers, Stage, TrainingConfig
from headlens.errors import ConfigError, RunError
from headlens.launch import alone, launched
from headlens.progress import bar
from headlens.training.augmenting import augmented
from headlens.training.calibration import scored
from headlens.training.features import FeatureStore
from headlens.training.interrupt import Stopped, stop_requested
from headlens.training.mosaics import Mosaics
from headlens.training.run import new_run, save_run
from headlens.training.state import STATE, read_state, save_state

_OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class Objective(nn.Module):
    """A detector and the loss of a stage on so many images as one module: gradients are averaged over processes."""

    def __init__(self, detector: Detector, stage: Stage, images: int) -> None:
        super().__init__()
        self.detector, self.stage = detector, stage
        self.store = FeatureStore(stage.keep, images) if stage.keep is not None else None

    def see(self, batch: Batch, images: Tensor) -> Any:
        """What the loss reads of a batch, and of its normalised images [B, 3, h, w] on the device."""
        if self.store is not None and self.store.keeps and self.stage.see_features is not None:
            return self.stage.see_features(self.store.of(batch.index, images), batch.shown)
        return self.stage.see(images, batch.shown)

    def forward(self, batch: Batch, images: Tensor) -> dict[str, Tensor]:
        """A batch on the CPU, its normalised images [B, 3, h, w] on the device, to the terms of the loss."""
        masks = batch.masks
        if isinstance(masks, Tensor):  # before the forward, which a copy would wait for
            masks = masks.to(images.device, non_blocking=True)
        seen = self.see(batch, images)
        if not isinstance(masks, Tensor):  # a set without masks: has_mask is False everywhere
            masks = torch.zeros(len(images), *images.shape[2:], dtype=torch.bool, device=images.device)
        families, captions = zip(*((record.family, record.caption) for record in batch.records), strict=True)
        answers = Answers(batch.labels, masks, batch.has_mask, families, batch.shown.lengths, captions)
        return self.stage.loss(seen, answers)


def train(
    detector: Detector,
    dataset: DataSet,
    config: TrainingConfig,
    out: str | Path,
    *,
    about: Mapping[str, Any] | None = None,
    cpu: bool = False,
    begin: Callable[[int, int], object] = lambda step, steps: None,
    progress: Callable[[dict[str, Any]], object] | None = None,
    notify: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Trains ``detector`` on ``dataset`` and writes the run folder ``out``; resumes a killed run.

    The order of images is random, but determined by the seed and the epoch: a run that was killed and started again
        ends with the same weights as one that was not, to the bit, on the same device.

    Ctrl-C and SIGTERM end it after the current step, with the state saved; a second one immediately.

    Args:
        detector: with something to learn; changed in place.
        dataset: the auxiliary set. Images that cannot be read are left out and named in the card; missing labels and
            masks are ignored.
        config: settings that the stages of the method do not fix. ``batch`` is per process.
        out: a new folder, or one in which the same training was started.
        about: more entries of the card.
        cpu: do not use GPUs.
        begin: called with the first step and the number of steps.
        progress: called with the row of the log after every step; a bar when None.
        notify: called after a first Ctrl-C or SIGTERM.

    Returns:
        The card.

    Raises:
        ConfigError: nothing to learn, a setting that the method does not read, hooks at the detector, or too few images
            for a step.
        RunError: ``out`` holds another run, is in use, or cannot be written; a loss that is not finite.
        Stopped: a KeyboardInterrupt, after the state was saved.
    """
    out = Path(out)
    if progress is None:
        with bar(None, unit="step") as done:

            def begun(step: int, steps: int) -> None:
                done.reset(steps)
                done.update(step)
                begin(step, steps)

            def stepped(row: dict[str, Any]) -> None:
                done.update()
                terms = {name: f"{term:.3f}" for name, term in row.items() if isinstance(term, float)}
                terms.pop("seconds", None)
                done.set_postfix({**({"stage": row["stage"]} if "stage" in row else {}), **terms})

            told: dict[str, Any] = {"begin": begun, "progress": stepped, "notify": notify}
            return train(detector, dataset, config, out, about=about, cpu=cpu, **told)
    if hooks := detector.hooks:
        raise ConfigError(f"the folder of a run does not say what the hook at {hooks[0]} does: remove it, then train")
    check_training(detector.config, config)
    stages = with_off_diagonal(detector.stages(config), config.off_diagonal)
    towers = detector.backbone.vision.cfg, detector.backbone.text.cfg
    if not any(group["params"] for stage in stages for group in stage.groups):
        learning = ", ".join(name for name, one in PRESETS.items() if one.learned_shapes(*towers))
        raise ConfigError(
            f"there is nothing to learn in this detector: {detector.method} with these settings is fixed, and can be "
            f"scored and analysed without training; presets that learn are {learning}"
        )
    if config.size:
        check_size(config.size, detector.backbone.vision.cfg)
    AcceleratorState._reset_state()  # an earlier training in this process may have had another precision
    with nullcontext() if launched() else alone():
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision="bf16" if config.precision == "bfloat16" else "no",
            gradient_accumulation_steps=config.accumulate,
        )
    main, world = accelerator.is_main_process, accelerator.num_processes
    with new_run(out) if main else nullcontext():
        accelerator.wait_for_everyone()
        detector.to(accelerator.device)
        size = config.size or detector.image_size
        loader = Loader(dataset, Preprocess(size), config.batch, cache="memory", on_error="skip", normalise=False)
        readable = [number for batch in loader for number in batch.index.tolist()]
        made = detector.backbone.provenance
        same = {
            "backbone": made.sha256,
            "activation": made.act_fn if made.because else None,
            "detector": detector.config.table(),
            "training": config.table(),
            "data": [dataset.name, len(readable), (about or {}).get("procedural")],
            "processes": world,
        }
        units = [_units(stage, dataset, readable) for stage in stages]
        spans = list(_spans(stages, config, world, [len(each) for each in units], dataset.name))
        steps = spans[-1].end
        state = read_state(out, same, len(stages))
        log, first = (state.log, state.stage) if state is not None else ([], 0)
        begin(len(log), steps)
        for number in range(first, len(stages)):
            stage, span = stages[number], spans[number]
            loader.batch = span.batch
            objective = Objective(detector, stage, len(dataset))
            optimizer = _OPTIMISERS[stage.optimiser]([dict(group) for group in stage.groups], betas=config.betas)
            if state is not None and number == first:
                state.restore(detector, optimizer)
            _fill(objective, loader, readable, accelerator)
            with _only(detector, stage), stop_requested(notify) as requested:
                for row, stop in _steps(
                    objective, optimizer, loader, units[number], span, config, accelerator, log, requested
                ):
                    progress(row)
                    if main and (stop or len(log) % config.save_every == 0 or len(log) == steps):
                        save_state(out, detector, optimizer, log, same, number)
                    if stop:
                        accelerator.wait_for_everyone()
                        raise Stopped(len(log), steps, requested() or signal.SIGTERM)
            accelerator.free_memory()
        given = _predict(detector, objective, config), loader, readable, accelerator.device
        seen = scored(*given)
        if (settled := detector.settled(seen.ends)) != detector.config:
            detector.config = settled
            seen = scored(*given)
        facts = {
            "trained_on": dataset.name,
            "domain": dataset.domain,
            "images": len(readable),
            **notes_here(loader),
            "steps": steps,
            "stages": [_about(stage, span) for stage, span in zip(stages, spans, strict=True)],
            "processes": world,
            "selection": "the last step; nothing was selected",
            **seen.calibration(),
        }
        card: dict[str, Any] = {}
        if main:
            card = save_run(out, detector, config, {**facts, **(about or {})}, log)
            (out / STATE).unlink(missing_ok=True)
        accelerator.wait_for_everyone()
        return card


@dataclass(frozen=True)
class _Span:
    """Where a stage lies in the training."""

    batch: int  # images of a process at once, or clips
    at_once: int  # the same of a step, of all processes
    per_epoch: int  # steps
    epochs: int
    steps_before: int  # of earlier stages
    epochs_before: int
    name: str  # empty where there is only one stage

    @property
    def end(self) -> int:
        """Steps of the training up to its end."""
        return self.steps_before + self.epochs * self.per_epoch


def _units(stage: Stage, dataset: DataSet, readable: Sequence[int]) -> list[list[int]]:
    """What a batch has so many of: images, or the images of each clip, by their numbers."""
    if not stage.clips:
        return [[number] for number in readable]
    clips = runs([dataset.records[number].clip for number in readable])
    return [[readable[place] for place in clip] for clip in clips]


def _spans(
    stages: Sequence[Stage], config: TrainingConfig, world: int, counts: Sequence[int], dataset: str
) -> Iterator[_Span]:
    """Of stages that have so many images, or clips, each."""
    steps = epochs = 0
    for stage, count in zip(stages, counts, strict=True):
        batch = stage.batch or config.batch
        at_once = batch * world * config.accumulate
        per_epoch = count // at_once
        if not per_epoch:
            what = "clips" if stage.clips else "images"
            raise ConfigError(f"one step takes {at_once} {what}, {dataset} has {count}: make batches smaller")
        name = stage.name if len(stages) > 1 else ""
        span = _Span(batch, at_once, per_epoch, stage.epochs or config.epochs, steps, epochs, name)
        yield span
        steps, epochs = span.end, epochs + span.epochs


def _about(stage: Stage, span: _Span) -> dict[str, Any]:
    """What the card says of a stage."""
    return {
        "name": stage.name,
        "optimiser": stage.optimiser,
        "groups": [{name: value for name, value in group.items() if name != "params"} for group in stage.groups],
        "epochs": span.epochs,
        "batch": span.batch,
        "steps": span.epochs * span.per_epoch,
        "schedule": stage.schedule.table() if stage.schedule is not None else None,
        "augment": stage.augment.table() if stage.augment.on else None,
    }


@contextmanager
def _only(detector: Detector, stage: Stage) -> Iterator[None]:
    """Parameters that the stage does not move get no gradient within the block."""
    moved = {id(parameter) for group in stage.groups for parameter in group["params"]}
    frozen = [one for one in detector.parameters() if one.requires_grad and id(one) not in moved]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def _predict(detector: Detector, objective: Objective, config: TrainingConfig) -> Callable[[Batch, Tensor], Prediction]:
    """Scores as the run will give them, in float32, from what the last stage has kept where that is possible."""
    stage, store = objective.stage, objective.store
    if stage.see == detector.forward and config.precision == "float32":
        return objective.see
    if stage.predict is not None and store is not None and store.keeps and config.precision == "float32":
        predicted = stage.predict
        return lambda batch, images: predicted(store.of(batch.index, images), batch.shown)
    return lambda batch, images: detector(images, batch.shown)


def _fill(objective: Objective, loader: Loader, readable: list[int], accelerator: Accelerator) -> None:
    """Once, in the order of the set: what is kept is the same however often a run was interrupted."""
    store = objective.store
    if store is None:
        return
    for batch in loader.batches(readable):
        with torch.no_grad(), accelerator.autocast():
            store.of(batch.index, loader.preprocess.normalise(batch.images.to(accelerator.device)))
        if not store.keeps:
            return


def _steps(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    loader: Loader,
    units: list[list[int]],
    span: _Span,
    config: TrainingConfig,
    accelerator: Accelerator,
    log: list[dict[str, Any]],
    requested: Callable[[], int],
) -> Iterator[tuple[dict[str, Any], bool]]:
    """Takes the steps of a stage that ``log`` does not have yet; after each, its row, and whether any process stops."""
    device = accelerator.device
    module, optimizer = accelerator.prepare(objective, optimizer)
    before, start = log[-1]["seconds"] if log else 0.0, time.monotonic()
    stage = objective.stage
    mosaic, numbers = stage.augment.mosaic, [number for unit in units for number in unit]
    mosaics = Mosaics(loader, numbers, mosaic, config.seed) if mosaic else None
    rates = [group["lr"] for group in optimizer.param_groups]
    totals: dict[str, Tensor] = {}
    for batch in ahead(_batches(loader, units, span, config, accelerator, len(log), mosaics)):
        done = len(log) - span.steps_before
        epoch = span.epochs_before + done // span.per_epoch
        batch, images = augmented(batch, stage.augment, loader.preprocess, device, config.seed, epoch)
        factor = stage.schedule.after(done) if stage.schedule is not None else 1.0
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = factor * rate
        with accelerator.accumulate(module):
            with accelerator.autocast():
                terms = module(batch, images)
            accelerator.backward(sum(stage.weights.get(name, 1.0) * term for name, term in terms.items()))
            optimizer.step()
            optimizer.zero_grad()
        totals = {name: totals.get(name, 0) + term.detach() / config.accumulate for name, term in terms.items()}
        if not accelerator.sync_gradients:
            continue
        stop = torch.tensor(float(requested() > 0), device=device)
        *values, stopping = accelerator.reduce(torch.stack([*totals.values(), stop]), "mean").tolist()
        row: dict[str, Any] = {"step": len(log) + 1, **({"stage": span.name} if span.name else {})}
        row |= {"seconds": round(before + time.monotonic() - start, 2), **dict(zip(totals, values, strict=True))}
        row |= {"lr_factor": factor} if stage.schedule is not None else {}
        totals = {}
        if not all(map(math.isfinite, values)):
            raise RunError(
                f"the loss of step {len(log) + 1} is not finite: {row}; take smaller learning rates, or precision "
                "float32, and another folder"
            )
        log.append(row)
        yield row, stopping > 0


def _batches(
    loader: Loader,
    units: list[list[int]],
    span: _Span,
    config: TrainingConfig,
    accelerator: Accelerator,
    done: int,
    mosaics: Mosaics | None,
) -> Iterator[Batch]:
    """This process's share of a stage's batches from step ``done`` on; every epoch has another order."""
    rank, world, done = accelerator.process_index, accelerator.num_processes, done - span.steps_before
    for epoch in range(done // span.per_epoch, span.epochs):
        number = span.epochs_before + epoch
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + number)
        order = torch.randperm(len(units), generator=generator)[: span.per_epoch * span.at_once]
        share = order.unflatten(0, (-1, world, span.batch))[:, rank]  # (micro-steps, batch)
        taken = max(0, done - epoch * span.per_epoch) * config.accumulate
        rows = [[number for i in row for number in units[i]] for row in share[taken:].tolist()]
        if mosaics is not None:
            yield from mosaics.batches(rows, number)
        else:
            yield from (batch for _, batch in loader.pieces(dict(enumerate(rows))))
