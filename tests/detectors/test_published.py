"""Files in the form in which AnomalyCLIP and Crane publish their prompts, made for the tiny CLIP."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from headlens.backbone import Backbone, architecture_from_config, assemble
from headlens.cli import app
from headlens.detectors.published import detector_of, read_prompts
from headlens.errors import CheckpointError, RunError
from headlens.training.run import load_run
from tests.backbone.models import tiny_config
from tests.detectors.conftest import SENTENCES
from tests.detectors.test_headclip import reference_text

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
    monkeypatch.setattr("headlens.detectors.published.preset", small(method))
    state = checkpoint(clip, method)
    prompts = read_prompts(saved(state, tmp_path / "epoch_15.pth"))
    assert prompts.preset == method
    detector = detector_of(prompts, clip)
    context = torch.cat([state["ctx_pos"][0], state["ctx_neg"][0]])
    deep = [state["compound_prompts_text.0"], state["compound_prompts_text.1"]]
    tokens = clip.tokenizer(["object.", "damaged object."])
    with torch.no_grad():
        expected = reference_text(theirs, tokens, context, deep)
    torch.testing.assert_close(detector.text()[0], expected, rtol=1e-4, atol=1e-5)


def small(method):
    from headlens.detectors.config import preset

    return lambda name, **sizes: preset(name, taps=(3,), local_start=1, **sizes)


def test_another_clip_is_refused(clip, tmp_path):
    prompts = read_prompts(saved(checkpoint(clip, "crane"), tmp_path / "a.pth"))
    other = assemble(architecture_from_config(SENTENCES, "tiny"), None, seed=9)
    with pytest.raises(RunError, match=r"other embeddings of 'object\.'"):
        detector_of(prompts, other)
    wide = tiny_config(vocab_size=49408, context_length=32)
    wide["text_cfg"] |= {"width": 2 * clip.text.cfg.d_model}
    with pytest.raises(RunError, match="wide"):
        detector_of(prompts, assemble(architecture_from_config(wide, "wide"), None))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("ctx_neg"), "there is no ctx_neg"),
        (lambda state: state.update(ctx_neg=torch.zeros(1, 1, 4, 8)), "ctx_pos and ctx_neg are"),
        (lambda state: state.update({"compound_prompts_text.1": torch.zeros(1, 8)}), "differ in shape"),
        (lambda state: state.update(ctx_pos="text"), "holds no state dict of tensors"),
    ],
)
def test_other_files_are_refused(change, named, clip, tmp_path):
    state = checkpoint(clip, "crane")
    change(state)
    with pytest.raises(CheckpointError, match=named):
        read_prompts(saved(state, tmp_path / "a.pth"))
    with pytest.raises(CheckpointError, match="no weight file"):
        read_prompts(tmp_path / "gone.pth")


def test_import_writes_a_run(clip, tmp_path, monkeypatch):
    monkeypatch.setattr("headlens.backbone.load", lambda *a, **k: clip)
    monkeypatch.setattr("headlens.detectors.published.preset", small("crane"))
    path = saved(checkpoint(clip, "crane"), tmp_path / "epoch_5.pth")
    arguments = ["import", str(path), "--out", str(tmp_path / "run"), "--trained-on", "mvtec", "--size", "32"]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["preset"] == "crane" and card["trained_on"] == "mvtec" and card["imported"]["file"] == "epoch_5.pth"
    run = load_run(tmp_path / "run", clip)
    assert run.size == 32 and run.threshold is None
    assert torch.equal(run.detector.prompts.context, read_prompts(path).context)
    with pytest.raises(RunError, match="holds a run"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
