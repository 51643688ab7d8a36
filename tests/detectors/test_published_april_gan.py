"""Files in the form in which APRIL-GAN publishes its linear maps, made for the tiny CLIP."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from headlens.backbone import Backbone, architecture_from_config, assemble, load
from headlens.cli import app
from headlens.detectors.methods.importing import read_published
from headlens.detectors.methods.published_april_gan import mapped_detector, read_maps
from headlens.errors import ArchitectureError, CheckpointError, ConfigError, RunError
from headlens.training.run import load_run
from tests.tiny import SENTENCES

REASON = "APRIL-GAN's maps were trained with it"


def tiny() -> Backbone:
    """A tiny CLIP with plain GELU."""
    return assemble(architecture_from_config(SENTENCES | {"quick_gelu": False}, "tiny"), None)


def layers(clip: Backbone, count: int = 2) -> nn.Module:
    """As their module has them."""
    torch.manual_seed(0)
    holder = nn.Module()
    width, d_embed = clip.vision.cfg.d_model, clip.vision.cfg.d_embed
    holder.fc = nn.ModuleList([nn.Linear(width, d_embed) for _ in range(count)])
    return holder


def saved(state, path, **beside):
    torch.save({"trainable_linearlayer": state, **beside}, path)
    return path


@torch.no_grad()
def test_maps_become_the_detector_of_their_authors(tmp_path):
    clip = tiny()
    theirs = layers(clip)
    maps = read_published(saved(theirs.state_dict(), tmp_path / "mvtec_pretrained.pth"))
    assert maps.preset == "april-gan" and maps.contents == "linear maps of 2 taps" and not maps.not_taken
    detector = mapped_detector(read_maps(tmp_path / "mvtec_pretrained.pth"), clip, taps=(3, 1))
    reading, tokens = detector.reading(torch.zeros(1, 3, 32, 32)), torch.randn(1, 5, 32)
    torch.testing.assert_close(reading.taps[3](tokens), theirs.fc[0](tokens))
    torch.testing.assert_close(reading.taps[1](tokens), theirs.fc[1](tokens))
    assert not any(parameter.requires_grad for parameter in detector.parameters())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("fc.1.bias"), r"expected fc\.0\.weight \[d_e, D\], .* there is no fc\.1\.bias"),
        (lambda state: state.pop("fc.0.weight"), r"there is no fc\.0\.weight"),
        (lambda state: state.update({"fc.0.bias": torch.zeros(3)}), r"fc\.0\.bias is \[3\]"),
        (lambda state: state.update({"fc.1.weight": torch.zeros(20, 8)}), r"fc\.1\.weight is \[20, 8\]"),
        (lambda state: state.update({"fc.0.weight": torch.zeros(20)}), r"fc\.0\.weight is \[20\]"),
        (lambda state: state.update({"fc.0.weight": torch.zeros(())}), r"fc\.0\.weight is \[\]"),
        (lambda state: state["fc.0.weight"][0].fill_(torch.nan), r"fc\.0\.weight has NaN"),
        (
            lambda state: state.update({"fc.1.bias": torch.zeros(20, dtype=torch.int64)}),
            r"fc\.1\.bias .* whole numbers",
        ),
        (lambda state: state.update({"fc.0.scale": torch.zeros(3)}), r"holds fc\.0\.scale, which APRIL-GAN has not"),
        (lambda state: state.update({"fc.0.bias": "text"}), "holds no state dict of tensors"),
        (lambda state: state.clear(), "holds no state dict of tensors"),
    ],
)
def test_other_files_are_refused(change, named, tmp_path):
    state = dict(layers(tiny()).state_dict())
    change(state)
    with pytest.raises(CheckpointError, match=named):
        read_maps(saved(state, tmp_path / "a.pth"))


def test_files_of_other_methods_and_more_than_maps_are_refused(tmp_path):
    state = layers(tiny()).state_dict()
    with pytest.raises(CheckpointError, match="holds optimizer, which APRIL-GAN has not"):
        read_maps(saved(state, tmp_path / "a.pth", optimizer={"lr": 0.1}))
    torch.save({"prompt_learner": {"ctx_pos": torch.zeros(1, 1, 2, 3)}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="under trainable_linearlayer; it holds ctx_pos"):
        read_maps(tmp_path / "a.pth")
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="under trainable_linearlayer; it holds fc"):
        read_maps(tmp_path / "a.pth")
    saved({"fc.0.weight": OSErrorMaker()}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="more than tensors in it"):
        read_maps(tmp_path / "a.pth")


class OSErrorMaker:
    """What a hostile file would have run."""

    def __reduce__(self):
        return (open, ("/nowhere/at/all",))


def test_a_clip_of_other_sizes_or_activation_is_refused(tmp_path):
    maps = read_maps(saved(layers(tiny()).state_dict(), tmp_path / "a.pth"))
    with pytest.raises(RunError, match=r"maps of 2 taps, not 4; name their blocks with taps="):
        mapped_detector(maps, tiny())
    with pytest.raises(ConfigError, match="block 4 does not exist: tiny has 4"):
        mapped_detector(maps, tiny(), taps=(3, 4))
    with pytest.raises(RunError, match=r"the maps are \[20, 32\], those of ViT-S-32 are \[384, 384\]: load the CLIP"):
        mapped_detector(maps, load("ViT-S-32"), taps=(3, 4))
    with pytest.raises(RunError, match=r"plain GELU, and mini computes quick_gelu.*act_fn='gelu'"):
        mapped_detector(maps, load("mini"), taps=(3, 4))


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Imports maps that were made for the embedded backbone."""
    mini = load("mini")
    saved(layers(mini, 4).state_dict(), tmp_path / "visa_pretrained.pth")
    monkeypatch.setattr(
        "headlens.backbone.load", lambda name, weights, size, **rules: load("mini", None, size, **rules)
    )

    def run(*more: str):
        arguments = ["import", str(tmp_path / "visa_pretrained.pth"), "--out", str(tmp_path / "run"), "--size", "56"]
        return CliRunner().invoke(app, [*arguments, *more], catch_exceptions=False)

    return run


def test_import_writes_a_run_with_the_authors_activation_and_why(command, tmp_path):
    said = command("--trained-on", "visa")
    assert said.exit_code == 0 and "april-gan, linear maps of 4 taps" in said.output
    assert f"gelu, because: {REASON}" in said.output
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["preset"] == "april-gan" and card["trained_on"] == "visa"
    assert card["backbone"]["act_fn"] == "gelu" and card["backbone"]["because"].startswith(REASON)
    assert card["backbone"]["position_rule"] == "bicubic"
    run = load_run(tmp_path / "run")
    assert run.detector.backbone.provenance.activation.startswith(f"gelu, because: {REASON}")
    maps = read_maps(tmp_path / "visa_pretrained.pth")
    assert torch.equal(run.detector.projections["23"].weight, maps.weights[3]) and run.size == 56
    assert torch.equal(run.detector.projections["5"].bias, maps.biases[0])
    with pytest.raises(RunError, match=r"not on mini .*, quick_gelu\); give it the backbone"):
        load_run(tmp_path / "run", load("mini"))


def test_another_activation_is_imported_with_another_reason_alone(command, tmp_path):
    with pytest.raises(RunError, match="plain GELU"):
        command("--act-fn", "quick_gelu")
    with pytest.raises(ArchitectureError, match="act_fn='gelu' needs GELU"):
        command("--act-fn", "gelu")
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())
    said = command("--act-fn", "quick_gelu", "--because", "trained at 336 px, where their code keeps it")
    assert "quick_gelu, because: trained at 336 px" in said.output
