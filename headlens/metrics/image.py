"""Metrics of image scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from headlens.errors import ShapeError
from headlens.metrics.checks import checked_labels, checked_scores, same_shape
from headlens.metrics.curve import exact_metrics


class ImageMetrics(Metric):
    """AUROC, AP and F1max of one score per image, exact, with ties as scikit-learn counts them.

    Undefined metrics are NaN: all three if all labels are equal.

    >>> metric = ImageMetrics()
    >>> metric.update(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
    >>> {name: round(float(value), 4) for name, value in metric.compute().items()}
    {'auroc': 0.75, 'ap': 0.8333, 'f1max': 0.8}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Adds images: scores [B], higher is more anomalous, and labels [B], 1 where there is a defect.

        Raises:
            MetricError: a NaN or infinite score, or a label other than 0 and 1.
            ShapeError: scores or labels of another shape than [B].
        """
        scores, labels = checked_scores(scores), checked_labels(labels)
        same_shape(scores, labels.shape, "scores and labels", 1)
        self.scores.append(scores)
        self.labels.append(labels)

    def compute(self) -> dict[str, Tensor]:
        """``{"auroc", "ap", "f1max"}`` of all images so far, float64."""
        if not len(self.scores):
            return exact_metrics([], torch.zeros(0))
        scores = dim_zero_cat(self.scores)
        return exact_metrics([scores], scores[dim_zero_cat(self.labels)])


def accuracy(scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """The share of images that a threshold puts on the right side: above it is 1, at it or below is 0.

    Args:
        scores: [V, B], or [B] for one variant.
        labels: [B], 0 or 1.
        threshold: of the scores.

    Returns:
        [V], or a scalar, float64; NaN where there is no image.

    Raises:
        MetricError: a NaN or infinite score, or a label other than 0 and 1.

    >>> accuracy(torch.tensor([0.2, 0.5, 0.7]), torch.tensor([0, 1, 1]), 0.5)
    tensor(0.6667, dtype=torch.float64)
    """
    scores, labels = checked_scores(scores), checked_labels(labels).to(scores.device)
    return ((scores > threshold) == labels).double().mean(-1)


def image_metrics(scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """AUROC, AP and F1max for every variant of the scores of the same images.

    Args:
        scores: [V, B], or [B] for one variant.
        labels: [B].

    Returns:
        ``{"auroc", "ap", "f1max"}``, [V] each, or scalars; float64 on the CPU.

    Raises:
        MetricError: a NaN or infinite score, or a label other than 0 and 1.
        ShapeError: shapes that do not fit.

    >>> image_metrics(torch.tensor([[0.1, 0.9], [0.9, 0.1]]), torch.tensor([0, 1]))["auroc"]
    tensor([1., 0.], dtype=torch.float64)
    """
    scores, labels = checked_scores(scores), checked_labels(labels).to(scores.device)
    if scores.ndim not in (1, 2) or labels.ndim != 1 or scores.shape[-1] != len(labels):
        raise ShapeError(
            f"scores and labels have shapes {tuple(scores.shape)} and {tuple(labels.shape)}; expected [V, B] and [B]"
        )
    rows = [exact_metrics([row], row[labels]) for row in (scores if scores.ndim == 2 else scores[None])]
    return {name: torch.stack([row[name] for row in rows]).reshape(scores.shape[:-1]) for name in rows[0]}
