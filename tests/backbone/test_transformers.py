"""CLIPs as transformers keeps them: folders with a config, in every way of saving, and configs of something else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from headlens.backbone import architecture, load
from headlens.backbone.config import architecture_from_transformers
from headlens.backbone.described import deduced, described
from headlens.backbone.layouts import Names, open_clip_names
from headlens.backbone.loading import open_clip_name, tower_name
from headlens.errors import ArchitectureError, CheckpointError
from tests.backbone.models import close, random_clip, tiny_config, transformers_file
from tests.backbone.test_loading import numbers

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
    with pytest.raises(ArchitectureError, match=r"no config next to .*model\.safetensors says which architecture"):
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
        (edited(vision_config=[1]), "not tables"),
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
    with pytest.raises(CheckpointError, match="is not the config of an image processor"):
        described(tmp_path / "model.safetensors")
