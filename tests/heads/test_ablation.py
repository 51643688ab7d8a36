"""The sweep over a data set against the plain hook loop; what is interrupted; what is refused."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from headlens import data
from headlens.backbone import load
from headlens.detectors.methods.headclip import HeadCLIP
from headlens.detectors.methods.registry import preset
from headlens.errors import ConfigError, DataError, RunError, ShapeError
from headlens.heads import ablation, response
from headlens.heads.ablation import Ablation, ablate
from headlens.heads.clean import clean_forward
from headlens.heads.effects import CONTINUOUS
from headlens.heads.measuring import PROBES, measure
from headlens.heads.replacement import donors
from headlens.heads.sweep import Images
from headlens.heads.variants import Head, Variant, cumulative, heads_of, shuffled, single_heads, whole_layers
from headlens.metrics import Truth, image_metrics, pixel_metrics
from tests.heads.oracles import cached, hooked, naive, stand_ins
from tests.tiny import BOTH

METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_aupro")


@pytest.fixture
def one_batch(pictures):
    (batch,) = data.Loader(pictures, data.Preprocess(32), 12)
    return batch


def replacements(detector, pictures, batch, images, kind):
    """For all images what stands in, by the plain way: the mean of the normal ones, or each one's donor."""
    cache = cached(detector, images)[1]
    if kind == "mean":
        normal = batch.labels == 0
        own = stand_ins({name: z[normal] for name, z in cache.items()}, kind)
        return {name: z[:1].expand(len(images), -1, -1, -1) for name, z in own.items()}
    if kind == "resample":
        return {name: z[donors(pictures, seed=7)] for name, z in cache.items() if name.endswith("z")}
    return None


@torch.no_grad()
@pytest.mark.parametrize("kind", ["zero", "mean", "resample", "revert"])
def test_the_sweep_is_the_plain_hook_loop(kind, detector, pictures, one_batch):
    images = one_batch.images.double()
    variants = single_heads(heads_of(detector)[1::4]) + whole_layers(heads_of(detector, [2]))
    result = ablate(detector, pictures, variants, kind=kind, seed=7, batch=5, metrics=METRICS, replicates=20)
    instead = replacements(detector, pictures, one_batch, images, kind)
    before = hooked(detector, images, [])
    frame = result.frame.set_index(["variant", "metric"])
    summary = result.summary.set_index(["category", "variant", "metric"])
    for variant in variants:
        after = naive(detector, images, variant, kind, instead)
        expected = {
            "image_margin": after.image_margin - before.image_margin,
            "joint_score": after.joint_score - before.joint_score,
            "joint_margin": after.joint_score.logit() - before.joint_score.logit(),
            "anomaly_map": (after.anomaly_map - before.anomaly_map).abs().sum((1, 2))
            / torch.maximum(after.anomaly_map.sum((1, 2)), before.anomaly_map.sum((1, 2))),
        }
        for metric, effect in expected.items():
            assert np.allclose(frame.loc[(variant.name, metric), "effect"], effect, rtol=0, atol=1e-10)
        for category in pictures.categories:
            own = torch.tensor([record.category == category for record in one_batch.records])
            ranks = image_metrics(after.joint_score[own], one_batch.labels[own])
            pixels = pixel_metrics([after.anomaly_map[own]], Truth.of(one_batch.masks[own]), mode="exact")
            values = {f"image_{name}": float(value) for name, value in ranks.items()}
            values |= {f"pixel_{name}": float(value) for name, value in pixels.items()}
            for metric in METRICS:
                assert summary.loc[(category, variant.name, metric), "value"] == pytest.approx(
                    values[metric], abs=3e-4
                )  # of few pixels
    by_category = summary["effect"].unstack("category")
    assert np.allclose(by_category["mean"], by_category[list(pictures.categories)].mean(axis=1))


