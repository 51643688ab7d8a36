"""``load``: names, files, tags, activations, preprocessing; and what is refused, with what words."""

from __future__ import annotations

import json
import socket
import warnings
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import headlens
from headlens.backbone import architecture, architecture_from_config, assemble, load
from headlens.backbone.checkpoint import OPENAI_SCALARS
from headlens.backbone.loading import tower_name
from headlens.backbone.parity import stirred_state
from headlens.backbone.weights import cached, published_as, tag_config
from headlens.errors import ArchitectureError, CheckpointError, DownloadError, ShapeError
from tests.backbone.models import close, random_clip, tiny_config

SMALL = "ViT-T-32"  # tiny, with open_clip's tokenizer


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file(stirred_state(SMALL), path)
    return path


def test_a_local_file_gives_open_clips_embeddings_of_a_real_image(weights):
    """Preprocessing, tokenizer, towers: everything from a picture and a sentence on."""
    clip = load(SMALL, weights)
    theirs, _, preprocess = open_clip.create_model_and_transforms(
        SMALL, pretrained=str(weights), image_resize_mode="squash"
    )
    image = Image.effect_mandelbrot((300, 200), (-2, -1, 1, 1), 50).convert("RGB")
    close(clip.preprocess(image), preprocess(image), 0)
    sentences = ["a photo of a damaged object", "Ein Foto, naïve façade", "word " * 100]
    tokens = clip.tokenizer(sentences)
    assert torch.equal(tokens, open_clip.get_tokenizer(SMALL)(sentences))
    with torch.no_grad():
        theirs.eval()
        close(clip.encode_image(clip.preprocess(image)[None]), theirs.encode_image(preprocess(image)[None]), 2e-5)
        close(clip.encode_text(tokens), theirs.encode_text(tokens), 2e-5)
    close(clip.logit_scale, theirs.logit_scale, 0)


def test_provenance_says_what_made_it(weights):
    made = load(SMALL, weights, image_size=(64, 96), position_rule="bilinear").provenance
    assert (made.name, made.weights, made.act_fn) == (SMALL, "small.safetensors", "gelu")
    assert not made.act_fn_known, "a bare state dict does not tell"
    assert made.activation.startswith("gelu (assumed")
    assert (made.position_rule, made.image_size) == ("bilinear", (64, 96))
    assert len(made.sha256) == 64
    random = load(SMALL, seed=3)
    assert random.provenance.weights == "random (seed 3)"
    assert random.provenance.sha256 is None
    assert repr(random) == (
        "Backbone(ViT-T-32, weights: random (seed 3); 4 layers x 4 heads of 8, patch 32, 224x224 px, gelu)"
    )


