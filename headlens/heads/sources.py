"""What a run says of its heads, one value each: learned weights, a result of any kind, or any frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import pandas as pd
import torch

from headlens.detectors.detector import Detector, HasDetector
from headlens.errors import ConfigError, ShapeError
from headlens.heads.per_head import KEYS, head_values
from headlens.heads.variants import Head
from headlens.heads.weights import weights
from headlens.provenance import learned_sha256
from headlens.results import Result

Item: TypeAlias = HasDetector | Detector | Result | pd.DataFrame
NEUTRAL = {"weight": 1.0, **dict.fromkeys(("importance", "ablation", "contribution", "naming", "value"), 0.0)}
"""What is compared, and where a head stands of which nothing was learned: top heads are those furthest from it."""
LABELS = {
    "weight": "head weight",
    "importance": "importance (mean head = 1)",
    "ablation": "effect of ablation (mean head = 1)",
    "contribution": "direct effect (mean size = 1)",
    "naming": "named share beyond chance",
    "value": "value",
}
NOUNS = {
    "weight": "Learned weights",
    "importance": "Importance",
    "ablation": "Effects of ablation",
    "contribution": "Direct effects",
    "naming": "Named shares beyond chance",
    "value": "Values",
}
"""How an axis calls them, and how a sentence begins."""


@runtime_checkable
class TrainedRun(Protocol):
    """A run: its detector, the name of its folder, and its ``card.json``."""

    detector: Detector
    folder: Path
    card: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """One run.

    Args:
        of: what its values are, a key of ``NEUTRAL``.
        frame: columns ``KEYS`` and ``value``.
        backbone: its provenance; empty where it is not known.
        about: what the provenance of a result says of the run; ``name`` at least.
    """

    of: str
    frame: pd.DataFrame
    backbone: dict[str, Any]
    about: dict[str, Any]

    @property
    def name(self) -> str:
        """Its name in error messages."""
        return str(self.about["name"])

    def column(self) -> pd.Series:
        """Values by stream, layer and head, sorted.

        Raises:
            ShapeError: no such columns, heads twice, or values that are not finite.
        """
        if missing := {*KEYS, "value"} - set(self.frame):
            raise ShapeError(f"{self.name}: no column {sorted(missing)[0]!r}; frames have {', '.join(KEYS)} and value")
        column = self.frame.astype({"layer": int, "head": int}).set_index(KEYS)["value"].astype(float).sort_index()
        if (twice := column.index[column.index.duplicated()]).size:
            raise ShapeError(f"{self.name}: {Head(*twice[0])} has two rows; give one a head")
        if (bad := column.index[~np.isfinite(column)]).size:
            raise ShapeError(f"{self.name}: the value of {Head(*bad[0])} is not finite; drop the head everywhere")
        return column


def source_of(item: Item, name: str, stream: str | None = None) -> Source:
    """What a run, a detector, a result (as ``head_values`` has it) or a frame says of heads.

    Args:
        item: which.
        name: what it is called where it has no name of its own.
        stream: only heads of this one; all when None.

    Raises:
        ConfigError: something else, no learned weights, a result without a number for each head or for several targets.
        ShapeError: no head of that stream.
    """
    if isinstance(item, Result):
        return _of_result(item, name, stream)
    if isinstance(item, pd.DataFrame):
        return Source(_quantity(item), _only(item, stream, name), {}, {"name": name})
    if isinstance(item, Detector):
        return _of_detector(item, {"name": name, "sha256": learned_sha256(item)}, stream)
    if isinstance(item, TrainedRun):
        about = {"name": item.folder.name, "sha256": item.card.get("model_sha256")}
        return _of_detector(item.detector, {**about, "trained_on": item.card.get("trained_on")}, stream)
    raise ConfigError(f"{name}: {type(item).__name__} is not a run; give headlens.runs, detectors, results or frames")


def _only(frame: pd.DataFrame, stream: str | None, name: str) -> pd.DataFrame:
    """The rows of one stream, or all; raises ShapeError where it has none."""
    if stream is None:
        return frame
    if stream not in set(frame.get("stream", ())):
        raise ShapeError(f"{name} has no head of stream {stream!r}; name a stream that all runs have")
    return frame[frame["stream"] == stream]


def _of_detector(detector: Detector, about: dict[str, Any], stream: str | None) -> Source:
    with torch.no_grad():
        frame = _only(weights(detector, about["name"]).frame, stream, about["name"])
    return Source("weight", frame, asdict(detector.backbone.provenance), about)


def _of_result(result: Result, name: str, stream: str | None) -> Source:
    try:
        frame = head_values(result, stream=stream)
    except (ConfigError, ShapeError) as error:
        raise type(error)(f"{name}: {error}") from error
    made = result.provenance
    about = {"name": name, "sha256": made["learned_sha256"], "metric": frame["metric"].iat[0]}
    about |= {"dataset": made["dataset"]} if "dataset" in made else {}
    return Source(_quantity(frame), frame, made["backbone"], about)


def _quantity(frame: pd.DataFrame) -> str:
    """What the values of a frame are: that of ``head_values``, or just values."""
    return str(frame["quantity"].iat[0]) if "quantity" in frame and len(frame) else "value"


def identity(backbone: Mapping[str, Any]) -> str:
    """A backbone in one line, by its provenance; heads of two that differ do not correspond."""
    return f"{backbone['name']} ({backbone['weights']}, SHA-256 {backbone['sha256']})" if backbone else ""
