"""What every metric asks of its input before it counts anything."""

from __future__ import annotations

import torch
from torch import Tensor

from headlens.devices import one_thread
from headlens.errors import MetricError, ShapeError


def checked_scores(scores: Tensor, what: str = "scores") -> Tensor:
    """Finite scores as float32 or float64; half precision and integers become float32.

    Raises:
        MetricError: not a tensor, complex, NaN or infinite.
    """
    if not isinstance(scores, Tensor):
        raise MetricError(f"{what} are {type(scores).__name__}; expected a tensor")
    if scores.is_complex():
        raise MetricError(f"{what} are {scores.dtype}; expected real numbers")
    scores = scores.detach()
    if scores.dtype not in (torch.float32, torch.float64):
        scores = scores.float()
    with one_thread():
        finite = not scores.numel() or all(bool(end.isfinite()) for end in torch.aminmax(scores))
    if not finite:
        bad = int((~scores.isfinite()).sum())
        raise MetricError(f"{bad} of {scores.numel()} {what} are NaN or infinite; a metric of them means nothing")
    return scores


def checked_labels(labels: Tensor, what: str = "labels") -> Tensor:
    """Labels or masks as bool: they may be bool, or any number that is 0 or 1.

    Raises:
        MetricError: not a tensor, or another value than 0 and 1.
    """
    if not isinstance(labels, Tensor):
        raise MetricError(f"{what} are {type(labels).__name__}; expected a tensor")
    if labels.dtype == torch.bool:
        return labels
    yes = labels == 1
    if not bool((yes | (labels == 0)).all()):
        other = labels[~(yes | (labels == 0))][0].item()
        raise MetricError(f"{what} hold {other}; expected 0 and 1 (masks of 0 and 255: pass mask > 127)")
    return yes


def same_shape(scores: Tensor, shape: tuple[int, ...], what: str, ndim: int) -> None:
    """Raises ShapeError, naming both shapes, unless ``scores`` has ``ndim`` axes and this ``shape``."""
    if scores.ndim != ndim or tuple(scores.shape) != tuple(shape):
        axes = {1: "[B]", 3: "[B, H, W]"}[ndim]
        raise ShapeError(f"{what} have shapes {tuple(scores.shape)} and {tuple(shape)}; expected the same {axes}")