def test_random_weights_come_from_the_seed_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a, b, c = (load(SMALL, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["vision.proj"], c["vision.proj"])
    assert all(value.isfinite().all() for value in a.values())


def test_it_is_frozen_and_in_eval_mode(weights):
    clip = load(SMALL, weights)
    assert not clip.training
    assert not any(parameter.requires_grad for parameter in clip.parameters())


def test_image_size_and_dtype(weights):
    clip = load(SMALL, weights, image_size=64, dtype=torch.bfloat16)
    assert clip.preprocess(Image.new("L", (50, 20))).shape == (3, 64, 64)
    assert clip.encode_image(torch.zeros(1, 3, 64, 64)).dtype == torch.bfloat16
    assert {p.dtype for p in clip.parameters()} == {torch.bfloat16}
    with pytest.raises(ShapeError, match="smaller than one patch"):
        load(SMALL, weights, image_size=16)
    with pytest.raises(ArchitectureError, match="position rule 'nearest'"):
        load(SMALL, weights, position_rule="nearest")


@pytest.mark.parametrize(
    "name, missing",
    [
        ("RN50", "a ResNet image tower"),
        ("coca_ViT-B-32", "attention pooling"),
        ("ViT-B-16-SigLIP", "a timm image tower"),
        ("ViT-L-14-CLIPA", "a tower without ln_pre"),
        ("ViT-M-16-alt", "LayerScale"),
        ("xlm-roberta-base-ViT-B-32", "a Hugging Face text tower"),
        ("ViT-H-14-worldwide", "a Hugging Face tokenizer"),
    ],
)
def test_what_the_towers_cannot_be_true_to_is_named(name, missing):
    with pytest.raises(ArchitectureError, match=f"{name} needs what the headlens towers do not have.*{missing}"):
        load(name)


@pytest.mark.parametrize(
    "change, missing",
    [
        ({"scale_attn_inner": True}, "a LayerNorm after the heads"),
        ({"scale_attn": True}, "a LayerNorm after attention"),
        ({"attentional_pool": True}, "attention pooling"),
        ({"ls_init_value": 0.1}, "LayerScale"),
        ({"pool_type": "avg"}, "pooling other than"),
        ({"qk_norm": True}, "normalised queries and keys"),
        ({"something_new": 3}, "something_new=3"),
    ],
)
def test_every_config_key_beyond_the_plain_one_is_refused(change, missing):
    config = tiny_config()
    config["vision_cfg"].update(change)
    with pytest.raises(ArchitectureError, match=missing):
        architecture_from_config(config)


@pytest.mark.parametrize(
    "key, value, missing",
    [
        ("multimodal_cfg", {}, "a CoCa text decoder"),
        ("init_logit_bias", 0, "a SigLIP logit bias"),
        ("novel_cfg", {"layers": 3}, "novel_cfg"),
    ],
)
def test_unknown_parts_of_a_model_are_refused(key, value, missing):
    with pytest.raises(ArchitectureError, match=missing):
        architecture_from_config({**tiny_config(), key: value})
    assert architecture_from_config({**tiny_config(), key: None}).name == "custom"


def test_defaults_written_out_are_no_reason_to_refuse():
    config = tiny_config()
    config["vision_cfg"].update(pool_type="tok", ls_init_value=None, patch_dropout=0.5, scale_heads=False)
    assert architecture_from_config(config).vision.n_heads == 4


def test_an_unknown_name_lists_its_neighbours():
    with pytest.raises(ArchitectureError, match=r"unknown architecture 'ViT-L-14-366'.*ViT-L-14-336"):
        load("ViT-L-14-366")
    for elsewhere in ("hf-hub:timm/vit", "local-dir:here", "weights.pt"):
        with pytest.raises(ArchitectureError, match="A file or tag is the second argument"):
            load(elsewhere)
    with pytest.raises(ArchitectureError, match="cannot be split over"):
        architecture_from_config(tiny_config(heads=5))


def test_a_tag_of_the_other_activation_is_an_error_before_anything_is_fetched(monkeypatch):
    monkeypatch.setattr("headlens.backbone.weights.download", lambda *a: pytest.fail("fetched"))
    with pytest.raises(ArchitectureError, match=r"'openai' needs QuickGELU.*load 'ViT-L-14-336-quickgelu'"):
        load("ViT-L-14-336", "openai")
    with pytest.raises(ArchitectureError, match="needs GELU, ViT-B-32-quickgelu computes QuickGELU"):
        monkeypatch.setattr("headlens.backbone.weights.tag_config", lambda *a: {"quick_gelu": False})
        load("ViT-B-32-quickgelu", "openai")


def test_an_archive_of_openai_needs_quickgelu(tmp_path):
    container_archive(stirred_state(SMALL), tmp_path / "x.pt")
    with pytest.raises(ArchitectureError, match=r"x\.pt, which has the marks of OpenAI.*load 'ViT-T-32-quickgelu'"):
        load(SMALL, tmp_path / "x.pt")
    assert load("ViT-T-32-quickgelu", tmp_path / "x.pt").provenance.act_fn == "quick_gelu"


def test_an_archive_of_somebody_else_is_believed(tmp_path):
    """Without OpenAI's three scalars an archive tells nothing of its activation, like a bare state dict."""
    container_archive(stirred_state(SMALL), tmp_path / "x.pt", openai=False)
    assert load(SMALL, tmp_path / "x.pt").provenance.act_fn == "gelu"


def test_an_advice_names_only_what_exists(tmp_path, monkeypatch):
    monkeypatch.delitem(open_clip.factory._MODEL_CONFIGS, f"{SMALL}-quickgelu")
    container_archive(stirred_state(SMALL), tmp_path / "x.pt")
    with pytest.raises(ArchitectureError, match=f"{SMALL} computes GELU$"):
        load(SMALL, tmp_path / "x.pt")


def test_the_config_beside_a_file_is_believed(weights, tmp_path):
    """What the hub stores next to open_clip_model.safetensors."""
    path, beside = tmp_path / "open_clip_model.safetensors", tmp_path / "open_clip_config.json"
    path.symlink_to(weights)
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize_mode": "shortest"}
    beside.write_text(json.dumps({"model_cfg": {"quick_gelu": False}, "preprocess_cfg": preprocess}))
    white = load(SMALL, path).preprocess(Image.new("RGB", (9, 9), "white"))
    close(white, torch.ones_like(white))
    beside.write_text(json.dumps({"model_cfg": {"quick_gelu": True}}))
    with pytest.raises(ArchitectureError, match=r"by open_clip_config\.json next to it"):
        load(SMALL, path)
    for bad in (
        "{}",
        "[" * 100_000,
        *(
            json.dumps({"model_cfg": {}, "preprocess_cfg": p})
            for p in ({"mean": "abc"}, {"std": [1]}, {"interpolation": "x"})
        ),
    ):
        beside.write_text(bad)
        with pytest.raises(CheckpointError, match=r"open_clip_config\.json is not a(n open_clip)? config"):
            load(SMALL, path)


def test_a_published_file_is_recognised_by_its_hash():
    if not tag_config("ViT-L-14-336-quickgelu", "openai").get("url"):
        pytest.skip("this open_clip no longer lists addresses that tell a hash")
    openai = "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"
    assert published_as("ViT-L-14-336-quickgelu", openai) == "openai"
    assert published_as("ViT-B-16-plus-240", "8fb26589" + "0" * 56) == "laion400m_e31"
    assert published_as("ViT-B-16", "0" * 64) is None


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("visual.proj"), r"1 missing \(visual\.proj\)"),
        (lambda s: s.update(extra=torch.zeros(2)), r"1 unknown \(extra\)"),
        (lambda s: s.update({"visual.proj": torch.zeros(2, 2)}), r"visual\.proj is \(2, 2\), expected \(32, 20\)"),
        (lambda s: s.update({"visual.proj": torch.zeros(32, 20, dtype=torch.long)}), r"visual\.proj is torch\.int64"),
    ],
)
def test_weights_that_do_not_fit_are_named(theirs, change, message):
    state = dict(theirs.state_dict())
    change(state)
    with pytest.raises(CheckpointError, match=f"do not fit tiny: .*{message}"):
        assemble(architecture_from_config(tiny_config(), "tiny"), state)


