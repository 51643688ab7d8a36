"""Learned prompts: context anywhere, deep prompts, and batches encoded once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headlens.backbone import TextExtensions, architecture_from_config, assemble
from headlens.errors import ShapeError
from tests.backbone.models import TINY, close, random_clip, tiny_config

WIDTH = 24


def encode_embeddings(theirs, embeddings: Tensor, ends: Tensor) -> Tensor:
    """open_clip's own transformer over given token embeddings [P, n, D], read at ``ends``."""
    length = embeddings.shape[1]
    x = embeddings + theirs.positional_embedding[:length]
    x = theirs.transformer(x, attn_mask=theirs.attn_mask[:length, :length])
    return theirs.ln_final(x)[torch.arange(len(x)), ends] @ theirs.text_projection


def learned(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(data=st.data(), prompts=st.integers(1, 4), per_prompt=st.booleans())
def test_context_at_any_position(data, prompts, per_prompt):
    theirs = random_clip(tiny_config())
    ours = assemble(architecture_from_config(TINY), theirs.state_dict(), dtype=torch.float64).text
    ends = data.draw(st.lists(st.integers(1, 8), min_size=prompts, max_size=prompts))
    ids = torch.zeros(prompts, 16, dtype=torch.long)
    for row, end in enumerate(ends):
        ids[row, :end], ids[row, end] = torch.randint(1, 62, (end,)), 63
    position, n = data.draw(st.integers(0, min(ends))), data.draw(st.integers(1, 6))
    context = learned(prompts, n) if per_prompt else learned(n)

    plain = theirs.token_embedding(ids)
    expected = torch.cat([plain[:, :position], context.expand(prompts, n, WIDTH), plain[:, position:]], 1)[:, :16]
    reference = encode_embeddings(theirs, expected, torch.tensor(ends) + n)
    close(ours(ids, context={position: context}), reference)
    where = torch.full((prompts,), position)
    close(ours(ids, context=[(where, context)]), reference)


def test_context_is_what_anomalyclip_calls_replacing_placeholders(ours, theirs):
    """``X X X object`` with the X's embeddings overwritten is ``object`` with three tokens inserted after the start."""
    start, word, end, x = 62, 7, 63, 30
    context = learned(3)
    placeholders = torch.tensor([[start, x, x, x, word, end] + [0] * 10])
    embeddings = theirs.token_embedding(placeholders).clone()
    embeddings[:, 1:4] = context
    short = torch.tensor([[start, word, end]])
    close(ours.text(short, context={1: context}), encode_embeddings(theirs, embeddings, torch.tensor([5])))


def test_context_at_positions_that_differ_and_in_several_places(ours, theirs, tokens):
    a, b = learned(2), learned(3, 1, seed=1)
    positions = torch.tensor([2, 5, 9])
    short = tokens.clone()
    short[2, 10:], short[2, 10] = 0, 63
    rows, ends = [], []
    for row, (ids, at) in enumerate(zip(short, positions.tolist(), strict=True)):
        e = theirs.token_embedding(ids)
        rows.append(torch.cat([e[:1], a, e[1:at], b[row], e[at:]])[:16])
        ends.append(int(ids.argmax()) + 3)
    reference = encode_embeddings(theirs, torch.stack(rows), torch.tensor(ends))
    close(ours.text(short, context=[(torch.tensor([1, 1, 1]), a), (positions, b)]), reference)


def test_deep_prompts_overwrite_before_their_block(ours, theirs, tokens):
    deep = {1: learned(2), 3: learned(3, 3, seed=4)}
    x = theirs.token_embedding(tokens) + theirs.positional_embedding
    for number, block in enumerate(theirs.transformer.resblocks):
        if number in deep:
            n = deep[number].shape[-2]
            x = torch.cat([x[:, :1], deep[number].expand(3, n, WIDTH), x[:, 1 + n :]], 1)
        x = block(x, attn_mask=theirs.attn_mask)
    reference = theirs.ln_final(x)[torch.arange(3), tokens.argmax(1)] @ theirs.text_projection
    close(ours.text(tokens, deep_prompts=deep), reference)
    assert torch.equal(ours.text(tokens, deep_prompts={}), ours.text(tokens))


def test_the_hook_free_path_calls_no_hook_and_is_the_same(ours, tokens):
    close(ours.text(tokens, hooked=False), ours.text(tokens))
    with ours.text.hooks([(lambda _: True, lambda x, hook: pytest.fail(hook.name))]):
        ours.text(tokens, hooked=False)


def test_padding_and_batch_do_not_matter(ours, tokens):
    together = ours.text(tokens)
    for row, end in enumerate((5, 8, 16)):
        close(ours.text(tokens[row : row + 1, :end]), together[row : row + 1])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"context": {1: torch.ones(2, 23)}}, r"context has shape \(2, 23\); expected \[n, 24\]"),
        ({"context": {1: torch.ones(2, 2, 24)}}, r"\(2, 2, 24\)"),
        ({"context": {5: torch.ones(1, 24)}}, r"position 5: must lie in 0\.\.4"),
        ({"context": {-1: torch.ones(1, 24)}}, "position -1"),
        ({"context": {1: torch.ones(1, 24)}}, "17 tokens once context is inserted; the tower reads 16"),
        ({"context": torch.ones(2, 24)}, "context is a tensor; expected a dict"),
        ({"deep_prompts": {4: torch.ones(1, 24)}}, "deep prompts: block 4"),
        ({"deep_prompts": {1: torch.ones(4, 24)}}, r"deep prompt has shape \(4, 24\).*k <= 3"),
    ],
)
def test_prompts_that_do_not_fit_are_named(ours, tokens, options, message):
    with pytest.raises(ShapeError, match=message):
        ours.text(tokens, **options)


