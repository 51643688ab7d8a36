"""A method of two stages: what moves when, what is logged, and that a killed run ends as a whole one."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from unittest.mock import patch

import pandas as pd
import pytest
import torch

from headlens.data import Loader, Preprocess
from headlens.detectors.methods.registry import METHODS
from headlens.detectors.stages import Augment, Schedule, Stage, TrainingConfig
from headlens.errors import ConfigError, RunError
from headlens.training.run import load_run
from headlens.training.state import STATE, _read
from headlens.training.trainer import Objective, train
from tests.training.conftest import tiny_clip
from tests.training.test_trainer import KilledError, killed_after, learned
from tests.training.two_stages import ALL, KNOWN, TwoStages, TwoStagesConfig

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


def test_a_schedule_is_that_of_torch(clip, pictures, two_stages, tmp_path, monkeypatch):
    """Of a stage alone, in its steps; both the log and the card say so."""
    rates, step = [], torch.optim.Adam.step

    def noted(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.Adam, "step", noted)  # the first stage's is AdamW's
        card = train(two_stages(clip, TwoStagesConfig(milestones=(1, 3))), pictures, CONFIG, tmp_path / "run", cpu=True)
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=CONFIG.lr)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 3], 0.5)
    expected = []
    for _ in range(4):
        expected += theirs.get_last_lr()
        optimizer.step()
        theirs.step()
    assert rates[-4:] == expected == [0.01, 0.005, 0.005, 0.0025]
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert log["lr_factor"].isna().tolist() == [True] * 5 + [False] * 4
    assert log["lr_factor"][5:].tolist() == [1, 0.5, 0.5, 0.25]
    text, image = card["stages"]
    assert text["schedule"] is None and image["schedule"] == {"milestones": (1, 3), "factor": 0.5}
    assert text["groups"] == [{"lr": 0.01, "weight_decay": 0.1}] and image["groups"] == [{"lr": 0.01}]
    assert [stage["steps"] for stage in card["stages"]] == [5, 4]


@pytest.mark.parametrize("at", [7, 8])
def test_schedule_and_augmented_images_go_on_where_they_were(at, clip, pictures, two_stages, tmp_path):
    """The state is that of the step before: of the first step of the second stage, and of its middle."""
    config = TwoStagesConfig(milestones=(1, 3), augmented=True)
    card = train(two_stages(clip, config), pictures, CONFIG, tmp_path / "whole", cpu=True)
    assert card["stages"][0]["augment"] is None and card["stages"][1]["augment"] == ALL.table()
    with pytest.raises(KilledError):
        train(two_stages(clip, config), pictures, CONFIG, tmp_path / "cut", cpu=True, progress=killed_after(at))
    train(two_stages(clip, config), pictures, CONFIG, tmp_path / "cut", cpu=True)
    one, two = learned(tmp_path / "whole", clip), learned(tmp_path / "cut", clip)
    assert all(torch.equal(one[name], two[name]) for name in one)
    losses = [pd.read_csv(tmp_path / name / "log.csv")["pixel"].dropna().tolist() for name in ("whole", "cut")]
    assert losses[0] == losses[1]


def test_augmented_images_are_others_in_every_epoch(clip, pictures, two_stages, tmp_path, monkeypatch):
    seen, forward = {}, Objective.forward

    def noted(self, batch, images):
        for number, image in zip(batch.index.tolist(), images, strict=True):
            seen.setdefault((self.stage.name, number), []).append(image)
        return forward(self, batch, images)

    monkeypatch.setattr(Objective, "forward", noted)
    detector = two_stages(clip, TwoStagesConfig(text_batch=10, augmented=True))
    train(detector, pictures, replace(CONFIG, batch=5), tmp_path / "run", cpu=True)
    plain = {batch.index.item(): batch.images[0] for batch in Loader(pictures, Preprocess(32), 1)}
    assert all(torch.equal(seen["text", number][0], image) for number, image in plain.items())
    three = [[image, *seen["image", number]] for number, image in plain.items()]
    assert sum(torch.equal(one[i], one[i + 1]) for one in three for i in (0, 1)) <= 1
    assert len(three) == 10 and all(len(one) == 3 for one in three)


def test_what_is_computed_once_and_augmented_images_do_not_go_together():
    with pytest.raises(ConfigError, match=r"stage 'image' has both keep and augment, but .* leave out one of them"):
        Stage([], see=lambda *_: None, loss=lambda *_: {}, name="image", keep=lambda _: None, augment=ALL)
    Stage([], see=lambda *_: None, loss=lambda *_: {}, keep=lambda _: None, augment=Augment(degrees=90))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (((3, 2), 0.5), r"milestones are \(3, 2\)"),
        (((2, 2), 0.5), r"milestones are \(2, 2\)"),
        (((0,), 0.5), r"milestones are \(0,\); they are steps, from 1 on"),
        (((1.5,), 0.5), r"milestones is 1\.5; it is a whole number"),
        (((1,), 0.0), r"factor is 0\.0; it is above 0"),
    ],
)
def test_a_schedule_that_cannot_be_is_named(values, named):
    with pytest.raises(ConfigError, match=named):
        Schedule(*values)


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