def test_a_file_of_another_architecture(weights):
    with pytest.raises(CheckpointError, match=r"do not fit ViT-S-16: .*of another shape.*expected"):
        load("ViT-S-16", weights)


def test_weights_that_are_not_numbers(theirs):
    state = {**theirs.state_dict(), "visual.proj": torch.full((32, 20), torch.nan)}
    with pytest.raises(CheckpointError, match=r"hold NaN or infinity in visual\.proj"):
        assemble(architecture_from_config(tiny_config()), state)


def test_one_weight_under_two_names(theirs):
    state = {**theirs.state_dict(), "visual.ln_final.weight": torch.zeros(32)}
    with pytest.raises(CheckpointError, match="two names for one weight"):
        assemble(architecture_from_config(tiny_config()), state)


def test_the_backbone_owns_its_weights(weights, tmp_path):
    """Neither the model nor the file they came from is tied to it."""
    model = random_clip(tiny_config(), torch.float32)
    ours = assemble(architecture_from_config(tiny_config()), dict(model.named_parameters()))
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(weights.read_bytes())
    clip = load(SMALL, copy)
    kept = clip.vision.proj.clone()
    with copy.open("r+b") as file:
        file.seek(copy.stat().st_size // 2)
        file.write(bytes(copy.stat().st_size // 2))
    assert torch.equal(clip.vision.proj, kept)


def test_it_goes_where_it_is_sent(theirs):
    for state in (theirs.state_dict(), None):
        clip = assemble(architecture_from_config(tiny_config()), state, device="meta", dtype=torch.bfloat16)
        assert {(p.device.type, p.dtype) for p in clip.parameters()} == {("meta", torch.bfloat16)}


def test_headlens_own_state_dict_is_recognised(ours):
    with pytest.raises(CheckpointError, match="give it to load_state_dict"):
        assemble(architecture_from_config(tiny_config()), ours.state_dict())


def test_an_unknown_tag_and_a_missing_file():
    with pytest.raises(CheckpointError, match=r"no pretrained tag 'opena1' \(near it: openai"):
        load("ViT-L-14-336-quickgelu", "opena1")
    for path in ("weights/none.pt", "none.safetensors"):
        with pytest.raises(CheckpointError, match=f"no weight file at {path}"):
            load(SMALL, path)


def test_no_network_is_one_error_that_names_the_local_way(monkeypatch, tmp_path):
    def unreachable(*args, **kwargs):
        raise OSError("Network is unreachable")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, unreachable)
    for proxy in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)
    # The hub's own client asks five times over half a minute: it must not be asked at all.
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: pytest.fail("asked"))
    with pytest.raises(DownloadError, match=r"(?s)not on this machine.*pretrained='path/to/open_clip_model"):
        load("ViT-L-14-336-quickgelu", "openai", cache_dir=tmp_path)


