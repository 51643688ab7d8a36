"""Metrics of a detector on a data set: all that are defined, for three image scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch

from headlens import html, parallel, plots
from headlens.data import DataSet, Loader, Preprocess, as_set
from headlens.data.loading import ahead
from headlens.data.notes import KINDS, Notes, lines, notes_of
from headlens.data.staging import arrived
from headlens.detectors.detector import Detector, detector_of
from headlens.detectors.precision import at_precision
from headlens.detectors.scoring import Scorer, pooled
from headlens.errors import ConfigError, MetricError
from headlens.metrics import MetricTable, accuracy, image_metrics
from headlens.metrics.streaming import values
from headlens.metrics.table import KEYS
from headlens.progress import Progress, followed
from headlens.provenance import computed, provenance, together
from headlens.results import Result
from headlens.training.clip_metrics import KIND, chosen_clips, clip_metrics
from headlens.training.counting import Bounds, PixelCounts, truths
from headlens.units import Unit, check_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from headlens.training.run import Run

SCORES = ("image", "map", "joint")
"""Of the image feature alone; the map's maximum alone; what the detector makes of both."""
NOTES = ["dataset", "name", "kind", "reason"]


@dataclass(frozen=True)
class Evaluation(Result):
    """Metrics of every category.

    Args:
        frame: long: domain, dataset, category, score (``image``, ``map``, ``joint``; ``pixel`` for pixel metrics),
            metric, value.
        provenance: detector, data and software; size, unit and half width; of several sets also ``parts``.
        scores: one row for each image: domain, dataset, category, name, anomalous, ``has_mask`` (whether pixel metrics
            count it), and the three scores, in ``unit``; of clips also clip, family, and ``kind: ...``, which is the
            probability of a kind of anomaly, if the detector tells them apart.
        notes: one row for each image with a problem: dataset, name, kind, reason. ``skipped`` could not be read,
            ``unmasked`` has no usable mask, ``adjusted`` has a mask that was changed.
    """

    TABLES: ClassVar = ("scores", "notes")

    scores: pd.DataFrame
    notes: pd.DataFrame = field(default_factory=partial(pd.DataFrame, columns=NOTES))

    @property
    def half_width(self) -> float:
        """Largest possible deviation of pixel metrics from the exact ones; 0 if they are exact."""
        return float(self.provenance.get("half_width", 0.0))

    @property
    def unit(self) -> Unit | None:
        """Unit of the scores; None if it differs between sets."""
        return self.provenance.get("unit")

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the images that could not be read."""
        return tuple(self.notes.loc[self.notes["kind"] == "skipped", "name"])

    def reasons(self, dataset: str | None = None) -> Notes:
        """``notes`` by kind and name, of one data set or of all."""
        rows = self.notes if dataset is None else self.notes[self.notes["dataset"] == dataset]
        several = rows["dataset"].nunique() > 1
        reasons: Notes = {kind: {} for kind in KINDS}
        for row in rows.itertuples():
            reasons[row.kind][f"{row.dataset}: {row.name}" if several else row.name] = row.reason
        return reasons

    def lines(self) -> list[str]:
        """Images that were left out or adjusted; a line for each kind and set."""
        return [line for name in self.notes["dataset"].unique() for line in lines(self.reasons(name), of=name)]

    def undefined(self) -> list[str]:
        r"""Why metrics are undefined; a line for each reason and set.

        >>> from headlens import data
        >>> from headlens.baselines import LocalContrast
        >>> good = data.open("procedural:industrial/aux", per_category=2, size=28).where(lambda one: not one.anomalous)
        >>> result = evaluate(LocalContrast(), good.where(lambda one: one.category == "nut"), size=28)
        >>> print("\n".join(result.undefined()))
        procedural:industrial/aux: image metrics of nut are undefined: no image is anomalous
        procedural:industrial/aux: pixel metrics of all categories are undefined: no mask is known
        """
        lines = []
        for dataset, metrics in self.frame.groupby("dataset", sort=False):
            images = self.scores[self.scores["dataset"] == dataset]
            why: dict[tuple[str, str], list[str]] = {}
            for level, score in (("image", "joint"), ("pixel", "pixel")):
                rows = metrics[metrics["score"] == score]
                if rows.empty:
                    reason = "no mask is known" if self.provenance.get("maps", True) else "there is no anomaly map"
                    why[level, reason] = ["all categories"]
                for category in rows.loc[rows["value"].isna(), "category"].unique():
                    reason = _reason(images[images["category"] == category], level == "pixel")
                    why.setdefault((level, reason), []).append(str(category))
            for (level, reason), named in why.items():
                lines.append(f"{dataset}: {level} metrics of {', '.join(named)} are undefined: {reason}")
        return lines

    @property
    def of_clips(self) -> pd.DataFrame:
        """Metrics of clips, as ``clip_metrics`` has them; no row where there are none."""
        return clip_metrics(self.scores)

    def timelines(self, clips: Iterable[str] | None = None, ax: Any = None) -> plots.Figure:
        """Scores over the frames of clips, a panel for each, with the frames in which something happens shaded.

        Args:
            clips: their names; the first one of each kind of anomaly when None.
            ax: axes to draw on, one for each clip; a new figure when None.

        Raises:
            MetricError: no such clip, or none at all.
        """
        drawn = plots.timelines(chosen_clips(self.scores, clips), ax, unit=self.unit or "probability")
        return plots.signed(drawn, self.made_by, ax)

    def _repr_html_(self) -> str:
        facts = {
            "made by": self.made_by,
            "images": len(self.scores),
            "scores": self.unit,
            "left out": len(self.skipped) or None,
            "pixel metrics": f"within {100 * self.half_width:.2g} points" if self.half_width else "exact",
        }
        return html.card("Evaluation", facts, *html.either(lambda: [self.table().rendered()], self.frame))

    def table(self, score: str = "joint") -> MetricTable:
        """Per class, then over classes, then over data sets, with ``score`` as the image's."""
        chosen = self.frame[self.frame["score"].isin([score, "pixel"])]
        rows = []
        for keys, group in chosen.groupby(list(KEYS), sort=False):
            entries = {
                f"{'pixel' if row.score == 'pixel' else 'image'}_{row.metric}": row.value for row in group.itertuples()
            }
            rows.append({**dict(zip(KEYS, keys, strict=True)), **entries})
        return MetricTable.of(rows, self.provenance)

    def plot(self, ax: Axes | None = None, **options: Any) -> plots.Figure:
        """The table of the joint score as points; see ``MetricTable.plot``."""
        return self.table().plot(ax, **options)

    @classmethod
    def joined(cls, parts: Iterable[Evaluation]) -> Evaluation:
        """Several data sets as one evaluation.

        Raises:
            MetricError: a category twice, as in two sets with the same name.
        """
        parts = list(parts)
        frame, scores, notes = (
            pd.concat([getattr(part, name) for part in parts], ignore_index=True)
            for name in ("frame", "scores", "notes")
        )
        if (twice := frame.duplicated([*KEYS, "score", "metric"])).any():
            name = frame.loc[twice, "dataset"].iloc[0]
            raise MetricError(f"two data sets are called {name!r}; remove one, or rename it")
        about = together([part.provenance for part in parts])
        return cls(frame, {**about, "half_width": max(part.half_width for part in parts)}, scores, notes)


