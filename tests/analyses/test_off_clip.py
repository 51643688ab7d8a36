"""False positives among normal images: rates against scikit-learn's curve, choices that can be built, and tables."""

from __future__ import annotations

import c2p_generated
import numpy as np
import pandas as pd
import pytest
from off_clip import CHOICES, COLUMNS, FINDINGS, SCORES, rates, table
from sklearn.metrics import roc_curve

from headlens.backbone import load
from headlens.detectors import Detector, TrainingConfig, build
from headlens.detectors.losses import with_off_diagonal


@pytest.mark.parametrize("seed", range(4))
def test_rates_are_points_of_scikit_learns_curve(seed):
    chance = np.random.default_rng(seed)
    labels = chance.permutation(np.arange(40) < 20)
    scores = chance.uniform(size=40).round(1 + seed) / 2 + 0.3 * labels  # with ties
    found, (fpr, tpr, _) = rates(scores, labels), roc_curve(labels, scores, drop_intermediate=False)
    assert found["fpr95"] == pytest.approx(fpr[tpr >= 0.95].min())
    assert found["tpr_j"] - found["fpr_j"] == pytest.approx((tpr - fpr).max())
    assert found["fpr_half"] == (scores[~labels] > 0.5).mean() and found["tpr_half"] == (scores[labels] > 0.5).mean()


def test_every_choice_can_be_trained():
    mini = load("mini-captions")
    for name, (preset, changes, training) in CHOICES.items():
        config = TrainingConfig.of(training)
        (stage,) = with_off_diagonal(build(mini, preset, **changes).stages(config), config.off_diagonal)
        assert ("off_diagonal" in stage.weights) == ("off-diagonal" in name)
        assert ("findings" in name) == bool(changes.get("findings"))
    assert "a mass" in FINDINGS and "a melanoma" not in FINDINGS


def test_a_difference_is_between_runs_of_one_seed():
    chance = np.random.default_rng(0)
    runs = [(choice, seed) for choice in ("HeadCLIP", "HeadCLIP, off-diagonal") for seed in range(3)]
    rows = [(*run, s, m, chance.uniform()) for run in runs for s in SCORES for m in COLUMNS.values()]
    frame = pd.DataFrame(rows, columns=["choice", "seed", "score", "metric", "value"]).assign(
        trained="medical", tested="medical"
    )
    own = frame[(frame["score"] == "joint") & (frame["metric"] == "fpr95")].set_index(["choice", "seed"])["value"]
    change = 100 * (own["HeadCLIP, off-diagonal"] - own["HeadCLIP"])
    (row,) = table(frame, "medical", "joint", True).splitlines()[2:]
    assert row.startswith(f"| HeadCLIP, off-diagonal | 3 | {change.mean():+.1f} ±")
    assert len(table(frame, "medical", "joint", False).splitlines()) == 4


def test_the_table_of_generators_is_of_the_runs_there(tmp_path, monkeypatch, one_torch_thread):
    argv = ["x", "--seeds", "0", "1", "--choices", "without LoRA: the head alone", "--per-category", "4"]
    monkeypatch.setattr("sys.argv", [*argv, "--epochs", "1", "--out", str(tmp_path), "--device", "cpu"])
    monkeypatch.setattr(Detector, "image_size", 28)
    monkeypatch.setattr("headlens.data.procedural.worlds.World.__init__.__defaults__", (80, 28, 0))
    c2p_generated.main()
    (row,) = (tmp_path / "tables.md").read_text().splitlines()[2:]
    frame = c2p_generated.collected(tmp_path)
    mean = 100 * frame[frame["metric"] == "accuracy"].groupby("seed")["value"].mean().mean()
    assert row.startswith("| without LoRA: the head alone | 2 |") and f"| {mean:.1f}" in row
    assert len(set(frame["category"])) == 4 and set(frame["seed"]) == {0, 1}
