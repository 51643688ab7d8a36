"""Measures against maps that are known to be right or wrong, and methods against a model that knows less."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from headlens.attribution import MEASURES, METHODS, Faithfulness, faithfulness, target_of
from headlens.attribution.measures import (
    deletion,
    infidelity,
    insertion,
    pointing,
    random_head_weights,
    rank_correlation,
    replacement_curve,
    sensitivity,
    with_random_blocks,
)
from headlens.attribution.pixels import baseline_of, edges
from headlens.errors import ConfigError, ShapeError
from headlens.metrics import Truth, pixel_metrics
from tests.backbone.models import close


def parts(linear, images):
    """The true map of a linear target, [h, w]."""
    return (linear.weight * (images[:1] - baseline_of(linear, images[:1]))).sum(1)[0]


def test_curves_against_a_loop(linear, images):
    own, base, image = parts(linear, images), baseline_of(linear, images[:1]), images[:1]
    curve, changed = [linear(image)], image.clone()
    for count, place in enumerate(own.flatten().argsort(descending=True), start=1):
        row, column = divmod(int(place), own.shape[1])
        changed[..., row, column] = base[..., row, column]
        if count % (own.numel() // 8) == 0:
            curve.append(linear(changed))
    close(replacement_curve(linear, image, base, own, steps=8, batch=3), torch.cat(curve))
    area = float((torch.cat(curve)[1:] + torch.cat(curve)[:-1]).sum()) / 16
    assert deletion(linear, image, own, steps=8) == pytest.approx(area)


def test_the_true_map_is_the_best(linear, images):
    own, image = parts(linear, images), images[:1]
    generator = torch.Generator().manual_seed(0)
    others = [-own, torch.randn(own.shape, generator=generator, dtype=own.dtype), edges(linear, image)[0]]
    for other in others:
        assert deletion(linear, image, own) < deletion(linear, image, other)
        assert insertion(linear, image, own) > insertion(linear, image, other)
    for other in others[1:]:
        assert infidelity(linear, image, other) > 1e-3
    for scale in (1, 7, -1):  # neither its scale nor its sign matters to infidelity
        assert infidelity(linear, image, scale * own) < 1e-10


def test_pointing_and_sensitivity():
    own, mask = torch.zeros(4, 5), torch.zeros(4, 5, dtype=torch.bool)
    own[2, 3] = 1
    assert math.isnan(pointing(own, mask))
    mask[2, 3] = True
    assert pointing(own, mask) == 1 and pointing(-own, mask) == 0
    with pytest.raises(ShapeError, match="the mask"):
        pointing(own, mask.T)
    image = torch.rand(1, 3, 4, 5) + 1
    assert sensitivity(lambda images: torch.ones(len(images), 4, 5), image) == 0
    found = sensitivity(lambda images: images.sum(1), image, radius=0.1, samples=5)
    assert 0 < found < 0.1  # pixels of 1 to 2, noise of at most 0.1
    assert found == sensitivity(lambda images: images.sum(1), image, radius=0.1, samples=5)


def test_rank_correlation_is_spearmans(images):
    one, other = images[0, 0], images[1, 0]
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one.flatten(), other.flatten()).statistic)
    assert rank_correlation(one, one.exp()) == 1 and rank_correlation(one, -one) == -1
    flat = torch.ones(3, 3)
    assert rank_correlation(flat, flat) == 1 and rank_correlation(flat, 2 * flat) == 0
    with pytest.raises(ShapeError, match="maps have shapes"):
        rank_correlation(flat, one)


def test_random_models_differ_where_they_should(detector, images):
    before = {name: value.clone() for name, value in detector.backbone.state_dict().items()}
    weights, blocks = random_head_weights(detector), with_random_blocks(detector, 2)
    assert set(weights) == {"global", "local"} and not torch.equal(weights["global"], weights["local"])
    assert all(own.shape == (4, 4) and 0 <= own.min() < own.max() <= 2 for own in weights.values())
    assert all(torch.equal(value, before[name]) for name, value in detector.backbone.state_dict().items())
    close(blocks.text(), detector.text())
    for name, value in blocks.backbone.state_dict().items():
        upper = name.startswith(("vision.blocks.2.", "vision.blocks.3."))
        assert torch.equal(value, before[name]) != (upper and value.numel() > 1)
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values)
    for name in ("image_margin", "map_margin"):
        for other in (target_of(blocks, name), replace(target_of(detector, name), head_weights=weights)):
            assert not torch.allclose(other(images), target_of(detector, name)(images))
    with pytest.raises(ShapeError, match="9 blocks cannot be shuffled; there are 4"):
        with_random_blocks(detector, 9)


@pytest.mark.parametrize("method", ["legrad", "contributions", "input_x_gradient"])
def test_random_head_weights_are_those_of_a_detector_that_learned_them(method, make, images):
    detector = make()
    weights = random_head_weights(detector, seed=3)
    random = METHODS[method](replace(target_of(detector, "image_margin"), head_weights=weights), images)
    with torch.no_grad():
        for stream, raw in detector.weights.raw.items():
            raw.copy_(weights[stream])
    close(random, METHODS[method](target_of(detector, "image_margin"), images))


def test_over_a_data_set(make, pictures, tmp_path):
    detector = make(torch.float32)
    methods, few = ["input_x_gradient", "contributions", "edges"], pictures.where(lambda r: r.category == "nut")
    found = faithfulness(detector, few, methods=methods, target="map_margin", size=32, replicates=50)
    table = found.frame.pivot(index="kind", columns="metric", values="value").loc[methods]
    assert set(table) == set(MEASURES) and table.notna().all(axis=None)
    assert (found.frame["low"] <= found.frame["value"] + 1e-6).all()
    assert (found.frame["high"] >= found.frame["value"] - 1e-6).all()
    means = found.images.groupby(["kind", "metric"])["value"].mean()
    for (kind, metric), value in means.items():
        assert table.loc[kind, metric] == pytest.approx(value)
    verdicts = found.verdicts.set_index("kind")
    assert not verdicts.loc["edges", "passes"] and verdicts.loc["edges", "upper_blocks"] == 1
    again = faithfulness(detector, few, methods=methods, target="map_margin", size=32, replicates=50)
    assert again.frame.equals(found.frame)
    loaded = Faithfulness.load(found.save(tmp_path / "found.parquet"))
    assert loaded.frame.equals(found.frame) and loaded.images.equals(found.images)
    _, ax = found.plot(metric="deletion")
    assert [tick.get_text() for tick in ax.get_yticklabels()] == methods and ax.get_xlabel() == "deletion"
    with pytest.raises(ConfigError, match="'beauty' was not measured; available: deletion"):
        found.plot(metric="beauty")
    assert found.provenance["methods"]["input_x_gradient"] == {}


def test_aupro_is_that_of_the_maps(make, pictures):
    detector, few = make(torch.float32), pictures.where(lambda record: record.category == "nut")
    found = faithfulness(detector, few, methods=["edges"], measures=["aupro"], size=32, replicates=20)
    maps, masks = [], []
    from headlens.heads.sweep import Images

    for part, image in Images(detector, few, 32, 1):
        maps.append(edges(target_of(detector), image))
        masks.append(part.masks)
    exact = pixel_metrics([torch.cat(maps)], Truth.of(torch.cat(masks)))["aupro"]
    assert np.allclose(found.frame["value"], exact, atol=5e-3)  # 1,024 bins
    with pytest.raises(ConfigError, match="no sanity check was run"):
        _ = found.verdicts


def test_what_is_wrong_is_named(make, pictures):
    detector = make(torch.float32)
    for given, error, words in (
        ({"methods": ["lime"]}, ConfigError, "unknown method 'lime'"),
        ({"measures": ["beauty"]}, ConfigError, "unknown measure 'beauty'"),
        ({"measures": []}, ShapeError, "no measure"),
        ({"methods": ["contributions"]}, ConfigError, "contributions does not take joint_margin"),
        ({"methods": ["edges"], "options": {"legrad": {}}}, ConfigError, "options are given for 'legrad'"),
        ({"methods": ["edges"], "options": {"edges": {"steps": 1}}}, ConfigError, "edges has no option 'steps'"),
        ({"methods": ["legrad"], "precision": "float16"}, ConfigError, "smaller than float16 can tell from 0"),
    ):
        with pytest.raises(error, match=words):
            faithfulness(detector, pictures, size=32, **given)
