"""What is drawn has the image's shape and a bounded size, and any name can stand above it."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from headlens.plots.attribution import attribution_panels
from headlens.plots.display import LONGEST, SLIMMEST, draw, outline, panel, smaller
from headlens.plots.overlay import overlay
from headlens.plots.text import font, plain, wrapped

SHAPES = [(1, 3000), (3000, 1), (1, 1), (2, 2500), (300, 800), (40, 30)]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 20), st.integers(0, 9))
def test_smaller_keeps_the_mean_and_every_mark(height, width, longest, seed):
    rng = np.random.default_rng(seed)
    values, mask = rng.normal(size=(height, width)), rng.random((height, width)) > 0.9
    shown = smaller(values, longest)
    assert shown.shape == (min(height, longest), min(width, longest))
    assert values.min() - 1e-12 <= shown.min() <= shown.max() <= values.max() + 1e-12
    if all(side <= longest or side % longest == 0 for side in values.shape):
        assert shown.mean() == pytest.approx(values.mean(), abs=1e-12)
    assert smaller(mask, longest).any() == mask.any() and smaller(~mask, longest).all() >= (~mask).all()
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    small = smaller(image, longest)
    assert small.dtype == np.uint8 and np.abs(small - smaller(image.astype(float), longest)).max() <= 1 + 1e-9


@pytest.mark.parametrize("shape", SHAPES)
def test_an_overlay_of_any_shape_has_a_bounded_size_and_the_image_s_shape(shape):
    anomaly_map = np.linspace(0, 1, shape[0] * shape[1]).reshape(shape)
    fig, ax = overlay(np.zeros((*shape, 3), np.uint8), anomaly_map, "a name")
    assert max(fig.get_size_inches()) < 8 and min(fig.get_size_inches()) > 1
    assert all(max(image.get_array().shape[:2]) <= LONGEST for image in ax.images)
    outline(ax, anomaly_map > 0.5)
    fig.draw_without_rendering()
    box = ax.get_window_extent()
    ratio = np.clip(shape[1] / shape[0], 1 / SLIMMEST, SLIMMEST)
    assert box.width / box.height == pytest.approx(ratio, rel=1e-3)
    assert bool([text for text in ax.texts if text.get_text() == "not to scale"]) == (shape[1] / shape[0] != ratio)


def test_maps_of_any_resolution_lie_over_their_image():
    ax = Figure().subplots()
    draw(ax, np.zeros((30, 80, 3), np.uint8))
    draw(ax, np.eye(4), (30, 80))
    outline(ax, np.eye(8, dtype=bool), (30, 80))
    assert ax.images[0].get_extent() == ax.images[1].get_extent() == [-0.5, 79.5, 29.5, -0.5]
    ends = np.concatenate([path.vertices for path in ax.collections[-1].get_paths()])
    assert ends[:, 0].max() > 60 and ends[:, 1].max() > 24


@pytest.mark.parametrize(
    "name",
    [
        "part_$1",
        "a$b$c",
        "50%",
        "<b>x</b>",
        "two\nlines\r",
        "\u202egnp.exe",
        "\udce9t\udce9",
        "窗台.png",
        "x" * 240,
        "",
        "\\$x\\alpha$",
    ],
)
def test_any_name_stands_above_a_figure(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig, ax = overlay(np.zeros((8, 9, 3), np.uint8), np.zeros((8, 9)), name)
        ax.set_xlabel(plain(name), **font())
        for suffix in ("png", "pdf", "svg"):
            fig.savefig(io.BytesIO(), format=suffix)
    assert len(plain(name)) <= 2 * 72 and "\n" not in plain(name)
    assert not ax.title._preprocess_math(ax.get_title())[1], "read as mathematics"


def test_long_names_keep_both_ends_and_stay_inside_the_figure():
    fig, ax = overlay(np.zeros((30, 80, 3), np.uint8), np.zeros((30, 80)), f"first{'_part' * 40}: joint score 0.9")
    title = ax.get_title()
    assert title.startswith("first") and title.endswith("joint score 0.9")
    sink = io.BytesIO()
    fig.savefig(sink, dpi=100)
    edge = np.asarray(Image.open(sink).convert("L"))
    assert edge[:, :2].min() == edge[:, -2:].min() == 255, "something is cut off at the side"
    assert wrapped("short", 4) == "short"


def test_panels_are_bounded():
    for shape in SHAPES:
        assert max(panel(shape, 4.0)) == 4.0 and min(panel(shape, 4.0)) >= 4.0 / SLIMMEST


@pytest.mark.parametrize("shape", [(300, 60), (60, 140), (80, 80), (60, 110), (40, 400)])
def test_titles_and_labels_of_an_attribution_are_inside_its_figure_and_cover_nothing(shape):
    rng = np.random.default_rng(0)
    title = "integrated gradients: joint margin -0.748 logits\nagainst 0.955 of the blurred image"
    fig, axes = attribution_panels(
        rng.integers(0, 256, (8, 8, 3), dtype=np.uint8),
        rng.random((8, 8)),
        rng.normal(size=(8, 8)) * 1e-5,
        shape=shape,
        title=title,
        label="part of the joint margin, logits per pixel",
    )
    fig.savefig(io.BytesIO(), format="png")
    bar = axes[2].images[-1].colorbar.ax
    side = bar.yaxis if bar.get_ylabel() else bar.xaxis
    assert side.label.get_text().endswith("(times 1e-5)") and not side.get_offset_text().get_text()
    named, labelled = (own.get_window_extent() for own in (axes[2].title, side.label))
    for box in (named, labelled):
        assert box.x0 >= 0 and box.x1 <= fig.bbox.x1 and box.y0 >= 0 and box.y1 <= fig.bbox.y1
    assert not named.overlaps(labelled) and not named.overlaps(bar.get_window_extent())


@pytest.mark.parametrize("unit", ["probability", "logit"])
def test_a_map_alone_says_its_unit(unit):
    fig, ax = overlay(None, np.array([[-3.0, 1.0]]), "joint score", limits=(-3.0, 1.0), unit=unit)
    assert len(ax.images) == 1 and ax.images[0].get_alpha() is None
    labels = [other.get_ylabel() + other.get_xlabel() for other in fig.axes if other is not ax]
    assert labels == ["anomaly map" + (" (logits)" if unit == "logit" else "")]
