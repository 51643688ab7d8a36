"""Pre-training on sentences: they are true, they name states as seldom as asked, and no flaw is in a loss."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace

import pytest
import torch
from captions_kinds import KINDS_MORE
from captions_pretrain import RECIPES, SENTENCES, VALIDATION, Captioned, alignment, losses, say, scribe
from captions_recipes import chosen, chosen_second, recipe_of, score, table
from captions_scans import SCANS
from captions_scenes import (
    CATEGORY,
    COLOUR,
    COUNT,
    EARLIER_NAMES,
    FLAW,
    FLAWS,
    MARK,
    MARK_COLOUR,
    MARK_PLACE,
    NAMES,
    NEAR,
    SCANS_MORE,
    SECOND,
    SECOND_PLACE,
    SHAPES,
    STATE,
    THINGS,
    THIRD_NAMES,
    TONE,
    TONES,
    Scenes,
    areas,
    strokes,
)
from captions_words import NUMBERS, Scribe, share_named, vocabulary
from mini_pretrain import train

from headlens.backbone import architecture, assemble, load
from headlens.backbone.words import words
from headlens.data.procedural.captions import ABNORMAL_STATES, DISEASED_STATES, HEALTHY_STATES, NORMAL_STATES
from headlens.data.procedural.catalogue import CATEGORIES, FAMILIES, FAMILY_WORDS, HELD_OUT, ROLES
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.render import COLOURS, PLACES, place_of, render

CPU = torch.device("cpu")
LATER = KINDS_MORE | SCANS_MORE  # of the third cycle, and of the fourth
ADDED = SCANS | LATER


@pytest.fixture(scope="module")
def scenes():
    pool = Scenes(28, pool=160, fresh=4, seed=3, device=CPU)
    pool.fill()
    return pool


@pytest.fixture(scope="module")
def tokenizer():
    return load("mini").tokenizer


def test_what_was_added_is_no_category_of_the_catalogue():
    assert not set(ADDED) & set(CATEGORIES)
    assert len(ADDED) == len(SCANS) + len(KINDS_MORE) + len(SCANS_MORE)
    unseen = {word for name, role in ROLES.items() if role == "unseen" for word in CATEGORIES[name].words}
    assert not unseen & set(vocabulary())
    assert not {word for flaw in HELD_OUT for word in FAMILY_WORDS[flaw]} & set(vocabulary())
    assert not set(VALIDATION) & {name for name, role in ROLES.items() if role == "unseen"}


def test_more_kinds_bring_no_word_of_a_test_category():
    """Nor do their names: of ``screw``, ``bolt`` and ``metal fastener`` only ``metal`` is a word of others."""

    def of(role_is_unseen):
        names = [name for name, role in ROLES.items() if (role == "unseen") == role_is_unseen]
        return {word for name in names for text in (name, *CATEGORIES[name].words) for word in words(text)}

    added = {word for name, kind in LATER.items() for text in (name, *kind.words) for word in words(text)}
    only_tested = of(True) - of(False)
    assert {"screw", "bolt", "mesh", "tile", "biscuit", "knee", "thyroid", "skin"} <= only_tested
    assert not added & only_tested


@pytest.mark.parametrize("name", ADDED)
def test_what_was_added_can_be_painted_with_its_flaws(name):
    category = ADDED[name]
    draw = Draw.of(0, name, torch.arange(2, dtype=torch.int32))
    normal = render(category, None, draw, 42)
    assert 0 <= float(normal.image.min()) < float(normal.image.max()) <= 1  # false for NaN
    assert normal.region.mean() > 0.02
    assert not set(category.flaws) & HELD_OUT
    flawed = render(category, FAMILIES[category.domain][category.flaws[0]], draw, 42)
    assert flawed.mask.flatten(1).any(1).all()


@pytest.mark.parametrize("name", LATER)
def test_no_two_draws_are_alike_and_none_depends_on_its_neighbours(name):
    pair = render(LATER[name], None, Draw.of(1, name, torch.tensor([0, 1], dtype=torch.int32)), 42).scene
    alone = render(LATER[name], None, Draw.of(1, name, torch.tensor([1], dtype=torch.int32)), 42).scene
    torch.testing.assert_close(pair[1], alone[0])
    assert (pair[0] - pair[1]).abs().mean() > 0.02


def test_words_of_more_kinds_read_as_english():
    for kind in LATER.values():
        assert len(set(kind.words)) == len(kind.words) >= 2
        for text in kind.words:
            assert re.fullmatch(r"[A-Za-z][A-Za-z-]*( [A-Za-z][A-Za-z-]*){0,5}", text), text
            assert not text.startswith(("a ", "an ", "the ")), text  # the sentence brings its article


def test_earlier_recipes_keep_their_names_and_numbers():
    assert NAMES[: len(THIRD_NAMES)] == THIRD_NAMES
    assert THIRD_NAMES[: len(EARLIER_NAMES)] == EARLIER_NAMES
    assert set(THIRD_NAMES) - set(EARLIER_NAMES) == set(KINDS_MORE)
    assert set(NAMES) - set(THIRD_NAMES) == set(SCANS_MORE)
    often = RECIPES["more-often"]
    assert RECIPES["more-kinds"] == replace(often, names=THIRD_NAMES)
    assert RECIPES["more-scans"] == replace(often, names=NAMES)
    assert not any(
        set(recipe.names) & set(LATER) for name, recipe in RECIPES.items() if name not in ("more-kinds", "more-scans")
    )


@pytest.mark.parametrize("named", [0.0, 0.03, 0.12, 0.4])
def test_states_are_named_no_more_often_than_the_field_says(scenes, tokenizer, named):
    rows = scenes.described(6000)
    share = share_named(Scribe(tokenizer, 1, named), rows)
    error = 2 * (named * (1 - named) / len(rows)) ** 0.5
    assert 0.6 * named <= share <= named + error


def test_where_states_are_not_named_no_word_of_one_is_there(scenes, tokenizer):
    said, stated = Scribe(tokenizer, 1, 0.0).sentences(scenes.described(2000))
    assert not stated[:, [STATE, FLAW]].any()
    patterns = (*NORMAL_STATES, *ABNORMAL_STATES, *HEALTHY_STATES, *DISEASED_STATES)
    states = {pattern.replace("{}", "").strip() for pattern in patterns}
    flaws = {word for flaw in FLAWS for word in FAMILY_WORDS[flaw]} - {f"a {shape}" for shape in SHAPES}
    for sentence in said:
        assert not any(f" {state} " in f" {sentence} " for state in states | flaws), sentence


def licensed(row: list[int], tells: list[bool]) -> set[str]:
    """Colours, shapes, counts, places and tones that a sentence about ``row`` may contain."""
    columns = ((COLOUR, COLOURS), (MARK_COLOUR, COLOURS), (MARK, SHAPES), (TONE, TONES))
    said = {name for column, names in columns if tells[column] for name in words(names[row[column]])}
    said |= {word for column in (SECOND_PLACE, MARK_PLACE) if tells[column] for word in words(PLACES[row[column]])}
    said |= {NUMBERS[row[COUNT] - 1]} if tells[COUNT] else set()
    said |= {"cropped"} if row[NEAR] == 1 else set()
    names = [NAMES[row[column]] for column in (CATEGORY, SECOND) if row[column] >= 0]
    said |= {word for name in names for text in THINGS[name].words for word in words(text)}
    return said | ({word for text in FAMILY_WORDS[FLAWS[row[FLAW]]] for word in words(text)} if tells[FLAW] else set())


def test_sentences_are_true(scenes, tokenizer):
    rows = scenes.described(3000)
    said, stated = Scribe(tokenizer, 2, 0.4).sentences(rows)
    places = {word for place in PLACES for word in words(place)} - {"in", "on", "at", "the"}
    checked = {*COLOURS, *SHAPES, *NUMBERS, *places, "dark", "bright", "blurred", "cropped"} - {"", "line"}
    for sentence, row, tells in zip(said, rows.tolist(), stated.tolist(), strict=True):
        assert all(row[column] >= 0 for column, told in enumerate(tells) if told), sentence  # nothing unknown is stated
        assert words(sentence) & checked <= licensed(row, tells), sentence
        for column in (CATEGORY, SECOND):
            assert not tells[column] or any(word in sentence for word in THINGS[NAMES[row[column]]].words), sentence
        for column, names in ((COLOUR, COLOURS), (MARK, SHAPES), (MARK_PLACE, PLACES), (SECOND_PLACE, PLACES)):
            assert not tells[column] or names[row[column]] in sentence, sentence
        assert not tells[FLAW] or row[STATE] == 1


def test_vocabulary_has_every_word(scenes, tokenizer):
    known = set().union(*map(words, vocabulary()))
    about = Scribe(tokenizer, 0, 0.5)
    assert set().union(*map(words, about.sentences(scenes.described(4000))[0] + about.things())) <= known


def test_general_sentences_name_no_category(scenes, tokenizer):
    _, stated = Scribe(tokenizer, 0, 0.0, general=True).sentences(scenes.described(500))
    assert not stated[:, [CATEGORY, SECOND]].any()


def test_tokens_are_the_tokenizers(scenes, tokenizer):
    about = Scribe(tokenizer, 0, 0.5)
    said = about.sentences(scenes.described(30))[0] + about.things()
    tokens = about.tokens(said, CPU)
    assert torch.equal(tokens, tokenizer(said)[:, : tokens.shape[1]])


def test_a_share_that_is_none_is_refused(tokenizer):
    with pytest.raises(ValueError, match="at most"):
        Scribe(tokenizer, 0, 0.7)


def test_marks_and_parts_are_where_they_are_said_to_be(scenes):
    torch.manual_seed(0)
    u = torch.rand(200, 24)
    shape, count, _, at = scenes._mark(u)
    single = count == 1
    found = place_of(strokes(shape, count, at, 112)[single] > 0.3)
    from captions_scenes import _place

    named = _place(*at[single, :2].unbind(1))
    assert (found == named).float().mean() > 0.9  # near a border between two places, rounding decides
    inside = areas(*scenes._part(u), 56)
    assert 0 <= float(inside.min()) <= float(inside.max()) <= 1


def test_shares_say_what_patches_show(scenes):
    batch = scenes.batch(64)
    assert batch.images.shape == (64, 3, 28, 28)
    assert 0 <= float(batch.images.min()) <= float(batch.images.max()) <= 1
    assert batch.shares.shape == (16, len(NAMES) + len(SHAPES) + 1, 2, 2)
    torch.testing.assert_close(batch.shares.sum(1), torch.ones(16, 2, 2))
    for row, own in enumerate(batch.attributes[:16].tolist()):
        there = {i for i, share in enumerate(batch.shares[row].flatten(1).amax(1).tolist()) if share > 0}
        known = {own[CATEGORY], own[SECOND], len(NAMES) + own[MARK] if own[MARK] >= 0 else -1, len(NAMES) + len(SHAPES)}
        assert there <= known  # a flaw is no class: it is part of the thing that it is on


def test_what_a_crop_hides_is_not_called_damaged(scenes):
    rows = torch.full((1, 13), -1)
    rows[0, [STATE, FLAW]] = torch.tensor([1, 2])
    flawed = int((scenes.attributes[:, 3] == 1).nonzero()[0])
    pick, still = torch.tensor([flawed]), torch.eye(2, 3)[None]
    kept, hidden = rows.clone(), rows.clone()
    scenes._visible(kept, pick, still, torch.zeros(1, 28, 28))
    scenes._visible(hidden, pick, still, torch.ones(1, 28, 28))
    assert kept[0, [STATE, FLAW]].tolist() == [1, 2]
    assert hidden[0, [STATE, FLAW]].tolist() == [0, -1]


def test_alignment_prefers_patches_that_are_what_they_show():
    things = torch.eye(5)
    shares = torch.zeros(2, 5, 9)
    shares[0, 1], shares[1, 3] = 1, 1
    right = {5: things[torch.tensor([1, 3])][:, None].expand(-1, 9, -1)}
    wrong = {5: things[torch.tensor([3, 1])][:, None].expand(-1, 9, -1)}
    assert alignment(right, things, shares) < 1e-3 < alignment(wrong, things, shares)


def test_the_loss_has_sentences_and_things_and_nothing_else(scenes, tokenizer):
    model = assemble(architecture("mini"), None, seed=0)
    batch = scenes.batch(8)
    for recipe in RECIPES.values():
        assert (recipe.state, recipe.rank) == (0.0, 0.0)
    about = scribe(Captioned(), tokenizer, 0)
    assert set(losses(model, batch, say(batch, about, True), Captioned(), True)) == {"clip", "dense"}
    assert set(losses(model, batch, say(batch, about, False), Captioned(dense=0.0), False)) == {"clip"}


def test_a_tiny_run_writes_weights_that_load(tmp_path):
    recipe = replace(RECIPES["aligned"], batch=4, pool=8, fresh=4, sizes=(56, 112), small_until=1.0)
    train(recipe, seconds=0.01, piece=60, seed=0, out=tmp_path, device=CPU, task=SENTENCES)
    assert load("mini", tmp_path / "open_clip_model.safetensors").logit_scale.isfinite()


def row(name, named, retrieval, loss=1.0):
    pair = {"industrial": 0.7, "medical": 0.7}
    parts = {"retrieval": retrieval, "marks": 0.8, "maps": pair, "floor": pair, "images": pair}
    return {"recipe": name, "named": named, "loss": loss, **parts}


def test_the_rule():
    rows = [row("rare", 0.03, 0.66), row("seldom", 0.12, 0.7), row("often", 0.4, 0.9)]
    assert chosen(rows)["recipe"] == "rare"  # within .02 of the best that qualifies
    assert chosen([row("rare", 0.03, 0.5), *rows[1:]])["recipe"] == "seldom"
    assert chosen([row("a", 0.12, 0.7, loss=2), row("b", 0.12, 0.69)])["recipe"] == "b"
    with pytest.raises(SystemExit, match="none is chosen"):
        chosen(rows[2:])
    assert score(rows[0]) == pytest.approx((0.66 + 0.8 + 0.7) / 3)
    assert len(table(rows).splitlines()) == 5


def test_the_rule_of_the_second_cycle():
    rows = [row("rare", 0.03, 0.9), row("seldom", 0.25, 0.5), row("often", 0.6, 0.5)]
    assert chosen_second(rows)["recipe"] == "rare"
    rows[0]["images"], rows[2]["images"] = {"industrial": 0.6, "medical": 0.7}, {"industrial": 0.75, "medical": 0.7}
    assert chosen_second(rows)["recipe"] == "often"  # .025 above the next
    rows[2]["floor"] = {"industrial": 0.65, "medical": 0.71}
    assert chosen_second(rows)["recipe"] == "seldom"
    with pytest.raises(SystemExit, match="reach the floor"):
        chosen_second(rows[2:])


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_says_which_recipe_it_had(name):
    assert recipe_of(json.loads(json.dumps({"recipe": asdict(replace(RECIPES[name], pool=9, fresh=9))}))) == name


def test_a_run_of_another_recipe_is_refused():
    with pytest.raises(SystemExit, match="no recipe"):
        recipe_of({"recipe": asdict(RECIPES["aligned"]) | {"named": 0.07}})
