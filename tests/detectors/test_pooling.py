"""An image feature is the sum of the unit embeddings that it is made of, each by its weight, whatever the pooling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.backbone import VisionPlan
from headlens.detectors import AbnormalAlone, CLSToken, ClusterPooled, Pair, PatchMean, Reading, ScorePooled
from headlens.detectors.reading import Features
from tests.backbone.models import close


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


FEATURES = Features(drawn(3, 6), {1: drawn(3, 5, 6, seed=1), 4: drawn(3, 5, 6, seed=2)}, {})
MARGINS = {1: drawn(3, 5, seed=3), 4: drawn(3, 5, seed=4)}
POOLINGS = [CLSToken(), ScorePooled(0.3), ClusterPooled(0.3, 2, 4), PatchMean(4)]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("unit", [True, False])
def test_a_feature_is_the_sum_of_its_parts(pooling, unit):
    of_cls, of_patches = pooling.held(FEATURES.cls, FEATURES.taps, MARGINS)
    feature = pooling(FEATURES.cls, FEATURES.taps, MARGINS)
    text = drawn(2, 6, seed=5)
    contrast = Pair(text) if unit else AbnormalAlone(text[1])
    reading = Reading(VisionPlan((1, 4)), Pair(text), {}, None, pooling, image_text=contrast)
    if unit:
        feature = F.normalize(feature, dim=-1)
        of_cls, of_patches = reading.weights(FEATURES, MARGINS)
    parts = of_cls[:, None] * F.normalize(FEATURES.cls, dim=-1)
    for tap, weight in of_patches.items():
        parts = parts + torch.einsum("bn,bnd->bd", weight, F.normalize(FEATURES.taps[tap], dim=-1))
    close(parts, feature, 1e-12)
    close((parts * contrast.held(parts)).sum(-1), contrast.margin(pooling(FEATURES.cls, FEATURES.taps, MARGINS)), 1e-12)
    assert bool(of_cls.any()) == pooling.reads_cls and bool(of_patches) == pooling.reads_patches


def test_the_mean_of_patches_is_read_by_the_images_read_out():
    pooled = {4: drawn(3, 5, 6, seed=9)}
    features = Features(FEATURES.cls, FEATURES.taps, pooled)
    assert features.of_image == {1: FEATURES.taps[1], 4: pooled[4]} and PatchMean(4).image_taps == (4,)
    text = drawn(3, 2, 6, seed=5)
    reading = Reading(VisionPlan((1, 4)), Pair(text), {}, None, PatchMean(4), image_text=AbnormalAlone(text[:, 1]))
    expected = [(F.normalize(pooled[4][i], dim=-1).mean(0) @ text[i, 1]) for i in range(3)]
    close(reading.margins(features).image, torch.stack(expected), 1e-12)
    doubled = Features(features.cls.repeat(2, 1), {t: e.repeat(2, 1, 1) for t, e in features.taps.items()})
    doubled.pooled[4] = pooled[4].repeat(2, 1, 1)
    close(reading.rows(2).margins(doubled).image, torch.stack(expected).repeat(2), 1e-12)
