"""CLIPs as people have them: folders of transformers and open_clip, other image sizes, unknown activations."""

from __future__ import annotations

import json
import os
import re
import warnings
from pathlib import Path

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from headlens.backbone import architecture, architecture_from_config, assemble, load
from headlens.backbone.config import architecture_from_transformers
from headlens.backbone.described import deduced, described
from headlens.backbone.layouts import Names, open_clip_names
from headlens.backbone.loading import open_clip_name, tower_name
from headlens.backbone.parity import stirred_state
from headlens.detectors.methods.headclip import HeadCLIP
from headlens.detectors.methods.registry import preset
from headlens.errors import ArchitectureError, CheckpointError
from tests.backbone.models import close, random_clip, tiny_config
from tests.backbone.test_loading import container_archive, numbers

transformers = pytest.importorskip("transformers")

TINY = {
    "model_type": "clip",
    "projection_dim": 20,
    "text_config": {
        "hidden_size": 24,
        "intermediate_size": 60,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "vocab_size": 64,
        "max_position_embeddings": 16,
        "eos_token_id": 63,
        "bos_token_id": 62,
        "pad_token_id": 0,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-4,
    },
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 72,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    },
}


def edited(part: str = "", **changes) -> dict:
    config = json.loads(json.dumps(TINY))
    (config[part] if part else config).update(changes)
    return config


