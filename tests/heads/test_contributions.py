"""Summaries of direct effects, one picture's map part by part, learned weights as a result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from headlens.detectors.methods.headclip import HeadCLIP
from headlens.detectors.methods.registry import preset
from headlens.errors import ConfigError, ShapeError
from headlens.heads import Contributions, MapParts, clean_forward, contributions, head_maps, map_parts, weights
from tests.tiny import BOTH


def test_separations_of_all_parts_add_up_to_the_distance_of_the_margins(detector, pictures):
    result = contributions(detector, pictures, batch=5)
    frame, summary = result.frame, result.summary
    by_class = frame.groupby(["metric", "anomalous", "category", "image"])[["value", "baseline"]]
    whole = by_class.agg({"value": "sum", "baseline": "first"})["baseline"]
    whole = whole.groupby(["metric", "anomalous", "category"]).mean().groupby(["metric", "anomalous"]).mean()
    rest = frame[frame["kind"] != "head"].groupby(["metric", "anomalous", "category", "image"])["value"].sum()
    rest = rest.groupby(["metric", "anomalous", "category"]).mean().groupby(["metric", "anomalous"]).mean()
    for metric, own in summary.groupby("metric"):
        parts = whole[metric, True] - whole[metric, False] - (rest[metric, True] - rest[metric, False])
        assert own["separation"].sum() == pytest.approx(parts, abs=1e-9)
    one = frame.query("metric == 'image_margin' and layer == 2 and head == 1 and kind == 'head'")
    expected = one.groupby("category")["value"].mean().mean()
    row = summary.query("metric == 'image_margin' and layer == 2 and head == 1")
    assert row["value"].item() == pytest.approx(expected)


def test_without_labels_there_is_a_mean_and_no_separation(detector, pictures):
    result = contributions(detector, pictures, batch=12)
    result.frame["anomalous"] = result.frame["anomalous"].mask(result.frame["anomalous"].notna())
    assert result.summary["separation"].isna().all() and result.summary["value"].notna().all()
    assert "mean" in result.plot().figure.axes[-1].get_ylabel()


def test_contributions_draw_a_grid_for_each_stream(detector, pictures):
    result = contributions(detector, pictures, batch=12)
    axes = result.plot(metric="tap_margin_3").axes
    assert [ax.get_title() for ax in axes] == ["global heads", "local heads"]
    with pytest.raises(ConfigError, match="unknown margin 'tap_margin_9'; available: image_margin"):
        result.plot(metric="tap_margin_9")


@torch.no_grad()
def test_map_parts_add_up_to_the_margin_map(detector):
    picture = torch.rand(3, 40, 32, generator=torch.Generator().manual_seed(2))
    found = map_parts(detector, picture, size=32)
    assert found.image.shape == (32, 32, 3) and found.image.dtype == np.uint8
    preprocessed = torch.from_numpy(found.image).permute(2, 0, 1)[None]
    mean, std = detector.backbone.preprocess.transforms[-1].mean, detector.backbone.preprocess.transforms[-1].std
    images = (preprocessed / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    clean = clean_forward(detector, images.double())
    expected = torch.stack(list(clean.margins.taps.values())).mean(0)[0].unflatten(0, clean.grid)
    assert np.allclose(found.margin, expected, atol=1e-5)
    maps = head_maps(detector, images.double())
    own = found.frame.query("stream == 'local' and layer == 2 and head == 3")
    assert np.allclose(own["value"], maps[3]["local"][0, 1, 3].flatten() / 2, atol=1e-6)  # tap 1 has no layer 2
    at_one = map_parts(detector, picture, size=32, tap=1)
    assert np.allclose(at_one.margin, clean.margins.taps[1][0].unflatten(0, clean.grid), atol=1e-5)


def test_peaks_of_all_parts_add_up_to_how_far_the_peak_stands_out(detector, tmp_path):
    found = map_parts(detector, torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(2)), size=64)
    margin = found.margin.ravel()
    peak = np.argsort(margin)[-round(0.05 * len(margin)) :]
    rest = found.frame[found.frame["kind"] == "rest"]["value"].to_numpy()
    whole = margin[peak].mean() - margin.mean()
    assert found.shares["peak"].sum() + rest[peak].mean() - rest.mean() == pytest.approx(whole, abs=1e-5)
    fig, axes = found.plot(top=2)
    best = found.shares.loc[found.shares["peak"].idxmax()]
    assert axes.shape == (2, 3) and axes[0, 1].get_title().startswith(f"L{best['layer']}H{best['head']}")
    for ax in (axes[0, 1], axes[1, 2]):  # the number above a map is that of what is drawn in the outlined peak
        number, drawn = float(ax.get_title().split()[-1].replace("−", "-")), ax.images[-1].get_array().ravel()
        assert drawn.mean() == pytest.approx(0, abs=1e-6) and number == pytest.approx(drawn[peak].mean(), abs=0.005)
    with pytest.raises(ConfigError, match=r"1 axes for 6 panels \(image; L.*give a sequence of 6 as ax"):
        found.plot(fig.add_subplot(), top=2)
    given = Figure().subplots(2, 3)
    assert found.plot(given, top=2).axes.tolist() == given.tolist()
    again = MapParts.load(found.save(tmp_path / "parts.parquet"))
    assert np.array_equal(again.image, found.image) and np.allclose(again.margin, found.margin)
    assert again.shares.equals(found.shares) and again.provenance["image"] == "Tensor"
    before = tmp_path / "parts.image.png"
    before.rename(tmp_path / "parts.picture.png")  # what earlier versions wrote
    assert np.array_equal(MapParts.load(tmp_path / "parts.parquet").image, found.image)
    with pytest.raises(ShapeError, match="tap 9 is not read"):
        map_parts(detector, torch.rand(3, 32, 32), tap=9, size=32)


def test_weights_are_those_that_are_read(detector, make):
    frame = weights(detector).frame
    learned = detector.head_weights()
    assert frame.groupby("stream").size().to_dict() == {"global": 16, "local": 12}
    for row in frame.itertuples():
        assert row.value == float(learned[row.stream][row.layer, row.head]) and row.effect == row.value - 1
    fig, axes = weights(detector).plot()
    assert len(axes) == 2 and "backbone tiny" in fig.get_supxlabel()
    with pytest.raises(ShapeError, match="no head of stream 'lokal' here; available: global, local"):
        weights(detector).plot(stream="lokal")
    plain = HeadCLIP(detector.backbone, preset("headclip", **(BOTH | {"head_weights": "none"})))
    with pytest.raises(ConfigError, match="this detector has no head weights"):
        weights(plain)


def test_categories_without_both_kinds_have_no_part_in_a_separation(detector, pictures):
    result = contributions(detector, pictures)
    first, *_ = pictures.categories
    frame = result.frame
    lacking = frame[~((frame["category"] == first) & (frame["anomalous"] == False))]  # noqa: E712
    found = Contributions(lacking, result.provenance).summary
    expected = Contributions(frame[frame["category"] != first], result.provenance).summary
    for column in ("normal", "anomalous", "separation"):
        assert found[column].to_numpy() == pytest.approx(expected[column].to_numpy())
    assert set(found["n"]) == {len(pictures.categories) - 1} and set(found["of"]) == {len(pictures.categories)}
    one_kind = frame[(frame["category"] == first) == (frame["anomalous"] == False)]  # noqa: E712
    assert Contributions(one_kind, result.provenance).summary["separation"].isna().all()
