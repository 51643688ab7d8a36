from __future__ import annotations

import json
from copy import copy
from dataclasses import replace

import pytest
import torch

from headlens.backbone import architecture, architecture_from_config, assemble, embedded
from headlens.backbone import load as load_backbone
from headlens.backbone.plan import STREAMS
from headlens.detectors.methods.headclip import HeadCLIP
from headlens.detectors.methods.registry import preset
from headlens.detectors.stages import TrainingConfig
from headlens.errors import ConfigError, HeadlensError, RunError
from headlens.training.reading import tomllib
from headlens.training.run import load_run, load_runs, save_run
from tests.backbone.models import tiny_config
from tests.training.conftest import SMALL


@pytest.fixture
def run(clip, headclip, tmp_path):
    detector = HeadCLIP(clip, headclip, seed=7)
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
    assert loaded.detector.config == detector.config


def test_the_card_says_what_made_it(run):
    card = json.loads((run[0] / "card.json").read_text())
    assert card["backbone"]["name"] == "tiny"
    assert {"detector", "seed", "threshold", "model_sha256", "versions"} <= set(card)
    assert card["format"] == 2 and card["detector"]["method"] == "headclip"
    assert 'method = "headclip"' in (run[0] / "config.toml").read_text()


def older(folder):
    """Makes it one of format 1, whose files do not say so, nor a method."""
    config, card = folder / "config.toml", json.loads((folder / "card.json").read_text())
    config.write_text(config.read_text().replace('method = "headclip"\n', ""))
    del card["format"], card["detector"]["method"]
    (folder / "card.json").write_text(json.dumps(card))


@torch.no_grad()
def test_a_run_of_format_1_predicts_the_same_bits(run, clip):
    folder, detector = run
    older(folder)
    images = torch.randn(2, 3, 32, 32)
    loaded = load_run(folder, clip)
    assert torch.equal(loaded.detector(images).anomaly_map, detector(images).anomaly_map)
    again = loaded.changed(folder.parent / "new", alpha=0.25)
    assert again.card["format"] == 2 and again.card["detector"]["method"] == "headclip"


def carded(folder, **values):
    path = folder / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("number", [0, -1, 3])
def test_an_unknown_format_is_refused_whatever_else_is_in_the_folder(number, run, clip):
    carded(run[0], format=number)
    (run[0] / "config.toml").write_text("[another]")
    with pytest.raises(RunError, match=rf"run/card\.json: format is {number}, .* reads formats 1 to 2: install the"):
        load_run(run[0], clip)


def test_an_unknown_method_is_refused(run, clip):
    config = run[0] / "config.toml"
    config.write_text(config.read_text().replace('"headclip"', '"daydream"'))
    with pytest.raises(ConfigError, match=r"config\.toml: method is 'daydream'; this headlens has headclip, .*install"):
        load_run(run[0], clip)
    older(run[0])
    carded(run[0], detector={"method": ["a"]})
    config.write_text(config.read_text().replace('"daydream"', '"headclip"'))
    with pytest.raises(RunError, match=r"card\.json: method is \['a'\]; this headlens has headclip, .*copy the run"):
        load_run(run[0], clip)


def test_a_threshold_is_of_the_unit_of_the_method(run, clip, monkeypatch):
    carded(run[0], threshold=-3.5)
    with pytest.raises(RunError, match=r"threshold is -3\.5; a joint score is 0 to 1"):
        load_run(run[0], clip)
    monkeypatch.setattr("headlens.detectors.methods.headclip.HeadCLIPConfig.UNIT", "logit")
    assert load_run(run[0], clip).threshold == -3.5
    carded(run[0], threshold=float("inf"))
    with pytest.raises(RunError, match="threshold is inf; a joint score is a finite number"):
        load_run(run[0], clip)


def test_every_file_of_a_run_is_read_once(monkeypatch):
    """Also where several share a backbone."""
    read = []
    monkeypatch.setattr(
        "headlens.training.reading.tomllib.loads", lambda text, loads=tomllib.loads: read.append(1) or loads(text)
    )
    first, second, third = load_runs("mini-medical")
    assert first.detector.backbone is second.detector.backbone is third.detector.backbone
    assert len(read) == 3


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


