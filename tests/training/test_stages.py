"""A method of two stages: what moves when, what is logged, and that a killed run ends as a whole one."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from unittest.mock import patch

import pandas as pd
import pytest
import torch

from headlens.detectors.methods.registry import METHODS
from headlens.detectors.stages import TrainingConfig
from headlens.errors import ConfigError, RunError
from headlens.training.run import load_run
from headlens.training.state import STATE, _read
from headlens.training.trainer import train
from tests.training.conftest import tiny_clip
from tests.training.test_trainer import KilledError, killed_after, learned
from tests.training.two_stages import KNOWN, TwoStages

CONFIG = TrainingConfig(epochs=2, batch=4, save_every=1, lr=0.01)  # 5 steps of the first stage, 4 of the second


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory):
    """A run that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("stages") / "whole"
    with patch.dict(METHODS, KNOWN):
        train(TwoStages(tiny_clip()), pictures, CONFIG, folder, cpu=True)
    return folder


def test_each_stage_moves_its_parameters_alone(clip, pictures, two_stages, tmp_path):
    seen = []
    detector = two_stages(clip)
    moved = {name: parameter.detach().clone() for name, parameter in detector.named_parameters()}

    def progress(row):
        changed = [name for name, parameter in detector.named_parameters() if not torch.equal(parameter, moved[name])]
        grads = [name for name, parameter in detector.named_parameters() if parameter.requires_grad]
        moved.update({name: parameter.detach().clone() for name, parameter in detector.named_parameters()})
        seen.append((row["stage"], changed, grads))

    train(detector, pictures, CONFIG, tmp_path / "run", cpu=True, progress=progress)
    assert seen == [("text", ["shift"], ["shift"])] * 5 + [("image", ["matrix"], ["matrix"])] * 4
    assert all(parameter.requires_grad for parameter in detector.parameters())


def test_the_log_names_the_stage_and_has_the_terms_of_both(whole):
    log = pd.read_csv(whole / "log.csv")
    assert list(log.columns) == ["step", "stage", "seconds", "label", "image", "pixel"]
    assert list(log["stage"]) == ["text"] * 5 + ["image"] * 4 and list(log["step"]) == list(range(1, 10))
    assert list(log["label"].notna()) == list(log["pixel"].isna()) == [True] * 5 + [False] * 4
    card = json.loads((whole / "card.json").read_text())
    assert card["steps"] == 9 and card["detector"]["method"] == "two-stages"


def test_its_run_loads_and_has_a_threshold_of_its_unit(whole, clip, two_stages):
    run = load_run(whole, clip)
    assert isinstance(run.detector, two_stages) and math.isfinite(run.threshold)
    prediction = run.predict(torch.zeros(3, 32, 32, dtype=torch.uint8))
    assert prediction.unit == "logit" == run.detector.config.UNIT


@pytest.mark.parametrize("at", [1, 3, 6, 7, 9])
def test_killed_in_any_stage_it_ends_with_the_same_weights(at, whole, clip, pictures, two_stages, tmp_path):
    cut, begun = tmp_path / "cut", []
    with pytest.raises(KilledError):
        train(two_stages(clip), pictures, CONFIG, cut, cpu=True, progress=killed_after(at))
    if at > 1:
        assert int(_read(cut / STATE)[1]["stage"]) == (at > 6)  # the state is that of the step before
    train(two_stages(clip), pictures, CONFIG, cut, cpu=True, begin=lambda step, steps: begun.append((step, steps)))
    assert begun == [(at - 1, 9)]
    one, two = learned(whole, clip), learned(cut, clip)
    assert all(torch.equal(one[name], two[name]) for name in one)
    cards = [json.loads((folder / "card.json").read_text()) for folder in (whole, cut)]
    assert cards[0]["threshold"] == cards[1]["threshold"]


def test_a_state_of_more_stages_is_refused(clip, pictures, two_stages, tmp_path, monkeypatch):
    cut = tmp_path / "cut"
    with pytest.raises(KilledError):
        train(two_stages(clip), pictures, CONFIG, cut, cpu=True, progress=killed_after(8))
    stages = two_stages.stages
    monkeypatch.setattr(two_stages, "stages", lambda self, training: stages(self, training)[:1])
    with pytest.raises(RunError, match=r"state\.safetensors: damaged \(there is no stage 1\); delete it"):
        train(two_stages(clip), pictures, CONFIG, cut, cpu=True)


def test_too_few_images_for_a_later_stage_are_noticed_before_the_first(clip, pictures, two_stages, tmp_path):
    begun = []
    with pytest.raises(ConfigError, match="one step takes 64 images"):
        train(
            two_stages(clip),
            pictures,
            replace(CONFIG, batch=64),
            tmp_path / "run",
            cpu=True,
            begin=lambda step, steps: begun.append(step),
        )
    assert not begun
