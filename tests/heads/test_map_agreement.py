"""Agreement of heads' maps: SciPy's Spearman over every head and image one by one, intervals, and refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from headlens import data, heads
from headlens.data import Preprocess
from headlens.detectors import build
from headlens.errors import ConfigError, RunError, ShapeError
from headlens.heads.map_agreement import correlations
from tests.tiny import clip, headclip

KEYS = ["stream", "layer", "head"]


@pytest.fixture(scope="module")
def pair():
    first, second = headclip(torch.float32), headclip(torch.float32)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in second.prompts.parameters():  # other prompts: other maps
            parameter.add_(parameter.std() * torch.randn(parameter.shape, generator=generator))
    return first, second


@pytest.fixture(scope="module")
def images():
    painted = data.open("procedural:industrial", per_category=2, size=32)
    return painted.where(lambda record: record.category in painted.categories[:2])


@pytest.fixture(scope="module")
def result(pair, images):
    return heads.map_agreement(*pair, images, size=32, batch=3)


def drawn(detector, pixels):
    frame = heads.map_parts(detector, Preprocess(32)(pixels).image, size=32).frame
    rows = frame[frame["kind"] == "head"].groupby(KEYS, sort=False)
    return {key: group.sort_values(["row", "column"])["value"].to_numpy() for key, group in rows}


def test_every_value_is_scipys_of_two_maps(pair, images, result):
    for number, record in enumerate(images.records):
        first, second = (drawn(detector, images.pixels(number)) for detector in pair)
        rows = result.frame[result.frame["image"] == record.name].set_index(KEYS)
        assert set(rows.index) == set(first) == set(second)
        for key, ours in first.items():
            assert rows.loc[key, "value"] == pytest.approx(stats.spearmanr(ours, second[key]).statistic, abs=1e-3)
        key = ("local", 2, 1)
        others = [stats.spearmanr(first[key], second[other]).statistic for other in second if other[0] == "local"]
        assert rows.loc[key, "others"] == pytest.approx(
            (np.sum(others) - rows.loc[key, "value"]) / (len(others) - 1), abs=1e-3
        )


def test_intervals_are_students_over_images(result):
    rows = result.summary.set_index(KEYS)
    values = result.frame.query("stream == 'local' and layer == 2 and head == 1")["value"]
    found = rows.loc[("local", 2, 1)]
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    assert (found["value"], found["images"]) == (pytest.approx(values.mean()), len(values))
    assert (found["low"], found["high"]) == (pytest.approx(max(low, -1)), pytest.approx(min(high, 1)))
    assert (rows["low"] <= rows["value"]).all() and (rows["value"] <= rows["high"]).all()


def test_a_detector_agrees_with_itself_and_one_image_has_no_interval(pair, images):
    one = images.where(lambda record: record.name == images.records[1].name)
    rows = heads.map_agreement(pair[0], pair[0], one, size=32).summary
    assert np.allclose(rows["value"], 1) and rows["low"].isna().all() and (rows["others"] < 1).all()


def test_a_map_that_is_the_same_everywhere_has_no_order():
    maps = np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [3.0, 2.0, 1.0]])
    own, others = correlations(maps, maps, np.array(["local", "local", "global"]))
    assert np.allclose(own, [1, np.nan, 1], equal_nan=True)
    assert np.isnan(others).all()  # the other local head has none, and no other head is global


def test_it_is_drawn_saved_and_goes_on(result, pair, images, tmp_path):
    fig, axes = result.plot()
    assert len(axes) == 2 and "rank correlation of maps" in [ax.get_ylabel() for ax in fig.axes]
    again = heads.MapAgreement.load(result.save(tmp_path / "maps.parquet"))
    assert again.frame.equals(result.frame)
    assert "L2H1/local" in result._repr_html_()
    heads.map_agreement(*pair, images, size=32, batch=3, out=tmp_path / "parts")
    with pytest.raises(RunError):  # of another pair
        heads.map_agreement(pair[0], pair[0], images, size=32, batch=3, out=tmp_path / "parts")


def test_detectors_whose_heads_do_not_correspond_are_refused(pair, images):
    other = headclip(torch.float32)
    other.backbone.provenance = replace(other.backbone.provenance, sha256="of others")
    with pytest.raises(ConfigError, match="of different weights: their heads do not correspond"):
        heads.map_agreement(pair[0], other, images)
    local, whole = headclip(torch.float32, local_start=0), build(clip(torch.float32), "april-gan", taps=(1, 3))
    with pytest.raises(ShapeError, match="no head draws in both: 16 local heads in the first, 16 global heads in the"):
        heads.map_agreement(local, whole, images)
