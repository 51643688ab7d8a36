"""How good a detector is on a data set: every metric that the set allows, for three image scores side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import pandas as pd
import torch

from headlens import html, parallel
from headlens.data import Batch, DataSet, Loader, Preprocess
from headlens.data.loading import ahead
from headlens.data.notes import KINDS, Notes, lines, notes_of
from headlens.data.staging import arrived
from headlens.detectors.detector import Detector
from headlens.detectors.precision import at_precision
from headlens.detectors.scoring import Prediction, pooled
from headlens.errors import ConfigError, MetricError
from headlens.metrics import MetricTable, PixelMetrics, Truth, image_metrics
from headlens.metrics.streaming import values
from headlens.metrics.table import KEYS
from headlens.training.reach import LOGITS, Reach, logit
from headlens.training.undefined import undefined

Bounds = dict[str, tuple[torch.Tensor, torch.Tensor]]
SCORES = ("image", "map", "joint")
"""CLS alone; the map's maximum alone; what the detector's config makes of both."""


class Scorer(Protocol):
    """What can be evaluated: a ``Detector``, or a baseline.

    Maps are probabilities, 0 to 1, or any finite numbers where pixel metrics are exact. Image scores are any finite
    numbers: only their order counts.
    """

    @property
    def device(self) -> torch.device:
        """Where it wants images."""

    @property
    def image_size(self) -> int:
        """Pixels along a side that it was made for."""

    def __call__(self, images: torch.Tensor, categories: Sequence[str] = ()) -> Prediction:
        """Normalised images [B, 3, h, w] to scores."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of every category.

    Args:
        frame: long: domain, dataset, category, score (``image``, ``map``, ``joint``; ``pixel`` for pixel metrics),
            metric, value.
        scores: one row for each image: dataset, category, name, anomalous, ``outlined`` (whether pixel metrics count
            it), and the three scores.
        notes: one row for each image of which there is something to say: dataset, name, kind, reason. ``skipped`` could
            not be read, ``unmasked`` has no mask that could be used, ``adjusted`` one that is not as it is stored.
        half_width: no pixel metric is further from the exact one than this; 0 where they are exact.
        made_by: the backbone, where the detector has one.
    """

    frame: pd.DataFrame
    scores: pd.DataFrame
    notes: pd.DataFrame = field(default_factory=partial(pd.DataFrame, columns=["dataset", "name", "kind", "reason"]))
    half_width: float = 0.0
    made_by: str = ""

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the images that could not be read."""
        return tuple(self.notes.loc[self.notes["kind"] == "skipped", "name"])

    def reasons(self, dataset: str | None = None) -> Notes:
        """``notes`` by kind and name, of one data set or of all."""
        rows = self.notes if dataset is None else self.notes[self.notes["dataset"] == dataset]
        several = rows["dataset"].nunique() > 1
        found: Notes = {kind: {} for kind in KINDS}
        for row in rows.itertuples():
            found[row.kind][f"{row.dataset}: {row.name}" if several else row.name] = row.reason
        return found

    def lines(self) -> list[str]:
        """What is to be said of images that did not count, or not as they are stored; a line for each kind and set."""
        return [line for name in self.notes["dataset"].unique() for line in lines(self.reasons(name), of=name)]

    def undefined(self) -> list[str]:
        r"""Why metrics are undefined where they are; a line for each reason and set.

        >>> from headlens import data
        >>> from headlens.baselines import LocalContrast
        >>> good = data.open("procedural:industrial/aux", per_category=2, size=28).where(lambda one: not one.anomalous)
        >>> found = evaluate(LocalContrast(), good.where(lambda one: one.category == "nut"), 28)
        >>> print("\n".join(found.undefined()))
        procedural:industrial/aux: image metrics of nut are undefined: no image is anomalous
        procedural:industrial/aux: pixel metrics of all categories are undefined: no mask is known
        """
        return list(undefined(self.frame, self.scores))

    def _repr_html_(self) -> str:
        """What a notebook shows: the table of the joint score."""
        facts = {
            "made by": self.made_by,
            "pictures": len(self.scores),
            "left out": len(self.skipped) or None,
            "pixel metrics": f"within {100 * self.half_width:.2g} points" if self.half_width else "exact",
        }
        return html.card("Evaluation", facts, *html.either(lambda: [self.table().rendered()], self.frame))

    def table(self, score: str = "joint") -> MetricTable:
        """Per class, then over classes, then over data sets, with ``score`` as the image's."""
        own = self.frame[self.frame["score"].isin([score, "pixel"])]
        rows = []
        for keys, group in own.groupby(list(KEYS), sort=False):
            values = {
                f"{'pixel' if row.score == 'pixel' else 'image'}_{row.metric}": row.value for row in group.itertuples()
            }
            rows.append({**dict(zip(KEYS, keys, strict=True)), **values})
        return MetricTable.of(rows)

    @classmethod
    def joined(cls, parts: Iterable[Evaluation]) -> Evaluation:
        """Several data sets as one evaluation.

        Raises:
            MetricError: a category twice, as in two sets of one name, which no table could tell apart.
        """
        parts = list(parts)
        frame = pd.concat([part.frame for part in parts], ignore_index=True)
        if (twice := frame.duplicated([*KEYS, "score", "metric"])).any():
            name = frame.loc[twice, "dataset"].iloc[0]
            raise MetricError(f"two data sets are called {name!r}; take one away, or give one another name")
        return cls(
            frame,
            pd.concat([part.scores for part in parts], ignore_index=True),
            pd.concat([part.notes for part in parts], ignore_index=True),
            max(part.half_width for part in parts),
            "; ".join(dict.fromkeys(part.made_by for part in parts)),
        )


