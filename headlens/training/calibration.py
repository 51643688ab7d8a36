"""A threshold for the decision, from scores of the auxiliary set: the one with the best F1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headlens import parallel
from headlens.data import Batch, Loader
from headlens.detectors.detector import Detector
from headlens.detectors.methods.headclip import Features
from headlens.metrics import ImageMetrics


@torch.no_grad()
def calibrate(
    detector: Detector, loader: Loader, which: list[int], features: Callable[[Batch, Tensor], Features] | None = None
) -> dict[str, Any]:
    """How the joint score does on pictures number ``which`` of ``loader``'s set, and the threshold that follows.

    Ranks (``headlens.parallel``) score batches in turn.

    Args:
        detector: what was trained.
        loader: of the auxiliary set.
        which: pictures that can be read.
        features: how to get those of a batch and its normalised images, where some of the work has been done already.

    Returns:
        ``threshold`` of ``best_threshold``, and ``metrics``: the image metrics on these pictures, None if undefined.
    """
    device = detector.device
    ranks, parts = parallel.current(), {}
    pieces = [which[first : first + loader.batch] for first in range(0, len(which), loader.batch)]
    mine = ranks.share(len(pieces))
    # Fewer batches come where pictures that could be read before no longer can: numbers only keep the order.
    for number, batch in zip(mine, loader.batches([i for own in mine for i in pieces[own]]), strict=False):
        images = loader.preprocess.normalise(batch.images.to(device))
        seen = features(batch, images) if features else detector.features(images)
        prediction = detector.score(seen, detector.text_of([record.category for record in batch.records]))
        parts[number] = {"joint": prediction.joint_score.cpu().numpy(), "labels": batch.labels.numpy()}
    merged = list(ranks.merged(parts, len(pieces)))
    joint, told = (torch.from_numpy(np.concatenate([own[name] for own in merged])) for name in ("joint", "labels"))
    metric = ImageMetrics(sync_on_compute=False)  # every rank has all scores
    metric.update(joint[told >= 0], told[told >= 0])
    metrics = {f"image_{name}": None if v.isnan() else round(float(v), 4) for name, v in metric.compute().items()}
    return {"threshold": best_threshold(joint, told), "metrics": {"on": "the pictures it was trained on", **metrics}}


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
