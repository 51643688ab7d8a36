"""Everything that the lens can be asked of a detector, by name: called as users call it, on as little as it takes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from headlens import heads
from headlens.attribution import METHODS, attribute, faithfulness
from headlens.data import DataSet
from headlens.detectors import Detector

PHRASES = ["a red ring", "a scratch", "wood", "damaged object", "a photo"]
QUICK = {
    "integrated_gradients": {"steps": 2, "most": 4, "tolerance": 1e9},
    "gradient_shap": {"samples": 2},
    "smooth_grad": {"samples": 2},
    "occlusion": {"cells": 2},
    "patch_ablation": {"cells": 2},
}
Verb = Callable[..., object]
TARGETS = ("joint_margin", "image_margin", "map_margin", "L3H0", "L3H0/local")
ALIKE = ("integrated_gradients", "gradient_shap", "smooth_grad", "occlusion", "patch_ablation", "edges")
"""Ask of a target what ``input_x_gradient`` asks, its values and gradients: by two targets each it is seen that they
are refused, or answered, as that one is."""


def some(detector: Detector) -> list[heads.Variant]:
    """A few heads of every stream."""
    return heads.single_heads(heads.heads_of(detector)[::7])


def ablate(detector: Detector, dataset: DataSet, kind: str = "zero", text: str = "held", **options: Any) -> object:
    """A few heads, to their effects on joint scores and, where they are set to zero, image AUROC."""
    metrics = ("image_auroc",) if kind == "zero" else ()
    few = {"metrics": metrics, "replicates": 2}
    return heads.ablate(detector, dataset, some(detector), kind=kind, text=text, **few, **options)


def screen(detector: Detector, dataset: DataSet, **options: Any) -> object:
    """By the importance of the same images."""
    return heads.screen(detector, dataset, heads.importance(detector, dataset), top=1, sample=2, **options)


def capture(detector: Detector, dataset: DataSet, **options: Any) -> object:
    """To a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        return heads.capture(detector, dataset, Path(folder), **options)


def compare(detector: Detector, dataset: DataSet, **options: Any) -> object:
    """With the same method, otherwise initialised."""
    other = detector.on(detector.backbone)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    return heads.compare({"one": detector, "another": other}, k=2)


def attributed(detector: Detector, dataset: DataSet, method: str, target: str, **options: Any) -> object:
    """One image."""
    return attribute(detector, dataset.pixels(0).image, method, target, **QUICK.get(method, {}), **options)


def faithful(detector: Detector, dataset: DataSet, **options: Any) -> object:
    """Of one method by one measure."""
    return faithfulness(detector, dataset, methods=["edges"], measures=["deletion"], replicates=2, **options)


LENS: dict[str, Verb] = {
    "ablate": ablate,
    "ablate, mean": partial(ablate, kind="mean"),
    "ablate, resample": partial(ablate, kind="resample"),
    "ablate, revert": partial(ablate, kind="revert"),
    "ablate, text follows": partial(ablate, text="follows"),
    "importance": lambda detector, dataset, **options: heads.importance(detector, dataset, **options),
    "contributions": lambda detector, dataset, **options: heads.contributions(
        detector, dataset, check_sums=True, **options
    ),
    "name_heads": lambda detector, dataset, **options: heads.name_heads(
        detector, dataset, pool=PHRASES, phrases=2, **options
    ),
    "capture": capture,
    "screen": screen,
    "weights": lambda detector, dataset: heads.weights(detector),
    "compare": compare,
    "map_parts": lambda detector, dataset: heads.map_parts(detector, dataset.pixels(0).image),
    "faithfulness": faithful,
    **{
        f"attribute {method}, {target}": partial(attributed, method=method, target=target)
        for method in METHODS
        for target in (("image_margin", "L3H0/local") if method in ALIKE else TARGETS)
        if not (own := METHODS[method].targets) or target in own or ("head" in own and target.startswith("L"))
    },
}
