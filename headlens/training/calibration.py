"""A threshold for the decision, from scores of the auxiliary set: the one with the best F1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headlens import parallel
from headlens.clips import pieces
from headlens.data import Batch, Loader
from headlens.detectors.scoring import Prediction, pooled
from headlens.detectors.stages import Ends
from headlens.metrics import ImageMetrics


@dataclass(frozen=True)
class Scored:
    """Joint scores and labels of a set's images, [n] each, and between which its other scores lie."""

    joint: Tensor
    labels: Tensor
    ends: Ends

    def calibration(self) -> dict[str, Any]:
        """``threshold`` of ``best_threshold``, and ``metrics``: image metrics on these images, None if undefined."""
        known = self.labels >= 0
        metric = ImageMetrics(sync_on_compute=False)  # every rank has all scores
        metric.update(self.joint[known], self.labels[known])
        metrics = {f"image_{name}": None if v.isnan() else round(float(v), 4) for name, v in metric.compute().items()}
        threshold = best_threshold(self.joint, self.labels)
        return {"threshold": threshold, "metrics": {"on": "the images it was trained on", **metrics}}


@torch.no_grad()
def scored(
    predict: Callable[[Batch, Tensor], Prediction], loader: Loader, which: list[int], device: torch.device
) -> Scored:
    """The scores of images number ``which`` of ``loader``'s set.

    Ranks (``headlens.parallel``) score batches in turn, and all have all scores.

    Args:
        predict: a batch and its normalised images [B, 3, h, w] on ``device`` to their scores.
        loader, which: the auxiliary set, and its images that can be read.
    """
    ranks, parts = parallel.current(), {}
    cut = pieces([loader.dataset.records[i].clip for i in which], loader.batch)
    share = {number: [which[i] for i in cut[number]] for number in ranks.share(len(cut))}
    for number, batch in loader.pieces(share):
        prediction = predict(batch, loader.preprocess.normalise(batch.images.to(device)))
        maps = prediction.anomaly_map
        of_images = torch.stack([prediction.joint_score, prediction.image_score, -pooled(-maps), pooled(maps)])
        parts[number] = {"scores": of_images.cpu().numpy(), "labels": batch.labels.numpy()}
    merged = list(ranks.merged(parts.items(), len(cut)))
    joint, image, low, high = torch.from_numpy(np.concatenate([part["scores"] for part in merged], 1))
    labels = torch.from_numpy(np.concatenate([part["labels"] for part in merged]))
    return Scored(joint, labels, Ends((float(low.min()), float(high.max())), (float(image.min()), float(image.max()))))


def best_threshold(scores: Tensor, labels: Tensor) -> float | None:
    """The score, between two neighbours or below the lowest, above which calling an image anomalous has the highest F1.

    Args:
        scores: [B], higher is more anomalous.
        labels: [B], 0 or 1; others count for nothing.

    Returns:
        None where one class is missing.

    >>> best_threshold(torch.tensor([0.1, 0.2, 0.6, 0.7]), torch.tensor([0, 0, 1, 1]))
    0.4
    """
    known = (labels == 0) | (labels == 1)
    scores, labels = scores[known].double(), labels[known].double()
    if labels.unique().numel() < 2:
        return None
    scores, order = scores.sort(descending=True)
    hits = labels[order].cumsum(0)
    count = torch.arange(1, len(scores) + 1, dtype=torch.float64)
    f1 = 2 * hits / (count + labels.sum())
    f1[:-1][scores[:-1] == scores[1:]] = -1  # a threshold cannot part equal scores
    best = int(f1.argmax())
    below = scores[best + 1] if best + 1 < len(scores) else scores[best] - scores[best].abs()
    middle = float((scores[best] + below) / 2)
    return round(middle, 6) if below < round(middle, 6) < scores[best] else middle  # scores may be closer than that
