"""Importance by gates: how fast a target changes as a head is turned down, for all heads by one backward.

    I[l, h] = E_image |∂ target / ∂ g[l, h]|            the gate multiplies the head's output z, and stands at 1

This is the definition of Michel et al. (arXiv 1905.10650), per image. Two others go by the same name: their code takes
the absolute value per token, Hugging Face's after summing over a batch. The signed mean stands beside it: a head that
pushes up some images and down others has a large importance and a small signed mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from headlens import html, parallel, plots
from headlens.backbone.plan import STREAMS
from headlens.data import DataSet
from headlens.detectors.detector import Detector
from headlens.detectors.precision import at_precision
from headlens.errors import ConfigError, ShapeError
from headlens.heads.measures import (
    check_linear,
    check_unhooked,
    enlarge,
    features,
    joint,
    logit,
    margins,
    patch_maps,
    wide,
)
from headlens.heads.pictures import Pictures, categories
from headlens.heads.store import Store, alone
from headlens.heads.variants import local_layers, names_of
from headlens.precision import repeatable
from headlens.provenance import computed, provenance
from headlens.results import Result, per_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TARGETS = ("image_margin", "joint_margin", "joint_score")


def streams_of(detector: Detector) -> tuple[str, ...]:
    """Those that exist."""
    return STREAMS if detector.local is not None else STREAMS[:1]


def target(
    detector: Detector,
    images: Tensor,
    name: str = "joint_margin",
    things: Sequence[str] = (),
    gates: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """One of ``TARGETS`` for every image, [B]; see ``headlens.heads.measures``.

    Args:
        detector: any.
        images: normalised, [B, 3, h, w].
        name: which target.
        things: [B], what the images show; it only matters to class-aware prompts.
        gates: ``{stream: [B, L, H]}``.

    Raises:
        ConfigError: an unknown target.
    """
    _check_target(name)
    found = features(detector, images, gates)
    with torch.no_grad():
        text = detector.text_of(things or ["object"] * len(images))
    own = margins(detector, found, text)
    if name == "image_margin":
        return own.image
    maps = enlarge(detector, patch_maps(own, detector.backbone.vision.grid(*found.size)), found.size)
    score = joint(detector, own.image, maps)
    return score if name == "joint_score" else logit(score)


def _check_target(name: str) -> None:
    if name not in TARGETS:
        raise ConfigError(f"unknown target {name!r}: there are {', '.join(TARGETS)}")


def gate_gradients(
    detector: Detector,
    images: Tensor,
    name: str = "joint_margin",
    things: Sequence[str] = (),
    at: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The target [B], and its gradient by every gate, ``{stream: [B, L, H]}``: one forward, one backward.

    Only gates are differentiated: no parameter's ``grad`` is touched.

    Args:
        detector, images, name, things: as in ``target``.
        at: where, ``{stream: [B, L, H] or [1, L, H]}``; at 1 by default.

    Raises:
        ConfigError: an unknown target; a detector whose image margin is no function of CLS.
    """
    check_linear(detector)
    vision = detector.backbone.vision
    shape = (len(images), vision.cfg.n_layers, vision.cfg.n_heads)
    ones = wide(vision.proj).new_ones(shape)
    with torch.enable_grad():
        gates = {
            stream: (ones if at is None else at[stream].to(ones).expand(shape)).clone().requires_grad_()
            for stream in streams_of(detector)
        }
        value = target(detector, images, name, things, gates)
        gradients = torch.autograd.grad(value.sum(), list(gates.values()), allow_unused=True)
    zero = torch.zeros_like(ones)  # of a stream that the target does not depend on
    return value.detach(), {s: wide(zero if g is None else g) for s, g in zip(gates, gradients, strict=True)}