def test_summary_has_intervals_noise_and_the_strongest_first(make, pictures):
    detector = make(torch.float32)
    heads = heads_of(detector, [1, 3])
    result = ablate(detector, pictures, single_heads(heads), batch=6, replicates=50)
    summary = result.summary
    own = summary.query("category == 'mean' and metric == 'joint_margin'")
    assert len(own) == len(heads)
    for metric in summary["metric"].unique():  # by the quantity that is asked for, not by another
        means = result.means(metric)
        assert means["magnitude"].is_monotonic_decreasing and (means["metric"] == metric).all()
    maps = result.means("anomaly_map")
    assert maps["effect"].is_monotonic_decreasing and list(maps["variant"]) != list(own["variant"])
    assert (own["low"] <= own["effect"]).mean() > 0.9
    assert (own["effect"] <= own["high"]).mean() > 0.9
    assert (own["noise"] < own["magnitude"].max() / 100).all()
    assert set(summary["metric"]) == {*CONTINUOUS, *ablation.DEFAULT_METRICS}
    probes = result.frame.query("kind == 'none' and metric == 'joint_margin'")
    assert set(probes["stream"]) == {"global", "local"}
    assert len(probes) == 2 * len(pictures)
    # The image margin does not hear of local heads.
    assert (result.frame.query("stream == 'local' and metric == 'image_margin'")["effect"] == 0).all()


def test_pictures_are_of_the_size_that_the_detector_was_trained_on(make, pictures):
    detector = make(torch.float32)
    assert Images(detector, pictures).size == detector.backbone.provenance.image_size[0] == detector.image_size
    detector.size = 24
    assert Images(detector, pictures).size == 24 and Images(detector, pictures, 16).size == 16


@torch.no_grad()
def test_budget_and_batch_do_not_matter(detector, images, monkeypatch):
    clean = clean_forward(detector, images)
    variants = [*PROBES.values(), *single_heads(heads_of(detector)), *cumulative(shuffled(heads_of(detector)), [3])]
    found = [measure(clean, variants, budget=budget) for budget in (1, 2**30)]
    alone = [measure(clean_forward(detector, images[row : row + 1]), variants) for row in range(3)]
    for name in ("image_margin", "joint_margin", "map_change", "patch_map"):
        one, all_ = (getattr(own, name) for own in found)
        assert torch.allclose(one, all_, rtol=0, atol=1e-10)
        assert torch.allclose(torch.cat([getattr(own, name) for own in alone], 1), one, rtol=0, atol=1e-10)
    monkeypatch.setattr(response, "rounding_unit", lambda dtype, device: 1e-3)
    late = [PROBES["global"], *single_heads(heads_of(detector, [2]))]
    moved = [measure(clean, late, budget=budget).joint_margin[0] - clean.targets.joint_margin for budget in (1, 2**30)]
    assert moved[0].abs().min() > 1e-9 and torch.allclose(*moved, rtol=1e-6)  # from layer 2 on, both


@torch.no_grad()
def test_a_head_that_writes_nothing_has_effect_zero_on_everything(make, pictures):
    detector = make(torch.float32)
    attn = detector.backbone.vision.blocks[2].attn
    attn.qkv.weight[2 * 32 + 8 : 2 * 32 + 16] = 0  # V of head 1
    attn.qkv.bias[2 * 32 + 8 : 2 * 32 + 16] = 0
    variants = single_heads(heads_of(detector, [2]))
    result = ablate(detector, pictures, variants, batch=5, replicates=10)
    silent = result.frame["variant"].isin(["L2H1", "L2H1/local"])
    assert (result.frame[silent]["effect"] == 0).all()
    assert (result.summary[result.summary["variant"].isin(["L2H1", "L2H1/local"])]["effect"].fillna(0) == 0).all()
    others = result.frame[~silent & result.frame["metric"].eq("joint_score") & result.frame["kind"].eq("zero")]
    assert (others["effect"] != 0).any()


