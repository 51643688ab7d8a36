"""Importance by gates: how fast a target changes as a head is turned down, for all heads by one backward.

    I[l, h] = E_image |∂ target / ∂ g[l, h]|            the gate multiplies the head's output z, and equals 1

This is the definition of Michel et al. (arXiv 1905.10650), per image. Two other quantities have the same name: their
code takes the absolute value per token, Hugging Face's after summing over a batch. The signed mean is reported too: a
head that raises the target of some images and lowers that of others has a large importance and a small signed mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from headlens import html, plots
from headlens.data import Batch, DataSet, as_set
from headlens.detectors.detector import Detector, HasDetector, detector_of
from headlens.errors import ConfigError, ShapeError
from headlens.heads.exactness import check_gradients, check_unhooked
from headlens.heads.store import alone
from headlens.heads.sweep import categories, finite, sweep
from headlens.heads.variants import heads_of, names_of, stream_layers
from headlens.parallel import Arrays
from headlens.precision import repeatable, wide
from headlens.printing import unknown_name
from headlens.progress import Progress
from headlens.results import Result, per_image

TARGETS = ("image_margin", "joint_margin", "joint_score")


def target(
    detector: Detector,
    images: Tensor,
    name: str = "joint_margin",
    categories: Sequence[str] = (),
    gates: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """One of ``TARGETS`` for every image, [B]; see ``headlens.detectors.scoring``.

    Args:
        detector: any.
        images: normalised, [B, 3, h, w].
        name: which target.
        categories: [B], what the images show, for methods that read it.
        gates: ``{stream: [B, L, H]}``.

    Raises:
        ConfigError: an unknown target.
    """
    _check_target(name)
    with torch.no_grad():  # a reading is held: gates do not move it
        reading = detector.reading(images, categories)
    margins = reading.margins(reading.features(detector.see(images, reading, gates)))
    if name == "image_margin":
        return margins.image
    score = detector.score(margins, (images.shape[2], images.shape[3])).joint_score
    return score if name == "joint_score" else detector.scoring.joint_margin(score)


def _check_target(name: str) -> None:
    if name not in TARGETS:
        raise ConfigError(unknown_name("target", name, TARGETS))


def gate_gradients(
    detector: Detector | HasDetector,
    images: Tensor,
    name: str = "joint_margin",
    categories: Sequence[str] = (),
    at: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The target [B], and its gradient with respect to all gates, ``{stream: [B, L, H]}``, from one backward pass.

    Only gates are differentiated: no parameter's ``grad`` is touched.

    Args:
        detector, images, name, categories: as in ``target``.
        at: values of the gates, ``{stream: [B, L, H] or [1, L, H]}``; 1 by default.

    Raises:
        ConfigError: an unknown target.
    """
    detector = detector_of(detector)
    vision = detector.backbone.vision
    shape = (len(images), vision.cfg.n_layers, vision.cfg.n_heads)
    ones = wide(vision.proj).new_ones(shape)
    with torch.enable_grad():
        gates = {
            stream: (ones if at is None else at[stream].to(ones).expand(shape)).clone().requires_grad_()
            for stream in detector.plan.streams
        }
        value = target(detector, images, name, categories, gates)
        gradients = torch.autograd.grad(value.sum(), list(gates.values()), allow_unused=True)
    zero = torch.zeros_like(ones)  # of a stream that the target does not depend on
    return value.detach(), {s: wide(zero if g is None else g) for s, g in zip(gates, gradients, strict=True)}


