from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headlens.errors import MetricError
from headlens.metrics import PerImage, Truth
from tests.metrics.oracles import agree, images, pixel_oracle


@settings(max_examples=60, deadline=None)
@given(case=images(), seed=st.integers(0, 99))
def test_a_replicate_is_the_metric_of_the_images_drawn(case, seed):
    maps, masks = case
    maps = (maps * 63).floor() / 64 + 1 / 128  # one value a bin: then the counters lose nothing
    drawn = torch.randint(len(maps), (3, len(maps)), generator=torch.Generator().manual_seed(seed))
    found = PerImage.of(maps, Truth.of(masks), bins=64).bootstrap(3, seed)
    for i, which in enumerate(drawn):
        agree({name: value[i] for name, value in found.items()}, pixel_oracle(maps[which], masks[which]), 1e-11)


def test_replicates_of_one_seed_are_paired():
    generator = torch.Generator().manual_seed(0)
    maps, masks = torch.rand(12, 10, 10, generator=generator), torch.rand(12, 10, 10, generator=generator) < 0.1
    maps = 0.5 * maps + 0.3 * masks * torch.rand(12, 1, 1, generator=generator)
    truth = Truth.of(masks)
    a, again, other = (PerImage.of(maps, truth).bootstrap(100, seed)["ap"] for seed in (0, 0, 1))
    assert torch.equal(a, again) and not torch.equal(a, other)
    b = PerImage.of(maps + 0.01 * torch.rand(12, 10, 10, generator=generator), truth).bootstrap(100, 0)["ap"]
    assert (a - b).std() < 0.2 * a.std()


def test_a_mean_near_the_whole_and_scores_beyond_the_range():
    maps, masks = torch.randn(40, 9, 9) + 0.5, torch.rand(40, 9, 9) < 0.2
    per_image = PerImage.of(maps, Truth.of(masks), score_range=(-6.0, 6.0))
    whole = per_image.metrics(torch.ones(1, 40))
    for name, value in per_image.bootstrap(300).items():
        assert abs(value.mean() - whole[name]) < 4 * value.std() and value.std() > 0
    inside = PerImage.of(maps.clamp(-6, 6), Truth.of(masks), score_range=(-6.0, 6.0))
    agree(inside.metrics(torch.ones(1, 40)), {name: float(value) for name, value in whole.items()}, 1e-12)
    narrow = PerImage.of(maps, Truth.of(masks), bins=1, score_range=(0.0, 1e-9)).metrics(torch.ones(1, 40))
    assert np.isclose(float(narrow["auroc"]), pixel_oracle((maps > 0).float(), masks)["auroc"])


def test_scores_outside_of_a_range_that_nobody_gave_are_refused():
    truth = Truth.of(torch.tensor([[[0, 1]]]))
    for bad in (-0.1, 1.5, 255.0):
        with pytest.raises(MetricError, match="would be read as tied"):
            PerImage.of(torch.tensor([[[0.5, bad]]]), truth)
    assert PerImage.of(torch.tensor([[[0.0, 1.0]]]), truth).metrics(torch.ones(1, 1))["auroc"] == 1


def test_nothing_to_draw():
    none = PerImage.of(torch.rand(0, 3, 3), Truth.of(torch.zeros(0, 3, 3)))
    with pytest.raises(MetricError, match="10 replicates of 0 images"):
        none.bootstrap(10)
