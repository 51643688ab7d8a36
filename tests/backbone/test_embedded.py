"""The embedded backbones: open_clip's format, its own small vocabulary, and identities in float32 on real weights."""

from __future__ import annotations

import json
import subprocess
import sys

import open_clip
import pytest
import torch
from captions_words import vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image

from headlens.backbone import LocalStream, VisionPlan, embedded, load
from headlens.backbone.checkpoint import read_checkpoint
from headlens.backbone.parity import parity
from headlens.backbone.words import caption_words, learnt, words
from headlens.errors import CheckpointError, RunError
from headlens.training.run import load_run
from tests.backbone.models import close

LOCAL = LocalStream(start=5)


@pytest.fixture(scope="module", params=embedded.NAMES)
def mini(request):
    return load(request.param)


def test_what_it_is(mini):
    v, t = mini.vision.cfg, mini.text.cfg
    assert (v.n_layers, v.n_heads, v.patch_size, v.image_size, t.n_layers, t.n_ctx) == (24, 16, 14, (224, 224), 12, 77)
    name = mini.provenance.name
    assert embedded.weights(name).stat().st_size <= 16 * 2**20
    assert "procedural" in mini.provenance.weights
    assert mini.provenance.sha256 == read_checkpoint(embedded.weights(name)).sha256 == embedded.SHA256[name]
    assert mini.provenance.act_fn_known
    assert "procedural" in repr(mini)


def test_open_clip_loads_it_from_its_folder(mini):
    folder = embedded.weights(mini.provenance.name).parent
    theirs = open_clip.create_model(f"local-dir:{folder}").eval()
    image = Image.effect_noise((300, 200), 90).convert("RGB")
    images = mini.preprocess(image)[None]
    tokens = mini.tokenizer(["a photo of a damaged object", "knee MRI"])
    with torch.no_grad():
        close(mini.encode_image(images), theirs.encode_image(images), 2e-5)
        close(mini.encode_text(tokens), theirs.encode_text(tokens), 2e-5)


def test_one_is_never_taken_for_the_other():
    both = [load(name).provenance for name in embedded.NAMES]
    assert [own.name for own in both] == ["mini", "mini-captions"]
    assert len({own.sha256 for own in both}) == len({own.weights for own in both}) == 2
    assert "sentences" in both[1].weights
    with pytest.raises(RunError, match=r"trained on mini .*not on mini-captions"):
        load_run("mini-industrial-0", load("mini-captions"))
    with pytest.raises(CheckpointError, match="weights of mini-captions, not of mini: load 'mini-captions' instead"):
        load("mini", embedded.weights("mini-captions"))


@pytest.mark.parametrize("name", embedded.NAMES)
def test_its_card_says_what_it_is(name):
    card = embedded.weights(name).with_name("card.md").read_text(encoding="utf-8")
    assert card.startswith(f"# {name}\n")
    assert "never seen a photograph" in card
    if name == "mini-captions":
        assert "No mask of a flaw" in card and "63 % of those" in card


def test_words_of_sentences_ship_with_the_weights():
    known = set().union(*map(words, vocabulary()))  # what it was trained on
    assert caption_words("mini-captions") == known
    found, left_out = learnt(load("mini-captions"), ["a red ring", "damaged object", "rusty object"])
    assert (found, left_out) == (["a red ring", "damaged object"], ["rusty object"])
    assert learnt(load("mini"), ["a red ring"]) == ([], ["a red ring"])


@pytest.mark.parametrize("name", embedded.NAMES)
def test_identities_hold_on_its_weights(name):
    state = read_checkpoint(embedded.weights(name)).state
    for row in parity(name, state, sizes=[None]):
        for check in ("image", "image_fast", "text", "heads", "residual"):
            assert row[check] <= row["limit"], row


def test_local_stream_is_a_sum_of_its_heads(mini):
    last = 23
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, cache = mini.vision.run_with_cache(images, VisionPlan((last,), LOCAL))
        total = cache["resid_pre", 5].clone()
        for layer in range(5, last + 1):
            attn = mini.vision.blocks[layer].attn
            total += torch.einsum("bthd,hdm->btm", cache[f"blocks.{layer}.attn.hook_local_z"], attn.W_O) + attn.b_O
        close(total, cache[f"blocks.{last}.hook_local_resid_post"], 2e-5)


def test_gates_of_one_change_nothing(mini):
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    ones = {stream: torch.ones(24, 16) for stream in ("global", "local")}
    with torch.no_grad():
        plain = mini.vision(images, VisionPlan((5, 23), LOCAL))
        weighed = mini.vision(images, VisionPlan((5, 23), LOCAL, ones))
        off = mini.vision(images, VisionPlan((5, 23), LOCAL), gates={"global": torch.zeros(1, 24, 16)})
    close(weighed.patches[23], plain.patches[23], 1e-6)
    assert (off.embedding - plain.embedding).norm() > 0.1 * plain.embedding.norm()


@pytest.fixture(scope="module")
def full() -> SimpleTokenizer:
    return SimpleTokenizer()


@settings(max_examples=60, deadline=None)
@given(sentence=st.text(max_size=30))
def test_any_sentence_can_be_said(mini, full, sentence):
    tokens = mini.tokenizer([sentence])
    assert tokens.shape == (1, 77)
    assert int(tokens.max()) == mini.text.cfg.d_vocab - 1  # end of text is the highest id
    assert int(tokens.min()) >= 0
    ids = mini.tokenizer.encode(sentence)
    said = mini.tokenizer.decode(ids)
    assert said.split() == full.decode(full.encode(sentence)).split()


def test_its_words_are_clips_first_ones(mini, full):
    merged = [word for word in mini.tokenizer.encoder if not word.startswith("<")]
    assert len(mini.tokenizer.encoder) == 4096
    assert all(mini.tokenizer.encoder[word] == full.encoder[word] for word in merged)


def test_loading_imports_no_open_clip():
    code = (
        "import sys, headlens; clip = headlens.backbone.load('mini'); "
        "import json; print(json.dumps([n for n in ('open_clip', 'torchvision', 'timm', 'sympy') if n in sys.modules]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == []


def test_weights_of_its_own_shape_can_be_given(mini, tmp_path):
    name = mini.provenance.name
    same = load(name, embedded.weights(name))
    assert same.provenance.weights == "open_clip_model.safetensors"
    close(same.logit_scale, mini.logit_scale, 0)
    with pytest.raises(CheckpointError, match="no pretrained tag 'openai'"):
        load(name, "openai")
    broken = tmp_path / "cut.safetensors"
    broken.write_bytes(embedded.weights(name).read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors"):
        load(name, broken)
