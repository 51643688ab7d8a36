from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from headlens import data
from headlens.detectors.headclip import Detector
from headlens.training.evaluation import Evaluation, evaluate


@pytest.fixture
def two_categories():
    return data.open("procedural:industrial/aux", per_category=6, size=32).where(
        lambda record: record.category in ("wood", "nut")
    )


@torch.no_grad()
def test_every_value_is_scikit_learns(clip, two_categories, headclip):
    detector = Detector(clip, headclip, seed=2)
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
    result = evaluate(Detector(clip, headclip), data.open(tmp_path, domain="medical"))
    values = result.frame.set_index(["score", "metric"])["value"]
    assert math.isnan(values["joint", "auroc"])
    assert 0 <= values["pixel", "auroc"] <= 1
    assert "-" in result.table().markdown()


def test_several_sets_are_one_table(clip, headclip, two_categories):
    wood, nut = (two_categories.where(lambda record, c=c: record.category == c) for c in ("wood", "nut"))
    nut.name = "other"
    both = Evaluation.joined([evaluate(Detector(clip, headclip), part) for part in (wood, nut)])
    frame = both.table().frame
    assert set(frame["dataset"]) == {"procedural:industrial/aux", "other", "mean"}
    assert len(both.scores) == 12


@torch.no_grad()
def test_saturated_maps_are_told_apart(clip, two_categories, headclip):
    """Margins of trained detectors lie around -20: over 0..1 nearly all of their pixels would share one bin."""
    detector = Detector(clip, headclip, seed=2)
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
