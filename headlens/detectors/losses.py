"""What is minimised: of the image cross-entropy, of every tap's map focal and Dice losses.

Maps are probabilities of the abnormal prompt, [B, H, W]; the normal one's is the rest, also after interpolation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.detectors.scoring import Prediction
from headlens.detectors.stages import Answers, Stage
from headlens.errors import ConfigError
from headlens.precision import full_precision

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


def abnormal_dice(abnormal: Tensor, mask: Tensor) -> Tensor:
    """The Dice loss of the abnormal class alone, as in ``both_dice``.

    >>> float(abnormal_dice(torch.ones(2, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool)))
    0.0
    """
    p, t = abnormal.flatten(1), mask.flatten(1).to(abnormal.dtype)
    return 1 - ((2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)).mean()


def row_dice(abnormal: Tensor, mask: Tensor) -> Tensor:
    """As ``both_dice`` of every row of pixels, the mean over rows: what AdaCLIP's code minimises (arXiv 2407.15795).

    Its masks of one image have lost their first axis, so that rows are taken for images.

    >>> float(row_dice(torch.ones(2, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool)))
    0.0
    """
    return both_dice(abnormal.flatten(0, 1), mask.flatten(0, 1))


def focal_of_margin(margin: Tensor, labels: Tensor) -> Tensor:
    """As ``focal``, of margins [B] against labels [B], 0 or 1."""
    return focal(margin.sigmoid(), labels > 0)


def image_loss(
    margin: Tensor,
    answers: Answers,
    loss: Callable[[Tensor, Tensor], Tensor] = F.binary_cross_entropy_with_logits,
) -> Tensor:
    """Cross-entropy of image margins [B]; images without a label count for nothing.

    ``loss`` may be another one, of margins [n] and labels [n], 0 or 1, of the images that have a label. Where labels
    are on the CPU, no GPU is waited for to know which count.
    """
    labelled = (answers.labels >= 0).cpu()
    if not labelled.any():
        return margin.sum() * 0
    labels = answers.labels.to(margin, non_blocking=True)
    return loss(_of(margin, labelled), _of(labels, labelled))


def pixel_loss(
    taps: Mapping[int, Tensor],
    answers: Answers,
    *,
    corners: bool = False,
    mode: Literal["bilinear", "nearest"] = "bilinear",
    dice: Callable[[Tensor, Tensor], Tensor] = both_dice,
) -> Tensor:
    """The sum over taps of focal and Dice losses; images without a mask count for nothing.

    Where ``has_mask`` is on the CPU, no GPU is waited for to know which count.

    Args:
        taps: margins of the patches, ``{tap: [B, rows, columns]}``.
        answers: masks are where the margins are.
        corners: margins are enlarged, with corners aligned, and are then probabilities (APRIL-GAN, AA-CLIP);
            else probabilities are enlarged, and corners are not (AnomalyCLIP).
        mode: a pixel has what patches around it make of it, or what its patch has (Crane); the latter without corners.
        dice: ``both_dice``, ``abnormal_dice`` or ``row_dice``.
    """
    masked = answers.has_mask.cpu()
    total = torch.stack([margins.sum() for margins in taps.values()]).sum() * 0
    if not masked.any():
        return total
    masks = _of(answers.masks, masked)
    for margins in taps.values():
        p = _of(margins, masked)[:, None]
        p = p if corners else p.sigmoid()
        p = F.interpolate(p, size=masks.shape[1:], mode=mode, align_corners=corners if mode == "bilinear" else None)[
            :, 0
        ]
        p = p.sigmoid() if corners else p
        total = total + focal(p, masks) + dice(p, masks)
    return total


def caption_contrast(features: Tensor, captions: Tensor, which: Tensor, temperature: float) -> Tensor:
    """CLIP's contrastive loss (arXiv 2103.00020) where several images may have one caption.

    The mean of the cross-entropy of each image over all captions, and of each caption over all images: there the mean
    over its images, and then over captions.

    Args:
        features: [B, d_e], of images, of unit length.
        captions: [U, d_e], different ones, of unit length, each that of an image.
        which: [B], the caption of each image.
        temperature: of both softmaxes.

    >>> round(float(caption_contrast(torch.eye(2), torch.eye(2), torch.arange(2), 1.0)), 4)
    0.3133
    """
    with full_precision(features.device):
        logits = features @ captions.to(features).T / temperature  # (B, U)
    mine = F.one_hot(which, logits.shape[1]).to(logits)
    of_captions = (mine * logits.log_softmax(0)).sum(0) / mine.sum(0)
    return (F.cross_entropy(logits, which) - of_captions.mean()) / 2


def off_diagonal(scores: Tensor, sentences: Tensor) -> Tensor:
    """Our reading of OFF-CLIP's loss (arXiv 2503.01794), which is not published: a normal sentence is right anywhere.

    CLIP's contrastive loss takes the diagonal of ``scores`` for right and all else for wrong, also the sentence of
    another normal image. Here image ``i`` and sentence ``j`` go together where they say the same (R), and

        row(i) = log Σ_j exp s_ij - log Σ_{j in R(i)} exp s_ij        column(i): the same of the transposed scores
        loss   = mean over normal i of (row + column) / 2  +  the same over abnormal i

    The first term is the off-diagonal one, of normal pairs; the second is InfoNCE of abnormal images alone, whose equal
    sentences count as one. A group without an image has no term.

    Args:
        scores: [B, B], logits of B images (rows) and their sentences (columns).
        sentences: [B], which sentence each is; 0 is normal.

    >>> off_diagonal(torch.zeros(2, 2), torch.tensor([0, 0])).item()  # both are right everywhere
    0.0
    """
    right = sentences[:, None] == sentences[None]
    each = torch.stack([_missed(scores, right), _missed(scores.T, right)]).mean(0)
    groups = (each[group] for group in (sentences == 0, sentences != 0))
    return torch.stack([group.mean() if len(group) else scores.sum() * 0 for group in groups]).sum()


def _missed(scores: Tensor, right: Tensor) -> Tensor:
    """How improbable all that is right together is in each row, as -log, [B]."""
    return scores.logsumexp(1) - scores.masked_fill(~right, -torch.inf).logsumexp(1)


def off_diagonal_of_margins(margins: Tensor, answers: Answers) -> Tensor:
    """The same of B image margins, where each state is one sentence: half a margin towards it is the score with it.

    Images without a label count for nothing.

    >>> answers = Answers(torch.tensor([0, 1]), torch.zeros(2, 1, 1), torch.zeros(2))
    >>> round(off_diagonal_of_margins(torch.tensor([-1.0, 1.0]), answers).item(), 4)
    0.6265
    """
    labelled = (answers.labels >= 0).cpu()
    if not labelled.any():
        return margins.sum() * 0
    states = _of(answers.labels.to(margins.device), labelled)
    return off_diagonal(_of(margins, labelled)[:, None] * (states - 0.5).to(margins), states)


def with_off_diagonal(stages: Sequence[Stage], weight: float) -> list[Stage]:
    """Stages whose loss has that term, so many times, where they move what image margins depend on.

    Raises:
        ConfigError: none of them does.
    """
    if not weight:
        return list(stages)
    if not any(stage.margins for stage in stages):
        raise ConfigError(
            f"off_diagonal is {weight}, but no stage of this method moves the margins of images: leave it out"
        )
    return [stage if stage.margins is None else _with_off_diagonal(stage, weight) for stage in stages]


def _with_off_diagonal(stage: Stage, weight: float) -> Stage:
    def loss(seen: Any, answers: Answers) -> dict[str, Tensor]:
        assert stage.margins is not None
        return stage.loss(seen, answers) | {"off_diagonal": off_diagonal_of_margins(stage.margins(seen), answers)}

    return replace(stage, loss=loss, weights={**stage.weights, "off_diagonal": weight})


def image_margin(prediction: Prediction) -> Tensor:
    """The image margins of a prediction, [B], of stages that see one."""
    return prediction.image_margin


def objective(prediction: Prediction, answers: Answers) -> dict[str, Tensor]:
    """AnomalyCLIP's two terms (arXiv 2310.18961), unweighted: ``image`` and ``pixel``."""
    image, taps = prediction.image_margin, prediction.tap_margins
    return {"image": image_loss(image, answers), "pixel": pixel_loss(taps, answers)}


def _of(values: Tensor, which: Tensor) -> Tensor:
    """Those of ``values`` [B, ...] that ``which`` [B] bool, on the CPU, says."""
    return values if which.all() else values[which.nonzero().flatten().to(values.device, non_blocking=True)]
