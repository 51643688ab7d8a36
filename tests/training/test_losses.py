from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from headlens.detectors.losses import abnormal_dice, both_dice, focal, image_loss, objective, pixel_loss
from headlens.detectors.scoring import Prediction
from headlens.detectors.stages import Answers


def maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_focal_is_the_published_formula_pixel_by_pixel():
    p, mask = maps(2, 4, 5), maps(2, 4, 5, seed=1) > 0.6
    total = 0.0
    for value, flawed in zip(p.flatten().tolist(), mask.flatten().tolist(), strict=True):
        both = (1 - value, value)
        target = [1e-5, 1e-5]
        target[flawed] = 1 - 1e-5
        pt = sum(t * q for t, q in zip(target, both, strict=True)) + 1e-5
        total += -((1 - pt) ** 2) * math.log(pt)
    assert float(focal(p, mask)) == pytest.approx(total / 40, abs=1e-9)


def test_dice_is_a_mean_over_images():
    p, mask = maps(3, 4, 5), maps(3, 4, 5, seed=1) > 0.6
    each = []
    for probability, truth in zip((*p, *(1 - p)), (*mask.double(), *(~mask).double()), strict=True):
        common, both = float((probability * truth).sum()), float(probability.sum() + truth.sum())
        each.append(1 - (2 * common + 1) / (both + 1))
    assert float(both_dice(p, mask)) == pytest.approx(sum(each) / 3)
    assert float(abnormal_dice(p, mask)) == pytest.approx(sum(each[:3]) / 3)
    assert float(both_dice(mask.double(), mask)) == pytest.approx(0)


def prediction(margins: torch.Tensor, taps: torch.Tensor) -> Prediction:
    none = torch.zeros(len(margins))
    return Prediction(none, none, none, margins, {5: taps, 11: -taps})


def test_margins_are_enlarged_before_they_are_probabilities_where_corners_are_aligned():
    taps, masks = {5: 9 * maps(2, 3, 4) - 4, 11: 9 * maps(2, 3, 4, seed=3) - 4}, maps(2, 12, 9, seed=1) > 0.6
    answers = Answers(torch.tensor([0, 1]), masks, torch.ones(2, dtype=torch.bool))
    expected = 0.0
    for margins in taps.values():
        both = F.interpolate(torch.stack([0 * margins, margins], 1), (12, 9), mode="bilinear", align_corners=True)
        p = both.softmax(1)[:, 1]
        expected += float(focal(p, masks) + abnormal_dice(p, masks))
    assert float(pixel_loss(taps, answers, corners=True, dice=abnormal_dice)) == pytest.approx(expected, rel=1e-12)
    assert float(pixel_loss(taps, answers, dice=abnormal_dice)) != pytest.approx(expected, rel=1e-3)


def test_unknown_labels_and_masks_count_for_nothing():
    margins, taps = maps(4) - 0.5, maps(4, 3, 3) - 0.5
    masks = maps(4, 12, 12, seed=2) > 0.5
    labels, known = torch.tensor([1, -1, 0, -1]), torch.tensor([True, False, True, False])
    some = objective(prediction(margins, taps), Answers(labels, masks, known))
    keep = torch.tensor([0, 2])
    rest = objective(prediction(margins[keep], taps[keep]), Answers(labels[keep], masks[keep], known[keep]))
    for name in ("image", "pixel"):
        torch.testing.assert_close(some[name], rest[name])
    none = Answers(torch.full((4,), -1), masks, torch.zeros(4, dtype=torch.bool))
    nothing = objective(prediction(margins, taps), none)
    assert float(nothing["image"]) == float(nothing["pixel"]) == 0
    taps.requires_grad_()
    pixel_loss({5: taps}, none).backward()
    assert taps.grad is not None and not taps.grad.any(), "several processes wait for every gradient"
    assert float(image_loss(margins, Answers(labels, masks, known))) == pytest.approx(float(some["image"]))


def test_terms_fall_towards_the_truth():
    masks = torch.zeros(2, 6, 6, dtype=torch.bool)
    masks[1, :3] = True
    right = torch.where(masks[:, ::2, ::2], 9.0, -9.0).double()
    labels, known = torch.tensor([0, 1]), torch.ones(2, dtype=torch.bool)
    none = torch.zeros(2)

    def terms(sign: float) -> dict[str, torch.Tensor]:
        taps = {5: sign * right}
        margins = sign * torch.tensor([-9.0, 9.0], dtype=torch.float64)
        return objective(Prediction(none, none, none, margins, taps), Answers(labels, masks, known))

    assert all(terms(1.0)[name] < 0.1 * terms(-1.0)[name] for name in ("image", "pixel"))
