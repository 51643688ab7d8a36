"""What a report measures of one run: metrics with intervals, importance of all heads, and what layers are worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from headlens import heads
from headlens.data import DataSet
from headlens.errors import ConfigError, ShapeError
from headlens.heads import Ablation, Importance, Variant, Weights
from headlens.heads.ablation import ablated
from headlens.heads.effects import METRICS, Effects, defined_mean, images_frame, keys_of, summarised
from headlens.heads.measuring import PROBES
from headlens.heads.scored import Scored
from headlens.metrics.table import MEAN
from headlens.training.evaluation import Evaluation, evaluate
from headlens.training.run import Run

LAYERS = 4
"""How many are ablated where none is named: the most important ones."""
REPLICATES = 200
LEAST = 8
"""Images that a category has at least where an interval is given: replicates of fewer are hardly different sets."""
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Measured:
    """What was measured of one run.

    Args:
        run: which.
        evaluation: metrics, and a score for every image.
        importance: of all heads; None where the method refuses it.
        ablation: whole layers, one at a time; None where the method refuses it.
        replicates: of every metric's mean over categories, {metric: [R]}, for paired differences of two runs.
        intervals: category, metric, low, high.
        left_out: why a part is missing, by its name.
    """

    run: Run
    evaluation: Evaluation
    importance: Importance | None
    ablation: Ablation | None
    replicates: Mapping[str, np.ndarray]
    intervals: pd.DataFrame
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its run."""
        return self.run.folder.name

    @property
    def weights(self) -> Weights | None:
        """Learned head weights; None where there are none."""
        return heads.weights(self.run, self.name) if self.run.detector.head_weights() else None

    @property
    def metrics(self) -> pd.DataFrame:
        """Category (``mean`` first), metric, value, low, high: those that are defined somewhere."""
        table = self.evaluation.table().frame
        rows = table[(table["dataset"] != MEAN) & table["metric"].isin(METRICS)]
        rows = rows.merge(self.intervals, "left", ["category", "metric"])
        defined = rows.groupby("metric")["value"].transform(lambda values: values.notna().any())
        return rows[defined].sort_values("category", key=lambda names: names != MEAN, kind="stable")


def measured(
    run: Run,
    images: DataSet,
    layers: Sequence[int] | None = None,
    *,
    size: int,
    batch: int = 8,
    precision: str | None = None,
    seed: int = 0,
) -> Measured:
    """Scores every image with a run, then takes gradients and ablates layers. Two passes forward, one of them back.

    Args:
        run: which.
        images: of one domain.
        layers: which are ablated; the ``LAYERS`` most important ones when None, none at all when empty.
        size: images are resized to this square.
        batch, precision: as in ``headlens.evaluate``.
        seed: of the bootstrap.

    Raises:
        DataError: no image could be read.
        ConfigError: an unknown precision.
        ShapeError: a layer that does not exist.
    """
    options: dict[str, Any] = {"size": size, "batch": batch, "precision": precision}
    named = (
        None if layers is None else heads.whole_layers(heads.heads_of(run, layers, streams=run.detector.plan.streams))
    )
    left_out: dict[str, str] = {}

    def asked(part: str, question: Callable[[], Answer]) -> Answer | None:
        """The answer; None where the method refuses one, with the reason."""
        try:
            return question()
        except (ConfigError, ShapeError) as refusal:
            left_out[part] = str(refusal)
            return None

    evaluation = evaluate(run, images, **options)
    slopes = asked("Importance of heads", lambda: heads.importance(run, images, **options))
    variants = most_important(run, slopes) if named is None else named
    parts = "Intervals and ablation of layers" if variants else "Intervals"
    done = asked(parts, lambda: _ablated(run, images, variants, seed, options))
    effects = {} if done is None else done.effects
    ablation = None
    if done is not None and variants:
        keys = keys_of([PROBES["global"], *variants], "zero")
        frame = images_frame(images, done.records, keys, done.scores)
        ablation = Ablation(frame, done.provenance, summarised(images, keys, effects))
    means = {metric: defined_mean([of[metric].whole for of in effects.values()]) for metric in METRICS if effects}
    return Measured(run, evaluation, slopes, ablation, means, _intervals(evaluation, effects, means), left_out)


def most_important(run: Run, slopes: Importance | None) -> list[Variant]:
    """The ``LAYERS`` layers whose heads have the largest sums of importance, or the last ones where it is unknown."""
    layers = heads.whole_layers(heads.heads_of(run, streams=run.detector.plan.streams))
    if slopes is None:
        return layers[-LAYERS:]
    sums = slopes.summary.groupby(["stream", "layer"])["importance"].sum()
    return sorted(layers, key=lambda layer: -sums[layer.stream, layer.layer])[:LAYERS]


def _ablated(run: Run, images: DataSet, variants: Sequence[Variant], seed: int, options: dict[str, Any]) -> Scored:
    """Of the detector and its variants, with replicates of both: the probe stands first."""
    return ablated(
        run.detector,
        images,
        [PROBES["global"], *variants],
        metrics=METRICS,
        replicates=REPLICATES,
        kind="zero",
        reference=None,
        text="held",
        seed=seed,
        budget=None,
        **options,
    )


def _intervals(
    evaluation: Evaluation, effects: Mapping[str, Mapping[str, Effects]], means: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """95 % bootstrap intervals of every category with ``LEAST`` images, and of the mean where all have them."""
    counts = evaluation.scores["category"].value_counts()
    enough = [category for category in effects if counts[category] >= LEAST]
    rows = [(name, metric, *ends(effects[name][metric].whole)) for name in enough for metric in METRICS]
    if effects and len(enough) == len(effects):
        rows += [(MEAN, metric, *ends(means[metric])) for metric in METRICS]
    return pd.DataFrame(rows, columns=["category", "metric", "low", "high"])


def ends(replicates: np.ndarray) -> tuple[float, float]:
    """Of the 95 % interval; NaN where the metric is defined in no replicate.

    >>> low, high = ends(np.array([0.0, 1.0, np.nan]))
    >>> round(low, 3), round(high, 3)
    (0.025, 0.975)
    """
    defined = replicates[~np.isnan(replicates)]
    low, high = np.quantile(defined, (0.025, 0.975)) if len(defined) else (np.nan, np.nan)
    return float(low), float(high)