@pytest.mark.parametrize(
    "ids", [torch.zeros(2, 17, dtype=torch.long), torch.zeros(5), torch.zeros(1, 3), torch.tensor([[64]])]
)
def test_tokens_that_are_none(ours, ids):
    with pytest.raises(ShapeError, match="token"):
        ours.text(ids)


class Counter:
    """Counts how often the text tower really ran."""

    def __init__(self, tower) -> None:
        self.runs, self.forward = 0, tower.forward
        tower.forward = self

    def __call__(self, *arguments, **options):
        self.runs += 1
        return self.forward(*arguments, **options)


def test_equal_batches_are_encoded_once(ours, tokens):
    counter = Counter(ours.text)
    first = ours.encode_text(tokens)
    assert torch.equal(ours.encode_text(tokens.clone()), first)
    assert torch.equal(ours.encode_text(tokens, normalize=True), torch.nn.functional.normalize(first, dim=-1))
    assert counter.runs == 1
    ours.encode_text(tokens[:2])
    assert counter.runs == 2
    close(first, ours.text(tokens))


def test_the_cache_cannot_be_spoilt_by_its_reader(ours, tokens):
    first = ours.encode_text(tokens)
    kept = first.clone()
    first.zero_()
    assert torch.equal(ours.encode_text(tokens), kept)


def test_a_changed_weight_or_prompt_is_encoded_anew(ours, tokens):
    counter, context, short = Counter(ours.text), learned(2), tokens[:2]
    a = ours.encode_text(short, context={1: context})
    b = ours.encode_text(short, context={2: context})
    assert counter.runs == 2
    assert not torch.equal(a, b)
    context.data += 1  # which torch does not count
    c = ours.encode_text(short, context={1: context})
    assert counter.runs == 3
    assert not torch.equal(a, c)
    close(c, ours.text(short, context={1: context}))
    with torch.no_grad():
        ours.text.blocks[0].mlp.fc.bias += 1
    close(ours.encode_text(short, context={1: context}), ours.text(short, context={1: context}))
    ours.float()
    assert ours.encode_text(short).dtype == torch.float32


def test_replaced_weights_towers_and_autocast_are_noticed(ours, theirs, tokens):
    for seed in range(4):
        ours.text.proj = torch.nn.Parameter(learned(20, seed=seed).T.contiguous(), requires_grad=False)
        close(ours.encode_text(tokens), ours.text(tokens))
    other = assemble(architecture_from_config(TINY), theirs.state_dict(), dtype=torch.float64)
    ours.text = other.text
    close(ours.encode_text(tokens), other.text(tokens))
    single = other.float()
    single.encode_text(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        low = single.encode_text(tokens)
        assert torch.equal(low, single.text(tokens))
    assert not torch.equal(low.float(), single.encode_text(tokens))
    with torch.no_grad():
        handle = single.text.blocks[1].register_forward_hook(lambda module, args, out: (2 * out[0], None))
        assert torch.equal(single.encode_text(tokens), single.text(tokens))
        handle.remove()


def test_gradients_and_hooks_are_never_answered_from_memory(ours, tokens):
    context, short = learned(2).requires_grad_(), tokens[:2]
    with torch.no_grad():
        ours.encode_text(short, context={1: context})
    ours.encode_text(short, context={1: context}).sum().backward()
    assert context.grad.abs().sum() > 0
    ours.encode_text(short)
    with ours.text.hooks([("hook_embed", lambda x, hook: 2 * x)]):
        hooked = ours.encode_text(short)
    assert not torch.equal(hooked, ours.encode_text(short))
    changed = ours.encode_text(short, extensions=TextExtensions(projection=lambda e: e[:, :20]))
    assert not torch.equal(changed, ours.encode_text(short))


def test_what_was_encoded_in_inference_mode_can_be_trained_with(ours, tokens):
    with torch.inference_mode():
        ours.encode_text(tokens)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    (scale * ours.encode_text(tokens)).sum().backward()
    assert scale.grad.isfinite()


def test_the_cache_is_bounded(ours):
    for i in range(40):
        ours.encode_text(torch.tensor([[1 + i % 50, 63]]))
    assert len(ours._prompts) == ours._prompts.size


def test_many_prompts_are_encoded_piecewise(ours):
    ids = torch.randint(1, 62, (600, 6), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 63
    close(ours.encode_text(ids), ours.text(ids))


def test_an_unknown_option_is_named(ours, tokens):
    with pytest.raises(ShapeError, match="no option 'contxt'"):
        ours.encode_text(tokens, contxt=None)
