from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from headlens.errors import MetricError, ShapeError
from headlens.metrics import PixelMetrics, Truth, kernels, streaming
from headlens.metrics.binning import Binning
from headlens.metrics.streaming import Counters, _tally_on_device, tally
from tests.metrics.oracles import agree, images, pixel_oracle

SUMS = ("pixels", "hits", "weight", "regions", "tied")


def smooth(count, size, seed=0):
    """Maps as patches give them: smooth, higher on the masks."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, size, size, dtype=torch.bool)
    for i in range(0, count, 2):
        y, x = torch.randint(0, size - size // 4, (2,), generator=generator)
        masks[i, y : y + size // 5, x : x + size // 6] = True
    noise = F.interpolate(torch.randn(count, 1, 9, 9, generator=generator), (size, size), mode="bicubic")[:, 0]
    return torch.sigmoid(noise + 1.5 * F.avg_pool2d(masks[:, None].float(), 9, 1, 4)[:, 0] - 1), masks


def same(ours, theirs):
    for name in SUMS:
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def counted(maps, masks, binning):
    counters = Counters.empty(binning.slots)
    tally(counters, maps, Truth.of(masks), binning)
    return counters


def certified(metric, maps, masks, exact=None):
    exact = exact or pixel_oracle(maps, masks, metric.limit)
    bounds, values = metric.bounds(), metric.compute()
    for name, (lower, upper) in bounds.items():
        if exact[name] != exact[name]:
            assert lower.isnan() and upper.isnan() and values[name].isnan(), name
        else:
            assert lower - 1e-12 <= exact[name] <= upper + 1e-12, name
            assert lower <= values[name] <= upper, name
    return {name: float(upper - lower) / 2 for name, (lower, upper) in bounds.items()}


@settings(max_examples=200, deadline=None)
@pytest.mark.filterwarnings("ignore:.*outside of score_range")
@given(
    case=images(),
    bins=st.sampled_from([1, 2, 3, 7, 64, 4096]),
    score_range=st.sampled_from([(0.0, 1.0), (0.2, 0.7), (-3.0, 9.0), (2.0, 3.0)]),
    limit=st.sampled_from([0.1, 0.3, 1.0]),
)
def test_every_value_is_inside_its_certificate(case, bins, score_range, limit):
    metric = PixelMetrics("streaming", bins=bins, score_range=score_range, limit=limit)
    metric.update(*case)
    certified(metric, *case)


@settings(max_examples=200, deadline=None)
@pytest.mark.filterwarnings("ignore:.*outside of what the bins")
@given(
    case=images(),
    bins=st.sampled_from([1, 3, 64, 2**16]),
    scale=st.sampled_from([1e-30, 1e-6, 0.1, 1.0, 100.0, 1e6, 1e30]),
    shift=st.sampled_from([0.0, -0.5, -50.0, 1e4]),
    unit=st.sampled_from(["logit", "probability"]),
)
def test_bins_of_a_unit_certify_scores_that_lie_anywhere(case, bins, scale, shift, unit):
    maps, masks = case
    metric = PixelMetrics("streaming", bins=bins, unit=unit)
    metric.update(scale * maps + shift, masks)
    certified(metric, scale * maps + shift, masks)


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (3, -20), (100, 0), (1, -50), (100, -50), (0.01, 0)])
def test_bins_of_logits_are_narrow_wherever_they_lie(scale, shift):
    maps, masks = smooth(24, 96)
    maps = scale * torch.logit(maps) + shift
    reference = PixelMetrics()
    reference.update(maps, masks)
    metric = PixelMetrics("streaming", unit="logit")
    metric.update(maps, masks)
    assert max(certified(metric, maps, masks, reference.compute()).values()) < 5e-3


def test_the_nearest_neighbours_among_scores_are_no_tie():
    """One bin and, as logits in float32, one value: what is certified is of the probabilities."""
    one = torch.tensor(0.01)
    maps = torch.stack([one, torch.nextafter(one, torch.tensor(1.0))])[None, None]
    metric = PixelMetrics("streaming", unit="probability")
    metric.update(maps, torch.tensor([[[0, 1]]]))
    assert metric.bounds()["auroc"] == (0, 1)


def test_octaves_never_change_an_order():
    drawn = torch.randn(10**5, generator=torch.manual_seed(0)) * 10.0 ** torch.randint(-12, 38, (10**5,))
    scores = torch.cat([drawn, torch.tensor([0.0, -0.0, 3.4e38, -3.4e38])]).sort().values
    assert (Binning.of("logit").place(scores).diff() >= 0).all()


def test_what_a_range_that_does_not_fit_costs_is_said():
    maps, masks = smooth(4, 32)
    metric = PixelMetrics("streaming")
    metric.update(255 * maps + 2, masks)
    with pytest.warns(UserWarning, match="4096 of 4096 scores are outside of score_range 0 to 1"):
        metric.compute()
    fitting = PixelMetrics("streaming", score_range=(0, 300))
    fitting.update(255 * maps + 2, masks)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitting.compute()


def test_the_certificate_is_narrow_and_falls_with_the_bins():
    maps, masks = smooth(24, 96)
    reference = PixelMetrics()  # itself checked against every threshold, on smaller maps
    reference.update(maps, masks)
    widths = []
    for bins in (2**8, 2**12, 2**16):
        metric = PixelMetrics("streaming", bins=bins)
        metric.update(maps, masks)
        widths.append(certified(metric, maps, masks, reference.compute()))
    assert all(widths[2][name] < widths[1][name] / 8 < widths[0][name] / 64 for name in widths[0])
    assert max(widths[2].values()) < 2e-4  # a thousandth of the pixels of a real data set


@pytest.mark.parametrize("levels", [2, 16, 255])
def test_discrete_scores_are_exact(levels):
    maps, masks = smooth(12, 64)
    maps = (maps * levels).round() / levels
    metric = PixelMetrics("streaming", bins=2**10)
    for part in range(0, 12, 5):  # a tie must survive the boundary of a batch
        metric.update(maps[part : part + 5], masks[part : part + 5])
    assert max(certified(metric, maps, masks).values()) < 1e-9
    agree(metric.compute(), pixel_oracle(maps, masks), 1e-10)


def test_two_values_in_one_bin_are_no_tie_however_they_come():
    binning, masks = Binning(4), torch.ones(1, 1, 1)
    first, second = torch.full((1, 1, 1), 0.30), torch.full((1, 1, 1), 0.31)
    for order in ((first, second), (second, first), (first, second, first)):
        together = counted(torch.cat(order), masks.expand(len(order), 1, 1), binning)
        merged = Counters.empty(binning.slots)
        for part in order:
            merged.add(counted(part, masks, binning))
        same(together, merged)
        assert together.tied.tolist() == [True, True, False, True, True, True]


@settings(max_examples=60, deadline=None)
@given(case=images(least=2), seed=st.integers(0, 99), parts=st.integers(1, 4), bins=st.sampled_from([3, 100]))
def test_parts_merge_to_the_whole_in_any_order(case, seed, parts, bins):
    maps, masks = case
    binning = Binning(bins)
    whole = counted(maps, masks, binning)
    chunks = list(zip(maps.chunk(parts), masks.chunk(parts), strict=True))
    merged = Counters.empty(binning.slots)
    for i in torch.randperm(len(chunks), generator=torch.Generator().manual_seed(seed)):
        merged.add(counted(*chunks[i], binning))
    same(merged, whole)


@settings(max_examples=40, deadline=None)
@given(case=images(), bins=st.sampled_from([5, 1000]))
def test_the_way_for_other_devices_counts_the_same(case, bins):
    maps, masks = case
    binning = Binning(bins)
    other = Counters.empty(binning.slots)
    truth = Truth.of(masks)
    _tally_on_device(other, maps, truth, binning)
    other.regions.add_(truth.regions)
    same(other, counted(maps, masks, binning))


def test_the_number_of_threads_is_left_as_it_was():
    before = torch.get_num_threads()
    metric = PixelMetrics("streaming")
    metric.update(*smooth(2, 32))
    metric.compute()
    with pytest.raises(MetricError):
        metric.update(torch.full((1, 3, 3), torch.nan), torch.zeros(1, 3, 3))
    assert torch.get_num_threads() == before


def test_threads_count_the_same(monkeypatch):
    monkeypatch.setattr(kernels, "THREAD_FROM", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    maps, masks = smooth(33, 40)
    binning = Binning(500)
    single = Counters.empty(binning.slots)
    for one_map, mask in zip(maps, masks, strict=True):
        tally(single, one_map[None], Truth.of(mask[None]), binning)
    same(counted(maps, masks, binning), single)


def test_memory_does_not_grow():
    metric = PixelMetrics("streaming")
    sizes = []
    for seed in range(3):
        metric.update(*smooth(4, 32, seed))
        sizes.append(sum(state.nbytes for state in metric.metric_state.values()))
    assert len(set(sizes)) == 1 and sizes[0] <= 8 * 2**20


def test_grids_are_enlarged_a_few_at_a_time():
    grids = torch.rand(37, 2, 2)
    masks = torch.rand(37, 8, 8) < 0.1
    seen = []

    def enlarge(maps):
        seen.append(len(maps))
        return maps.repeat_interleave(4, 1).repeat_interleave(4, 2)

    for mode in ("exact", "streaming"):
        seen.clear()
        metric = PixelMetrics(mode, enlarge=enlarge)
        metric.update(grids, masks)
        assert sum(seen) == 37 and max(seen) <= 16
        certified(metric, enlarge(grids), masks)


@pytest.mark.parametrize(
    "options",
    [
        {"score_range": (-math.inf, math.inf)},
        {"score_range": (0.0, 1e-40)},
        {"score_range": (-1e60, 1e60), "bins": 100},
        {"score_range": (1.0, 0.0)},
        {"score_range": (0.0, math.nan)},
        {"bins": 0},
        {"bins": 2**24 + 2},
        {"limit": 0.0},
    ],
)
def test_bins_that_cannot_be_told_apart_are_refused(options):
    with pytest.raises(MetricError):
        PixelMetrics("streaming", **options)


@pytest.mark.parametrize("mode", ["exact", "streaming"])
def test_a_bad_map_at_the_end_has_counted_nothing(mode):
    def enlarge(maps):
        large = maps.repeat_interleave(2, 1).repeat_interleave(2, 2)
        large[maps[:, 0, 0] > 1] = torch.nan
        return large

    metric = PixelMetrics(mode, enlarge=enlarge)
    grids, masks = torch.rand(20, 3, 3), torch.rand(20, 6, 6) < 0.3
    metric.update(grids, masks)
    before = {name: float(value) for name, value in metric.compute().items()}
    grids[19, 0, 0] = 2.0
    with pytest.raises(MetricError):
        metric.update(grids, masks)
    metric._computed = None
    assert {name: float(value) for name, value in metric.compute().items()} == before


def test_what_enlarge_returns_is_checked():
    for wrong in (lambda maps: torch.cat([maps, maps]), lambda maps: maps[:, :1]):
        with pytest.raises(ShapeError):
            PixelMetrics("streaming", enlarge=wrong).update(torch.rand(3, 2, 2), torch.zeros(3, 2, 2))
    with pytest.raises(MetricError, match="complex"):
        PixelMetrics("streaming").update(torch.rand(1, 2, 2) + 1j, torch.zeros(1, 2, 2))
    learned = torch.nn.Conv2d(1, 1, 1)
    metric = PixelMetrics("streaming", score_range=(-5, 5), enlarge=lambda maps: learned(maps[:, None])[:, 0])
    metric.update(torch.rand(3, 8, 8), torch.rand(3, 8, 8) < 0.5)
    assert int(metric.pixels.sum()) == 192


def test_more_regions_than_the_counters_hold_are_refused(monkeypatch):
    monkeypatch.setattr(streaming, "MOST_REGIONS", 3)
    masks = torch.tensor([[[1, 0, 1, 0, 1, 0, 1]]])
    with pytest.raises(MetricError, match="regions"):
        PixelMetrics("streaming").update(torch.rand(1, 1, 7), masks)