@torch.no_grad()
def evaluate(
    detector: Scorer | Run,
    data: DataSet | str | Path,
    *,
    size: int | None = None,
    batch: int = 8,
    exact: bool = False,
    cache: bool = False,
    precision: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Scores every image of ``data`` and computes all metrics that are defined; the others are NaN.

    Processes (``headlens.parallel``) share the batches; pixel counters are summed, and image scores are gathered.

    Args:
        detector: a detector, a run, or another ``Scorer``.
        data: of one domain; a data set, or its name for ``headlens.data.open``.
        size: images are resized to this square; the detector's when None.
        batch: images per batch; it only affects rounding.
        exact: exact pixel metrics, which keep every map of a category in memory; otherwise within
            ``Evaluation.half_width``.
        cache: keep resized images in memory, for a set that is scored again.
        precision: for a ``Detector``: ``float32``, ``tf32``, ``float16`` or ``bfloat16``; that of its backbone when
            None.
        progress: called with the number of images after every batch, of all processes; a bar when None.

    Raises:
        DataError: no image could be read.
        ConfigError: an unknown precision, or one for something else than a ``Detector``.
        MetricError: scores or maps that are not finite; probabilities outside 0 to 1.

    >>> import headlens
    >>> from headlens.baselines import LocalContrast
    >>> few = headlens.data.open("procedural:industrial/aux", category="nut", per_category=4, size=28)
    >>> evaluate(LocalContrast(), few, size=28).made_by
    'LocalContrast (scale 8.0, image_size 224) · procedural:industrial/aux, 4 images'
    """
    data = as_set(data)
    scorer: Scorer = detector if callable(detector) else detector_of(detector)
    if precision is not None and not isinstance(scorer, Detector):
        raise ConfigError(
            f"precision {precision!r} is for detectors; {type(scorer).__name__} has no precision to choose"
        )
    device, who = scorer.device, type(scorer).__name__
    side = size or scorer.image_size
    options = {"cache": "memory" if cache else None, "on_error": "skip", "normalise": False}
    loader = Loader(data, Preprocess(side), batch, device=device, **options)  # type: ignore[arg-type]
    ranks, pixels = parallel.current(), PixelCounts(data, side, device, exact, who)
    index: list[int] = []
    has_mask: list[bool] = []
    maps = False
    columns: list[torch.Tensor] = []  # where they are made: nothing in the loop waits for it
    kinds: list[str] = []

    cut = loader.cut
    batches = loader.numbered(ranks.share(len(cut)))
    scoring = nullcontext(scorer) if precision is None else at_precision(scorer, precision)  # type: ignore[arg-type]
    with closing(batches), scoring as score, followed(progress, len(data), who) as done:
        for number, part, known in ahead((number, part, truths(part)) for number, part in ahead(batches)):
            images = loader.preprocess.normalise(arrived(part.images, device))
            prediction = score(images, part.shown)
            maximum = pooled(prediction.anomaly_map)
            kinds = list(prediction.kinds)
            scores = [prediction.image_score, maximum, prediction.joint_score, *prediction.kinds.values()]
            columns.append(torch.stack(scores))
            index += part.index.tolist()
            has_mask += part.has_mask.tolist()
            pixels.add(prediction, known if prediction.has_map else {})
            maps = maps or prediction.has_map
            done(ranks.behind(number, cut))
    certified = pixels.bounds()
    kinds = max(ranks.gathered(kinds), key=len)  # of a rank that has scored something
    names = [*SCORES, *(KIND + kind for kind in kinds)]
    made_here = torch.cat(columns, 1) if columns else torch.zeros(len(names), 0)
    scored = _of_all_ranks(data, index, has_mask, dict(zip(names, made_here, strict=True)))
    if scored.empty:
        raise loader.nothing()
    maps = any(ranks.gathered(maps))
    made = [score for score in SCORES if maps or score != "map"]
    each = scored[made].to_numpy()
    if bad := scored.loc[~np.isfinite(each).all(axis=1), "name"].tolist():
        raise MetricError(f"{who} gives {bad[0]} and {len(bad) - 1} others a score that is not a number, or infinite")
    assert pixels.unit is not None
    check_unit(each.min(), each.max(), pixels.unit, f"{who}'s score")
    decides_at = scorer.decides_at if isinstance(scorer, Detector) else None
    measured = _metrics(data, scored, certified if maps else {}, made, decides_at)
    frame = pd.DataFrame(measured, columns=[*KEYS, "score", "metric", "value"])
    rows = [(data.name, name, kind, reason) for kind, of in notes_of(loader).items() for name, reason in of.items()]
    notes = pd.DataFrame(rows, columns=NOTES)
    settings = {"size": side, "unit": pixels.unit, "half_width": _half_width(certified.values())}
    settings |= {} if maps else {"maps": False}
    about = provenance(scorer, data, **settings, **computed(scorer, precision))
    return Evaluation(frame, about, scored.reset_index(drop=True), notes)


def _of_all_ranks(
    data: DataSet, index: Sequence[int], has_mask: Sequence[bool], scores: Mapping[str, torch.Tensor]
) -> pd.DataFrame:
    """A row for every image that some rank has scored, by its number; this rank's are ``index``, scores [n] each."""
    columns = {"index": np.array(index, int), "has_mask": np.array(has_mask, bool)}
    columns |= {name: score.double().cpu().numpy() for name, score in scores.items()}
    every = pd.concat(map(pd.DataFrame, parallel.current().each(columns))).set_index("index").sort_index()
    records = [data.records[i] for i in every.index]
    about = {
        "domain": data.domain,
        "dataset": data.name,
        "category": [record.category for record in records],
        "name": [record.name for record in records],
        "anomalous": [record.anomalous for record in records],
    }
    if data.has_clips:
        about |= {"clip": [record.clip for record in records], "family": [record.family for record in records]}
    return pd.DataFrame(about, index=every.index).join(every)


def _half_width(certified: Iterable[Bounds]) -> float:
    """How far the values may be from the exact ones: half a certificate, and all of it for F1max, its lower end."""
    widths = [
        float(high - low) / (1 if name == "f1max" else 2)
        for bounds in certified
        for name, (low, high) in bounds.items()
        if not low.isnan()
    ]
    return max(widths, default=0.0)


def _metrics(
    data: DataSet, scored: pd.DataFrame, certified: dict[str, Bounds], made: Sequence[str], decides_at: float | None
) -> Iterable[Sequence[object]]:
    """Of the scores that were made; ``certified`` has the pixel metrics of each category, and is empty without maps."""
    for category in data.categories:  # also one of which no image could be read
        rows = scored[scored["category"] == category]
        keys = (data.domain, data.name, category)
        labelled = rows[rows["anomalous"].notna()]
        labels = torch.tensor(labelled["anomalous"].astype(bool).to_numpy())
        scores = torch.tensor(labelled[list(made)].to_numpy(np.float32).T)
        each = image_metrics(scores, labels)
        each |= {} if decides_at is None else {"accuracy": accuracy(scores, labels, decides_at)}
        for score in SCORES:
            for name, value in each.items():
                yield (*keys, score, name, float(value[made.index(score)]) if score in made else float("nan"))
        if data.has_masks and certified:
            for name, value in values(certified[category]).items():
                yield (*keys, "pixel", name, float(value))


def _reason(images: pd.DataFrame, pixel: bool) -> str:
    labels = images["anomalous"]
    if images.empty:
        return "no image could be read"
    if pixel and not (images["has_mask"] & (labels == True)).any():  # noqa: E712 None is neither
        return "no anomalous image has a mask that can be used"
    if pixel:
        return "every pixel is anomalous, or none"
    if labels.isna().all():
        return "no image is labelled"
    return "no image is anomalous" if not (labels == True).any() else "no image is normal"  # noqa: E712