@pytest.mark.parametrize("kind", ["zero", "mean", "resample"])
def test_what_was_killed_goes_on_to_the_same_bits(kind, make, pictures, tmp_path, monkeypatch):
    detector = make(torch.float32)
    variants = single_heads(heads_of(detector, [1, 3]))
    go = {"kind": kind, "batch": 4, "replicates": 20, "seed": 3}
    whole = ablate(detector, pictures, variants, **go)
    calls = []

    def killed(count):
        calls.append(count)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ablate(detector, pictures, variants, **go, out=tmp_path / "sweep", progress=killed)
    forwards = []
    monkeypatch.setattr(ablation, "measure", lambda *args: forwards.append(0) or measure(*args))
    again = ablate(detector, pictures, variants, **go, out=tmp_path / "sweep")
    assert len(forwards) == 1  # of three batches, two were there
    pd.testing.assert_frame_equal(again.frame, whole.frame, check_exact=True)
    pd.testing.assert_frame_equal(again.summary, whole.summary, check_exact=True)

    with pytest.raises(RunError, match=r"holds a sweep with seed = 3, not 4"):
        ablate(detector, pictures, variants, **(go | {"seed": 4}), out=tmp_path / "sweep")
    part = tmp_path / "sweep" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(RunError, match=r"part-00001\.parquet: damaged .*delete it"):
        ablate(detector, pictures, variants, **go, out=tmp_path / "sweep")


def test_results_are_saved_whole(make, pictures, tmp_path):
    result = ablate(make(torch.float32), pictures, single_heads([Head("global", 3, 1)]), replicates=5)
    again = Ablation.load(result.save(tmp_path / "made" / "heads.parquet"))
    pd.testing.assert_frame_equal(again.frame, result.frame)
    pd.testing.assert_frame_equal(again.summary, result.summary)
    assert again.provenance == result.provenance
    assert "L3H1" in result.save(tmp_path / "heads.md").read_text()
    assert r"joint\_margin" in result.save(tmp_path / "heads.tex").read_text()
    assert len(pd.read_csv(result.save(tmp_path / "heads.csv"))) == len(result.frame)
    with pytest.raises(ConfigError, match=r"\.parquet, \.csv, \.md, \.tex, not as '\.xls'"):
        result.save(tmp_path / "heads.xls")
    with pytest.raises(RunError, match="not a result saved by headlens"):
        Ablation.load(tmp_path / "heads.csv")


def test_pictures_without_masks_have_no_pixel_metrics(make, pictures):
    normal = pictures.where(lambda record: not record.anomalous)
    summary = ablate(make(torch.float32), normal, single_heads([Head("global", 3, 1)]), replicates=5).summary
    metrics = summary.set_index(["category", "metric"])
    assert metrics.loc["mean"].loc["image_auroc", ["value", "low", "noise"]].isna().all()
    assert metrics.loc["mean"].loc["joint_margin", ["value", "low", "noise"]].notna().all()


def test_pictures_that_nobody_labelled_have_no_metrics(make, tmp_path):
    for number in range(3):
        Image.effect_noise((40, 40), 60).save(tmp_path / f"{number}.png")
    result = ablate(make(torch.float32), data.open(tmp_path), single_heads([Head("global", 3, 1)]), replicates=5)
    values = result.summary.query("category == 'mean'").set_index("metric")["value"]
    assert values[["image_auroc", "pixel_auroc", "pixel_aupro"]].isna().all()
    assert values[list(CONTINUOUS)].notna().all()


def test_donors_are_other_normal_pictures_of_the_category(pictures):
    drawn = donors(pictures, seed=1)
    for record, number in zip(pictures.records, drawn, strict=True):
        other = pictures.records[number]
        assert other.category == record.category
        assert other.anomalous is False
        assert other.name != record.name
    assert drawn != donors(pictures, seed=2)
    half = pictures.where(lambda record: record.category == "nut" or not record.anomalous)
    names = {record.name: pictures.records[i].name for record, i in zip(pictures.records, drawn, strict=True)}
    for record, number in zip(half.records, donors(half, seed=1), strict=True):
        assert half.records[number].name == names[record.name]
    with pytest.raises(DataError, match="no other normal image of category 'wood'"):
        donors(pictures.where(lambda record: bool(record.anomalous)))


