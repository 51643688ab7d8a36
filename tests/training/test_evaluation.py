from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

import headlens
from headlens import data
from headlens.baselines import LocalContrast
from headlens.detectors.methods.headclip import HeadCLIP
from headlens.detectors.scoring import Prediction
from headlens.errors import ConfigError, MetricError
from headlens.metrics import MetricTable
from headlens.training.evaluation import Evaluation, evaluate
from headlens.training.summary import Summary, over_seeds


@pytest.fixture
def two_categories():
    return data.open("procedural:industrial/aux", per_category=6, size=32).where(
        lambda record: record.category in ("wood", "nut")
    )


@pytest.fixture(scope="module")
def nuts():
    return data.open("procedural:industrial/aux", category="nut", per_category=4, size=16)


@torch.no_grad()
def test_every_value_is_scikit_learns(clip, two_categories, headclip):
    detector = HeadCLIP(clip, headclip, seed=2)
    result = evaluate(detector, two_categories, batch=5, exact=True)
    loader = data.Loader(two_categories, data.Preprocess(32), 12)
    (batch,) = loader
    prediction = detector(batch.images)
    for category in ("wood", "nut"):
        own = torch.tensor([record.category == category for record in batch.records])
        labels = batch.labels[own].numpy()
        scores = {
            "image": prediction.image_score,
            "map": prediction.anomaly_map.flatten(1).amax(1),
            "joint": prediction.joint_score,
        }
        rows = result.frame[result.frame["category"] == category].set_index(["score", "metric"])["value"]
        for name, values in scores.items():
            assert rows[name, "auroc"] == pytest.approx(roc_auc_score(labels, values[own].numpy()))
            assert rows[name, "ap"] == pytest.approx(average_precision_score(labels, values[own].numpy()))
        pixels = prediction.anomaly_map[own].flatten().numpy()
        truth = batch.masks[own].flatten().numpy()
        assert rows["pixel", "auroc"] == pytest.approx(roc_auc_score(truth, pixels), abs=1e-5)
    table = result.table("joint").frame.query("dataset != 'mean'").set_index(["category", "metric"])["value"]
    joint = result.frame.query("score == 'joint' and metric == 'auroc'")["value"].mean()
    assert table["mean", "image_auroc"] == pytest.approx(joint)


def test_metrics_that_do_not_exist_are_nan(clip, headclip, tmp_path):
    for number in range(3):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.effect_noise((40, 40), 60).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "masks").mkdir()
    for number in range(3):
        mask = Image.new("L", (40, 40))
        mask.paste(255, (5, 5, 20, 20))
        mask.save(tmp_path / "masks" / f"{number}.png")
    result = evaluate(HeadCLIP(clip, headclip), data.open(tmp_path, domain="medical"))
    values = result.frame.set_index(["score", "metric"])["value"]
    assert math.isnan(values["joint", "auroc"])
    assert 0 <= values["pixel", "auroc"] <= 1
    assert "-" in result.table().markdown()
    (line,) = result.undefined()
    assert line.endswith("are undefined: no image is normal") and ": image metrics of " in line


def test_several_sets_are_one_table(clip, headclip, two_categories):
    wood, nut = (two_categories.where(lambda record, c=c: record.category == c) for c in ("wood", "nut"))
    nut.name = "other"
    both = Evaluation.joined([evaluate(HeadCLIP(clip, headclip), part) for part in (wood, nut)])
    frame = both.table().frame
    assert set(frame["dataset"]) == {"procedural:industrial/aux", "other", "mean"}
    assert len(both.scores) == 12


@torch.no_grad()
def test_saturated_maps_are_told_apart(clip, two_categories, headclip):
    """Margins of trained detectors lie around -20: over 0..1 nearly all of their pixels would share one bin."""
    detector = HeadCLIP(clip, headclip, seed=2)
    shifted = detector.score

    def low(features, text):
        prediction = shifted(features, text)
        margins = torch.logit(prediction.anomaly_map) * 3 - 20
        return replace(prediction, anomaly_map=margins.sigmoid())

    detector.score = low
    exact, streamed = (evaluate(detector, two_categories, exact=exact) for exact in (True, False))
    assert exact.half_width == 0 < streamed.half_width < 0.005
    both = exact.frame.merge(streamed.frame, on=["category", "score", "metric"])
    pixel = both[both["score"] == "pixel"]
    assert len(pixel) == 8
    assert (pixel["value_x"] - pixel["value_y"]).abs().max() <= streamed.half_width + 1e-9


class Outside:
    """A scorer whose maps are ``low`` to ``high``."""

    image_size, device = 28, torch.device("cpu")

    def __init__(self, low, high, unit="probability"):
        self.ends, self.unit = (low, high), unit

    def __call__(self, images, categories=()):
        low, high = self.ends
        maps = low + (high - low) * torch.rand(images.shape[0], *images.shape[2:], generator=torch.manual_seed(0))
        maps[..., 0, 0], maps[..., -1, -1] = low, high
        peak = maps.flatten(1).mean(1)
        return Prediction(maps, peak, peak, peak, {}, self.unit)


