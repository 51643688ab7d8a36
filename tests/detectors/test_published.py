"""Files in the form in which AnomalyCLIP and Crane publish their prompts, made for the tiny CLIP."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from headlens.backbone import Backbone, architecture_from_config, assemble
from headlens.cli import app
from headlens.detectors.methods.importing import read_published
from headlens.detectors.methods.published import published_detector, read_prompts
from headlens.detectors.stages import TrainingConfig
from headlens.errors import CheckpointError, RunError
from headlens.training import grouped
from headlens.training.run import load_run, save_run
from tests.backbone.models import tiny_config
from tests.detectors.test_headclip import reference_text
from tests.tiny import SENTENCES

CONTEXT, DEEP = 5, 3


def checkpoint(clip: Backbone, method: str) -> dict[str, torch.Tensor]:
    """Every tensor that they save, under their names."""
    generator = torch.Generator().manual_seed(3)
    width = clip.text.cfg.d_model
    state = {}
    for side, sentence in (("pos", "object."), ("neg", "damaged object.")):
        state[f"ctx_{side}"] = torch.randn(1, 1, CONTEXT, width, generator=generator)
        tokens = clip.tokenizer([" ".join(["X"] * CONTEXT) + " " + sentence])
        words = clip.text.token_embedding(tokens).detach()[None]
        state[f"token_prefix_{side}"], state[f"token_suffix_{side}"] = words[:, :, :1], words[:, :, 1 + CONTEXT :]
        state[f"tokenized_prompts_{side}"] = tokens[None]
    for i in range(2):
        state[f"compound_prompts_text.{i}"] = torch.randn(DEEP, width, generator=generator)
        if method == "anomalyclip-published":
            state[f"compound_prompt_projections.{i}.weight"] = torch.randn(7, width, generator=generator)
    return state


def saved(state: dict[str, torch.Tensor], path):
    torch.save({"prompt_learner": state}, path)
    return path


@pytest.mark.parametrize("method", ["anomalyclip-published", "crane"])
def test_prompts_become_the_detector_of_their_authors(method, clip, theirs, tmp_path, monkeypatch):
    # The tiny tower is not as deep as the presets say.
    monkeypatch.setattr("headlens.detectors.methods.published.preset", small(method))
    state = checkpoint(clip, method)
    prompts = read_prompts(saved(state, tmp_path / "epoch_15.pth"))
    assert prompts.preset == method
    detector = published_detector(prompts, clip)
    context = torch.cat([state["ctx_pos"][0], state["ctx_neg"][0]])
    deep = [state["compound_prompts_text.0"], state["compound_prompts_text.1"]]
    tokens = clip.tokenizer(["object.", "damaged object."])
    with torch.no_grad():
        expected = reference_text(theirs, tokens, context, deep)
    torch.testing.assert_close(detector.text()[0], expected, rtol=1e-4, atol=1e-5)


def small(method):
    from headlens.detectors.methods.registry import preset

    return lambda name, **sizes: preset(name, taps=(3,), local_start=1, **sizes)


def test_another_clip_is_refused(clip, tmp_path):
    prompts = read_prompts(saved(checkpoint(clip, "crane"), tmp_path / "a.pth"))
    other = assemble(architecture_from_config(SENTENCES, "tiny"), None, seed=9)
    with pytest.raises(RunError, match=r"other embeddings of 'object\.'"):
        published_detector(prompts, other)
    wide = tiny_config(vocab_size=49408, context_length=32)
    wide["text_cfg"] |= {"width": 2 * clip.text.cfg.d_model}
    with pytest.raises(RunError, match="wide"):
        published_detector(prompts, assemble(architecture_from_config(wide, "wide"), None))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("ctx_neg"), "there is no ctx_neg"),
        (lambda state: state.update(ctx_neg=torch.zeros(1, 1, 4, 8)), "ctx_pos and ctx_neg are"),
        (lambda state: state.update({"compound_prompts_text.1": torch.zeros(1, 8)}), "differ in shape"),
        (lambda state: state.update(ctx_pos="text"), "holds no state dict of tensors"),
        (lambda state: state["ctx_pos"][0, 0, 1].fill_(torch.nan), "ctx_pos has NaN or infinity"),
        (lambda state: state["compound_prompts_text.1"][0].fill_(torch.inf), r"prompts_text\.1 has NaN or infinity"),
        (lambda state: state.update(ctx_pos=state["ctx_pos"].double() * 1e300), "ctx_pos has NaN or infinity"),
        (lambda state: state.update(token_prefix_neg=torch.zeros(1, 1, 1, 8)), r"token_prefix_neg is \[1, 1, 1, 8\]"),
        (lambda state: state.update(ctx_neg=torch.zeros(())), r"ctx_neg is \[\]"),
        (lambda state: state.update({"dino.attn.weight": torch.zeros(3, 3)}), r"holds dino\.attn\.weight, .* Crane\+"),
    ],
)
def test_other_files_are_refused(change, named, clip, tmp_path):
    state = checkpoint(clip, "crane")
    change(state)
    with pytest.raises(CheckpointError, match=named):
        read_prompts(saved(state, tmp_path / "a.pth"))
    with pytest.raises(CheckpointError, match="no weight file"):
        read_prompts(tmp_path / "gone.pth")


def test_what_stands_beside_the_prompts_is_named(clip, tmp_path):
    state = checkpoint(clip, "crane")
    torch.save({"prompt_learner": state, "epoch": 5}, tmp_path / "a.pth")
    assert read_prompts(tmp_path / "a.pth").preset == "crane"
    torch.save({"prompt_learner": state, "epoch": 5, "fusion": {"weight": torch.zeros(3)}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="holds fusion, which no detector of AnomalyCLIP or Crane has"):
        read_prompts(tmp_path / "a.pth")


def imported(clip, method, tmp_path, monkeypatch, *more: str):
    """The command's output, its card and its config; it succeeds."""
    monkeypatch.setattr("headlens.backbone.load", lambda *a, **k: clip)
    monkeypatch.setattr("headlens.detectors.methods.published.preset", small(method))
    path = saved(checkpoint(clip, method), tmp_path / "epoch_5.pth")
    arguments = ["import", str(path), "--out", str(tmp_path / "run"), "--size", "32", *more]
    said = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert said.exit_code == 0
    folder = tmp_path / "run"
    return said.output, json.loads((folder / "card.json").read_text()), (folder / "config.toml").read_text(), arguments


