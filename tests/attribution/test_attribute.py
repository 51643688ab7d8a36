"""The facade: pictures in any form, what is promised of sums, and the figure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import headlens
from headlens.attribution import METHODS, attribute, target_of
from headlens.attribution.attention import contributions
from headlens.backbone import load
from headlens.data import Preprocess
from headlens.detectors.headclip import Detector
from headlens.errors import ConfigError, DataError, ShapeError
from headlens.heads import Head
from headlens.heads.results import read_parquet
from tests.attribution.conftest import untouched


@pytest.fixture
def small(make) -> Detector:
    return make(torch.float32)


@pytest.fixture(scope="module")
def photos() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(256, (3, 48, 48), generator=generator).to(torch.uint8) for _ in range(2)]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_finite_maps_one_picture_at_a_time(method, small, photos):
    target = "map_margin"
    found = attribute(small, photos, method, target, size=32)
    assert found.map.shape == (2, 32, 32) and np.isfinite(found.map).all()
    alone = attribute(small, photos[1], method, target, size=32)
    assert np.array_equal(alone.map[0], found.map[1])
    images = torch.stack([Preprocess(32).normalise(torch.from_numpy(i).permute(2, 0, 1)) for i in found.images])
    assert np.allclose(found.target_value, target_of(small, target)(images).numpy(), atol=1e-4)
    assert np.allclose(found.frame["effect"], found.map.sum((1, 2)), rtol=1e-3, atol=1e-5)
    assert (found.residual is not None) == METHODS[method].complete
    assert untouched(small)


def test_the_residual_is_what_the_map_misses(small, photos):
    found = attribute(small, photos, target="image_margin", baseline="mean", size=32)
    frame = found.frame
    assert np.allclose(found.residual, frame["value"] - frame["baseline"] - frame["effect"])
    assert (np.abs(found.residual) < 2e-3 * np.abs(frame["value"] - frame["baseline"])).all()
    coarse = attribute(small, photos, target="image_margin", steps=2, most=2, baseline="mean", size=32)
    assert np.abs(coarse.residual).sum() > np.abs(found.residual).sum()


def test_a_region_goes_with_its_picture(small, photos):
    region = np.zeros((48, 48), bool)
    region[:24, :24] = True
    found = attribute(
        small, photos[0], "contributions", "map_margin", region=region, heads=[Head("local", 2, 1)], size=32
    )
    assert found.region.shape == (1, 32, 32) and found.region[0, :16, :16].all() and found.region.sum() == 256
    image = Preprocess(32).normalise(torch.from_numpy(found.images[0]).permute(2, 0, 1))[None]
    target = target_of(small, "map_margin", region=torch.from_numpy(found.region[0]))
    assert np.allclose(found.map, contributions(target, image, heads=[Head("local", 2, 1)]).numpy(), atol=1e-7)
    assert np.abs(found.map[0, 24:, 24:]).max() == 0 < np.abs(found.map[0, :16, :16]).max()
    with pytest.raises(ShapeError, match="2 pictures and 1 regions"):
        attribute(small, photos, "legrad", "map_margin", region=[region])


def test_in_float32_on_the_embedded_backbone():
    picture = headlens.data.open("procedural:industrial/aux", per_category=2, size=56).pixels(0).image
    found = attribute(Detector(load("mini")), picture, target="image_margin", size=56)
    change = found.target_value - found.frame["baseline"]
    assert (np.abs(found.residual) < 1e-3 * np.abs(change)).all()


def test_what_is_wrong_is_named(small, photos):
    for given, error, words in (
        ({"method": "lime"}, ConfigError, "unknown method 'lime'"),
        ({"samples": 3}, ConfigError, "integrated_gradients has no option 'samples'; it has baseline, steps, most"),
        ({"method": "edges", "heads": None}, ConfigError, "edges has no option 'heads'; it has none"),
        ({"target": "L9H0"}, ShapeError, "layer 9 does not exist"),
        ({"method": "contributions"}, ConfigError, "joint_margin is no sum over heads"),
    ):
        with pytest.raises(error, match=words):
            attribute(small, photos[0], size=32, **given)
    with pytest.raises(ShapeError, match="0 pictures"):
        attribute(small, [], size=32)
    with pytest.raises(DataError, match="nowhere"):
        attribute(small, "nowhere.png", size=32)


def test_figures_and_files(small, photos, tmp_path):
    found = attribute(small, photos, "input_x_gradient", size=32)
    fig, axes = found.plot(picture=1, mask=np.eye(32, dtype=bool))
    assert len(axes) == 3 and fig.get_supxlabel() == found.made_by
    low, high = axes[2].images[-1].get_clim()
    assert low == -high and high == pytest.approx(np.quantile(np.abs(found.map[1]), 0.995))
    assert np.array_equal(axes[2].images[-1].get_array(), found.map[1])
    again = found.plot(axes[0])
    assert again[1] is axes[0]
    with pytest.raises(ShapeError, match="picture 2 does not exist"):
        found.plot(picture=2)
    with pytest.raises(ShapeError, match=r"the mask has shape \(3, 3\)"):
        found.plot(mask=np.ones((3, 3)))
    with np.load(found.save(tmp_path / "deep" / "maps.npz"), allow_pickle=False) as arrays:
        assert np.array_equal(arrays["map"], found.map) and "region" not in arrays
    saved, about = read_parquet(found.save(tmp_path / "maps.parquet"))
    assert saved.equals(found.frame) and about == found.provenance


def test_a_region_for_some_pictures(small, photos):
    region = np.zeros((48, 48), bool)
    region[:24, :24] = True
    found = attribute(small, photos[:2], "legrad", "map_margin", region=[None, region], size=32)
    assert found.region[0].all() and found.region[1].sum() == 16 * 16
    alone = attribute(small, photos[1], "legrad", "map_margin", region=region, size=32)
    assert np.allclose(found.map[1], alone.map[0])


def test_heads_go_by_their_names(small, photos):
    named, meant = (
        attribute(small, photos[0], "legrad", heads=[own], size=32) for own in ("L2H1/local", Head("local", 2, 1))
    )
    assert np.array_equal(named.map, meant.map)
    with pytest.raises(ShapeError, match="head L9H9 does not exist, or nobody reads it; the first is L0H0"):
        attribute(small, photos[0], "legrad", heads=["L9H9"], size=32)