ENDS = [(0.0, 1.01), (-0.01, 1.0), (-20.0, 3.0), (0.0, 255.0), (2.0, 3.0)]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("ends", ENDS)
def test_probabilities_outside_of_0_to_1_are_an_error(ends, exact, two_categories):
    with pytest.raises(MetricError, match=r"Outside's map gives values from .* 0 to 1; .* have unit=\"logit\""):
        evaluate(Outside(*ends), two_categories, exact=exact)


@pytest.mark.parametrize("ends", ENDS)
def test_the_same_numbers_as_logits_are_evaluated(ends, two_categories):
    """And brought to 0..1 as probabilities: all agree, exact and streaming."""
    logits = [evaluate(Outside(*ends, "logit"), two_categories, exact=exact) for exact in (True, False)]
    inside = evaluate(Outside(0.0, 1.0), two_categories, exact=True)
    assert logits[0].unit == logits[1].unit == "logit" and inside.unit == "probability"
    exact, streamed, reference = (
        each.frame.query("score == 'pixel'")["value"].to_numpy() for each in (*logits, inside)
    )
    assert exact == pytest.approx(reference, abs=1e-3)
    assert abs(streamed - exact).max() <= logits[1].half_width + 1e-12 < 0.01


def test_a_score_outside_of_its_unit_is_an_error(two_categories):
    class Loud(Outside):
        def __call__(self, images, categories=()):
            return replace(super().__call__(images), image_score=torch.full((len(images),), 7.0))

    with pytest.raises(MetricError, match=r"Loud's score gives values from .* to 7 and calls them probabilities"):
        evaluate(Loud(0.0, 1.0), two_categories)
    assert evaluate(Loud(0.0, 1.0, "logit"), two_categories).scores["image"].eq(7).all()


def test_two_units_of_one_scorer_are_an_error(two_categories):
    class Fickle(Outside):
        def __call__(self, images, categories=()):
            self.unit = "logit" if self.unit == "probability" else "probability"
            return super().__call__(images)

    with pytest.raises(MetricError, match="Fickle gives maps in two units, logit and then probability"):
        evaluate(Fickle(0.0, 1.0), two_categories, batch=5)


class Scaled:
    """Random margins of one seed, times ``scale``, plus ``shift``; ties among them, and higher on the masks."""

    image_size, device = 16, torch.device("cpu")

    def __init__(self, seed, scale, shift):
        self.seed, self.scale, self.shift = seed, scale, shift

    def __call__(self, images, categories=()):
        drawn = torch.randn(len(images), *images.shape[2:], generator=torch.manual_seed(self.seed))
        margins = (3 * drawn + images.mean(1)).mul(8).round() / 8
        maps = margins * self.scale + self.shift
        score = maps.flatten(1).mean(1)
        return Prediction(maps, score, score, score, {}, "logit")


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 99),
    scale=st.sampled_from([1.0, 100.0, 1e-3, 1e5]) | st.floats(1e-4, 1e6),
    shift=st.sampled_from([0.0, -50.0, 1e3]),
)
def test_streaming_is_right_for_logits_of_any_scale(seed, scale, shift, nuts):
    exact, streamed = (evaluate(Scaled(seed, scale, shift), nuts, exact=exact) for exact in (True, False))
    both = exact.frame.merge(streamed.frame, on=["category", "score", "metric"])
    assert exact.half_width == 0
    assert (both["value_x"] - both["value_y"]).abs().max() <= streamed.half_width + 1e-12
    images = both["score"] != "pixel"
    assert both[images]["value_x"].equals(both[images]["value_y"])


@pytest.mark.parametrize(("scale", "shift"), [(100.0, 0.0), (1.0, -50.0), (100.0, -50.0)])
def test_another_scale_of_the_same_logits_is_the_same_result(scale, shift, nuts):
    plain = evaluate(Scaled(0, 1.0, 0.0), nuts, exact=True)
    other = evaluate(Scaled(0, scale, shift), nuts)
    assert other.half_width < 0.02
    assert (plain.frame["value"] - other.frame["value"]).abs().max() <= other.half_width + 1e-6


def test_rounding_beyond_one_is_no_error(two_categories):
    assert evaluate(Outside(-1e-7, 1 + 1e-6), two_categories).half_width < 0.01


def test_a_run_and_its_detector_are_one(two_categories, monkeypatch):
    run = headlens.load("mini-industrial")
    few = two_categories.where(lambda record: record.category == "nut")
    by_run, by_detector = (evaluate(given, few, size=56) for given in (run, run.detector))
    assert by_run.frame.equals(by_detector.frame) and by_run.provenance == by_detector.provenance
    with pytest.raises(ConfigError, match="str is neither a detector nor a run"):
        evaluate("mini-industrial", few)


