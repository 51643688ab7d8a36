"""AA-CLIP trained: its two stages, the ends of its scores, and runs that were killed; and from the shell."""

from __future__ import annotations

import json
import math
from unittest.mock import patch

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from headlens.cli import app
from headlens.data import Loader, Preprocess
from headlens.detectors import AACLIP, AACLIPConfig, TrainingConfig
from headlens.detectors.stages import Ends
from headlens.devices import one_thread
from headlens.errors import ConfigError
from headlens.training.run import load_run
from headlens.training.trainer import train
from tests.training.conftest import tiny_clip
from tests.training.test_trainer import KilledError, killed_after, learned

SETTINGS = {
    "taps": (1, 3),
    "adapt_image": 2,
    "adapt_text": 2,
    "teacher_start": 1,
    "head_weights": "free",
}
SETTINGS |= {"text_epochs": 3, "text_batch": 4, "text_lr": 1e-3, "image_epochs": 3, "image_batch": 4}
SETTINGS |= {"milestones": (4,), "factor": 0.5, "augment": False}  # 6 steps of each stage
TRAINING = TrainingConfig(save_every=1)


def made() -> AACLIP:
    return AACLIP(tiny_clip(), AACLIPConfig(**SETTINGS))


@pytest.fixture(autouse=True)
def threads(one_torch_thread):
    """One for each test."""


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory):
    """A run that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("aa-clip") / "whole"
    with one_thread():  # as the tests: fixtures of a module come before those of a test
        train(made(), pictures, TRAINING, folder, cpu=True)
    return folder


def test_both_stages_lower_their_losses_and_move_everything(whole, clip):
    log = pd.read_csv(whole / "log.csv")
    for stage in ("text", "image"):
        losses = list(log.loc[log["stage"] == stage, "pixel"])
        assert sum(losses[3:]) < sum(losses[:3]), stage
    assert list(log["lr_factor"].dropna()) == [1, 1, 1, 1, 0.5, 0.5]
    before, after = made().state_dict(), learned(whole, clip)
    assert not [name for name, value in before.items() if torch.equal(value, after[name])]


def test_the_ends_of_its_scores_are_those_of_the_training_set(whole, clip, pictures):
    run = load_run(whole, clip)
    card, config = json.loads((whole / "card.json").read_text()), run.detector.config
    assert card["detector"]["map_ends"] == [*config.map_ends] and len(config.image_ends) == 2
    assert [stage["steps"] for stage in card["stages"]] == [6, 6]
    batch = next(iter(Loader(pictures, Preprocess(32), len(pictures))))
    for ends in ((), None):
        detector = run.detector if ends is None else run.detector.with_config(map_ends=(), image_ends=())
        with torch.no_grad():
            found = detector(batch.images, [record.category for record in batch.records])
        low, high = (0.0, 1.0) if ends is None else config.map_ends
        assert found.anomaly_map.min() == pytest.approx(low, abs=1e-4 * (high - low))
        assert found.anomaly_map.max() == pytest.approx(high, abs=1e-4 * (high - low))
        low, high = (0.0, 1.0) if ends is None else config.image_ends
        assert found.image_score.aminmax() == pytest.approx((low, high), abs=1e-3 * (high - low))
    assert card["threshold"] is not None and 0 < card["threshold"] < 1


def test_ends_that_were_given_stay():
    config = AACLIPConfig(**SETTINGS, map_ends=(0.0, 1.0), image_ends=(0.0, 2.0))
    assert AACLIP(tiny_clip(), config).settled(Ends((-3.0, 4.0), (-1.0, 2.0))) == config


@pytest.mark.parametrize(
    "ends", [((1.0, 1.0), (-1.0, 2.0)), ((-3.0, 4.0), (0.5, 0.5)), ((math.nan, math.nan), (-1.0, 2.0))]
)
def test_scores_without_two_ends_have_none(ends):
    """Of a map that is the same everywhere, of a single image, of what is no number."""
    assert made().settled(Ends(*ends)) == made().config


@pytest.mark.parametrize("at", [4, 7, 10])
def test_killed_in_either_stage_it_ends_with_the_same_weights(at, whole, clip, pictures, tmp_path):
    cut, begun = tmp_path / "cut", []
    with pytest.raises(KilledError):
        train(made(), pictures, TRAINING, cut, cpu=True, progress=killed_after(at))
    train(made(), pictures, TRAINING, cut, cpu=True, begin=lambda step, steps: begun.append((step, steps)))
    assert begun == [(at - 1, 12)]
    one, two = learned(whole, clip), learned(cut, clip)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert (cut / "config.toml").read_bytes() == (whole / "config.toml").read_bytes()


def shell(folder, config: str, *more: object):
    (folder / "settings.toml").write_text(config)
    asked = ["train", "--data", "procedural:industrial/aux", "--per-category", 2, "--size", 28, "--cpu"]
    asked += ["--preset", "aa-clip", "--config", folder / "settings.toml", "--out", folder / "run", *more]
    return CliRunner().invoke(app, [str(argument) for argument in asked])


def test_the_shell_trains_it(tmp_path):
    table = "[detector]\ntext_epochs = 1\nimage_epochs = 1\nadapt_image = 1\nadapt_text = 1\nimage_batch = 16\n"
    done = shell(tmp_path, table + "taps = [1]\nclass_aware = false\n")
    assert done.exit_code == 0, done.output
    assert "aa-clip, 1 + 1 epochs" in done.output
    run = load_run(tmp_path / "run")
    assert run.detector.config.map_ends and run.predict(torch.zeros(3, 28, 28, dtype=torch.uint8)).unit == "logit"


def test_phrases_from_a_file_are_settings(tmp_path):
    (tmp_path / "phrases.json").write_text('{"wood": "a wooden plank"}')
    with patch("headlens.training.trainer.train", return_value={}) as trained:
        done = shell(tmp_path, "", "--descriptions", tmp_path / "phrases.json")
    assert done.exit_code == 0, done.output
    assert trained.call_args.args[0].config.phrases == (("wood", "a wooden plank"),)


def test_settings_that_it_does_not_read_are_refused(tmp_path):
    with patch("headlens.training.trainer.train"):
        done = shell(tmp_path, "", "--epochs", 3)
    assert "epochs is 3, but aa-clip does not read it: it has text_epochs and image_epochs" in str(done.exception)


@pytest.mark.parametrize("name", ["epochs", "batch", "lr", "pixel_weight"])
def test_python_refuses_them_too(name, pictures, tmp_path):
    with pytest.raises(ConfigError, match=f"{name} is 7, but aa-clip does not read it: it has "):
        train(made(), pictures, TrainingConfig(**{name: 7}), tmp_path / "run", cpu=True)
    assert not (tmp_path / "run").exists()
