"""The facade: images in any form, what is promised of sums, and the figure."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import headlens
from headlens.attribution import METHODS, Attribution, attribute, target_of
from headlens.attribution.attention import contributions
from headlens.attribution.attribute import read_provenance
from headlens.backbone import load
from headlens.data import Preprocess
from headlens.detectors import HeadCLIP
from headlens.detectors.detector import Detector
from headlens.errors import ConfigError, DataError, RunError, ShapeError
from headlens.heads import Head
from headlens.results import read_parquet
from tests.attribution.conftest import untouched


@pytest.fixture
def small(make) -> Detector:
    return make(torch.float32)


@pytest.fixture(scope="module")
def photos() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(256, (3, 48, 48), generator=generator).to(torch.uint8) for _ in range(2)]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_finite_maps_one_image_at_a_time(method, small, photos):
    target = "map_margin"
    found = attribute(small, photos, method, target, size=32)
    assert found.map.shape == (2, 32, 32) and np.isfinite(found.map).all()
    alone = attribute(small, photos[1], method, target, size=32)
    assert np.array_equal(alone.map[0], found.map[1])
    images = torch.stack([Preprocess(32).normalise(torch.from_numpy(i).permute(2, 0, 1)) for i in found.images])
    assert np.allclose(found.target_value, target_of(small, target)(images).numpy(), atol=1e-4)
    assert np.allclose(found.frame["effect"], found.map.sum((1, 2)), rtol=1e-3, atol=1e-5)
    assert (found.residual is not None) == METHODS[method].complete
    assert METHODS[method].sign or found.map.min() >= 0  # what has no sign is never below 0
    _, axes = found.plot()
    low, high = axes[2].images[-1].get_clim()
    assert low == (-high if METHODS[method].sign else 0) < high
    assert ("against" in found.frame) == ("baseline" in METHODS[method].options)
    assert untouched(small)


def test_the_residual_is_what_the_map_misses(small, photos):
    found = attribute(small, photos, target="image_margin", baseline="mean", size=32)
    frame = found.frame
    assert np.allclose(found.residual, frame["value"] - frame["baseline"] - frame["effect"])
    assert (np.abs(found.residual) < 2e-3 * np.abs(frame["value"] - frame["baseline"])).all()
    coarse = attribute(small, photos, target="image_margin", steps=2, most=2, baseline="mean", size=32)
    assert np.abs(coarse.residual).sum() > np.abs(found.residual).sum()


def test_a_region_goes_with_its_image(small, photos):
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
    with pytest.raises(ShapeError, match="2 images and 1 regions"):
        attribute(small, photos, "legrad", "map_margin", region=[region])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_a_pooled_image_feature(method, make, photos):
    pooled = make(torch.float32, score_pooling=0.5)
    for target in ("joint_margin", "image_margin", "map_margin", "L0H1", "L2H3/local"):
        if METHODS[method].takes(target_of(pooled, target)):
            found = attribute(pooled, photos[0], method, target, size=32)
            assert np.isfinite(found.map).all() and np.abs(found.map).max() > 0
            if method == "integrated_gradients":
                change = found.frame["value"] - found.frame["baseline"]
                assert abs(found.residual[0]) < 2e-3 * abs(change[0]) + 1e-4


def test_what_a_row_says_beside_the_map_takes_one_forward(small, photos, monkeypatch):
    see, batches = Detector.see, []

    def counted(self, images, *args, **options):
        batches.append(len(images))
        return see(self, images, *args, **options)

    monkeypatch.setattr(Detector, "see", counted)
    attribute(small, photos[0], "edges", size=32)
    assert batches == [1]
    attribute(small, photos[0], "occlusion", size=32)
    assert batches[-1] == 2  # the image and its baseline


def test_a_run_and_a_precision(small, photos):
    whole = attribute(small, photos[0], "legrad", size=32)
    run = attribute(SimpleNamespace(detector=small), photos[0], "legrad", size=32)
    assert np.array_equal(whole.map, run.map)
    half = attribute(small, photos[0], "legrad", size=32, precision="bfloat16")
    assert half.provenance["precision"] == "bfloat16" and small.backbone.vision.proj.dtype == torch.float32
    assert 0 < np.abs(half.map - whole.map).max() < 0.1 * np.abs(whole.map).max()
    with pytest.raises(ConfigError, match="smaller than float16 can tell from 0"):
        attribute(small, photos[0], "legrad", size=32, precision="float16")


def test_in_float32_on_the_embedded_backbone():
    image = headlens.data.open("procedural:industrial/aux", per_category=2, size=56).pixels(0).image
    found = attribute(HeadCLIP(load("mini")), image, target="image_margin", size=56)
    change = found.target_value - found.frame["baseline"]
    assert (np.abs(found.residual) < 1e-3 * np.abs(change)).all()


def test_what_is_wrong_is_named(small, photos):
    for given, error, words in (
        ({"method": "lime"}, ConfigError, "unknown method 'lime'"),
        ({"samples": 3}, ConfigError, "integrated_gradients has no option 'samples'; it has baseline, steps, most"),
        ({"method": "edges", "heads": None}, ConfigError, "edges has no option 'heads'; it has none"),
        ({"target": "L9H0"}, ShapeError, "layer 9 does not exist"),
        ({"method": "contributions"}, ConfigError, "joint_margin is not a sum over heads"),
    ):
        with pytest.raises(error, match=words):
            attribute(small, photos[0], size=32, **given)
    with pytest.raises(ShapeError, match="0 images"):
        attribute(small, [], size=32)
    with pytest.raises(DataError, match="nowhere"):
        attribute(small, "nowhere.png", size=32)


def test_figures_and_files(small, photos, tmp_path):
    found = attribute(small, photos, "input_x_gradient", size=32)
    fig, axes = found.plot(image=1, mask=np.eye(32, dtype=bool))
    assert len(axes) == 3 and fig.get_supxlabel() == found.made_by
    low, high = axes[2].images[-1].get_clim()
    assert low == -high and high == pytest.approx(np.quantile(np.abs(found.map[1]), 0.995))
    assert np.array_equal(axes[2].images[-1].get_array(), found.map[1])
    given = Figure().subplots(1, 3)
    assert found.plot(given).figure is given[0].figure and all(ax.images for ax in given)
    with pytest.raises(ConfigError, match=r"1 axes for 3 panels \(image; anomaly map; attribution\)"):
        found.plot(given[0])
    with pytest.raises(ShapeError, match="image 2 does not exist"):
        found.plot(image=2)
    with pytest.raises(ShapeError, match=r"the mask has shape \(3, 3\)"):
        found.plot(mask=np.ones((3, 3)))
    with np.load(found.save(tmp_path / "deep" / "maps.npz"), allow_pickle=False) as arrays:
        assert np.array_equal(arrays["map"], found.map) and "region" not in arrays
    saved, about = read_parquet(found.save(tmp_path / "maps.parquet"))
    with pytest.raises(ConfigError, match="give a frame to Result"):
        Attribution.load(tmp_path / "maps.parquet")
    assert saved.equals(found.frame) and about == found.provenance


def test_a_region_for_some_images(small, photos):
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
    every = attribute(small, photos[:2], "legrad", heads=iter(["L2H1/local"]), size=32)  # for every image, not for one
    assert np.array_equal(every.map[:1], named.map) and every.provenance["options"] == {"heads": ["L2H1/local"]}
    with pytest.raises(ShapeError, match="head L9H9 does not exist, or is not read; the first is L0H0"):
        attribute(small, photos[0], "legrad", heads=["L9H9"], size=32)


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
def test_rounding_of_an_image_that_is_its_own_baseline_is_not_drawn_in_full_colours(method, small):
    black = np.zeros((40, 60, 3), np.uint8)
    found = attribute(small, [black, np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)], method, size=32)
    _, axes = found.plot()
    assert "nothing to explain" in axes[2].get_title() and "as of the blurred image" in axes[2].get_title()
    assert axes[2].images[-1].get_clim()[1] > 100 * np.abs(found.map[0]).max()
    _, axes = found.plot(image=1)
    assert "nothing" not in axes[2].get_title()
    assert axes[2].images[-1].get_clim()[1] <= np.abs(found.map[1]).max()


@pytest.mark.parametrize(("baseline", "words"), [("blur", "the blurred image"), ("black", "a black image")])
def test_the_baseline_and_its_value_are_named(small, photos, baseline, words):
    found = attribute(small, photos[0], "occlusion", baseline=baseline, size=32)
    assert found.frame["against"].tolist() == [baseline] and found.provenance["baseline"] == words
    assert found.plot().axes[2].get_title().endswith(f"against {found.frame['baseline'][0]:.3g} of {words}")
    assert f"Baseline {baseline}: {words}" in found._repr_html_()
    legrad = attribute(small, photos[0], "legrad", size=32)
    assert "against" not in legrad.frame and "Without a baseline" in legrad._repr_html_()


@pytest.mark.parametrize("shape", [(30, 120), (120, 30), (1, 300)])
def test_a_figure_has_the_shape_of_the_image_and_not_of_the_square(small, shape):
    found = attribute(small, np.zeros((*shape, 3), np.uint8), "edges", size=32)
    assert found.native.tolist() == [list(shape)]
    fig, axes = found.plot(mask=np.eye(32, dtype=bool))
    assert max(fig.get_size_inches()) < 14
    fig.draw_without_rendering()
    for ax in axes:
        box = ax.get_window_extent()
        assert box.width / box.height == pytest.approx(np.clip(shape[1] / shape[0], 1 / 8, 8), rel=1e-2)


@pytest.mark.parametrize("kind", ["long", "deep", "list", "pipe", "text", "pickle"])
def test_the_provenance_of_another_file_is_refused(kind, tmp_path):
    path = tmp_path / "x.npz"
    if kind == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("no pipes")
        os.mkfifo(path)
    elif kind == "text":
        path.write_text("no archive")
    else:
        told = {
            "long": np.zeros(2**26, np.uint8),
            "deep": np.array("[" * 10**5),
            "list": np.array("[]"),
            "pickle": np.array([{}], object),
        }
        np.savez_compressed(path, provenance=told[kind])
    with pytest.raises(RunError, match="not an attribution saved by headlens") as error:
        read_provenance(path)
    assert "\n" not in str(error.value)