def clip_model(config: dict):
    """Transformers' own, every parameter random."""
    torch.manual_seed(0)
    model = transformers.CLIPModel(transformers.CLIPConfig(**config)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    return model


def same(clip, model, tolerance: float = 1e-10) -> None:
    """Both features of both, of an image and of prompts that end in the highest id."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 32, 32, generator=generator, dtype=torch.float64)
    tokens = torch.randint(1, 60, (3, 16), generator=generator)
    tokens[0, 5], tokens[1, 9], tokens[2, 15] = 63, 63, 63
    with torch.no_grad():
        theirs = model.get_image_features(images), model.get_text_features(tokens)
    image, text = (getattr(own, "pooler_output", own) for own in theirs)  # a tensor before transformers 5
    close(clip.encode_image(images), image, tolerance)
    close(clip.encode_text(tokens), text, tolerance)
    close(clip.logit_scale, model.logit_scale, tolerance)


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_a_folder_of_transformers_gives_its_features(act, tmp_path):
    config = edited("vision_config", hidden_act=act)
    config["text_config"]["hidden_act"] = act
    model = clip_model(config)
    model.save_pretrained(tmp_path / "tiny")
    clip = load(tmp_path / "tiny", dtype=torch.float64)
    same(clip, model)
    made = clip.provenance
    assert (made.name, made.weights, made.act_fn, made.act_fn_known) == ("tiny", "model.safetensors", act, True)
    assert (clip.vision.cfg.eps, clip.text.cfg.eps) == (1e-5, 1e-4)
    same(load("mine", tmp_path / "tiny" / "model.safetensors", dtype=torch.float64), model)


@pytest.mark.parametrize("how", ["split", "bin", "split bin", "old buffers", "wrapped", "half"])
def test_every_way_in_which_such_a_model_is_saved(how, tmp_path):
    model, folder = clip_model(TINY), tmp_path / "tiny"
    tolerance = 1e-10
    if how == "split":
        model.save_pretrained(folder, max_shard_size="30KB")
        assert len(list(folder.glob("*.safetensors"))) > 2
        (folder / "model-00001-of-00099.safetensors").write_bytes(b"what no index names is not read")
    else:
        model.save_pretrained(folder)
        state = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        if how == "old buffers":
            for tower, length in (("text", 16), ("vision", 17)):
                state[f"{tower}_model.embeddings.position_ids"] = torch.arange(length)[None]
        elif how == "wrapped":
            state = {f"module._orig_mod.model.{name}": value for name, value in state.items()}
        elif how == "half":
            state, tolerance = {name: value.bfloat16() for name, value in state.items()}, 0.1
        if how == "split bin":
            names = sorted(state)
            files = {f"part-{i}.bin": names[i::2] for i in range(2)}
            for file, own in files.items():
                torch.save({name: state[name] for name in own}, folder / file)
            index = {"weight_map": {name: file for file, own in files.items() for name in own}}
            (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        elif how == "bin":
            torch.save(state, folder / "pytorch_model.bin")
        else:
            save_file(state, folder / "model.safetensors")
    clip = load(folder, dtype=torch.float64)
    same(clip, model, tolerance)
    assert len(clip.provenance.sha256) == 64


def transformers_file(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of open_clip's by transformers' names; written from its documentation, not from our reader."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        tower = "vision_model" if name.startswith("visual.") else "text_model"
        leaf = name.removeprefix("visual.")
        if block := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", leaf):
            here = f"{tower}.encoder.layers.{block[1]}"
            kind, ending = block[2].rsplit(".", 1)[0], block[2].rsplit("_" if "in_proj" in block[2] else ".", 1)[1]
            if "in_proj" in block[2]:
                for letter, own in zip("qkv", value.chunk(3), strict=True):
                    found[f"{here}.self_attn.{letter}_proj.{ending}"] = own.clone()
                continue
            to = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2"}
            to |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
            found[f"{here}.{to[kind]}.{ending}"] = value
            continue
        alone = {
            "visual.class_embedding": "vision_model.embeddings.class_embedding",
            "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
            "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
            "visual.proj": "visual_projection.weight",
            "positional_embedding": "text_model.embeddings.position_embedding.weight",
            "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
            "text_projection": "text_projection.weight",
            "logit_scale": "logit_scale",
            **{f"visual.ln_pre.{w}": f"vision_model.pre_layrnorm.{w}" for w in ("weight", "bias")},
            **{f"visual.ln_post.{w}": f"vision_model.post_layernorm.{w}" for w in ("weight", "bias")},
            **{f"ln_final.{w}": f"text_model.final_layer_norm.{w}" for w in ("weight", "bias")},
        }
        if name != "attn_mask":
            found[alone[name]] = value.T.contiguous() if "proj" in name else value
    return found


def test_the_mapping_of_names_there_and_back():
    state = random_clip(tiny_config(), torch.float32).state_dict()
    found, names = open_clip_names(transformers_file(state))
    assert found.keys() == state.keys() - {"attn_mask"}
    assert all(torch.equal(value, state[name]) for name, value in found.items())
    assert all(names.of(name) == Names(transformers=True).of(name) for name in found)
    assert all(open_clip_name(tower_name(name)) == name for name in found)


B32 = {  # of openai/clip-vit-base-patch32, as transformers writes it: what is usual is left out
    "model_type": "clip",
    "projection_dim": 512,
    "text_config": {"model_type": "clip_text_model", "eos_token_id": 2, "bos_token_id": 0},
    "vision_config": {"model_type": "clip_vision_model"},
}


@pytest.fixture(scope="module")
def b32(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("b32")
    state = {name: value.half() for name, value in numbers("ViT-B-32-quickgelu").items()}
    save_file(transformers_file(state), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(B32))
    means = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1], "resample": 2, "size": {"shortest_edge": 224}}
    (folder / "preprocessor_config.json").write_text(json.dumps(means))
    return folder


def test_a_name_is_deduced_and_what_is_named_is_checked(b32, tmp_path):
    clip = load(b32)
    made = clip.provenance
    assert (made.name, made.act_fn, made.act_fn_known) == ("ViT-B-32-quickgelu", "quick_gelu", True)
    assert clip.vision.cfg == architecture("ViT-B-32-quickgelu").vision
    state = numbers("ViT-B-32-quickgelu")
    key = "visual.transformer.resblocks.7.attn.in_proj_weight"
    assert torch.equal(clip.state_dict()[tower_name(key)], state[key].half().float())
    from PIL import Image

    grey = clip.preprocess(Image.new("RGB", (9, 9)))
    close(grey[:, 0, 0], -torch.tensor([0.1, 0.2, 0.3]), 1e-6)
    with pytest.raises(ArchitectureError, match="needs QuickGELU, ViT-B-32 computes GELU: load 'ViT-B-32-quickgelu'"):
        load("ViT-B-32", b32)
    with pytest.raises(ArchitectureError, match=r"config\.json has vision patch_size 32, ViT-B-16-quickgelu has 16"):
        load("ViT-B-16-quickgelu", b32)
    bare = tmp_path / "model.safetensors"
    bare.symlink_to(b32 / "model.safetensors")
    with pytest.raises(ArchitectureError, match=r"no config beside .*model\.safetensors says which architecture"):
        load(bare)


def test_another_number_of_heads_cannot_be_told_from_shapes_and_is_refused(tmp_path):
    """The same shapes, another model: silently wrong where a config is not read."""
    clip_model(TINY).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"]["num_attention_heads"] = 5
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArchitectureError, match="width 32 cannot be split over 5 heads"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["ViT-B-16-quickgelu", "ViT-L-14-336-quickgelu", "ViT-H-14", "ViT-g-14"])
def test_names_are_deduced_of_any_published_size(name, tmp_path):
    own = architecture(name)
    v, t = own.vision, own.text
    shared = lambda c: {  # noqa: E731
        "hidden_size": c.d_model,
        "intermediate_size": c.d_mlp,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads,
        "hidden_act": c.act_fn,
    }
    config = {"vision_config": shared(v) | {"image_size": v.image_size[0], "patch_size": v.patch_size}}
    config |= {"text_config": shared(t), "projection_dim": v.d_embed, "model_type": "clip"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    about = described(tmp_path / "model.safetensors")
    assert architecture(deduced(about)) == architecture(name) or deduced(about) == name
    assert architecture_from_transformers(config, name) == own


@pytest.mark.parametrize(
    "config, message",
    [
        (edited(model_type="siglip"), "is a siglip of transformers"),
        (edited("vision_config", hidden_act="gelu"), "both must be gelu or quick_gelu"),
        (edited("vision_config", num_channels=4), "images of 4 channels"),
        (edited("vision_config", image_size="32"), "image_size is '32'"),
        (edited("vision_config", num_hidden_layers=-1), "num_hidden_layers is -1"),
        (edited("vision_config", num_hidden_layers=10**5), "100000 layers"),
        (edited("text_config", vocab_size=10**12), "vocab_size is 1000000000000"),
        (edited("vision_config", patch_size=64), "expected at least a patch, 64 px"),
        (edited("text_config", eos_token_id=5), "prompts end with token 5"),
        (edited("text_config", layer_norm_eps="x"), "layer_norm_eps"),
        (edited(projection_dim=True), "projection_dim is True"),
        (edited(vision_config=[1]), "no tables"),
    ],
)
def test_configs_of_what_the_towers_are_not(config, message, tmp_path):
    save_file({"vision_model.post_layernorm.weight": torch.ones(32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArchitectureError, match=re.escape(message)):
        load(tmp_path)


FIELDS = st.sampled_from(["hidden_size", "image_size", "hidden_act", "layer_norm_eps", "x"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ANYTHING = st.recursive(LEAVES, lambda own: st.lists(own, max_size=3) | st.dictionaries(FIELDS, own, max_size=3))


@settings(max_examples=60, deadline=None)
@given(ANYTHING, st.sampled_from(["vision_config", "text_config", "projection_dim", "model_type"]))
def test_any_config_is_understood_or_refused(value, key):
    try:
        architecture_from_transformers({"vision_config": {}, "text_config": {}, key: value})
    except ArchitectureError as error:
        assert "\n" not in str(error)


def test_a_config_of_something_else_beside_a_file_is_passed_by(b32, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"learning_rate": 1e-4}))
    (tmp_path / "model.safetensors").symlink_to(b32 / "model.safetensors")
    assert load("ViT-B-32-quickgelu", tmp_path).provenance.weights == "model.safetensors"


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
        ({"head_width": 0}, r"open_clip_config\.json is no open_clip config"),
        ({"width": "wide"}, r"open_clip_config\.json is no open_clip config"),
        ({"vocab_size": None}, "d_vocab is None; expected a whole number"),
        ({"width": 2**50}, "expected a whole number from 1 to 1048576"),
        ({"image_size": [32]}, r"open_clip_config\.json is no open_clip config"),
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
    with pytest.raises(CheckpointError, match="is no open_clip config"):
        described(tmp_path / "open_clip_model.safetensors")


@pytest.mark.parametrize(
    "recipe, message",
    [
        ({"mean": [float("nan"), 0, 0]}, r"mean is \(nan"),
        ({"mean": [0, 0]}, r"mean is \(0\.0, 0\.0\)"),
        ({"std": [0, 1, 1]}, r"std is \(0\.0"),
        ({"std": [1, 1, float("inf")]}, r"std is \(1\.0, 1\.0, inf\)"),
        ({"interpolation": ["bicubic"]}, "interpolation is"),
    ],
)
def test_preprocessing_that_would_make_images_of_nothing_is_refused(recipe, message, tmp_path):
    save_file({"logit_scale": torch.ones(())}, tmp_path / "open_clip_model.safetensors")
    config = {"model_cfg": tiny_config(), "preprocess_cfg": recipe}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)
    (tmp_path / "open_clip_config.json").unlink()
    theirs = {"mean": "image_mean", "std": "image_std", "interpolation": "resample"}
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({theirs[name]: own for name, own in recipe.items()}))
    with pytest.raises(CheckpointError, match="is no image processor's config"):
        described(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "index, message",
    [
        ("[]", "is no index"),
        ('{"weight_map": {"a": ""}}', "no file beside it"),
        ('{"weight_map": {"a": "\\ud800"}}', "is no index"),
        ('{"weight_map": {}}', "names no file"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "no file beside it"),
        ('{"weight_map": {"a": "model.safetensors.index.json"}}', "no file beside it"),
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
