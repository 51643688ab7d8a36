"""What a run says of its heads, one value each: learned weights, importance, or any frame."""

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
from headlens.heads.importance import Importance
from headlens.heads.variants import Head
from headlens.heads.weights import weights
from headlens.provenance import learned_sha256

Item: TypeAlias = HasDetector | Detector | Importance | pd.DataFrame
KEYS = ["stream", "layer", "head"]
NEUTRAL = {"weight": 1.0, "importance": 0.0, "value": 0.0}
"""What is compared, and where a head stands of which nothing was learned: top heads are those furthest from it."""
LABELS = {"weight": "head weight", "importance": "importance (mean head = 1)", "value": "value"}


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
    """What a run, a detector, a result of ``importance`` or a frame says of heads.

    Args:
        item: which.
        name: what it is called where it has no name of its own.
        stream: only heads of this one; all when None.

    Raises:
        ConfigError: something else, no learned weights, or importance for several targets.
        ShapeError: no head of that stream.
    """
    if isinstance(item, Importance):
        return _of_importance(item, name, stream)
    if isinstance(item, pd.DataFrame):
        return Source("value", _only(item, stream, name), {}, {"name": name})
    if isinstance(item, Detector):
        return _of_detector(item, {"name": name, "sha256": learned_sha256(item)}, stream)
    if isinstance(item, TrainedRun):
        about = {"name": item.folder.name, "sha256": item.card.get("model_sha256")}
        return _of_detector(item.detector, {**about, "trained_on": item.card.get("trained_on")}, stream)
    raise ConfigError(
        f"{name}: {type(item).__name__} is not a run; give headlens.runs, detectors, importance or frames"
    )


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


def _of_importance(result: Importance, name: str, stream: str | None) -> Source:
    """In units of the run's mean head: how steep a run's margins are on the whole is no property of a head."""
    made, frame = result.provenance, _only(result.summary, stream, name)
    if frame["metric"].nunique() != 1:
        raise ConfigError(f"{name}: importance for {', '.join(frame['metric'].unique())}; compare one target at a time")
    about = {"name": name, "sha256": made["learned_sha256"], "dataset": made["dataset"]}
    about["metric"] = frame["metric"].iat[0]
    size = frame["importance"].mean() or 1.0  # where nothing matters, nothing is divided
    return Source("importance", frame.assign(value=frame["importance"] / size), made["backbone"], about)


def identity(backbone: Mapping[str, Any]) -> str:
    """A backbone in one line, by its provenance; heads of two that differ do not correspond."""
    return f"{backbone['name']} ({backbone['weights']}, SHA-256 {backbone['sha256']})" if backbone else ""
