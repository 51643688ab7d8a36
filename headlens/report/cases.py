"""The images that a run gets most wrong, with their maps and an attribution of their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from headlens.attribution import Attribution, attribute, method_of
from headlens.data import DataSet, Pixels
from headlens.errors import ConfigError
from headlens.plots.overlay import limits_of
from headlens.plots.style import colours
from headlens.predict import predict
from headlens.training.run import Run

WORST = 4
"""Images of each kind that are shown where nothing else is asked for."""
TARGET = "joint_margin"
"""The score that attributions explain."""
_REACH = 0.995  # of an attribution's pixels lie within the colours, as in figures


@dataclass(frozen=True)
class Case:
    """One image as it is shown.

    Args:
        name: in its data set.
        anomalous: its label; None if unknown.
        score: its joint score.
        pixels: the image and its mask, in their original resolution.
        anomaly_map: [S, S].
        attribution: [S, S], and None where the method refuses one.
    """

    name: str
    anomalous: bool | None
    score: float
    pixels: Pixels
    anomaly_map: np.ndarray
    attribution: np.ndarray | None = None

    def reach(self, sign: bool) -> float:
        """Where the colours of its attribution end."""
        assert self.attribution is not None
        return float(colours(self.attribution, sign, share=_REACH)["norm"].vmax)


@dataclass(frozen=True)
class Cases:
    """Images to be shown, by what they have in common.

    Args:
        groups: by a heading.
        method: of the attributions.
        limits: of the colours of all anomaly maps.
        refused: why there are no attributions; empty where there are.
    """

    groups: dict[str, list[Case]]
    method: str
    limits: tuple[float, float]
    refused: str = ""

    @property
    def every(self) -> list[Case]:
        """Of all groups."""
        return [case for group in self.groups.values() for case in group]


def most_wrong(scores: pd.DataFrame, most: int) -> dict[str, pd.DataFrame]:
    """Rows of the anomalous images with the lowest scores and of the normal ones with the highest, the worst first.

    Without labels, those with the highest scores.

    Args:
        scores: of an ``Evaluation``.
        most: of each kind.

    >>> scores = pd.DataFrame({"name": ["a", "b", "c"], "anomalous": [True, False, True], "joint": [0.9, 0.4, 0.1]})
    >>> {kind: rows["name"].tolist() for kind, rows in most_wrong(scores, 1).items()}
    {'Anomalous images with the lowest scores': ['c'], 'Normal images with the highest scores': ['b']}
    """
    if scores["anomalous"].isna().all():
        return {"Images with the highest scores": scores.nlargest(most, "joint")}
    groups = {
        "Anomalous images with the lowest scores": scores[scores["anomalous"].eq(True)].nsmallest(most, "joint"),
        "Normal images with the highest scores": scores[scores["anomalous"].eq(False)].nlargest(most, "joint"),
    }
    return {kind: rows for kind, rows in groups.items() if len(rows)}


def cases(
    run: Run,
    images: DataSet,
    scores: pd.DataFrame,
    *,
    worst: int = WORST,
    method: str = "legrad",
    size: int,
    precision: str | None = None,
) -> Cases:
    """The images that are most wrong by ``scores``, with their maps and attributions.

    Args:
        run: which.
        images: the set that ``scores`` are of.
        scores: of an ``Evaluation``.
        worst: of each kind.
        method: one of ``headlens.attribution.METHODS``.
        size, precision: as in ``headlens.evaluate``.
    """
    chosen = most_wrong(scores, worst)
    numbers = {record.name: number for number, record in enumerate(images.records)}
    shown = [images[numbers[name]] for rows in chosen.values() for name in rows["name"]]
    if not shown:
        return Cases({}, method, (0.0, 1.0))
    maps = predict(run, shown, size=size, progress=lambda number: None).anomaly_map.numpy()
    attributions, refused = _attributed(run, shown, method, size, precision)
    made = iter(
        Case(row.name, None if pd.isna(row.anomalous) else bool(row.anomalous), row.joint, pixels, map_, share)
        for row, pixels, map_, share in zip(
            (row for rows in chosen.values() for row in rows.itertuples(index=False)),
            shown,
            maps,
            attributions,
            strict=True,
        )
    )
    groups = {kind: [next(made) for _ in range(len(rows))] for kind, rows in chosen.items()}
    return Cases(groups, method, limits_of(list(maps), run.detector.scoring.unit), refused)


def _attributed(
    run: Run, shown: Sequence[Pixels], method: str, size: int, precision: str | None
) -> tuple[Sequence[np.ndarray | None], str]:
    """A map of each image, and no reason; or nothing, and why the method refuses."""
    try:
        found: Attribution = attribute(run, shown, method, TARGET, size=size, precision=precision)
    except ConfigError as refusal:
        return [None] * len(shown), str(refusal)
    return list(found.map), ""


def check(method: str, worst: int) -> None:
    """Raises ConfigError for a method that does not exist or explains no score, and for a number of images below 0."""
    how = method_of(method)
    if how.targets and TARGET not in how.targets:
        raise ConfigError(f"{method} does not explain the joint margin; it takes {', '.join(how.targets)}")
    if not 0 <= worst <= 20:
        raise ConfigError(f"{worst} images of each kind; a report shows 0 to 20")
