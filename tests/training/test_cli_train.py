"""What ``headlens train`` says: its presets, its progress, and that it was stopped."""

from __future__ import annotations

import re
import signal

import pytest
from typer.testing import CliRunner

from headlens.backbone import load
from headlens.cli import app
from headlens.detectors.methods.registry import PRESETS, build, preset
from headlens.detectors.stages import TrainingConfig
from headlens.errors import ArchitectureError, ConfigError
from headlens.training.interrupt import Stopped

ARGUMENTS = ["train", "--data", "procedural:industrial/aux", "--per-category", "2", "--cpu", "--out"]


@pytest.mark.parametrize(
    ("ended", "said", "status"),
    [
        (Stopped(26, 125, signal.SIGINT), "stopped at step 26 of 125; the same command resumes\n", 130),
        (Stopped(26, 125, signal.SIGTERM), "stopped at step 26 of 125; the same command resumes\n", 143),
        (KeyboardInterrupt(), "interrupted between two steps; the same command resumes from what is saved in", 130),
    ],
)
def test_a_stop_is_said_in_one_line(ended, said, status, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise ended

    monkeypatch.setattr("headlens.training.trainer.train", stopped)
    done = CliRunner().invoke(app, [*ARGUMENTS, str(tmp_path / "run")])
    assert said in done.output and done.exit_code == status
    assert "Traceback" not in done.output and "Aborted" not in done.output


def test_several_sets_are_trained_on_together(tmp_path, monkeypatch):
    given = []

    def trained(detector, dataset, *_, about, **__):
        given.extend([dataset, about["procedural"]])
        return {}

    monkeypatch.setattr("headlens.training.trainer.train", trained)
    more = ["--data", "procedural:medical/aux", str(tmp_path / "run")]
    CliRunner().invoke(app, [*ARGUMENTS[:-1], *more[:2], "--out", more[2]], catch_exceptions=False)
    dataset, painted = given
    assert dataset.name == "procedural:industrial/aux + procedural:medical/aux" and painted["per_category"] == 2
    worlds = {record.name.partition("/aux/")[0] for record in dataset.records}
    assert worlds == {"procedural:industrial", "procedural:medical"}


def test_help_names_every_preset_that_can_be_trained():
    said = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "300"}).output
    said = " ".join(re.sub("[│*]", " ", said).split())  # it is wrapped, in a box
    line = said[said.index("--preset") : said.index("--backbone")]
    clip = load("mini")
    for name in PRESETS:
        assert bool(build(clip, name).stages(TrainingConfig())) == (f" {name}," in line or f" {name}." in line), name


def test_another_activation_than_the_weights_needs_a_reason(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        "headlens.training.trainer.train", lambda detector, *_, **__: made.append(detector.facts["activation"]) or {}
    )
    arguments = [*ARGUMENTS, str(tmp_path / "run"), "--act-fn", "gelu"]
    with pytest.raises(ArchitectureError, match="act_fn='gelu' needs GELU, mini-captions computes QuickGELU"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    said = CliRunner().invoke(app, [*arguments, "--because", "its maps need it"], catch_exceptions=False)
    assert made == ["gelu, because: its maps need it"] and made[0] in said.output


def test_a_config_may_name_the_method(tmp_path, monkeypatch):
    """As the one of a run does."""
    built, abouts = [], []

    def noted(detector, *_, about, **__):
        built.append(detector.config)
        abouts.append(about)
        return {}

    monkeypatch.setattr("headlens.training.trainer.train", noted)
    config = tmp_path / "mine.toml"
    config.write_text('[detector]\nmethod = "headclip"\nalpha = 0.25\n')
    CliRunner().invoke(app, [*ARGUMENTS, str(tmp_path / "run"), "--config", str(config)], catch_exceptions=False)
    assert built[0].alpha == 0.25
    config.write_text('[detector]\nmethod = "april-gan"\ntaps = [11]\n')
    said = CliRunner().invoke(app, [*ARGUMENTS, str(tmp_path / "run"), "--config", str(config)], catch_exceptions=False)
    assert built[1] == preset("april-gan", taps=(11,))
    assert abouts[1]["preset"] == "april-gan" and "\napril-gan, 5 epochs" in said.output
    config.write_text('[detector]\nmethod = "daydream"\n')
    with pytest.raises(ConfigError, match=r"mine\.toml: method is 'daydream'; this headlens has headclip"):
        CliRunner().invoke(app, [*ARGUMENTS, str(tmp_path / "run"), "--config", str(config)], catch_exceptions=False)