def test_import_writes_a_run(clip, tmp_path, monkeypatch):
    said, card, _, arguments = imported(clip, "crane", tmp_path, monkeypatch, "--trained-on", "mvtec")
    assert card["preset"] == "crane" and card["trained_on"] == "mvtec" and card["imported"]["file"] == "epoch_5.pth"
    assert "if these are of Crane+, its second backbone (DINOv2, D-Attn) is not taken" in said
    assert card["imported"]["not_taken"] in said
    run = load_run(tmp_path / "run", clip)
    assert run.size == 32 and run.threshold is None
    assert torch.equal(run.detector.prompts.context, read_prompts(tmp_path / "epoch_5.pth").context)
    with pytest.raises(RunError, match="holds a finished run"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_nothing_is_invented_about_a_training_that_others_did(clip, tmp_path, monkeypatch):
    said, card, config, _ = imported(clip, "anomalyclip-published", tmp_path, monkeypatch)
    unknown = {"seed", "training", "steps", "images", "selection", "trained_on", "metrics"}
    assert not unknown & set(card) and "[training]" not in config and "Crane" not in said
    run = load_run(tmp_path / "run", clip)
    assert run.training is None and run.seed is None
    assert "unknown" in run._repr_html_()
    changed = run.changed(tmp_path / "changed", sigma=2.0)
    assert changed.training is None and changed.card["imported"] == card["imported"]
    group = grouped([run, changed])
    assert group.whole == [run] and group.left_out == {"changed": "differs from run in training"}


def test_an_import_of_an_older_version_loads_without_the_settings_it_invented(clip, tmp_path, monkeypatch):
    _, card, _, _ = imported(clip, "crane", tmp_path, monkeypatch)
    run = load_run(tmp_path / "run", clip)
    save_run(tmp_path / "old", run.detector, TrainingConfig(size=28), {**card, "selection": "its authors'"})
    old = json.loads((tmp_path / "old" / "card.json").read_text())
    del old["training"]  # an older version's card has none
    (tmp_path / "old" / "card.json").write_text(json.dumps(old))
    loaded = load_run(tmp_path / "old", clip)
    assert loaded.training is None and loaded.size == 28


def test_a_file_of_no_known_method_is_refused_with_the_known_formats(tmp_path):
    torch.save({"state_dict": {"head.weight": torch.zeros(3)}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"AnomalyCLIP or Crane.*APRIL-GAN.*AA-CLIP.*it holds head\.weight"):
        read_published(tmp_path / "a.pth")