@dataclass(frozen=True)
class Importance(Result):
    """``frame``: one row for each image, head and target; ``value`` is the signed gradient, ``baseline`` the target."""

    def _parts(self) -> list[str]:
        rows = self.summary.sort_values("importance", ascending=False, kind="stable")
        rows = rows.assign(head=names_of(rows))[["head", "metric", "importance", "signed", "relative"]]
        return [html.table(rows, "Means over pictures, the most important first")]

    def plot(self, ax: Any = None, metric: str | None = None, stream: str | None = None) -> tuple[Figure, Any]:
        """``I`` of every head as a grid.

        Args:
            ax: axes to draw on, one for each stream; a new figure when None.
            metric: of which target; the first when None.
            stream: which; all when None.
        """
        rows = self.summary
        metric = metric or "".join(rows["metric"].head(1))
        if metric not in set(rows["metric"]):
            raise ConfigError(f"{metric!r} was not a target; there are {', '.join(rows['metric'].unique())}")
        rows, label = rows[rows["metric"] == metric], f"importance, |d {plots.named(metric)} / d gate|"
        return plots.grids(rows, "importance", ax, stream, label=label, made_by=self.made_by)

    @property
    def summary(self) -> pd.DataFrame:
        """Over images: stream, layer, head, metric, importance ``I``, its share of its layer ``relative``, ``signed``.

        ``relative`` divides by the layer's L2 norm, as Michel et al. do to compare layers.
        """
        keys = ["stream", "layer", "head", "metric"]
        own = self.frame.assign(importance=self.frame["value"].abs())
        found = (
            own.groupby(keys, sort=False).agg(importance=("importance", "mean"), signed=("value", "mean")).reset_index()
        )
        squares = found.assign(square=found["importance"] ** 2).groupby(["stream", "layer", "metric"], sort=False)[
            "square"
        ]
        norm = squares.transform("sum") ** 0.5
        return found.assign(relative=found["importance"] / norm.where(norm > 0, 1.0))


@alone
def importance(
    detector: Detector,
    data: DataSet,
    *,
    metrics: Sequence[str] = ("joint_margin",),
    size: int | None = None,
    batch: int = 8,
    precision: str | None = None,
    deterministic: bool = False,
    out: Path | None = None,
    progress: Callable[[int], object] = lambda n: None,
) -> Importance:
    """Gate gradients of every head of both streams, image by image.

    Args:
        detector: whose heads.
        data: which pictures.
        metrics: any of ``TARGETS``; a forward and a backward each.
        size: pictures are resized to this square; the detector's own size when None.
        batch: pictures at once.
        precision: see ``headlens.precision``; as the backbone was loaded when None.
        deterministic: the same bits every time on CUDA, too, a quarter to a half slower; else the last bits vary.
        out: a folder for finished batches: what was killed goes on from there.
        progress: called with the number of pictures after every batch (of every rank's).

    Raises:
        ConfigError: an unknown target or precision; a detector whose image margin is no function of CLS.
        ShapeError: no target.
        DataError: no picture could be read.
        RunError: ``out`` holds something else, or cannot be written.
    """
    if not metrics:
        raise ShapeError(f"no target; give some of {', '.join(TARGETS)}")
    for metric in metrics:
        _check_target(metric)
    check_linear(detector)
    check_unhooked(detector, "importance", calls_tower=True)
    if (precision or str(detector.backbone.vision.proj.dtype).removeprefix("torch.")) == "float16":
        raise ConfigError("gradients are smaller than float16 can tell from 0; choose bfloat16, tf32 or float32")
    vision = detector.backbone.vision.cfg
    reach = {"global": range(vision.n_layers), "local": local_layers(detector)}
    rows = [(s, layer, head) for s in streams_of(detector) for layer in reach[s] for head in range(vision.n_heads)]
    keys = pd.DataFrame(rows, columns=["stream", "layer", "head"]).assign(kind="gate")
    keys = pd.concat([keys.assign(metric=metric) for metric in metrics], ignore_index=True)
    pictures = Pictures(detector, data, size, batch)
    settings = {"what": "importance", "targets": list(metrics), "size": pictures.size, "batch": batch}
    settings |= {"deterministic": True} if deterministic else {}
    about = provenance(detector, data, **settings, **computed(detector, precision))
    store = Store(out, about)
    ranks, parts = parallel.current(), {}
    with at_precision(detector, precision) as lowered, repeatable(detector.device, deterministic):
        for number, part, images in pictures.shared():
            arrays = store.get(number, part.records)
            if arrays is None:
                arrays = {}
                for metric in metrics:
                    value, gradients = gate_gradients(lowered, images, metric, categories(part))
                    own = [gradient[:, list(reach[stream])].flatten(1).T for stream, gradient in gradients.items()]
                    arrays[metric] = torch.cat([wide(value)[None], *own]).cpu().numpy()  # (1 + K, B)
                store.put(number, part.records, arrays)
            parts[number] = {"index": part.index.numpy(), **arrays}
            progress(ranks.behind(number, batch, len(data)))
    merged = list(ranks.merged(parts, len(pictures)))
    numbers = [i for arrays in merged for i in arrays["index"].tolist()]
    notes = pictures.notes()
    found = [torch.from_numpy(np.concatenate([arrays[metric] for arrays in merged], 1)) for metric in metrics]
    values, baselines = torch.cat([own[1:] for own in found]), [own[:1].expand(len(own) - 1, -1) for own in found]
    records = [data.records[i] for i in numbers]
    frame = per_image(data, records, keys, value=values.T, baseline=torch.cat(baselines).T)
    return Importance(frame, about | notes)
