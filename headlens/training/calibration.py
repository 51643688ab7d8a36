"""A threshold for the decision, from scores of the auxiliary set: the one with the best F1."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from headlens.data import Batch, Loader
from headlens.detectors.headclip import Detector, Features


@torch.no_grad()
def calibrate(
    detector: Detector, loader: Loader, which: list[int], features: Callable[[Batch, Tensor], Features] | None = None
) -> float | None:
    """The threshold of ``best_threshold`` for the joint score, on pictures number ``which`` of ``loader``'s set.

    ``features`` is how to get those of a batch and its normalised images, where some of the work has been done already.
    """
    device = detector.device
    scores, labels = [], []
    for batch in loader.batches(which):
        images = loader.preprocess.normalise(batch.images.to(device))
        seen = features(batch, images) if features else detector.features(images)
        prediction = detector.score(seen, detector.text_of([record.category for record in batch.records]))
        scores.append(prediction.joint_score.cpu())
        labels.append(batch.labels)
    return best_threshold(torch.cat(scores), torch.cat(labels))


def best_threshold(scores: Tensor, labels: Tensor) -> float | None:
    """The score, halfway between two neighbours, above which calling an image anomalous has the highest F1.

    Args:
        scores: [B], higher is more anomalous.
        labels: [B], 0 or 1; others count for nothing.

    Returns:
        None where one class is missing.

    >>> best_threshold(torch.tensor([0.1, 0.2, 0.6, 0.7]), torch.tensor([0, 0, 1, 1]))
    0.4
    """
    told = (labels == 0) | (labels == 1)
    scores, labels = scores[told].double(), labels[told].double()
    if labels.unique().numel() < 2:
        return None
    scores, order = scores.sort(descending=True)
    found = labels[order].cumsum(0)
    count = torch.arange(1, len(scores) + 1, dtype=torch.float64)
    f1 = 2 * found / (count + labels.sum())
    f1[:-1][scores[:-1] == scores[1:]] = -1  # a threshold cannot part equal scores
    best = int(f1.argmax())
    below = scores[best + 1] if best + 1 < len(scores) else scores[best]
    return round(float((scores[best] + below) / 2), 6)
