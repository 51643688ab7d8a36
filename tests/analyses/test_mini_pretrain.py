"""Pre-training of the embedded backbone, at toy size: its losses, its captions, and that a run can be resumed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from mini_pretrain import RECIPES, contrastive_loss, dense_loss, optimisers, orthogonal, resume_run, save_run, train
from mini_stream import CATEGORY, COLOUR, FLAW, SEEN, STATE, Captions, Stream
from safetensors.torch import load_file

from headlens.backbone import architecture, assemble, load
from headlens.data.procedural.catalogue import CATEGORIES, HELD_OUT, ROLES
from headlens.data.procedural.render import COLOURS


@pytest.fixture(scope="module")
def stream():
    stream = Stream(56, pool=48, fresh=8, seed=0, device=torch.device("cpu"))
    stream.fill()
    return stream


def test_contrastive_loss_is_clips_where_every_image_has_one_sentence():
    images, texts = F.normalize(torch.randn(2, 6, 8), dim=-1)
    scale = torch.tensor(2.0)
    logits = scale.exp() * texts @ images.T
    own = torch.arange(6)
    clip = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(contrastive_loss(images, texts, scale, torch.eye(6, dtype=torch.bool)), clip)


def test_contrastive_loss_is_zero_where_the_softmax_is_even_over_all_positives():
    images = torch.ones(4, 8) / 8**0.5
    assert float(contrastive_loss(images, images, torch.tensor(1.0), torch.ones(4, 4, dtype=torch.bool))) < 1e-6


def test_dense_loss_prefers_the_right_map():
    patches = (torch.rand(3, 20, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    right = 8 * (patches - 0.5)
    assert dense_loss(right, patches) < dense_loss(0 * right, patches) < dense_loss(-right, patches)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 16, 64), (2, 64, 16)])
def test_orthogonal_has_singular_values_near_one(shape):
    out = orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0))).float()
    assert out.shape == shape
    values = torch.linalg.svdvals(out)
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.4


def test_batches_never_show_what_is_held_out(stream):
    batch = stream.batch(64)
    assert all(ROLES[SEEN[i]] != "unseen" for i in batch.attributes[:, CATEGORY].tolist())
    assert batch.images.shape == (64, 3, 56, 56)
    assert 0 <= float(batch.images.min()) <= float(batch.images.max()) <= 1
    flawed = batch.attributes[:, STATE] == 1
    assert torch.equal(batch.patches.flatten(1).any(1), flawed)
    assert bool((batch.attributes[~flawed, FLAW] == -1).all())
    known = {family for name in SEEN for family in CATEGORIES[name].flaws}
    from mini_stream import FLAWS

    assert set(FLAWS) == known - HELD_OUT


def test_twins_are_one_scene_seen_the_same_way(stream):
    batch = stream.batch(32)
    normal, flawed = batch.attributes[::2], batch.attributes[1::2]
    assert torch.equal(normal[:, CATEGORY], flawed[:, CATEGORY])
    assert not normal[:, STATE].any()
    assert flawed[:, STATE].all()
    change = (batch.images[1::2] - batch.images[::2]).abs().mean(1)
    change = F.adaptive_avg_pool2d(change, batch.patches.shape[1:])
    inside = batch.patches[1::2] > 0
    assert change[inside].mean() > 4 * change[~inside].mean()  # JPEG and noise spread a little


def test_a_third_of_the_views_are_untouched_flawed_or_not(stream):
    theta, _ = stream._moved(torch.arange(48).repeat(20))
    still = (theta[:, :, :2].abs() - torch.eye(2)).abs().amax((1, 2)) < 1e-6
    assert torch.equal(still[::2], still[1::2])
    assert 0.15 < float(still.float().mean()) < 0.5


def test_captions_state_what_they_say(stream):
    attributes = stream.batch(200).attributes
    captions = Captions(load("mini").tokenizer, 0)
    sentences, stated = captions.sentences(attributes)
    for sentence, row, told in zip(sentences, attributes.tolist(), stated.tolist(), strict=True):
        words = CATEGORIES[SEEN[row[CATEGORY]]].words
        said = any(word in sentence for word in words)
        assert said if told[CATEGORY] else told[FLAW] or not said  # "a fabric with a metal chip"
        if told[COLOUR]:
            assert COLOURS[row[COLOUR]] in sentence
        if told[FLAW]:
            assert row[STATE] == 1


def test_tokens_are_the_tokenizers(stream):
    tokenizer = load("mini").tokenizer
    captions = Captions(tokenizer, 0)
    sentences = (
        captions.sentences(stream.batch(20).attributes)[0]
        + captions.pairs(stream.batch(6).attributes)
        + captions.objects(3)
    )
    tokens = captions.tokens(sentences, torch.device("cpu"))
    assert torch.equal(tokens, tokenizer(sentences)[:, : tokens.shape[1]])


def test_a_run_comes_back_whole(tmp_path):
    recipe = RECIPES["dense"]
    model = assemble(architecture("mini"), None, seed=1).requires_grad_(True)
    optimizers = optimisers(model, recipe)
    for p in model.parameters():
        p.grad = torch.randn_like(p) * 1e-3
    for optimizer in optimizers:
        optimizer.step()
    save_run(tmp_path, model, optimizers, {"elapsed": 3.0})
    assert all(path.stat().st_size < 16 * 2**20 for path in tmp_path.iterdir())

    again = assemble(architecture("mini"), None, seed=2).requires_grad_(True)
    others = optimisers(again, recipe)
    assert resume_run(tmp_path, again, others)["elapsed"] == 3.0
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)
        q.grad = p.grad.clone()
    before = [p.detach().clone() for p in model.parameters()]
    for optimizer in (*optimizers, *others):
        optimizer.step()
    for p, q, start in zip(model.parameters(), again.parameters(), before, strict=True):
        assert float((p - q).norm()) <= 0.05 * float((p - start).norm())  # momenta are kept in half precision


def test_a_tiny_run_writes_weights_that_load(tmp_path):
    recipe = replace(RECIPES["dense"], batch=4, pool=8, fresh=4, sizes=(56, 112), small_until=1.0)
    train(recipe, seconds=0.01, piece=60, seed=0, out=tmp_path, device=torch.device("cpu"))
    clip = load("mini", tmp_path / "open_clip_model.safetensors")
    before = assemble(architecture("mini"), None, seed=0)
    assert not torch.equal(clip.vision.proj, before.vision.proj.half().float())
    assert load_file(tmp_path / "open_clip_model.safetensors")["visual.proj"].dtype == torch.float16
