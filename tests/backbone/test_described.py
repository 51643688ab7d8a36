"""CLIPs as people have them: folders of open_clip, split files, other image sizes, unknown activations."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from headlens.backbone import architecture_from_config, assemble, load
from headlens.backbone.described import described
from headlens.backbone.layouts import open_clip_names
from headlens.backbone.parity import stirred_state
from headlens.detectors.methods.headclip import HeadCLIP
from headlens.detectors.methods.registry import preset
from headlens.errors import ArchitectureError, CheckpointError
from tests.backbone.models import close, random_clip, tiny_config, transformers_file
from tests.backbone.test_loading import container_archive


def test_a_folder_of_open_clip_needs_no_name(tmp_path):
    from headlens.backbone import embedded

    for file in embedded.weights("mini").parent.iterdir():
        (tmp_path / file.name).symlink_to(file)
    clip, mini = load(tmp_path), load("mini")
    assert clip.provenance.sha256 == mini.provenance.sha256
    images = torch.randn(1, 3, 56, 56)
    assert torch.equal(clip.encode_image(images), mini.encode_image(images))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"layers": 10**9}, "1000000000 layers"),
        ({"width": -8}, "n_heads is -1"),
        ({"image_size": 7}, r"image_size is \(7, 7\)"),
        ({"patch_size": "8"}, "patch_size is '8'"),
        ({"head_width": 0}, r"open_clip_config\.json is not an open_clip config"),
        ({"width": "wide"}, r"open_clip_config\.json is not an open_clip config"),
        ({"vocab_size": None}, "d_vocab is None; expected a whole number"),
        ({"width": 2**50}, "expected a whole number from 1 to 1048576"),
        ({"image_size": [32]}, r"open_clip_config\.json is not an open_clip config"),
        ({"image_size": 10**9}, "image_size is .*at most 1048576"),
    ],
)
def test_configs_of_open_clip_that_cannot_be(changes, message, tmp_path):
    save_file({"logit_scale": torch.ones(())}, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": tiny_config(**changes)}))
    with pytest.raises((ArchitectureError, CheckpointError), match=message) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_folders_that_are_called_like_an_architecture_or_a_tag_are_not_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("ViT-T-32", "mini", "openai"):
        (tmp_path / name).mkdir()
    assert load("ViT-T-32").provenance.weights == "random (seed 0)"
    assert load("mini").provenance.weights.startswith("embedded")
    monkeypatch.setattr(
        "headlens.backbone.weights.download", lambda *a: (_ for _ in ()).throw(CheckpointError("asked"))
    )
    with pytest.raises(CheckpointError, match="asked"):
        load("ViT-B-32-quickgelu", "openai")


def test_folders_without_weights(tmp_path):
    for name in (tmp_path, str(tmp_path)):
        with pytest.raises(CheckpointError, match=r"no weight file in .*expected one of open_clip_model\.safetensors"):
            load(name)
    with pytest.raises(CheckpointError, match="no weight file in"):
        load("ViT-B-32", tmp_path)


def test_a_config_with_an_infinite_ratio_is_refused(tmp_path):
    config = tiny_config()
    config["vision_cfg"]["mlp_ratio"] = float("inf")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    with pytest.raises(CheckpointError, match="is not an open_clip config"):
        described(tmp_path / "open_clip_model.safetensors")


@pytest.mark.parametrize(
    "index, message",
    [
        ("[]", "is not an index"),
        ('{"weight_map": {"a": ""}}', "not a file in its folder"),
        ('{"weight_map": {"a": "\\ud800"}}', "is not an index"),
        ('{"weight_map": {}}', "names no file"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "not a file in its folder"),
        ('{"weight_map": {"a": "model.safetensors.index.json"}}', "not a file in its folder"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "no weight file at .*gone"),
    ],
)
def test_indices_of_split_files(index, message, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=message):
        load("ViT-B-32", tmp_path)


@pytest.mark.parametrize("names", ["open_clip", "transformers"])
def test_what_does_not_fit_is_named_as_the_file_names_it(names, tmp_path):
    state = random_clip(tiny_config(), torch.float32).state_dict()
    if names == "transformers":
        state = transformers_file(state)
        third, other = "vision_model.encoder.layers.3.mlp.fc1.bias", "vision_model.encoder.layers.3.mlp.fc9.bias"
    else:
        third, other = "visual.transformer.resblocks.3.mlp.c_fc.bias", "visual.transformer.resblocks.3.mlp.fc9.bias"
    state = {f"module.{name}": value for name, value in state.items()}
    state[f"module.{other}"] = state.pop(f"module.{third}")
    found, called = open_clip_names(state)
    with pytest.raises(CheckpointError) as error:
        assemble(architecture_from_config(tiny_config(), "tiny"), found, names=called)
    said = str(error.value)
    assert f"1 missing (module.{third})" in said
    assert f"1 unknown (module.{other})" in said
    assert "\n" not in said


def test_a_query_without_its_key_is_named(tmp_path):
    state = transformers_file(random_clip(tiny_config(), torch.float32).state_dict())
    del state["text_model.encoder.layers.2.self_attn.k_proj.weight"]
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"x\.safetensors: .*layers\.2\.self_attn\.k_proj\.weight missing"):
        load("ViT-B-32", tmp_path / "x.safetensors")


@pytest.mark.parametrize("rule", ["bicubic", "bilinear"])
@pytest.mark.parametrize("grid", [3, 6])
def test_positions_of_another_image_size_are_resized_as_open_clip_does(rule, grid, tmp_path):
    config = tiny_config(quick_gelu=False)
    state = random_clip(tiny_config(quick_gelu=False, image_size=8 * grid), torch.float64).state_dict()
    save_file(state, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    model = random_clip(config, torch.float64)
    theirs = dict(state)
    open_clip.model.resize_pos_embed(theirs, model, rule, antialias=rule == "bicubic")
    model.load_state_dict(theirs)
    clip = load("tiny", tmp_path, position_rule=rule, dtype=torch.float64)
    assert clip.provenance.positions_from == (grid, grid)
    assert f"positions resized from {grid}x{grid}" in repr(clip)
    assert f"resized from {grid} x {grid} patches" in clip._repr_html_()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        close(clip.encode_image(images), model.encode_image(images), 1e-6)  # positions are resized in float32


def test_positions_are_not_resized_to_what_takes_all_memory(tmp_path):
    state = random_clip(tiny_config(), torch.float32).state_dict()
    save_file(state, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": tiny_config(image_size=2**20)}))
    with pytest.raises(CheckpointError, match=r"131072 x 131072 patches, .* is for 4 x 4"):
        load(tmp_path)


def test_a_weight_in_two_files_of_one_index_is_refused(tmp_path):
    for name in ("1", "2"):
        save_file({"visual.proj": torch.full((2, 2), float(name))}, tmp_path / f"{name}.safetensors")
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="a weight is in two of its files"):
        load("ViT-B-32", tmp_path)


def test_positions_that_are_no_square_are_refused(tmp_path):
    state = random_clip(tiny_config(), torch.float32).state_dict()
    state["visual.positional_embedding"] = torch.zeros(13, 32)
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"visual\.positional_embedding has 13 positions"):
        load("ViT-B-32", tmp_path / "x.safetensors")


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bare") / "finetuned.safetensors"
    save_file(stirred_state("ViT-T-32"), path)
    return path


def test_an_activation_that_nothing_tells_is_never_shown_as_a_fact(bare):
    with pytest.warns(UserWarning, match=r"which activation finetuned\.safetensors was trained with") as caught:
        clip = load("ViT-T-32", bare)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    for shown in (
        repr(clip),
        clip._repr_html_(),
        HeadCLIP(clip, preset("clip", taps=(1, 3), local_start=1))._repr_html_(),
    ):
        assert "gelu (assumed" in shown


def test_an_activation_that_is_said_is_believed_or_contradicted(bare):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip = load("ViT-T-32", bare, act_fn="gelu")
    assert clip.provenance.act_fn_known
    assert "assumed" not in repr(clip) + clip._repr_html_()
    with pytest.raises(ArchitectureError, match="act_fn='quick_gelu' needs QuickGELU, ViT-T-32 computes GELU"):
        load("ViT-T-32", bare, act_fn="quick_gelu")
    with pytest.raises(ArchitectureError, match="act_fn is 'relu'"):
        load("ViT-T-32", act_fn="relu")


REASON = "the adapters were trained that way"


def test_an_activation_with_a_reason_is_computed_whatever_the_weights_say(bare, tmp_path):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    tokens = load("ViT-T-32").tokenizer(["a photo"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip = load("ViT-T-32", bare, act_fn="quick_gelu", because=REASON)
        other = load("ViT-T-32-quickgelu", bare)
    made = clip.provenance
    assert (made.name, made.act_fn, made.act_fn_known, made.because) == ("ViT-T-32", "quick_gelu", True, REASON)
    assert torch.equal(clip.encode_image(images), other.encode_image(images))
    assert torch.equal(clip.encode_text(tokens), other.encode_text(tokens))
    assert not torch.equal(clip.encode_image(images), load("ViT-T-32", bare, act_fn="gelu").encode_image(images))
    detector = HeadCLIP(clip, preset("clip", taps=(1, 3), local_start=1))
    for shown in (repr(clip), clip._repr_html_(), detector._repr_html_(), str(detector.facts)):
        assert f"quick_gelu, because: {REASON}" in shown
    container_archive(stirred_state("ViT-T-32"), tmp_path / "openai.pt")  # which needs QuickGELU
    assert load("ViT-T-32", tmp_path / "openai.pt", act_fn="gelu", because=REASON).provenance.act_fn == "gelu"
    random = load("ViT-T-32", act_fn="quick_gelu", because=REASON)
    assert random.vision.cfg.act_fn == random.text.cfg.act_fn == "quick_gelu"


@pytest.mark.parametrize("because", ["", " ", 3])
def test_a_reason_is_words_and_has_an_activation(because):
    with pytest.raises(ArchitectureError, match="an activation whatever the weights say has a name and a reason"):
        load("ViT-T-32", act_fn="gelu", because=because)
    with pytest.raises(ArchitectureError, match="act_fn is None and because is 'so'"):
        load("ViT-T-32", because="so")
    with pytest.raises(ArchitectureError, match="act_fn is 'relu'"):
        load("ViT-T-32", act_fn="relu", because="so")


def test_the_name_with_quickgelu_says_it(tmp_path):
    save_file(stirred_state("ViT-T-32-quickgelu"), tmp_path / "x.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load("ViT-T-32-quickgelu", tmp_path / "x.safetensors").provenance.act_fn_known
    with pytest.warns(UserWarning, match="load 'ViT-T-32-quickgelu' for QuickGELU"):
        load("ViT-T-32", tmp_path / "x.safetensors")


def test_random_and_embedded_weights_are_no_guess():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "assumed" not in repr(load("ViT-T-32")) + repr(load("mini"))


def test_an_embedded_file_that_was_changed_is_refused(monkeypatch, tmp_path):
    from headlens.backbone import embedded

    raw = bytearray(embedded.weights("mini").read_bytes())
    raw[len(raw) // 2] ^= 1
    folder = tmp_path / "mini"
    folder.mkdir()
    (folder / "open_clip_model.safetensors").write_bytes(raw)
    config = embedded.config("mini")
    monkeypatch.setattr(embedded, "config", lambda name: config)
    monkeypatch.setattr(embedded, "weights", lambda name: folder / "open_clip_model.safetensors")
    with pytest.raises(CheckpointError, match="is not the file that headlens ships"):
        load("mini")


@pytest.mark.skipif(os.name == "nt", reason="no pipes in folders")
def test_pipes_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(CheckpointError, match=r"no weight file at .*it is a (pipe|device), not a regular file"):
            load("ViT-B-32", path)