def test_a_tag_in_the_hub_cache_needs_no_network(monkeypatch, weights, tmp_path):
    """What a first download leaves behind, in the hub client's own layout."""
    repository = tag_config(SMALL_TAGGED, "openai")["hf_hub"].rsplit("/", 1)[0]
    snapshot = tmp_path / f"models--{repository.replace('/', '--')}" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123")
    save_file(numbers(SMALL_TAGGED), snapshot / "open_clip_model.safetensors")
    assert cached(SMALL_TAGGED, "openai", tmp_path) == snapshot / "open_clip_model.safetensors"
    assert cached("ViT-B-16-quickgelu", "openai", tmp_path) is None
    clip = load(SMALL_TAGGED, "openai", cache_dir=tmp_path)
    assert clip.provenance.weights == "openai"


SMALL_TAGGED = "ViT-B-32-quickgelu"


def container_archive(state: dict, path: Path, openai: bool = True) -> None:
    """An archive with OpenAI's names and no model inside, for sizes too large to trace."""

    class Root(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    root = Root()
    for name, value in state.items():
        *parents, leaf = name.split(".")
        node: nn.Module = root
        for parent in parents:
            if parent not in node._modules:
                node.add_module(parent, nn.Module())
            node = node._modules[parent]
        node.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
    for name in OPENAI_SCALARS if openai else ():
        root.register_buffer(name, torch.tensor(77))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(root).save(path)


@pytest.mark.parametrize("kind", ["safetensors", "pytorch", "torchscript"])
def test_vit_l_14_336_in_every_format(kind, tmp_path, monkeypatch):
    """Its real widths, with two layers in each tower: no format depends on their number."""
    name = "ViT-L-14-336-quickgelu"
    config = open_clip.get_model_config(name)
    config["vision_cfg"]["layers"] = config["text_cfg"]["layers"] = 2
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)
    state = {key: value.half() for key, value in numbers(name).items()}
    path = tmp_path / "ViT-L-14-336px.pt"
    write = {"safetensors": save_file, "pytorch": torch.save, "torchscript": container_archive}[kind]
    write(state, path)
    clip = load(name, path)
    path.unlink()
    for key in ("visual.transformer.resblocks.1.attn.in_proj_weight", "token_embedding.weight", "visual.proj"):
        assert torch.equal(clip.state_dict()[tower_name(key)], state[key].float())
    assert clip.vision(torch.zeros(1, 3, 56, 84), hooked=False).embedding.shape == (1, 768)


def numbers(name: str) -> dict[str, torch.Tensor]:
    """Weights of a large architecture that are random, but not for long: a million numbers again and again."""
    with torch.device("meta"):
        shapes = open_clip.model.CLIP(**open_clip.get_model_config(name)).state_dict()
    some = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).mul(0.02)
    return {
        key: some.roll(-number).repeat(-(-value.numel() // len(some)))[: value.numel()].view(value.shape).clone()
        for number, (key, value) in enumerate(shapes.items())
    }


def test_importing_headlens_is_light():
    assert headlens.backbone.load is load
    with pytest.raises(AttributeError, match="no attribute 'backbon'"):
        headlens.backbon  # noqa: B018


def test_architecture_sizes_are_the_published_ones():
    arch = architecture("ViT-L-14-336-quickgelu")
    v, t = arch.vision, arch.text
    assert (v.n_layers, v.n_heads, v.d_head, v.d_model, v.grid) == (24, 16, 64, 1024, (24, 24))
    assert (t.n_layers, t.n_heads, t.d_model, t.n_ctx, t.d_vocab) == (12, 12, 768, 77, 49408)
    assert arch.act_fn == "quick_gelu"
    parameters = assemble(arch, None, device="meta").parameters()
    assert sum(parameter.numel() for parameter in parameters) == 427_944_193