@pytest.mark.parametrize("whose", [0, 11])  # among the first batch, when nothing has been read, and the last
def test_a_donor_that_cannot_be_read_is_named(whose, detector, pictures, monkeypatch):
    pool = pictures.where(lambda record: record.anomalous is False)
    lost, whole = pool.records[donors(pictures, pool, 7)[whose]].name, type(pictures).pixels

    def pixels(self, i):
        if self.records[i].name == lost and len(self) == len(pool):
            raise DataError(f"{lost} is gone")
        return whole(self, i)

    monkeypatch.setattr(type(pictures), "pixels", pixels)
    with pytest.raises(DataError, match=f"{lost} cannot be read, and is a donor"):
        ablate(detector, pictures, single_heads([Head("local", 2, 0)]), kind="resample", seed=7, batch=3, metrics=())


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"variants": []}, ShapeError, "no head to ablate"),
        ({"variants": [Variant("x", ())]}, ShapeError, "'x' ablates no head"),
        (
            {"variants": single_heads([Head("global", 4, 0)])},
            ShapeError,
            r"global layer 4 does not exist; layers are 0\.\.3",
        ),
        (
            {"variants": single_heads([Head("local", 0, 0)])},
            ShapeError,
            r"local layer 0 does not exist; layers are 1\.\.3",
        ),
        ({"variants": single_heads([Head("global", 0, -1)])}, ShapeError, r"head -1 does not exist; heads are 0\.\.3"),
        ({"variants": single_heads([Head("text", 0, 0)])}, ShapeError, "stream 'text' does not exist"),
        ({"variants": single_heads([Head("global", 0, 0)] * 2)}, ShapeError, "two variants are called 'L0H0'"),
        ({"kind": "none"}, ConfigError, "unknown kind 'none'; available: zero, mean, resample, paired, revert"),
        ({"metrics": ["auroc"]}, ConfigError, "unknown metric 'auroc'; available: image_auroc"),
        ({"replicates": 0}, ConfigError, "replicates is 0"),
    ],
)
def test_bad_input_is_named(options, error, named, make, pictures):
    with pytest.raises(error, match=named):
        ablate(make(torch.float32), pictures, **options)


def test_heads_that_do_not_exist_are_named(make):
    detector = make(torch.float32)
    with pytest.raises(ShapeError, match=r"layer 99 does not exist; layers are 0\.\.3"):
        heads_of(detector, [99])
    with pytest.raises(ShapeError, match=r"layer 0 does not exist; layers are 1\.\.3"):
        heads_of(detector, [0], streams=("local",))
    with pytest.raises(ShapeError, match=r"head 4 does not exist; heads are 0\.\.3"):
        heads_of(detector, [1], [4])
    with pytest.raises(ShapeError, match="stream 'text' does not exist"):
        heads_of(detector, streams=("text",))
    with pytest.raises(ShapeError, match=r"step 3 does not exist; steps are 1\.\.2"):
        cumulative(heads_of(detector, [0], [0, 1]), [3])
    flat = make(torch.float32, local_start=-1, streams=("global",))
    with pytest.raises(ConfigError, match="no local stream"):
        heads_of(flat, streams=("local",))
    assert {head.stream for head in heads_of(flat)} == {"global"}


def test_only_learned_weights_are_reverted(make, pictures):
    detector = make(torch.float32, streams=("local",))
    frame = ablate(detector, pictures, kind="revert", metrics=(), replicates=5).frame.query("kind == 'revert'")
    assert set(frame["stream"]) == {"local"}
    assert (frame.query("metric == 'anomaly_map'")["effect"] > 0).all()
    given = ablate(detector, pictures, single_heads([Head("global", 1, 0)]), kind="revert", metrics=(), replicates=5)
    assert (given.frame.query("kind == 'revert'")["effect"] == 0).all()


def test_nothing_to_revert_is_told(make, pictures):
    clip = make(torch.float32).backbone
    plain = HeadCLIP(clip, preset("headclip", **(BOTH | {"head_weights": "none"})))
    with pytest.raises(ConfigError, match="'revert' sets learned head weights back to 1"):
        ablate(plain, pictures, kind="revert")


