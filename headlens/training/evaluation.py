"""How good a detector is on a data set: every metric that the set allows, for three image scores side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import pandas as pd
import torch

from headlens import html
from headlens.data import DataSet, Loader, Preprocess
from headlens.detectors.headclip import Detector, Prediction
from headlens.detectors.scoring import pooled
from headlens.metrics import ImageMetrics, MetricTable, PixelMetrics
from headlens.metrics.table import KEYS

LOGITS = (-88.0, 17.0)
"""Of any probability that float32 can tell from 0 and 1."""
SCORES = ("image", "map", "joint")
"""CLS alone; the map's maximum alone; what the detector's config makes of both."""


class Scorer(Protocol):
    """What can be evaluated: a ``Detector``, or a baseline."""

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
        scores: one row for each image: dataset, category, name, anomalous, and the three scores.
        skipped: names of pictures that could not be read.
        half_width: no pixel metric is further from the exact one than this; 0 where they are exact.
        made_by: the backbone, where the detector has one.
    """

    frame: pd.DataFrame
    scores: pd.DataFrame
    skipped: tuple[str, ...] = ()
    half_width: float = 0.0
    made_by: str = ""

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
        """Several data sets as one evaluation."""
        parts = list(parts)
        return cls(
            pd.concat([part.frame for part in parts], ignore_index=True),
            pd.concat([part.scores for part in parts], ignore_index=True),
            tuple(name for part in parts for name in part.skipped),
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
    progress: Callable[[int], object] = lambda n: None,
) -> Evaluation:
    """Scores every picture of ``dataset`` and computes what its labels and masks allow; the rest is NaN.

    Args:
        detector: what is tested.
        dataset: of one domain.
        size: pictures are resized to this square; the detector's own size when None.
        batch: pictures at once; results do not depend on it beyond rounding.
        exact: exact pixel metrics, which keep every map of a category; otherwise within ``Evaluation.half_width``.
        cache: keep resized pictures in memory, for a set that is scored again.
        progress: called with the number of pictures after every batch.

    Raises:
        DataError: no picture could be read.
    """
    device = detector.device
    side = size or detector.image_size
    loader = Loader(
        dataset, Preprocess(side), batch, cache="memory" if cache else None, on_error="skip", normalise=False
    )
    mode = "exact" if exact else "streaming"
    pixel = {
        category: PixelMetrics(mode=mode, score_range=LOGITS).to(device)  # type: ignore[arg-type]
        for category in dataset.categories
    }
    rows: list[dict[str, object]] = []
    for part in loader:
        part = part.to(device)
        prediction = detector(loader.preprocess.normalise(part.images), [record.category for record in part.records])
        scores = {
            "image": prediction.image_score,
            "map": pooled(prediction.anomaly_map),
            "joint": prediction.joint_score,
        }
        for row, record in enumerate(part.records):
            known = {name: float(values[row]) for name, values in scores.items()}
            rows.append(
                {
                    "domain": dataset.domain,
                    "dataset": dataset.name,
                    "category": record.category,
                    "name": record.name,
                    "anomalous": record.anomalous,
                    **known,
                }
            )
        if isinstance(part.masks, torch.Tensor):
            for category in {record.category for record in part.records}:
                own = torch.tensor([record.category == category for record in part.records], device=device)
                own &= part.has_mask
                if own.any():
                    maps = prediction.anomaly_map[own]
                    pixel[category].update(maps if exact else _logit(maps), part.masks[own])
        progress(len(part))
    scored = pd.DataFrame(rows)
    frame = pd.DataFrame(_metrics(dataset, scored, pixel, device), columns=[*KEYS, "score", "metric", "value"])
    skipped = tuple(skip.record.name for skip in loader.skipped)
    return Evaluation(frame, scored, skipped, _half_width(pixel.values()), _made_by(detector))


def _made_by(detector: Scorer) -> str:
    """One line about its backbone; baselines have none."""
    if not isinstance(detector, Detector):
        return type(detector).__name__
    about = detector.backbone.provenance
    return f"backbone {about.name} ({about.weights})"


def _half_width(metrics: Iterable[PixelMetrics]) -> float:
    """How far the values may be from the exact ones: half a certificate, and all of it for F1max, its lower end."""
    found = [(name, float(high - low)) for m in metrics for name, (low, high) in m.bounds().items() if not low.isnan()]
    return max((width if name == "f1max" else width / 2 for name, width in found), default=0.0)


def _logit(maps: torch.Tensor) -> torch.Tensor:
    """Keeps the order, and tells apart what bins over 0..1 cannot: most of a trained map lies below 1e-6."""
    numbers = torch.finfo(torch.float32)
    return torch.logit(maps.float().clamp(numbers.tiny, 1 - numbers.eps / 2))


def _metrics(
    dataset: DataSet, scored: pd.DataFrame, pixel: dict[str, PixelMetrics], device: torch.device
) -> Iterable[Sequence[object]]:
    for category, own in scored.groupby("category", sort=False):
        keys = (dataset.domain, dataset.name, category)
        told = own[own["anomalous"].notna()]
        labels = torch.tensor(told["anomalous"].astype(bool).to_numpy(), device=device)
        for score in SCORES:
            metric = ImageMetrics()
            if len(told):
                metric.update(torch.tensor(told[score].to_numpy(), dtype=torch.float32, device=device), labels)
            for name, value in metric.compute().items():
                yield (*keys, score, name, float(value))
        if dataset.has_masks:
            for name, value in pixel[str(category)].compute().items():
                yield (*keys, "pixel", name, float(value))
