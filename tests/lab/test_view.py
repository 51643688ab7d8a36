"""One head at one picture, against what the lens says of the same head by other ways."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from headlens.data import Preprocess
from headlens.detectors import build
from headlens.errors import ConfigError, ShapeError
from headlens.heads import Head, heads_of, map_parts
from headlens.heads.clean import clean_forward
from headlens.heads.direct import image_parts, source_maps
from headlens.lab import HeadView, sheet, show
from headlens.lab.gallery import Gallery
from tests import tiny

LOCAL, GLOBAL = Head("local", 2, 1), Head("global", 3, 2)


@pytest.fixture
def view(detector, make, pictures):
    return HeadView({"industrial": [detector, make()], "medical": make()}, pictures, size=32)


def image_of(pictures, number):
    preprocess = Preprocess(32)
    return preprocess.normalise(preprocess(pictures.pixels(number)).image[None])


def test_attention_is_the_hooked_pattern(view, detector, pictures):
    tower = detector.backbone.vision
    names = [f"blocks.{LOCAL.layer}.attn.hook_local_pattern", f"blocks.{GLOBAL.layer}.attn.hook_pattern"]
    _, cache = tower.run_with_cache(
        image_of(pictures, 7),
        detector.plan,
        names_filter=names,
    )
    rows, columns = view.grid
    local = cache[names[0]][0, LOCAL.head, 1 + columns + 2, 1:].view(rows, columns)
    np.testing.assert_allclose(view.attention("industrial", 7, LOCAL, (1, 2)), local, atol=1e-12)
    cls = cache[names[1]][0, GLOBAL.head, 0, 1:].view(rows, columns)
    np.testing.assert_allclose(view.attention("industrial", 7, GLOBAL), cls, atol=1e-12)


def test_contributions_are_those_of_the_lens(view, detector, pictures):
    parts = map_parts(detector, pictures.pixels(7).image, size=32).frame
    own = parts[(parts["stream"] == "local") & (parts["layer"] == LOCAL.layer) & (parts["head"] == LOCAL.head)]
    drawn = view.contribution("industrial", 7, LOCAL)
    np.testing.assert_allclose(drawn.ravel(), own["value"], atol=1e-12)
    clean = clean_forward(detector, image_of(pictures, 7))
    of_cls = source_maps(clean, GLOBAL.layer)[0, GLOBAL.head, 0]
    whole = image_parts(clean).heads["global"][0, GLOBAL.layer, GLOBAL.head]
    assert view.contribution("industrial", 7, GLOBAL).sum() + float(of_cls) == pytest.approx(float(whole), abs=1e-12)


def test_a_local_head_is_seen_from_the_peak_and_a_global_one_from_cls(view, detector, pictures):
    margins = clean_forward(detector, image_of(pictures, 7)).margins.taps
    peak = divmod(int(torch.stack(list(margins.values())).mean(0).argmax()), view.grid[1])
    assert view.peak(7) == peak
    np.testing.assert_array_equal(view.attention("medical", 7, LOCAL), view.attention("medical", 7, LOCAL, peak))
    assert not np.array_equal(view.attention("medical", 7, GLOBAL), view.attention("medical", 7, GLOBAL, peak))


def test_weights_of_every_seed_stand_side_by_side(view, detector):
    found = view.weights("local", 2)
    assert found.groupby("domain")["run"].nunique().to_dict() == {"industrial": 2, "medical": 1}
    first = found[(found["domain"] == "industrial") & (found["run"] == 0)]["value"]
    np.testing.assert_allclose(first, detector.head_weights()["local"][2])


def test_the_figure_has_a_column_for_each_domain_on_one_scale(view):
    fig, axes = view.plot(7, LOCAL)
    assert axes.shape == (2, 3) and "L2H1" in fig.get_suptitle()
    for row in (0, 1):
        assert axes[row, 1].images[0].norm is axes[row, 2].images[0].norm
    np.testing.assert_array_equal(axes[1, 2].images[0].get_array(), view.contribution("medical", 7, LOCAL))
    assert "tiny" in fig.get_supxlabel()


def test_a_picture_goes_through_each_detector_once(view, monkeypatch):
    seen = []
    monkeypatch.setattr("headlens.lab.view.clean_forward", lambda *args: seen.append(args) or clean_forward(*args))
    for head in (LOCAL, GLOBAL):
        view.plot(3, head)
        view.plot(3, head, (0, 1))
    assert len(seen) == 2


def test_where_no_weights_are_learned_the_figure_says_so(make, pictures):
    _, axes = HeadView({"mine": make(streams=("local",))}, pictures, size=32).plot(0, "L2H1")
    assert "not learned" in axes[1, 0].texts[0].get_text() and axes.shape == (2, 2)


def test_methods_side_by_side_and_why_one_shows_nothing(detector, make, pictures):
    april_gan = build(tiny.clip(), "april-gan", taps=(1, 3))
    view = HeadView({"april-gan": april_gan, "headclip": detector, "from 2": make(local_start=2)}, pictures, size=32)
    assert view.streams == ("global", "local") and view.layers("local") == range(1, 4)
    fig, axes = view.plot(7, Head("local", 1, 0))
    fig.draw_without_rendering()
    for row, shown in enumerate((view.attention, view.contribution)):
        drawn = axes[row, 2].images[0].get_array()
        np.testing.assert_array_equal(drawn, shown("headclip", 7, Head("local", 1, 0)))
        for column, why in ((1, "no local stream"), (3, "layer 1 does not exist")):
            assert not axes[row, column].images and why in " ".join(axes[row, column].texts[0].get_text().split())
    with pytest.raises(ConfigError, match="no local stream"):
        view.attention("april-gan", 7, "L1H0/local")
    assert (
        np.isnan(view.effects("from 2", 7, "local")[0]).all() and np.isnan(view.learned("from 2", "local")[0, 0]).all()
    )


def test_effects_are_the_direct_effects_of_all_heads(view, detector, pictures):
    clean = clean_forward(detector, image_of(pictures, 7))
    np.testing.assert_allclose(
        view.effects("industrial", 7, "global"), image_parts(clean).heads["global"][0], atol=1e-12
    )
    local = view.effects("industrial", 7, "local")
    for layer in view.layers("local"):
        size = abs(view.contribution("industrial", 7, Head("local", layer, 2))).mean()
        assert local[layer - 1, 2] == pytest.approx(size, abs=1e-12)


def test_what_is_learned_is_the_weights_of_every_seed(view):
    learned, rows = view.learned("industrial", "local"), view.weights("local", 3)
    expected = rows[rows["domain"] == "industrial"].pivot(index="run", columns="head", values="value")
    np.testing.assert_allclose(learned[:, -1], expected)


def test_what_was_computed_once_is_not_computed_again(view, monkeypatch):
    first = view.plot(3, LOCAL).axes[1, 1].images[0].get_array()
    for name in ("tap_parts", "clean_forward"):
        monkeypatch.setattr(f"headlens.lab.view.{name}", None)
    monkeypatch.setattr(type(view._clean("medical", 3)), "pattern", None)
    np.testing.assert_array_equal(view.plot(3, LOCAL, (0, 1)).axes[1, 1].images[0].get_array(), first)


def test_what_cannot_be_shown_is_named(detector, make, pictures, view):
    with pytest.raises(ConfigError, match="no run is given"):
        HeadView({}, pictures)
    with pytest.raises(ConfigError, match="medical: no run"):
        HeadView({"medical": []}, pictures)
    with pytest.raises(ConfigError, match="str is neither a detector nor a run"):
        HeadView("mini-medical", pictures)
    other = make()
    other.backbone.provenance = replace(other.backbone.provenance, name="other")
    with pytest.raises(ConfigError, match="different backbones"):
        HeadView({"one": detector, "other": other}, pictures)
    with pytest.raises(ShapeError, match="no image"):
        HeadView(detector, [])
    with pytest.raises(ShapeError, match="image 99 does not exist; there are 12"):
        view.plot(99, LOCAL)
    with pytest.raises(ShapeError, match="layer 9 does not exist"):
        view.plot(0, "L9H0")
    with pytest.raises(ShapeError, match=r"patch \(7, 0\)"):
        view.attention("industrial", 0, LOCAL, (7, 0))
    with pytest.raises(ConfigError, match="unknown domain 'retail'"):
        view.contribution("retail", 0, LOCAL)


def test_layers_are_those_that_are_read(view, detector):
    for stream in view.streams:
        assert list(view.layers(stream)) == sorted({head.layer for head in heads_of(detector, streams=[stream])})


def test_names_do_not_tell_folders(detector, tmp_path, pictures):
    from PIL import Image

    path = tmp_path / "secret.png"
    Image.fromarray(pictures.pixels(0).image.permute(1, 2, 0).numpy()).save(path)
    assert HeadView(detector, [path, str(path), pictures.pixels(0).image], size=32).names == [
        "secret.png",
        "secret.png",
        "image 2",
    ]
    _, axes = sheet(path)
    assert axes[0, 0].get_title() == "secret.png"


def test_a_sheet_spreads_its_choice_and_outlines_anomalies(pictures):
    _, axes = sheet(pictures, most=3)
    assert axes.shape == (1, 3)
    assert [bool(ax.collections) for ax in axes[0]] == [pictures.records[i].anomalous for i in (0, 6, 11)]
    with pytest.raises(ShapeError, match="image 12"):
        sheet(pictures, which=[12])


def test_a_detector_shows_maps_and_decides_nothing(detector, pictures):
    fig, axes = show(detector, pictures, which=[0, 6])
    assert axes.shape == (2, 2) and "a detector" in fig.get_supxlabel()
    assert axes[1, 0].get_title().startswith("joint score") and ":" not in axes[1, 0].get_title()
    with pytest.raises(ConfigError, match=r"str is neither a detector nor a run; give headlens.load\('mini-medical'\)"):
        show("mini-medical", pictures)


def test_pixels_keep_their_mask(pictures):
    anomalous = next(i for i, record in enumerate(pictures.records) if record.anomalous)
    own = pictures.pixels(anomalous)
    found = Gallery(own).pixels(0)
    assert torch.equal(found.image, own.image) and own.mask.any() and torch.equal(found.mask, own.mask)
    assert Gallery(own.image).pixels(0).mask is None


def test_all_is_drawn_in_the_shape_of_the_picture(detector):
    wide = np.zeros((40, 120, 3), np.uint8)
    fig, axes = HeadView(detector, [wide], size=32).plot(0, LOCAL)
    fig.draw_without_rendering()
    for ax in (axes[0, 0], *axes[:, 1]):
        box = ax.get_window_extent()
        assert box.width / box.height == pytest.approx(3, rel=1e-3) and ax.get_xlim() == (-0.5, 119.5)


def test_showing_none_of_them_is_refused():
    with pytest.raises(ShapeError, match="which names none"):
        sheet([np.zeros((8, 8, 3), np.uint8)], which=[])