@torch.no_grad()
def test_in_float32_on_the_embedded_backbone():
    """Two pictures, a few heads of a low and a high layer: the sweep against the hooked tower."""
    detector = HeadCLIP(load("mini"))
    images = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    clean = clean_forward(detector, images)
    variants = single_heads(heads_of(detector, [6, 18], [3, 7]))
    found = measure(clean, variants)
    for row, variant in enumerate(variants):
        expected = naive(detector, images, variant, "zero")
        assert torch.allclose(found.image_margin[row], expected.image_margin, rtol=0, atol=1e-4)
        assert torch.allclose(found.joint_score[row], expected.joint_score, rtol=0, atol=1e-5)


@torch.no_grad()
def test_maps_far_beyond_the_whole_detectors_are_counted_as_finely(detector, pictures, one_batch):
    """All heads at once: logits leave the range that bins were laid over."""
    everything = Variant("everything", tuple(heads_of(detector)))
    result = ablate(detector, pictures, [everything], metrics=("pixel_auroc", "pixel_ap"), replicates=5, batch=12)
    after = naive(detector, one_batch.images.double(), everything, "zero").anomaly_map
    for category in pictures.categories:
        own = torch.tensor([record.category == category for record in one_batch.records])
        exact = pixel_metrics([after[own]], Truth.of(one_batch.masks[own]), mode="exact")
        rows = result.summary.query("category == @category").set_index("metric")["value"]
        for name in ("auroc", "ap"):
            assert rows[f"pixel_{name}"] == pytest.approx(float(exact[name]), abs=3e-4)


def test_other_pictures_of_the_same_names_are_no_part_of_a_sweep(make, tmp_path):
    detector = make(torch.float32)
    variants = single_heads([Head("global", 3, 1)])
    for seed in (0, 1):
        own = data.open("procedural:industrial/aux", per_category=2, size=32, seed=seed).where(
            lambda record: record.category == "nut"
        )
        if seed:
            with pytest.raises(RunError, match=r"holds a sweep with dataset = .*delete this one"):
                ablate(detector, own, variants, metrics=(), replicates=5, out=tmp_path / "sweep")
        else:
            ablate(detector, own, variants, metrics=(), replicates=5, out=tmp_path / "sweep")
    for part in (tmp_path / "sweep").glob("part-*"):
        part.unlink()
    ablate(detector, own, variants, metrics=(), replicates=5, out=tmp_path / "sweep")  # nothing was finished


def test_a_picture_that_can_be_read_again_is_computed(make, tmp_path):
    detector = make(torch.float32)
    paths = [tmp_path / "plain" / f"{number}.png" for number in range(4)]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths):
        Image.effect_noise((32, 32), 20 + 20 * number).convert("RGB").save(path)
    good = paths[1].read_bytes()
    times = paths[1].stat()
    paths[1].write_bytes(bytes(len(good)))  # of the same size and time: only reading it tells
    os.utime(paths[1], ns=(times.st_atime_ns, times.st_mtime_ns))
    variants = single_heads([Head("global", 3, 1)])
    go = {"metrics": (), "replicates": 5, "batch": 2, "size": 32, "out": tmp_path / "sweep"}
    first = ablate(detector, data.open(tmp_path / "plain"), variants, **go)
    paths[1].write_bytes(good)
    os.utime(paths[1], ns=(times.st_atime_ns, times.st_mtime_ns))
    again = ablate(detector, data.open(tmp_path / "plain"), variants, **go)
    whole = ablate(detector, data.open(tmp_path / "plain"), variants, **(go | {"out": None}))
    assert first.frame["image"].nunique() == 3 and again.frame["image"].nunique() == 4
    pd.testing.assert_frame_equal(again.frame, whole.frame, check_exact=True)


def test_an_empty_reference_is_no_reference(make, pictures):
    nobody = pictures.where(lambda record: False)
    with pytest.raises(DataError, match="no normal image to take the mean of"):
        ablate(make(torch.float32), pictures, single_heads([Head("global", 3, 1)]), kind="mean", reference=nobody)


def test_donors_do_not_depend_on_what_else_is_asked(pictures):
    few = pictures.where(lambda record: record.anomalous)
    every = dict(zip((r.name for r in pictures.records), donors(pictures, pictures, 3), strict=True))
    assert [every[record.name] for record in few.records] == donors(few, pictures, 3)
    assert donors(pictures, pictures, 4) != donors(pictures, pictures, 3)
