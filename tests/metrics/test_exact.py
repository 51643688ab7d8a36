from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from headlens.errors import MetricError, ShapeError
from headlens.metrics import ImageMetrics, PixelMetrics, Truth, image_metrics, kernels, pixel_metrics, ranks
from tests.metrics.oracles import agree, images, pixel_oracle, sklearn_metrics


def exact(maps, masks, **options):
    metric = PixelMetrics(**options)
    metric.update(maps, masks)
    return metric.compute()


@settings(max_examples=200, deadline=None)
@given(case=images(), limit=st.sampled_from([0.05, 0.3, 1.0]))
def test_pixels_as_scikit_learn_and_every_threshold_have_them(case, limit):
    agree(exact(*case, limit=limit), pixel_oracle(*case, limit))


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 40), levels=st.sampled_from([1, 3, 1000]), seed=st.integers(0, 1000))
def test_image_scores_as_scikit_learn_has_them(size, levels, seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, levels, size) / 7 - 3, rng.random(size) < 0.4
    metric = ImageMetrics()
    for part in (slice(0, size // 3), slice(size // 3, size)):
        metric.update(torch.from_numpy(scores[part]), torch.from_numpy(labels[part]))
    agree(metric.compute(), sklearn_metrics(scores, labels))


def test_every_variant_has_its_own_value():
    scores, labels = torch.rand(5, 30), torch.arange(30) % 3 == 0
    found = image_metrics(scores, labels)
    maps, masks = torch.rand(3, 2, 8, 9), torch.rand(2, 8, 9) < 0.2
    pixels = pixel_metrics(maps, Truth.of(masks))
    for i, row in enumerate(scores):
        agree({name: value[i] for name, value in found.items()}, sklearn_metrics(row, labels))
    for i, variant in enumerate(maps):
        agree({name: value[i] for name, value in pixels.items()}, pixel_oracle(variant, masks))
    agree(image_metrics(scores[0], labels), sklearn_metrics(scores[0], labels))


@settings(max_examples=60, deadline=None)
@given(
    spread=st.sampled_from([1e-30, 1e-6, 1.0, 1e4, 1e20, 1e38]),
    centre=st.sampled_from([0.0, 1.0, -50.0]),
    levels=st.sampled_from([0, 7]),
    double=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_ranks_for_any_range_of_scores(spread, centre, levels, double, seed):
    rng = np.random.default_rng(seed)
    scores = rng.uniform(-1, 1, 3000)
    scores = (np.round(scores * levels) / levels if levels else scores) * spread + centre
    scores = scores.astype(np.float64 if double else np.float32)
    queries = np.unique(rng.choice(scores, 50))
    parts = [torch.from_numpy(part) for part in np.split(scores, [0, 1000, 1400])]
    greater, at_least = ranks.counts_above(parts, torch.from_numpy(queries))
    assert np.array_equal(greater, (scores > queries[:, None]).sum(1))
    assert np.array_equal(at_least, (scores >= queries[:, None]).sum(1))


def test_ranks_in_several_threads(monkeypatch):
    monkeypatch.setattr(kernels, "THREAD_FROM", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    scores = torch.rand(5, 777)
    queries = scores.flatten()[::50].unique()
    greater, at_least = ranks.counts_above(list(scores), queries)
    assert torch.equal(greater, (scores.flatten() > queries[:, None]).sum(1))
    assert torch.equal(at_least, (scores.flatten() >= queries[:, None]).sum(1))


@settings(max_examples=50, deadline=None)
@given(case=images())
def test_monotone_maps_change_nothing(case):
    maps, masks = case
    before = exact(maps, masks)
    for change in (torch.exp, lambda x: 100 * x - 7, lambda x: x.double() ** 3, lambda x: torch.logit(x / 2 + 0.25)):
        changed = change(maps)
        if len(changed.unique()) == len(maps.unique()):  # rounding may tie what was apart
            agree(exact(changed, masks), {name: float(value) for name, value in before.items()}, 1e-12)


def test_regions_touch_at_corners_and_end_at_their_image():
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[0, 3, 3] = masks[1, 0, 3] = True
    truth = Truth.of(masks)
    assert truth.area.tolist() == [2, 1, 1]
    assert truth.region.tolist() == [0, 0, 1, 2]
    second = truth.images(1, 5)
    assert (second.shape, second.index.tolist(), second.area.tolist()) == ((1, 4, 4), [3], [1])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_masks_and_labels_of_any_type(dtype):
    maps, masks = torch.rand(2, 6, 6), torch.rand(2, 6, 6) < 0.3
    agree(exact(maps, masks.to(dtype)), pixel_oracle(maps, masks))
    agree(image_metrics(maps[0, 0], masks[0, 0].to(dtype)), sklearn_metrics(maps[0, 0], masks[0, 0]))


def test_half_precision_and_mixed_precision_are_read_exactly():
    maps, masks = torch.rand(4, 8, 8), torch.rand(4, 8, 8) < 0.2
    agree(exact(maps.half(), masks), pixel_oracle(maps.half().float(), masks))
    metric = PixelMetrics()
    metric.update(maps[:2], masks[:2])
    metric.update(maps[2:].double() + 1e-12, masks[2:])
    agree(metric.compute(), pixel_oracle(torch.cat([maps[:2], maps[2:].double() + 1e-12]), masks))


def test_nothing_seen_is_undefined():
    for metric in (ImageMetrics(), PixelMetrics(), PixelMetrics("streaming")):
        metric._update_count = 1  # torchmetrics warns of a compute before the first update; that is not at issue
        assert all(value.isnan() for value in metric.compute().values())


@pytest.mark.parametrize("mode", ["exact", "streaming"])
def test_what_pixel_metrics_refuse(mode):
    metric = PixelMetrics(mode)
    maps, masks = torch.rand(9, 5, 5), torch.rand(9, 5, 5) < 0.5
    metric.update(maps, masks)
    before = metric.compute()
    for bad in (torch.nan, torch.inf, -torch.inf):
        spoilt = maps.clone()
        spoilt[8, 4, 4] = bad
        with pytest.raises(MetricError, match="NaN or infinite"):
            metric.update(spoilt, masks)
    with pytest.raises(MetricError, match=r"hold 255.*mask > 127"):
        metric.update(maps, masks * 255)
    with pytest.raises(ShapeError, match=r"\(8, 5, 5\) and \(9, 5, 5\)"):
        metric.update(maps[:8], masks)
    with pytest.raises(ShapeError, match=r"expected \[B, H, W\]"):
        metric.update(maps[0], masks[0])
    with pytest.raises(MetricError, match="list; expected a tensor"):
        metric.update([1.0], masks)
    metric._computed = None
    agree(metric.compute(), {name: float(value) for name, value in before.items()}, 0)


def test_what_image_metrics_and_options_refuse():
    with pytest.raises(MetricError, match="1 of 2 scores are NaN"):
        ImageMetrics().update(torch.tensor([0.0, torch.nan]), torch.tensor([0, 1]))
    with pytest.raises(MetricError, match=r"labels hold 0\.5"):
        ImageMetrics().update(torch.rand(2), torch.tensor([0.5, 1]))
    with pytest.raises(ShapeError, match=r"\(3,\) and \(2,\)"):
        ImageMetrics().update(torch.rand(3), torch.tensor([0, 1]))
    with pytest.raises(ShapeError, match=r"\(2, 3\) and \(2,\); expected \[V, B\]"):
        image_metrics(torch.rand(2, 3), torch.tensor([0, 1]))
    for options in ({"mode": "fast"}, {"bins": 0}, {"score_range": (1.0, 1.0)}, {"limit": 0.0}):
        with pytest.raises(MetricError, match="expected"):
            PixelMetrics(**options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_positives_in_many_bins(dtype):
    generator = torch.Generator().manual_seed(5)
    masks = torch.rand(7, 120, 130, generator=generator) < 0.3
    maps = (torch.randn(7, 120, 130, generator=generator, dtype=dtype) + masks).round(decimals=5)
    metric = PixelMetrics()
    for one_map, mask in zip(maps, masks, strict=True):
        metric.update(one_map[None], mask[None])
    found, labels, scores = metric.compute(), masks.flatten().numpy(), maps.flatten().numpy()
    assert len(maps[masks].unique()) > 2**12  # enough for a table that does not fit the cache
    assert float(found["auroc"]) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert float(found["ap"]) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
