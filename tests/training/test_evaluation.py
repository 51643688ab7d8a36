from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from headlens import data
from headlens.detectors.methods.headclip import HeadCLIP
from headlens.detectors.scoring import Prediction
from headlens.errors import MetricError
from headlens.training.evaluation import Evaluation, evaluate
from headlens.training.summary import over_seeds


@pytest.fixture
def two_categories():
    return data.open("procedural:industrial/aux", per_category=6, size=32).where(
        lambda record: record.category in ("wood", "nut")
    )


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

    def __init__(self, low, high):
        self.ends = low, high

    def __call__(self, images, categories=()):
        low, high = self.ends
        maps = low + (high - low) * torch.rand(images.shape[0], *images.shape[2:], generator=torch.manual_seed(0))
        maps[..., 0, 0], maps[..., -1, -1] = low, high
        peak = maps.flatten(1).mean(1)
        return Prediction(maps, peak, peak, peak, {})


@pytest.mark.parametrize("ends", [(0.0, 1.01), (-0.01, 1.0), (-20.0, 3.0), (0.0, 255.0), (2.0, 3.0)])
def test_streaming_refuses_maps_that_are_no_probabilities(ends, two_categories):
    """The same numbers, and brought to 0..1: only exact metrics may be of the former, and both agree."""
    with pytest.raises(MetricError, match=r"Outside gives maps from .* 0 to 1; evaluate with exact=True"):
        evaluate(Outside(*ends), two_categories)
    outside, inside = (evaluate(Outside(*own), two_categories, exact=True) for own in (ends, (0.0, 1.0)))
    pixel = outside.frame["score"] == "pixel"
    assert outside.frame[pixel]["value"].to_numpy() == pytest.approx(inside.frame[pixel]["value"].to_numpy(), abs=1e-3)


def test_rounding_beyond_one_is_no_error(two_categories):
    assert evaluate(Outside(-1e-7, 1 + 1e-6), two_categories).half_width < 0.01


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


def test_what_was_left_out_or_counts_without_a_mask_is_kept_with_its_reason(clip, headclip, tmp_path):
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
    assert len(result.scores) == 8 and result.scores["outlined"].sum() == 7
    left_out, unmasked = result.lines()
    assert "1 image of" in left_out and "left out" in left_out and "without a mask that counts" in unmasked
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
