from __future__ import annotations

import json
from copy import copy

import pytest
import torch

from headlens import heads
from headlens.backbone import architecture_from_config, assemble, embedded
from headlens.backbone import load as load_backbone
from headlens.detectors.config import preset
from headlens.detectors.headclip import Detector
from headlens.errors import ConfigError, HeadlensError, RunError
from headlens.training.config import TrainingConfig
from headlens.training.run import Run, load_run, read_config, save_run
from tests.backbone.models import tiny_config


@pytest.fixture
def run(clip, headclip, tmp_path):
    detector = Detector(clip, headclip, seed=7)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    save_run(tmp_path / "run", detector, TrainingConfig(seed=7), {"threshold": 0.4})
    return tmp_path / "run", detector


@torch.no_grad()
def test_a_reloaded_run_predicts_the_same_bits(run, clip):
    folder, detector = run
    loaded = load_run(folder, clip)
    images = torch.randn(2, 3, 32, 32)
    a, b = detector(images), loaded.detector(images)
    assert torch.equal(a.anomaly_map, b.anomaly_map) and torch.equal(a.joint_score, b.joint_score)
    assert loaded.threshold == 0.4
    assert loaded.training == TrainingConfig(seed=7)
    assert read_config(folder)[1] == detector.config


def test_a_run_in_place_of_its_detector_says_what_to_do(run, clip):
    loaded = load_run(run[0], clip)
    with pytest.raises(AttributeError, match=r"a Run has no '\w+'; .* run\.detector"):
        heads.heads_of(loaded)
    assert copy(loaded).card == loaded.card


def test_what_fails_inside_a_run_says_so_itself(run, clip, monkeypatch):
    def fails(self):
        raise AttributeError("deep inside")

    monkeypatch.setattr(Run, "threshold", property(fails))
    with pytest.raises(AttributeError, match="deep inside"):
        _ = load_run(run[0], clip).threshold


def test_the_card_says_what_made_it(run):
    card = json.loads((run[0] / "card.json").read_text())
    assert card["backbone"]["name"] == "tiny"
    assert {"detector", "seed", "threshold", "model_sha256", "versions"} <= set(card)


def test_a_run_of_another_backbone_is_refused(run):
    other = assemble(architecture_from_config(tiny_config(vocab_size=49408, context_length=32), "tiny"), None, seed=5)
    with pytest.raises(RunError, match=r"trained on tiny \(random \(seed 4\).*not on tiny \(random \(seed 5\)"):
        load_run(run[0], other)


def test_edited_weights_are_refused(run, clip):
    model = run[0] / "model.safetensors"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    with pytest.raises(RunError, match="edited or damaged"):
        load_run(run[0], clip)


@pytest.mark.parametrize("name", ["model.safetensors", "card.json"])
def test_a_missing_file_is_named(name, run, clip):
    (run[0] / name).unlink()
    with pytest.raises(RunError, match=name.replace(".", r"\.")):
        load_run(run[0], clip)


def test_what_is_no_run_is_said_so(tmp_path, run, clip):
    with pytest.raises(RunError, match="no such folder"):
        load_run(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"no config\.toml"):
        load_run(tmp_path)
    config = run[0] / "config.toml"
    config.write_text(config.read_text().replace("alpha", "alphabet"))
    with pytest.raises(ConfigError, match="'alphabet'"):
        load_run(run[0], clip)
    config.write_text("[backbone")
    with pytest.raises(RunError, match="damaged"):
        load_run(run[0], clip)


def test_a_config_that_does_not_fit_the_weights_is_refused(run, clip):
    config = run[0] / "config.toml"
    config.write_text(config.read_text().replace("context = 5", "context = 6"))
    with pytest.raises(RunError, match="does not hold what"):
        load_run(run[0], clip)


def test_a_folder_that_cannot_be_written_is_named(clip, headclip, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        save_run(tmp_path / "file" / "run", Detector(clip, headclip), TrainingConfig(), {})


def test_a_backbone_file_that_is_gone_is_named(tmp_path):
    """The card keeps the file's name, not where it was."""
    clip = load_backbone("mini", embedded.weights("mini"))
    save_run(tmp_path / "run", Detector(clip, preset("anomalyclip")), TrainingConfig(), {})
    with pytest.raises(HeadlensError, match=r"open_clip_model\.safetensors.*--weights"):
        load_run(tmp_path / "run")
    assert load_run(tmp_path / "run", weights=embedded.weights("mini")).detector.weights is None
