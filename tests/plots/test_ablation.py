"""Which drawing an ablation gets, and that a given ``ax`` is drawn on and no other."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from headlens.errors import ConfigError, ShapeError
from headlens.plots.effects import ablation, curves
from headlens.plots.grid import grid, grids
from headlens.plots.scatter import scatter


def summary(variants: list[tuple], metrics=("joint_margin", "anomaly_map")) -> pd.DataFrame:
    rows = pd.DataFrame(variants, columns=["variant", "stream", "layer", "head", "order", "heads"])
    frame = pd.concat([rows.assign(metric=metric) for metric in metrics], ignore_index=True)
    effect = np.linspace(-1, 1, len(frame))
    return frame.assign(effect=effect, magnitude=abs(effect), low=effect - 0.1, high=effect + 0.1, noise=1e-6)


HEADS = [(f"L{n}H{h}", stream, n, h, "", 1) for stream in ("global", "local") for n in range(4) for h in range(2)]


def test_single_heads_of_few_layers_are_bars_with_their_names():
    frame = summary(HEADS[:4])
    axes = ablation(frame).axes
    assert axes.shape == (1, 2) and axes[0, 1].get_xlabel() == "change of anomaly map (relative L1)"
    for ax, metric in zip(axes[0], ("joint_margin", "anomaly_map"), strict=True):  # each in an order of its own
        shown = frame[frame["metric"] == metric].sort_values("magnitude", ascending=False)
        assert ax.get_title() == "largest mean |change| on top"
        assert [t.get_text() for t in ax.get_yticklabels()] == list(shown["variant"])
        assert np.allclose([bar.get_width() for bar in ax.patches if bar.get_height() == 0.75], shown["effect"])


def test_single_heads_of_many_layers_are_a_grid_for_each_stream():
    axes = ablation(summary(HEADS)).axes
    assert axes.shape == (2, 2) and axes[1, 0].get_title() == "single local heads"
    ax = ablation(summary(HEADS), metric="joint_margin", stream="local").axes
    assert ax.get_title() == "single local heads"


def test_layers_are_a_profile_and_growing_groups_curves():
    layers = [(f"L{n}", "global", n, None, "", 16) for n in range(5)]
    ax = ablation(summary(layers), metric="joint_margin").axes
    assert ax.get_xlabel() == "layer" and list(ax.lines[-1].get_xdata()) == list(range(5))
    orders = ("strongest first", "random 0", "random 1")
    steps = [(f"{order} {n}", "both", None, None, order, n) for order in orders for n in (1, 2, 4)]
    ax = ablation(summary(steps), metric="joint_margin").axes
    assert ax.get_legend_handles_labels()[1] == ["strongest first", "random orders"]
    assert list(ax.lines[1].get_xdata()) == [1, 2, 4]


def test_an_order_has_one_colour_in_all_panels_whatever_its_values():
    colours = set()
    for seed in range(8):
        values = np.random.default_rng(seed).normal(size=40)
        rows = [(order, heads) for order in ("most", "random", "least") for heads in range(12)]
        frame = pd.DataFrame(rows, columns=["order", "heads"]).assign(effect=values[:36], low=-1.0, high=1.0)
        lines = curves(frame.sample(frac=1, random_state=seed).sort_values("order", ascending=False)).axes.lines[1:]
        colours.add(tuple((line.get_label(), line.get_color()) for line in lines))
        assert all(list(line.get_xdata()) == list(range(12)) for line in lines)
    assert len(colours) == 1 and len({colour for _, colour in next(iter(colours))}) == 3


@pytest.mark.parametrize(("variants", "panels"), [(HEADS, 4), (HEADS[:3], 2)])
def test_given_axes_are_drawn_on_and_no_panel_is_dropped(variants, panels):
    fig = Figure()
    axes = fig.subplots(1, panels + 1)
    found, drawn = ablation(summary(variants), axes[:panels])
    assert found is fig and list(drawn.flat) == list(axes[:panels])
    assert all(ax.get_xlabel() for ax in axes[:panels]) and not axes[panels].get_xlabel()
    with pytest.raises(ConfigError, match=rf"1 axes for {panels} panels .*joint margin.*; anomaly map.*choose by"):
        ablation(summary(variants), axes[0])
    assert list(ablation(summary(variants), axes[0], "joint_margin", "global")) == [fig, axes[0]]


def test_a_stream_that_is_asked_for_is_all_that_is_drawn():
    both = [HEADS[0], HEADS[8]]
    ax = ablation(summary(both), metric="joint_margin", stream="local").axes
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [HEADS[8][0]]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20)), min_size=1, max_size=40, unique=True))
def test_a_grid_has_every_head_in_its_place(heads):
    frame = pd.DataFrame(heads, columns=["layer", "head"]).assign(value=np.arange(len(heads)))
    ax = grid(frame, bar=False).axes
    shown = ax.collections[0].get_array().reshape(np.ptp(frame["layer"]) + 1, -1)
    for row in frame.itertuples():
        assert shown[frame["layer"].max() - row.layer, row.head - frame["head"].min()] == row.value
    assert np.ma.count(shown) == len(heads)


def test_two_values_for_one_head_are_refused():
    frame = pd.DataFrame({"layer": [1, 1], "head": [2, 2], "value": [0.0, 1.0], "stream": "global"})
    with pytest.raises(ShapeError, match="some of its 2 rows are of the same"):
        grid(frame)
    with pytest.raises(ShapeError, match="one row for each head"):
        grids(frame)


def test_a_scatter_leaves_out_what_has_no_logarithm():
    rows = {"stream": "global", "variant": ["a", "b", "c"], "x": [1.0, 0.0, 2.0], "y": [1.0, 1.0, 4.0], "top": True}
    ax = scatter(pd.DataFrame(rows), "x", "y", marked="top").axes
    assert len(ax.collections[0].get_offsets()) == 2
    assert {text.get_text() for text in ax.texts} == {"a", "c"}


def test_what_was_not_measured_is_not_drawn():
    with pytest.raises(ConfigError, match="no auroc of stream any; available: joint_margin, anomaly_map"):
        ablation(summary(HEADS), metric="auroc")
