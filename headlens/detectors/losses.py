"""What is minimised: AnomalyCLIP's objective (arXiv 2310.18961), one term for the image and three for each tap.

Maps are probabilities of the abnormal prompt, [B, H, W]; the normal one's is the rest, also after interpolation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.detectors.scoring import Prediction
from headlens.detectors.stages import Answers

_EPS = 1e-5


def focal(abnormal: Tensor, mask: Tensor) -> Tensor:
    """Focal loss (arXiv 1708.02002) with γ = 2 of probabilities [B, H, W] against a bool mask, the mean over pixels.

    >>> round(float(focal(torch.full((1, 1, 1), 0.5), torch.ones(1, 1, 1, dtype=torch.bool))), 3)
    0.173
    """
    right = torch.where(mask, abnormal, 1 - abnormal)
    right = right * (1 - 2 * _EPS) + 2 * _EPS  # the labels are smoothed by 1e-5, and the logarithm kept finite
    return -((1 - right) ** 2 * right.log()).mean()


def both_dice(abnormal: Tensor, mask: Tensor) -> Tensor:
    """The Dice losses of both classes, of probabilities [B, H, W] against a bool mask, from the sums of one pass.

    One is 1 minus an image's Dice coefficient, smoothed by 1, the mean over images; the normal class has 1 minus the
    probabilities and the rest of the mask.

    >>> float(both_dice(torch.ones(2, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool)))
    0.0
    """
    p, t = abnormal.flatten(1), mask.flatten(1).to(abnormal.dtype)
    common, ps, ts, pixels = (p * t).sum(1), p.sum(1), t.sum(1), p.shape[1]
    normal_sums, normal_common = 2 * pixels - ps - ts, pixels - ps - ts + common
    return 2 - ((2 * common + 1) / (ps + ts + 1) + (2 * normal_common + 1) / (normal_sums + 1)).mean()


def objective(prediction: Prediction, answers: Answers) -> dict[str, Tensor]:
    """The two terms, unweighted: ``image`` is cross-entropy, ``pixel`` the sum over taps of focal and two Dice losses.

    Images without a label count for nothing in ``image``, those without a mask for nothing in ``pixel``. Where labels
    and ``has_mask`` are on the CPU, no GPU is waited for to know what counts. Masks are where the prediction is.
    """
    labelled, masked = (answers.labels >= 0).cpu(), answers.has_mask.cpu()
    margin = prediction.image_margin
    zero = margin.sum() * 0
    image = pixel = zero
    if labelled.any():
        labels = answers.labels.to(margin, non_blocking=True)
        image = F.binary_cross_entropy_with_logits(_of(margin, labelled), _of(labels, labelled))
    if masked.any():
        masks = _of(answers.masks, masked)
        for logits in prediction.tap_margins.values():
            p = _of(logits, masked).sigmoid()[:, None]
            p = F.interpolate(p, size=masks.shape[1:], mode="bilinear", align_corners=False)[:, 0]
            pixel = pixel + focal(p, masks) + both_dice(p, masks)
    return {"image": image, "pixel": pixel}


def _of(values: Tensor, which: Tensor) -> Tensor:
    """Those of ``values`` [B, ...] that ``which`` [B] bool, on the CPU, says."""
    return values if which.all() else values[which.nonzero().flatten().to(values.device, non_blocking=True)]