@dataclass(frozen=True)
class Importance(Result):
    """``frame``: one row for each image, head and target; ``value`` is the signed gradient, ``baseline`` the target."""

    def _parts(self) -> list[str]:
        rows = self.summary.sort_values("importance", ascending=False, kind="stable")
        rows = rows.assign(head=names_of(rows))[["head", "metric", "importance", "signed", "relative"]]
        return [html.table(rows, "Means over images, the most important first")]

    def plot(self, ax: Any = None, metric: str | None = None, stream: str | None = None) -> plots.Figure:
        """``I`` of every head as a grid.

        Args:
            ax: axes to draw on, one for each stream; a new figure when None.
            metric: which target; the first when None.
            stream: which stream; all when None.
        """
        rows = self.summary
        metric = metric or "".join(rows["metric"].head(1))
        if metric not in set(rows["metric"]):
            raise ConfigError(f"{metric!r} was not a target; available: {', '.join(rows['metric'].unique())}")
        rows, label = rows[rows["metric"] == metric], f"importance, |d {plots.named(metric)} / d gate|"
        return plots.grids(rows, "importance", ax, stream, label=label, made_by=self.made_by)

    @property
    def summary(self) -> pd.DataFrame:
        """Over images: stream, layer, head, metric, importance ``I``, its share of its layer ``relative``, ``signed``.

        ``relative`` divides by the layer's L2 norm, as Michel et al. do to compare layers.
        """
        keys = ["stream", "layer", "head", "metric"]
        groups = self.frame.assign(importance=self.frame["value"].abs()).groupby(keys, sort=False)
        rows = groups.agg(importance=("importance", "mean"), signed=("value", "mean")).reset_index()
        by_layer = rows.assign(square=rows["importance"] ** 2).groupby(["stream", "layer", "metric"], sort=False)
        norm = by_layer["square"].transform("sum") ** 0.5
        return rows.assign(relative=rows["importance"] / norm.where(norm > 0, 1.0))


@alone
def importance(
    detector: Detector | HasDetector,
    data: DataSet | str | Path,
    *,
    metrics: Sequence[str] = ("joint_margin",),
    size: int | None = None,
    batch: int = 8,
    precision: str | None = None,
    deterministic: bool = False,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Importance:
    """Gate gradients of every head of both streams, image by image.

    Args:
        detector: a detector, or a run.
        data: the images; a data set, or its name for ``headlens.data.open``.
        metrics: targets, some of ``TARGETS``.
        size: images are resized to this square; the detector's size when None.
        batch: images per batch.
        precision: ``float32``, ``tf32``, ``float16`` or ``bfloat16``; that of the loaded backbone when None.
        out: folder for finished batches; an interrupted call resumes from it.
        progress: called with the number of images after every batch; a bar when None.
        deterministic: identical bits in every run on CUDA too, but slower; see ``headlens.precision.repeatable``.

    Raises:
        ConfigError: an unknown target or precision; float16.
        ShapeError: no target.
        DataError: no image could be read.
        RunError: ``out`` holds something else, or cannot be written.
    """
    detector, data = detector_of(detector), as_set(data)
    if not metrics:
        raise ShapeError(f"no target; give some of {', '.join(TARGETS)}")
    for metric in metrics:
        _check_target(metric)
    check_unhooked(detector, "importance", calls_tower=True)
    check_gradients(detector, precision)
    streams, layers = detector.plan.streams, stream_layers(detector)
    keys = pd.DataFrame(heads_of(detector, streams=streams), columns=["stream", "layer", "head"]).assign(kind="gate")

    def steep(lowered: Detector, part: Batch, images: Tensor) -> Arrays:
        arrays = {}
        for metric in metrics:
            value, gradients = gate_gradients(lowered, images, metric, categories(part))
            rows = [gradients[stream][:, list(layers[stream])].flatten(1).T for stream in streams]
            arrays[metric] = torch.cat([wide(value)[None], *rows]).cpu().numpy()  # (1 + K, B)
        return finite(arrays)

    options: dict[str, Any] = {"size": size, "batch": batch, "precision": precision, "out": out, "progress": progress}
    if deterministic:
        options["deterministic"] = True
    with repeatable(detector.device, deterministic):
        swept = sweep(detector, data, steep, what="importance", targets=list(metrics), **options)
    joined = [swept.joined(metric) for metric in metrics]
    frame = per_image(
        data,
        swept.records,
        pd.concat([keys.assign(metric=metric) for metric in metrics], ignore_index=True),
        value=torch.cat([rows[1:] for rows in joined]).T,
        baseline=torch.cat([rows[:1].expand(len(keys), -1) for rows in joined]).T,
    )
    return Importance(frame, swept.provenance)