@torch.no_grad()
def evaluate(
    detector: Scorer,
    dataset: DataSet,
    size: int | None = None,
    batch: int = 8,
    *,
    exact: bool = False,
    cache: bool = False,
    precision: str | None = None,
    progress: Callable[[int], object] = lambda n: None,
) -> Evaluation:
    """Scores every picture of ``dataset`` and computes what its labels and masks allow; the rest is NaN.

    Ranks (``headlens.parallel``) score batches in turn; counters of pixels add up, and image scores are gathered.

    Args:
        detector: what is tested.
        dataset: of one domain.
        size: pictures are resized to this square; the detector's own size when None.
        batch: pictures at once; results do not depend on it beyond rounding.
        exact: exact pixel metrics, which keep every map of a category; otherwise within ``Evaluation.half_width``.
        cache: keep resized pictures in memory, for a set that is scored again.
        precision: of a ``Detector``, see ``headlens.precision``; as its backbone was loaded when None.
        progress: called with the number of pictures after every batch (of every rank's).

    Raises:
        DataError: no picture could be read.
        ConfigError: an unknown precision, or one for something else than a ``Detector``.
        MetricError: scores or maps that are not finite, or maps outside of 0 to 1 without ``exact``.
    """
    if precision is not None and not isinstance(detector, Detector):
        raise ConfigError(f"precision {precision!r} is for detectors; {type(detector).__name__} computes as it does")
    device = detector.device
    side = size or detector.image_size
    options = {"cache": "memory" if cache else None, "on_error": "skip", "normalise": False}
    loader = Loader(dataset, Preprocess(side), batch, device=device, **options)  # type: ignore[arg-type]
    mode = "exact" if exact else "streaming"
    ranks = parallel.current()
    pixel = {
        category: PixelMetrics(mode=mode, score_range=LOGITS, **ranks.of_metrics).to(device)  # type: ignore[arg-type]
        for category in dataset.categories
    }
    if ranks.size > 1:  # a rank without a picture of some category has empty states, and of the same types
        nothing = torch.zeros(0, side, side, device=device)
        for metric in pixel.values():
            metric.update(nothing, nothing.bool())
    index: list[int] = []
    outlined: list[bool] = []
    reach = None if exact else Reach(type(detector).__name__)
    columns = [torch.zeros(len(SCORES), 0, device=device)]  # where they are made: nothing in the loop waits for it

    def count(maps: torch.Tensor, truths: dict[str, tuple[torch.Tensor, Truth]]) -> None:
        for category, (rows, truth) in truths.items():
            own = maps[rows.to(device, non_blocking=True)]
            if reach is not None:
                reach.add(own)
            pixel[category].update(own if exact else logit(own), truth)

    beside = _Beside(device)
    batches = loader.numbered(ranks.share(len(loader)))
    scoring = nullcontext(detector) if precision is None else at_precision(detector, precision)  # type: ignore[arg-type]
    with closing(batches), scoring as score:
        for number, part, truths in ahead((number, part, _truths(part)) for number, part in ahead(batches)):
            images = loader.preprocess.normalise(arrived(part.images, device))
            prediction = score(images, [record.category for record in part.records])
            maps = prediction.anomaly_map
            columns.append(torch.stack([prediction.image_score, pooled(maps), prediction.joint_score]))
            index += part.index.tolist()
            outlined += part.has_mask.tolist()
            beside(partial(count, maps, truths), maps)
            progress(ranks.behind(number, batch, len(dataset)))
        beside.done()
    if reach is not None:
        reach.check()
    scored = _of_all_ranks(dataset, index, outlined, torch.cat(columns, 1))
    if scored.empty:
        raise loader.nothing()
    if bad := scored.loc[~np.isfinite(scored[list(SCORES)]).all(axis=1), "name"].tolist():
        who = type(detector).__name__
        raise MetricError(f"{who} gives {bad[0]} and {len(bad) - 1} others a score that is not a number, or infinite")
    if ranks.size > 1:
        pixel = {category: metric.cpu() for category, metric in pixel.items()}  # where states of all ranks add up
    certified = {category: metric.bounds() for category, metric in pixel.items()}
    frame = pd.DataFrame(_metrics(dataset, scored, certified), columns=[*KEYS, "score", "metric", "value"])
    said = notes_of(loader)
    rows = [(dataset.name, name, kind, reason) for kind, own in said.items() for name, reason in own.items()]
    notes = pd.DataFrame(rows, columns=["dataset", "name", "kind", "reason"])
    half_width = _half_width(certified.values())
    return Evaluation(frame, scored.reset_index(drop=True), notes, half_width, _made_by(detector))