EDITS = {  # of config.toml: what, by what, and the field that the error names
    "head_weights": ('head_weights = "free"', 'head_weights = "sigmoid"', "'sigmoid'", "'free'"),
    "temperature": ("temperature = 0.07", "temperature = 0.01", "0.01", "0.07"),
    "alpha": ("alpha = 0.5", "alpha = 0.25", "0.25", "0.5"),
    "taps": ("    3,\n", "    2,\n", r"\(1, 2\)", r"\(1, 3\)"),
    "context": ("context = 5", "context = 6", "6", "5"),
    "class_aware": ("class_aware = false", "class_aware = true", "True", "False"),
    "size": ("size = 0", "size = 64", "64", "0"),
    "lr": ("lr = 0.001", "lr = 0.1", "0.1", "0.001"),
    "seed": ("seed = 7", "seed = 8", "8", "7"),
    "position_rule": ('"bicubic"', '"bilinear"', "'bilinear'", "'bicubic'"),
    "weights": ("random (seed 4)", "random (seed 5)", r"'random \(seed 5\)'", r"'random \(seed 4\)'"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_config_is_refused_with_both_values(name, run, clip):
    before, after, ours, theirs = EDITS[name]
    config = run[0] / "config.toml"
    assert before in config.read_text()
    config.write_text(config.read_text().replace(before, after))
    message = rf"run: {name} is {ours} in config\.toml and {theirs} in card\.json: one of them was edited, put it back"
    with pytest.raises(RunError, match=message):
        load_run(run[0], clip)


def test_a_run_of_an_older_version_has_no_settings_of_training_in_its_card(run, clip):
    card = json.loads((run[0] / "card.json").read_text())
    del card["training"]
    (run[0] / "card.json").write_text(json.dumps(card))
    assert load_run(run[0], clip).training == TrainingConfig(seed=7)


def test_the_same_tensors_read_in_another_way_are_a_new_run(run, clip):
    loaded = load_run(run[0], clip)
    changed = loaded.changed(run[0].parent / "new", alpha=0.25)
    assert changed.detector.config == replace(loaded.detector.config, alpha=0.25)
    assert changed.threshold is None and changed.card["changed"]["model_sha256"] == loaded.card["model_sha256"]
    before, after = loaded.detector.state_dict(), changed.detector.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(RunError, match="finished run"):
        loaded.changed(run[0], alpha=0.25)
    with pytest.raises(ConfigError, match="context decides what is learned"):
        loaded.changed(run[0].parent / "other", context=3)


def test_a_run_scores_images_of_the_size_it_was_trained_on(run, headclip):
    """Whatever size the backbone that it is given was loaded for."""
    folder, detector = run
    larger = copy(detector.backbone)
    larger.provenance = replace(larger.provenance, image_size=(64, 64))
    assert load_run(folder, larger).size == load_run(folder, detector.backbone).size == 32


def test_shapes_that_are_checked_before_are_those_of_what_is_made(clip):
    for changes in ({}, {"deep": 0}, {"prompts": "ensemble"}, {"head_weights": "none"}, {"streams": STREAMS}):
        config = preset("headclip", **{**SMALL, **changes})
        made = {name: tuple(value.shape) for name, value in HeadCLIP(clip, config).state_dict().items()}
        assert config.learned_shapes(clip.vision.cfg, clip.text.cfg) == made


def test_a_folder_that_cannot_be_written_is_named(clip, headclip, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        save_run(tmp_path / "file" / "run", HeadCLIP(clip, headclip), TrainingConfig(), {})


def test_a_backbone_file_that_is_gone_is_named(tmp_path):
    """The card keeps the file's name, not where it was."""
    clip = load_backbone("mini", embedded.weights("mini"))
    save_run(tmp_path / "run", HeadCLIP(clip, preset("anomalyclip")), TrainingConfig(), {})
    with pytest.raises(HeadlensError, match=r"open_clip_model\.safetensors.*--weights"):
        load_run(tmp_path / "run")
    assert load_run(tmp_path / "run", weights=embedded.weights("mini")).detector.weights is None


def test_an_activation_that_was_said_is_said_again_for_the_run(tmp_path, recwarn):
    file = tmp_path / "finetuned.safetensors"
    file.write_bytes(embedded.weights("mini").read_bytes())  # no config beside it says its activation
    clip = load_backbone("mini", file, act_fn=architecture("mini").act_fn)
    save_run(tmp_path / "run", HeadCLIP(clip, preset("anomalyclip")), TrainingConfig(), {})
    again = load_run(tmp_path / "run", weights=file).detector.backbone.provenance
    assert again == clip.provenance and again.act_fn_known
    assert not [warning for warning in recwarn if "activation" in str(warning.message)]


def test_a_run_says_again_why_its_activation_is_another(tmp_path):
    """On random weights, of which a card says all."""
    clip = load_backbone("ViT-S-32", act_fn="quick_gelu", because="its maps were trained that way")
    save_run(tmp_path / "run", HeadCLIP(clip, preset("clip", taps=(1,), local_start=1)), TrainingConfig(), {})
    run = load_run(tmp_path / "run")
    assert run.detector.backbone.provenance == clip.provenance
    assert "quick_gelu, because: its maps were trained that way" in run._repr_html_()
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(run.detector.backbone.encode_image(image), clip.encode_image(image))
    with pytest.raises(RunError, match=r"positions, quick_gelu\), not on ViT-S-32 .*, gelu\); give it the backbone"):
        load_run(tmp_path / "run", load_backbone("ViT-S-32"))


def test_runs_of_one_file_and_two_activations_do_not_share_a_backbone(tmp_path):
    config = preset("clip", taps=(1,), local_start=1)
    clips = [load_backbone("mini"), load_backbone("mini", act_fn="gelu", because="its maps need it")]
    for number, clip in enumerate((*clips, clips[0])):
        save_run(tmp_path / str(number), HeadCLIP(clip, config), TrainingConfig(), {})
    first, second, third = (run.detector.backbone for run in load_runs(*(tmp_path / name for name in "012")))
    assert [first.provenance, second.provenance] == [clip.provenance for clip in clips] and third is first
