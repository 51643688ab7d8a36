"""Files in the form in which AdaCLIP publishes its prompts and maps, made for a tiny CLIP."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from headlens.backbone import Backbone, architecture_from_config, assemble, load
from headlens.cli import app
from headlens.detectors.methods.importing import read_published
from headlens.detectors.methods.published_adaclip import conditioned_detector, read_conditioned
from headlens.errors import CheckpointError, ConfigError, RunError
from headlens.training.run import load_run
from tests.tiny import EVEN, SENTENCES

GENERATORS = {"visual": "dynamic_visual_prompt_generator", "text": "dynamic_text_prompt_generator"}


def tiny(**changes) -> Backbone:
    """A tiny CLIP with plain GELU, whose text is as wide as the joint space."""
    return assemble(architecture_from_config(EVEN | {"quick_gelu": False} | changes, "tiny"), None)


def layer(name: str, d_in: int, d_out: int) -> dict[str, Tensor]:
    return {f"{name}.{end}": value for end, value in nn.Linear(d_in, d_out).state_dict().items()}


def state_of(clip: Backbone, taps: int = 4, depth: int = 3, length: int = 2) -> dict[str, Tensor]:
    """As their trainer saves it."""
    torch.manual_seed(0)
    d, widths = clip.vision.cfg.d_embed, {"visual": clip.vision.cfg.d_model, "text": clip.text.cfg.d_model}
    state = layer("cls_token_layer.head.0", d, d)
    for i in range(taps):
        state |= layer(f"patch_token_layer.head.{i}", widths["visual"], d)
    for tower, width in widths.items():
        for block in range(depth):
            state[f"{tower}_prompter.static_prompts.{block}"] = torch.randn(length, width)
        for token in range(length):
            state |= layer(f"{GENERATORS[tower]}.head.{token}", d, width)
    return {f"clip_model.{name}": value for name, value in state.items()}


def saved(state, path):
    torch.save(state, path)
    return path


@torch.no_grad()
def test_prompts_and_maps_become_the_detector_of_their_authors(tmp_path):
    clip = tiny()
    theirs = state_of(clip)
    found = read_published(saved(theirs, tmp_path / "pretrained_mvtec_colondb.pth"))
    assert found.preset == "adaclip" and not found.not_taken
    assert found.contents == "linear maps of 4 taps, prompts of 2 tokens in 3 blocks"
    detector = found.on(clip)
    assert detector.config.taps == (0, 1, 2, 3) and (detector.config.depth, detector.config.length) == (3, 2)
    z = torch.randn(2, clip.vision.cfg.d_embed)
    for tower, part in (("visual", detector.image_prompts), ("text", detector.text_prompts)):
        for block, tokens in part(z).items():
            for number in range(2):
                head = f"clip_model.{GENERATORS[tower]}.head.{number}"
                made = z @ theirs[f"{head}.weight"].T + theirs[f"{head}.bias"]
                static = theirs[f"clip_model.{tower}_prompter.static_prompts.{block}"][number]
                torch.testing.assert_close(tokens[:, number], made + static)
    assert [*detector.text_prompts(z)] == [1, 2], "the text's block 0 reads the sentence"
    turned = conditioned_detector(found, clip, (3, 1, 2, 0))
    tokens, head = torch.randn(1, 5, clip.vision.cfg.d_model), "clip_model.patch_token_layer.head.0"
    expected = tokens @ theirs[f"{head}.weight"].T + theirs[f"{head}.bias"]
    torch.testing.assert_close(turned.reading(torch.zeros(1, 3, 32, 32)).taps[3](tokens), expected)
    assert not any(parameter.requires_grad for parameter in detector.parameters())


STATIC, MAP = "clip_model.text_prompter.static_prompts.0", "clip_model.patch_token_layer.head.0.weight"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop(STATIC), r"text_prompter\.static_prompts\.0 \[2, 24\]; there is none"),
        (lambda state: state.pop(MAP), r"expected clip_model\.patch_token_layer\.head\.0\.weight \[d_e, D\]"),
        (lambda state: state.update({MAP: torch.zeros(20)}), r"patch_token_layer\.head\.0\.weight \[d_e, D\]"),
        (lambda state: state.update({STATIC: torch.zeros(3, 24)}), r"static_prompts\.0 \[2, 24\]; it is \[3, 24\]"),
        (lambda state: state.update({STATIC: torch.zeros(())}), r"static_prompts\.0 \[2, 24\]; it is \[\]"),
        (lambda state: state[STATIC][0].fill_(torch.inf), r"static_prompts\.0 has NaN, infinity"),
        (lambda state: state.update({STATIC: torch.zeros(2, 24, dtype=torch.int64)}), "or whole numbers"),
        (
            lambda state: state.update({"clip_model.HSF": torch.zeros(2)}),
            r"holds clip_model\.HSF, which AdaCLIP has not",
        ),
        (lambda state: state.update({"prompts": torch.zeros(2)}), "holds prompts, which AdaCLIP has not"),
        (
            lambda state: [state.pop(name) for name in list(state) if "visual_prompter" in name],
            r"expected clip_model\.visual_prompter\.static_prompts\.0 \[2, 32\]; there is none",
        ),
        (lambda state: state.update({STATIC: "text"}), "holds no state dict of tensors"),
    ],
)
def test_other_files_are_refused(change, named, tmp_path):
    state = state_of(tiny())
    change(state)
    with pytest.raises(CheckpointError, match=named):
        read_conditioned(saved(state, tmp_path / "a.pth"))


class OSErrorMaker:
    """What a hostile file would have run."""

    def __reduce__(self):
        return (open, ("/nowhere/at/all",))


def test_damaged_and_hostile_files_and_those_of_other_methods_are_refused(tmp_path):
    path = saved(state_of(tiny()), tmp_path / "a.pth")
    path.write_bytes(path.read_bytes()[:-99])
    with pytest.raises(CheckpointError, match="truncated"):
        read_published(path)
    with pytest.raises(CheckpointError, match="more than tensors in it"):
        read_published(saved({MAP: OSErrorMaker()}, path))
    with pytest.raises(CheckpointError, match="holds no prompts and maps of AdaCLIP"):
        read_conditioned(saved({"prompt_learner": {"ctx_pos": torch.zeros(1, 1, 2, 3)}}, path))
    with pytest.raises(CheckpointError, match=r"clip_model\.patch_token_layer\.head\.0\.weight, … \(AdaCLIP\)"):
        read_published(saved({"fc.weight": torch.zeros(2, 2)}, path))


def test_a_clip_of_other_sizes_or_activation_is_refused(tmp_path):
    found = read_conditioned(saved(state_of(tiny()), tmp_path / "a.pth"))
    with pytest.raises(RunError, match=r"maps of 4 taps, not 2; name their blocks with taps="):
        conditioned_detector(found, tiny(), (0, 1))
    with pytest.raises(ConfigError, match="block 4 does not exist: tiny has 4"):
        conditioned_detector(found, tiny(), (0, 1, 2, 4))
    with pytest.raises(RunError, match=r"the maps are \[24, 32\], those of ViT-S-32 are \[384, 384\]"):
        found.on(load("ViT-S-32"))
    uneven = assemble(architecture_from_config(SENTENCES | {"quick_gelu": False}, "tiny"), None)
    with pytest.raises(RunError, match="its text is 24 wide"):
        found.on(uneven)
    with pytest.raises(RunError, match=r"plain GELU, and mini computes quick_gelu.*act_fn='gelu'"):
        found.on(load("mini"))


def test_import_writes_a_run_with_the_authors_activation_and_why(tmp_path, monkeypatch):
    mini = load("mini-captions", image_size=56)
    saved(state_of(mini, length=3), tmp_path / "pretrained.pth")
    monkeypatch.setattr(
        "headlens.backbone.load", lambda name, weights, size, **rules: load("mini-captions", None, size, **rules)
    )
    arguments = ["import", tmp_path / "pretrained.pth", "--out", tmp_path / "run", "--size", "56"]
    said = CliRunner().invoke(app, [*map(str, arguments), "--trained-on", "mvtec + colondb"], catch_exceptions=False)
    assert said.exit_code == 0 and "adaclip, linear maps of 4 taps, prompts of 3 tokens in 3 blocks" in said.output
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["preset"] == "adaclip" and card["trained_on"] == "mvtec + colondb"
    assert card["backbone"]["act_fn"] == "gelu" and card["backbone"]["because"].startswith("AdaCLIP's prompts")
    assert card["backbone"]["position_rule"] == "bicubic-plain"
    run = load_run(tmp_path / "run")
    assert run.detector.config.taps == (5, 11, 17, 23)
    static = read_conditioned(tmp_path / "pretrained.pth").state["visual_prompter.static_prompts.2"]
    assert torch.equal(run.detector.image_prompts.static[2], static)