def _made_by(detector: Scorer) -> str:
    """One line about its backbone; baselines have none."""
    if not isinstance(detector, Detector):
        return type(detector).__name__
    about = detector.backbone.provenance
    return f"backbone {about.name} ({about.weights})"


def _of_all_ranks(
    dataset: DataSet, index: Sequence[int], outlined: Sequence[bool], scores: torch.Tensor
) -> pd.DataFrame:
    """A row for every picture that some rank has scored, by its number; this rank's are ``index``, scores [3, n]."""
    own = {"index": np.array(index, int), "outlined": np.array(outlined, bool)}
    own |= dict(zip(SCORES, scores.double().cpu().numpy(), strict=True))
    every = pd.concat(map(pd.DataFrame, parallel.current().each(own))).set_index("index").sort_index()
    records = [dataset.records[i] for i in every.index]
    about = {
        "domain": dataset.domain,
        "dataset": dataset.name,
        "category": [record.category for record in records],
        "name": [record.name for record in records],
        "anomalous": [record.anomalous for record in records],
    }
    return pd.DataFrame(about, index=every.index).join(every)


def _truths(part: Batch) -> dict[str, tuple[torch.Tensor, Truth]]:
    """Of each category whose masks are known: which rows of the batch, and the truth of their masks."""
    if not isinstance(part.masks, torch.Tensor):
        return {}
    found = {}
    for category in dict.fromkeys(record.category for record in part.records):
        own = torch.tensor([record.category == category for record in part.records]) & part.has_mask
        if own.any():
            found[category] = own.nonzero().flatten(), Truth.of(part.masks[own])
    return found


class _Beside:
    """Runs work on a second stream of a CUDA device, so that its waits are not the next forward's; elsewhere at once.

    Work is run when the next comes, or when all is done: by then the device has the next forward to go on with.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._next: tuple[Callable[[], None], torch.cuda.Event] | None = None

    def __call__(self, work: Callable[[], None], reads: torch.Tensor) -> None:
        """Runs ``work``, which reads a tensor that the current stream makes."""
        if self.stream is None:
            work()
            return
        reads.record_stream(self.stream)
        made = torch.cuda.current_stream(reads.device).record_event()
        last, self._next = self._next, (work, made)
        self._run(last)

    def done(self) -> None:
        """What is left, and waits for it."""
        last, self._next = self._next, None
        self._run(last)
        if self.stream is not None:
            self.stream.synchronize()

    def _run(self, item: tuple[Callable[[], None], torch.cuda.Event] | None) -> None:
        if item is not None and self.stream is not None:
            with torch.cuda.stream(self.stream):
                self.stream.wait_event(item[1])
                item[0]()


def _half_width(certified: Iterable[Bounds]) -> float:
    """How far the values may be from the exact ones: half a certificate, and all of it for F1max, its lower end."""
    found = [(name, float(high - low)) for own in certified for name, (low, high) in own.items() if not low.isnan()]
    return max((width if name == "f1max" else width / 2 for name, width in found), default=0.0)


def _metrics(dataset: DataSet, scored: pd.DataFrame, certified: dict[str, Bounds]) -> Iterable[Sequence[object]]:
    for category in dataset.categories:  # also one of which no image could be read
        own = scored[scored["category"] == category]
        keys = (dataset.domain, dataset.name, category)
        told = own[own["anomalous"].notna()]
        labels = torch.tensor(told["anomalous"].astype(bool).to_numpy())
        found = image_metrics(torch.tensor(told[list(SCORES)].to_numpy(np.float32).T), labels)
        for i, score in enumerate(SCORES):
            for name, value in found.items():
                yield (*keys, score, name, float(value[i]))
        if dataset.has_masks:
            for name, value in values(certified[category]).items():
                yield (*keys, "pixel", name, float(value))
