from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy import ndimage
from sklearn.metrics import auc

from headlens.errors import MetricError
from headlens.metrics import PixelMetrics, Truth, cflow200
from tests.metrics.oracles import images


def threshold_by_threshold(maps, masks):
    """The definition: 200 equal steps from the lowest score to the highest, region by region."""
    maps, masks = maps.numpy(), masks.numpy()
    low, high = maps.min(), maps.max()
    if low == high or not masks.any() or masks.all():
        return np.nan
    rates, overlaps = [], []
    for threshold in np.arange(low, high, (high - low) / 200):
        found = maps > threshold
        each = []
        for answer, mask in zip(found, masks, strict=True):
            labels, regions = ndimage.label(mask, np.ones((3, 3)))
            each += [answer[labels == region].mean() for region in range(1, regions + 1)]
        rates.append(found[~masks].sum() / (~masks).sum())
        overlaps.append(np.mean(each))
    rates, overlaps = np.array(rates), np.array(overlaps)
    rates, overlaps = rates[rates < 0.3], overlaps[rates < 0.3]
    if len(rates) < 2 or rates.max() == rates.min():
        return np.nan
    return auc((rates - rates.min()) / (rates.max() - rates.min()), overlaps)


@settings(max_examples=60, deadline=None)
@given(case=images())
def test_equal_to_the_loop(case):
    maps, masks = case
    np.testing.assert_allclose(
        float(cflow200(maps, Truth.of(masks))), threshold_by_threshold(maps, masks), rtol=0, atol=1e-11
    )
    double = maps.double() * 3 - 1
    np.testing.assert_allclose(
        float(cflow200(double, Truth.of(masks))), threshold_by_threshold(double, masks), rtol=0, atol=1e-11
    )


def test_scores_that_lie_on_thresholds():
    masks = torch.zeros(1, 1, 201, dtype=torch.bool)
    masks[0, 0, ::3] = True
    for low, high in ((0.0, 1.0), (-0.3, 0.7), (0.1, 0.4)):
        maps = torch.linspace(low, high, 201)[None, None]
        expected = threshold_by_threshold(maps, masks)
        assert abs(float(cflow200(maps, Truth.of(masks))) - expected) < 1e-11


def test_unlike_the_exact_value_it_is_not_invariant():
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(4, 30, 30)
    masks[:2, 5:12, 5:12] = 1
    maps = torch.randn(4, 30, 30, generator=generator, dtype=torch.float64) + 2 * masks
    found = []
    for scores in (maps, torch.exp(2 * maps)):
        metric = PixelMetrics(cflow200=True)
        metric.update(scores[:1], masks[:1])
        metric.update(scores[1:], masks[1:])
        found.append(metric.compute())
        assert found[-1]["cflow200"] == cflow200(scores, Truth.of(masks))
    assert abs(found[0]["aupro"] - found[1]["aupro"]) < 1e-12
    assert abs(found[0]["cflow200"] - found[1]["cflow200"]) > 0.05


def test_a_stream_has_no_thresholds():
    with pytest.raises(MetricError, match="mode='exact'"):
        PixelMetrics("streaming", cflow200=True)
