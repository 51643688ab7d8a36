"""What is captured against the hooked tower's own patterns; streaming, resuming, bad input."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from headlens import data
from headlens.errors import ConfigError, RunError
from headlens.heads import capture, contributions
from tests.heads.oracles import cached


@pytest.fixture
def captured(detector, pictures, tmp_path):
    return capture(detector, pictures, tmp_path / "capture", batch=5)


def wide(frame: pd.DataFrame, stream: str, metric: str) -> np.ndarray:
    """[images, layers, heads], in the order of the frame."""
    own = frame[(frame["stream"] == stream) & (frame["metric"] == metric)]
    counts = [own[name].nunique() for name in ("image", "layer", "head")]
    names = {name: number for number, name in enumerate(own["image"].unique())}
    own = own.assign(order=own["image"].map(names)).sort_values(["order", "layer", "head"])
    return own["value"].to_numpy(float).reshape(counts)


@torch.no_grad()
def test_statistics_are_those_of_the_patterns_and_outputs_that_hooks_see(detector, pictures, captured):
    (batch,) = data.Loader(pictures, data.Preprocess(32), len(pictures))
    cache = cached(detector, batch.images.double())[1]
    layers = {"global": range(4), "local": range(1, 4)}
    for stream, prefix in (("global", "hook_"), ("local", "hook_local_")):
        patterns = torch.stack([cache[f"blocks.{layer}.attn.{prefix}pattern"] for layer in layers[stream]], 1)
        z = torch.stack([cache[f"blocks.{layer}.attn.{prefix}z"] for layer in layers[stream]], 1)  # (B, L, T, H, d)
        entropy = -(patterns * patterns.log()).sum(-1)  # (B, L, H, T)
        expected = {"entropy_patches": entropy[..., 1:].mean(-1), "z_norm_patches": z[:, :, 1:].norm(dim=-1).mean(2)}
        if stream == "global":
            expected |= {"entropy": entropy[..., 0], "z_norm": z[:, :, 0].norm(dim=-1)}
            expected |= {"cls_self": patterns[..., 0, 0], "cls_peak": patterns[..., 0, 1:].max(-1).values}
        for metric, values in expected.items():
            found = wide(captured.frame, stream, metric)
            assert np.allclose(found, values[:, : found.shape[1]], rtol=0, atol=1e-6), metric


@torch.no_grad()
def test_attention_on_flaws_is_one_by_chance(detector, pictures, captured):
    (batch,) = data.Loader(pictures, data.Preprocess(32), len(pictures))
    cache = cached(detector, batch.images.double())[1]
    rows = torch.stack([cache[f"blocks.{layer}.attn.hook_pattern"][..., 0, 1:] for layer in range(4)], 1)
    flawed = [i for i in range(len(batch)) if batch.masks[i].any()]
    edge = detector.backbone.vision.cfg.patch_size
    expected = []
    for i in flawed:
        under = [
            bool(batch.masks[i][r * edge : (r + 1) * edge, c * edge : (c + 1) * edge].any())
            for r in range(32 // edge)
            for c in range(32 // edge)
        ]
        on, share = rows[i][..., torch.tensor(under)].sum(-1) / rows[i].sum(-1), sum(under) / len(under)
        expected.append(on / share)
    found = wide(captured.frame, "global", "cls_on_flaw")
    assert len(flawed) > 3 and np.allclose(found, torch.stack(expected), atol=1e-6)


def test_parts_of_margins_are_the_contributions(detector, pictures, captured):
    frame = contributions(detector, pictures, batch=5).frame.query("kind == 'head'")
    keys = ["image", "stream", "layer", "head"]
    own = captured.frame.set_index(["metric", *keys])["value"]
    image = frame[frame["metric"] == "image_margin"].set_index(keys)["value"]
    assert np.allclose(own["image_margin"].loc[image.index], image)
    taps = frame[frame["metric"].str.startswith("tap_margin")].groupby(keys)["value"].sum() / 2  # taps 1 and 3
    assert np.allclose(own["tap_margin"].loc[taps.index], taps)


def test_a_summary_reads_file_by_file(captured, tmp_path):
    frame = captured.frame
    assert [len(part["image"].unique()) for part in captured.parts()] == [5, 5, 2]
    found = captured.summary.set_index(["metric", "stream", "layer", "head"])
    groups = frame.groupby(["metric", "stream", "layer", "head"])["value"]
    assert np.allclose(found["mean"], groups.mean().loc[found.index], atol=1e-6)
    assert np.allclose(found["std"], groups.std(ddof=0).loc[found.index], atol=1e-6)
    normal = frame[~frame["anomalous"]].groupby(["metric", "stream", "layer", "head"])["value"].mean()
    told = found["normal"].dropna()
    assert len(told) and np.allclose(told, normal.loc[told.index])
    assert found.loc["cls_on_flaw", "normal"].isna().all()  # nothing is flawed there
    one = pd.read_parquet(captured.save(tmp_path / "all.parquet"))
    pd.testing.assert_frame_equal(one, frame, check_dtype=False)
    assert captured.provenance["what"] == "capture" and captured.provenance["backbone"]["name"] == "tiny"


def test_what_was_killed_goes_on(make, pictures, tmp_path, monkeypatch):
    detector = make(torch.float32)
    whole = capture(detector, pictures, tmp_path / "whole", batch=5)

    def killed(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture(detector, pictures, tmp_path / "killed", batch=5, progress=killed)
    assert [path.name for path in sorted((tmp_path / "killed").glob("*.parquet"))] == ["part-00000.parquet"]
    again = capture(detector, pictures, tmp_path / "killed", batch=5)
    pd.testing.assert_frame_equal(again.frame, whole.frame, check_exact=True)
    with pytest.raises(RunError, match="holds a sweep with batch = 5, not 4"):
        capture(detector, pictures, tmp_path / "killed", batch=4)


def test_pictures_and_bad_input(captured):
    fig, axes = captured.plot()
    assert axes.get_title() == "global heads"
    assert captured.plot(fig.add_subplot(), "z_norm_patches", "local").axes.get_title() == "local heads"
    with pytest.raises(ConfigError, match=r"a capture is saved as \.parquet"):
        captured.save("heads.csv")
    with pytest.raises(ConfigError, match=r"'entrpy' was not captured; available: .*entropy"):
        captured.plot(metric="entrpy")


def test_local_heads_have_a_part_in_a_pooled_image_margin(make, pictures, tmp_path):
    detector = make(score_pooling=0.5)
    found = capture(detector, pictures, tmp_path / "capture").frame.query("metric == 'image_margin'")
    parts = contributions(detector, pictures, check_sums=True).frame.query("metric == 'image_margin'")
    keys = ["image", "stream", "layer", "head"]
    expected = parts[parts["kind"] == "head"].set_index(keys)["value"]
    assert set(found["stream"]) == {"global", "local"} and len(found) == len(expected)
    assert np.allclose(found.set_index(keys)["value"].loc[expected.index], expected)
    sums = parts.groupby("image").agg(value=("value", "sum"), baseline=("baseline", "first"))
    assert np.allclose(sums["value"], sums["baseline"], rtol=0, atol=1e-11)
