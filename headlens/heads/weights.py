"""``weights``: what a detector has learned about its heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from headlens import html, plots
from headlens.detectors.detector import Detector, HasDetector, detector_of
from headlens.errors import ConfigError
from headlens.heads.variants import heads_of, names_of
from headlens.provenance import detector_provenance
from headlens.results import Result


@dataclass(frozen=True)
class Weights(Result):
    """``frame``: stream, layer, head, ``value`` (the weight), ``baseline`` (1, initially) and ``effect``."""

    def _parts(self) -> list[str]:
        rows = self.frame.sort_values("effect", key=abs, ascending=False, kind="stable")
        rows = rows.assign(head=names_of(rows))[["head", "value"]].rename(columns={"value": "weight"})
        return [html.figure(self.plot().figure, "head weights"), html.table(rows, "Furthest from 1")]

    def plot(self, ax: Any = None, stream: str | None = None) -> plots.Figure:
        """The weights as a grid; red is above 1, blue below. Arguments as in ``Importance.plot``."""
        return plots.grids(self.frame, "value", ax, stream, label="head weight", centre=1, made_by=self.made_by)


def weights(detector: Detector | HasDetector, name: str = "this detector") -> Weights:
    """Learned head weights, of those heads that have an effect.

    Args:
        detector: a detector, or a run.
        name: its name in error messages.

    Raises:
        ConfigError: a detector without learned head weights.

    >>> import headlens
    >>> frame = weights(headlens.load("mini-captions-industrial")).frame
    >>> len(frame), frame["stream"].unique().tolist()
    (304, ['local'])
    """
    detector = detector_of(detector)
    learned = detector.head_weights()
    if not learned:
        raise ConfigError(
            f"{name} has no head weights (head_weights = 'none'): train with head_weights = 'free' in table "
            "[detector], or take a run that has them, such as mini-captions-industrial"
        )
    heads = heads_of(detector, streams=[*learned])
    rows = [(*head, float(learned[head.stream][head.layer, head.head].detach())) for head in heads]
    frame = pd.DataFrame(rows, columns=["stream", "layer", "head", "value"]).assign(kind="weight", baseline=1.0)
    return Weights(frame.assign(effect=frame["value"] - 1), detector_provenance(detector, what="weights"))