def test_an_evaluation_is_saved_and_loaded_whole(clip, headclip, two_categories, tmp_path):
    result = evaluate(HeadCLIP(clip, headclip), two_categories)
    assert result.provenance["dataset"]["name"] == two_categories.name and result.provenance["unit"] == "probability"
    again = Evaluation.load(result.save(tmp_path / "evaluation.parquet"))
    assert again.provenance == result.provenance and again.half_width == result.half_width > 0
    for name in ("frame", "scores", "notes"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(result, name), check_dtype=False)
    table = MetricTable.load(result.table().save(tmp_path / "table.parquet"))
    assert table.markdown() == result.table().markdown() and table.provenance == result.provenance
    seeds = over_seeds([result, evaluate(HeadCLIP(clip, headclip, seed=1), two_categories)])
    summary = Summary.load(seeds.save(tmp_path / "summary.parquet"))
    assert summary.markdown() == seeds.markdown() and len(summary.provenance["parts"]) == 2
    assert "learned_sha256" not in summary.provenance and summary.made_by == result.made_by
    for each in (again, table, summary):
        figure, axes = each.plot()
        assert [tick.get_text() for tick in axes.get_yticklabels()] == [
            "wood",
            "nut",
            "mean",
            "mean over data sets (industrial)",
        ]
        assert axes.get_legend_handles_labels()[1] == ["I-AUROC", "P-AUROC", "AUPRO"]
        assert figure.get_supxlabel().startswith("backbone tiny")
        assert each.plot(axes).axes is axes


def test_a_baseline_says_what_it_is(two_categories):
    result = evaluate(LocalContrast(4.0), two_categories, size=32)
    assert result.made_by.startswith("LocalContrast (scale 4.0, image_size 224) · ")
    assert result.provenance["detector"] == {"method": "LocalContrast", "scale": 4.0, "image_size": 224}
    assert result.provenance["device"] == "cpu" and 0 <= result.scores["map"].min() <= result.scores["map"].max() <= 1
    assert evaluate(Outside(0.0, 1.0), two_categories).made_by.startswith("Outside · ")


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_maps_that_are_not_finite_are_refused(bad, exact, two_categories):
    with pytest.raises(MetricError, match=r"not a number, or infinite|NaN or infinite"):
        evaluate(Outside(0.0, bad), two_categories, exact=exact)


def test_a_score_that_is_no_number_is_refused_though_no_label_asks_for_it(two_categories):
    class Silent(Outside):
        def __call__(self, images, categories=()):
            return replace(super().__call__(images), image_score=torch.full((len(images),), math.nan))

    unlabelled = two_categories.where(lambda record: record.anomalous is False)
    with pytest.raises(MetricError, match=r"Silent gives \S+ and 5 others a score that is not a number"):
        evaluate(Silent(0.0, 1.0), unlabelled)


def test_what_was_left_out_or_counts_without_a_mask_stays_with_its_reason(clip, headclip, tmp_path):
    def picture(place, size=(40, 40), mark=()):
        place.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("L", size, 0) if mark else Image.effect_noise(size, 60)
        if mark:
            image.paste(255, mark)
        image.save(place)

    for number in range(3):
        picture(tmp_path / f"bolt/test/good/{number}.png")
        picture(tmp_path / f"bolt/test/bent/{number}.png")
        picture(tmp_path / f"nut/test/good/{number}.png")
        picture(tmp_path / f"bolt/ground_truth/bent/{number}_mask.png", (40, 40), (3, 3, 20, 20))
    picture(tmp_path / "bolt/ground_truth/bent/1_mask.png", (40, 90), (3, 3, 20, 20))
    picture(tmp_path / "bolt/train/good/0.png")
    (tmp_path / "bolt/test/bent/2.png").write_bytes(b"broken")
    result = evaluate(HeadCLIP(clip, headclip), data.open(tmp_path, domain=""))
    notes = result.notes.set_index("kind")
    assert notes.loc["skipped", "name"] == "bolt/test/bent/2" and "2.png" in notes.loc["skipped", "reason"]
    assert notes.loc["unmasked", "name"] == "bolt/test/bent/1" and result.skipped == ("bolt/test/bent/2",)
    values = result.frame.set_index(["category", "score", "metric"])["value"]
    assert 0 <= values["bolt", "joint", "auroc"] <= 1  # of both readable anomalous images
    assert len(result.scores) == 8 and result.scores["has_mask"].sum() == 7
    left_out, unmasked = result.lines()
    assert "1 image of" in left_out and "left out" in left_out and "without a usable mask" in unmasked
    assert [line.partition(": ")[2] for line in result.undefined()] == [
        "image metrics of nut are undefined: no image is anomalous",
        "pixel metrics of nut are undefined: no anomalous image has a mask that can be used",
    ]
    cells = over_seeds([result]).markdown().splitlines()[-2]
    assert "(1 of 2)" in cells


def test_two_sets_of_one_name_are_not_merged(clip, headclip, two_categories):
    result = evaluate(HeadCLIP(clip, headclip), two_categories)
    with pytest.raises(MetricError, match="two data sets are called"):
        Evaluation.joined([result, result])
