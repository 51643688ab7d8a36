"""Naming against TextSpan as the paper writes it, on stacked rows; planted truth; what a backbone cannot know."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import mini_stream
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from headlens import data
from headlens.backbone import load
from headlens.backbone.words import caption_words, learnt, words
from headlens.cli.name import name, pool_of, table
from headlens.data.procedural.render import COLOURS, PLACES
from headlens.detectors.detector import Detector
from headlens.detectors.methods.headclip import HeadCLIP
from headlens.detectors.parts.ensemble import TEMPLATES
from headlens.detectors.readout import Readout
from headlens.errors import ConfigError, DataError, ShapeError
from headlens.heads import sweep
from headlens.heads.naming import Naming, last_quarter, name_heads
from headlens.heads.phrases import BUILT_IN, directions, distinct, read_phrases
from headlens.heads.span import Moments, row_space, text_span
from headlens.heads.sweep import Images
from headlens.heads.variants import Head, heads_of
from headlens.knowledge import Knowledge, Row, shipped, write
from headlens.plots.names import names
from tests.heads.oracles import cached
from tests.tiny import clip as tiny

POOL = ["wood", "metal", "red object", "a scratch", "healthy tissue", "broken glass", "round hole", "blue sky"]
SOME = [Head("global", 1, 2), Head("local", 2, 1), Head("global", 3, 0), Head("local", 3, 3)]


@pytest.fixture
def doubled(monkeypatch):
    """Images in float64, as the tiny detector is."""

    class Doubled(Images):
        def _normalised(self, batch):
            return super()._normalised(batch).double()

    monkeypatch.setattr(sweep, "Images", Doubled)
    return Doubled


def text_of(detector: Detector, phrases: list[str]) -> np.ndarray:
    """Template by template, phrase by phrase."""
    rows = []
    for phrase in phrases:
        each = [detector.backbone.encode_text(detector.backbone.tokenizer([t.format(phrase)]))[0] for t in TEMPLATES]
        rows.append(torch.stack([vector / vector.norm() for vector in each]).mean(0).double().numpy())
    rows = np.array(rows) - np.mean(rows, axis=0)
    return rows / np.linalg.norm(rows, axis=1)[:, None]


def stacked(detector: Detector, pictures: Images, head: Head) -> tuple[np.ndarray, np.ndarray]:
    """C [N, d_e] from the hooked tower's ``result``, through ln_final written out, and the label of every row."""
    vision, rows, labels = detector.backbone.vision, [], []
    norm, edge = vision.ln_final, vision.cfg.patch_size
    for part, images in pictures:
        out, cache = cached(detector, images)
        if head.stream == "global":
            result = cache[f"blocks.{head.layer}.attn.hook_result"][:, :1, head.head]
            token, length = cache["blocks.3.hook_resid_post"][:, :1], out.embedding[:, None].norm(dim=-1, keepdim=True)
            labels.append(part.labels.double())
        else:
            result = cache[f"blocks.{head.layer}.attn.hook_local_result"][:, 1:, head.head]
            token, length = (
                cache["blocks.3.hook_local_resid_post"][:, 1:],
                vision.readout(out.tapped[3]).norm(dim=-1, keepdim=True),
            )
            labels.append(F.unfold(part.masks[:, None].double(), edge, stride=edge).mean(1).flatten())
        scale = (token.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
        own = (result - result.mean(-1, keepdim=True)) / scale * norm.weight @ vision.proj / length
        rows.append(own.flatten(0, 1))
    return torch.cat(rows).numpy(), torch.cat(labels).numpy()


def paper(rows: np.ndarray, texts: np.ndarray, count: int) -> list[tuple[int, float, np.ndarray]]:
    """Algorithm 1 of arXiv 2310.05916, both C and the pool deflated: which text, its variance, its axis."""
    rows = rows - rows.mean(0)
    _, size, axes = np.linalg.svd(rows, full_matrices=False)
    axes = axes[size > 1e-3 * size[0]]
    texts = texts @ axes.T @ axes
    found = []
    for _ in range(count):
        best = int(np.argmax((rows @ texts.T).var(0)))
        axis = texts[best] / np.linalg.norm(texts[best])
        found.append((best, float((rows @ axis).var()), axis))
        rows = rows - np.outer(rows @ axis, axis)
        texts = texts - np.outer(texts @ axis, axis)
    return found


def test_it_is_textspan_on_stacked_rows(detector, pictures, doubled):
    frame = name_heads(detector, pictures, SOME, pool=POOL, phrases=4, batch=5).frame
    texts = text_of(detector, POOL)
    assert np.allclose(directions(detector.backbone, POOL), texts, atol=1e-10)
    for head in SOME:
        own = frame.query("stream == @head.stream and layer == @head.layer and head == @head.head")
        rows, labels = stacked(detector, doubled(detector, pictures, batch=12), head)
        total, found = rows.var(0).sum(), paper(rows, texts, 4)
        assert own["phrase"].tolist() == [POOL[best] for best, *_ in found]
        assert own["rank"].tolist() == [1, 2, 3, 4]
        assert np.allclose(own["variance"], total, rtol=1e-8)
        assert np.allclose(own["share"], [variance / total for _, variance, _ in found], atol=1e-8)
        assert np.allclose(own["cumulative"], own["share"].cumsum(), atol=1e-12)
        expected = [np.corrcoef(rows @ axis, labels)[0, 1] for *_, axis in found]
        assert np.allclose(own["correlation"], expected, atol=1e-6)


def test_batches_do_not_matter(detector, pictures, doubled):
    whole = name_heads(detector, pictures, SOME, pool=POOL, batch=12).frame
    for batch in (1, 5):
        parts = name_heads(detector, pictures, SOME, pool=POOL, batch=batch).frame
        pd.testing.assert_frame_equal(parts, whole, rtol=1e-8, atol=1e-10)


def test_the_seed_moves_chance_alone(make, pictures):
    one, same, other = (
        name_heads(make(torch.float32), pictures, SOME, pool=POOL, seed=seed).frame for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(one, same)
    assert not np.allclose(one["chance"], other["chance"])
    drawn = ["chance", "beats"]
    pd.testing.assert_frame_equal(one.drop(columns=drawn), other.drop(columns=drawn))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(2, 12), st.integers(1, 9))
def test_axes_are_orthonormal_and_shares_add_up(seed, channels, texts, count):
    draw = np.random.default_rng(seed)
    rows, into = draw.normal(size=(30, channels)) * draw.uniform(0.1, 3, channels), draw.normal(size=(channels, 7))
    pool = draw.normal(size=(texts, 7))
    deviation, axes = row_space(np.cov(rows.T, bias=True).reshape(channels, channels), into)
    span = text_span(deviation, axes, pool, count)
    assert np.isclose(np.square(deviation).sum(), (rows @ into).var(0).sum())
    assert np.allclose(span.axes @ span.axes.T, np.eye(len(span.axes)), atol=1e-8)
    assert (span.share > 0).all() and span.share.sum() <= 1 + 1e-9
    assert len(set(span.chosen.tolist())) == len(span.chosen) == min(channels, texts, count)
    if min(texts, count) >= channels:
        assert np.isclose(span.share.sum(), 1)
    for (best, variance, _), chosen, share in zip(
        paper(rows @ into, pool, len(span.chosen)), span.chosen, span.share, strict=True
    ):
        assert best == chosen and np.isclose(variance, share * np.square(deviation).sum())


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_moments_are_numpys(sizes):
    rows = 100 + torch.randn(sum(sizes), 2, 3, generator=torch.Generator().manual_seed(len(sizes)))
    moments = Moments()
    for part in rows.split(sizes):
        moments.add(Moments.of(part))
    for head in range(2):
        expected = np.cov(rows[:, head].double().numpy().T, bias=True)
        assert np.allclose(moments.covariance[head], expected, atol=1e-9)
        assert np.allclose(moments.mean[head], rows[:, head].double().mean(0))


def plant(detector: Detector, head: Head, towards: np.ndarray, strength: float) -> None:
    """Lets the first channel of a head write along ``towards``, and the others next to nothing."""
    vision = detector.backbone.vision
    vector = np.linalg.lstsq(Readout.of(vision).folded.matrix.double().numpy().T, towards, rcond=None)[0]
    attn = vision.blocks[head.layer].attn
    own = slice(head.head * attn.d_head, (head.head + 1) * attn.d_head)
    with torch.no_grad():
        attn.out.weight[:, own] *= 0.01
        attn.out.weight[:, own.start] = strength * torch.from_numpy(vector).to(attn.out.weight)


@pytest.mark.parametrize("head", [Head("global", 3, 2), Head("local", 2, 1)], ids=str)
@pytest.mark.parametrize("phrase", ["red object", "round hole"])
def test_a_planted_phrase_is_found(make, pictures, head, phrase):
    detector = make(torch.float32)
    plant(detector, head, directions(detector.backbone, POOL)[POOL.index(phrase)], 1.0)
    first = name_heads(detector, pictures, [head], pool=POOL).frame.iloc[0]
    assert first["phrase"] == phrase and first["share"] > 0.98
    assert first["chance"] < first["share"] and first["beats"] == 1


@pytest.mark.parametrize("stream", ["global", "local"])
def test_a_head_that_writes_nothing_has_no_phrase(make, pictures, stream):
    detector = make(torch.float32)
    attn = detector.backbone.vision.blocks[3].attn
    attn.out.weight[:, attn.d_head : 2 * attn.d_head] = 0
    result = name_heads(detector, pictures, [Head(stream, 3, 1), Head(stream, 3, 2)], pool=POOL, phrases=2)
    nothing = result.frame.query("head == 1").iloc[0]
    assert (result.frame["head"] == 1).sum() == 1 and nothing["variance"] == 0
    assert nothing[["phrase", "share", "cumulative", "chance", "beats", "correlation"]].isna().all()
    assert result.frame.query("head == 2")["share"].notna().all()
    assert len(result.plot().axes.patches) == 2
    printed = table(result, 2)
    assert [row[:2] for row in printed.rows] == [[f"{Head(stream, 3, 2)}", row[1]] for row in printed.rows[:-1]] + [
        [f"{Head(stream, 3, 1)}", "-"]
    ]
    assert len(table(result, 1).rows) == 2 and "1 heads more" in table(result, 1).note
    with pytest.raises(ShapeError, match="no head of this frame has a phrase"):
        names(result.frame.query("head == 1"))


def test_labels_that_nobody_knows(make, tmp_path):
    for number in range(3):
        Image.effect_noise((32, 32), 20 + 30 * number).convert("RGB").save(tmp_path / f"{number}.png")
    both = [Head("global", 3, 2), Head("local", 3, 1)]
    frame = name_heads(make(torch.float32), data.open(str(tmp_path)), both, pool=POOL, phrases=2).frame
    assert frame["correlation"].isna().all() and frame["share"].notna().all()


def test_what_cannot_be_named(make, pictures):
    detector = make(torch.float32)
    for heads, options, message in (
        ([], {}, "0 heads and 5 phrases"),
        (SOME, {"phrases": 0}, "4 heads and 0 phrases"),
        ([Head("global", 4, 0)], {}, "global layer 4 does not exist"),
        ([Head("local", 0, 0)], {}, "local layer 0 does not exist"),
        ([SOME[0], SOME[0]], {}, "L1H2"),
    ):
        with pytest.raises(ShapeError, match=message):
            name_heads(detector, pictures, heads, pool=POOL, **options)
    with pytest.raises(DataError, match="needs at least 2"):
        name_heads(detector, pictures.where(lambda record: record == pictures.records[0]), SOME, pool=POOL)
    with pytest.raises(DataError, match="mini knows the words of 1 of 3 phrases"):
        name_heads(HeadCLIP(load("mini")), pictures, pool=["wood", "rusty nail", "candle"])
    assert list(last_quarter(detector)) == [3] and list(last_quarter(HeadCLIP(load("mini")))) == [
        18,
        19,
        20,
        21,
        22,
        23,
    ]


def test_a_knowledge_base_is_a_pool_of_whole_sentences(make, pictures):
    said = ["The wood is cracked.", "A part is missing.", "The surface is even."]
    base = Knowledge(tuple(Row("industrial", "*", "normal", sentence, "a test") for sentence in said))
    detector = make(torch.float64)
    named = name_heads(detector, pictures, SOME, pool=base, phrases=2)
    assert set(named.frame["phrase"].dropna()) <= set(said) and named.provenance["phrases"] == 3
    backbone = detector.backbone
    each = torch.cat([F.normalize(backbone.encode_text(backbone.tokenizer([one])), dim=-1) for one in said])
    expected = F.normalize(each - each.mean(0), dim=-1)
    np.testing.assert_allclose(directions(backbone, said, templates=["{}"]), expected.detach().numpy(), atol=1e-10)


def test_the_shell_takes_phrases_a_base_or_the_one_that_ships(tmp_path):
    (tmp_path / "pool.txt").write_text("wood\nmetal\n")
    write(tmp_path / "base.jsonl", [Row("industrial", "*", "normal", "It is even.", "a test")])
    clip = tiny()
    assert pool_of(tmp_path / "pool.txt", clip) == ["wood", "metal"]
    assert [row.sentence for row in pool_of(tmp_path / "base.jsonl", clip).rows] == ["It is even."]
    assert pool_of(Path("knowledge"), clip) == shipped()


def test_pools_from_files(tmp_path):
    file = tmp_path / "pool.txt"
    file.write_text("# heading\n\nred  object\nRed object\n  # another\nwood\n", encoding="utf-8")
    assert read_phrases(file) == ["red object", "wood"]
    file.write_text("red object\nwood\n", encoding="utf-16")
    assert read_phrases(file) == ["red object", "wood"]
    file.write_bytes(b"\xff\xfe\x00wood")
    for bad in (file, tmp_path, tmp_path / "none.txt"):
        with pytest.raises(DataError, match=f"{bad}: not a readable text file"):
            read_phrases(bad)
    for text, count in (("", 0), ("# wood\n# metal\n", 0), ("wood\nWOOD\n", 1)):
        file.write_text(text)
        with pytest.raises(DataError, match=f"pool.txt has {count} phrases; at least 2"):
            read_phrases(file)
    with pytest.raises(DataError, match="one string, 'wood'"):
        distinct("wood")


def test_the_built_in_pool():
    phrases = read_phrases(BUILT_IN)
    lines = [line for line in BUILT_IN.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert phrases == lines  # none twice, none with stray spaces
    known, left_out = learnt(load("mini"), phrases)
    assert len(known) >= 200 and len(left_out) >= 200
    assert learnt(load("ViT-S-32"), phrases) == (phrases, [])


def test_known_words_are_those_of_the_captions():
    """Of many sampled captions, as pre-training makes them; and their tokens are those that training has moved."""
    draw = random.Random(0)
    tokenizer = load("mini").tokenizer
    captions = mini_stream.Captions(SimpleNamespace(sot_token_id=0, eot_token_id=1, encode=tokenizer.encode), seed=0)
    kinds = [mini_stream.kind(mini_stream.CATEGORIES[one]) for one in mini_stream.SEEN]
    rows = []
    for number in range(30_000):
        which = number % len(mini_stream.SEEN)
        flaws = [f for f in mini_stream.CATEGORIES[mini_stream.SEEN[which]].flaws if f in mini_stream.FLAWS]
        rows.append(
            [
                *(
                    which,
                    mini_stream.KINDS.index(kinds[which]),
                    number // 2 % 2,
                    mini_stream.FLAWS.index(draw.choice(flaws)),
                ),
                *(draw.randrange(2), draw.randrange(len(COLOURS)), draw.randrange(len(PLACES))),
            ]
        )
    said, _ = captions.sentences(torch.tensor(rows))
    assert set().union(*map(words, [*said, *captions.objects(2000)])) == caption_words()
    size = load("mini").text.token_embedding.weight.norm(dim=1)
    moved = torch.zeros(len(size), dtype=torch.bool)
    moved[[token for word in caption_words() for token in tokenizer.encode(word)]] = True
    assert size[moved].quantile(0.01) > 0.35
    assert size[~moved].quantile(0.97) < 0.25


def test_at_a_shell(tmp_path):
    pool = tmp_path / "mine.txt"
    pool.write_text("damaged object\nred object\nwood\nrusty object\n")
    app = typer.Typer()
    app.command()(name)
    for number in range(3):  # as many as two phrases need
        Image.effect_noise((40, 40), 50 + number).convert("RGB").save(tmp_path / f"{number}.png")
    arguments = ["--layer", "23", "--head", "1", "--data", str(tmp_path), "--stream", "both", "--phrases", "2"]
    done = CliRunner().invoke(app, [*arguments, "--pool", str(pool), "--out", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "Backbone(mini" in done.output and "1 more were left out" in done.output and "'rusty object'" in done.output
    (table,) = tmp_path.glob("*.parquet")
    named = Naming.load(table)
    assert named.left_out == ["rusty object"] and table.with_suffix(".png").stat().st_size > 10_000
    assert len(named.frame) == 4 and "\nL23H1/local  " in done.output
    shown = [tick.get_text() for tick in named.plot().axes.get_yticklabels()]
    assert sorted(shown) == sorted(named.frame["phrase"]) and set(shown) <= {"damaged object", "red object", "wood"}
    assert {str(head) for head in heads_of(HeadCLIP(load("mini")), [23], [1])} == {"L23H1", "L23H1/local"}


def test_pooled_image_features_are_no_matter_of_names(make, pictures):
    """A row is what a head writes at CLS, whatever else the image feature is made of."""
    plain, pooled = (
        name_heads(make(torch.float32, score_pooling=share), pictures, SOME, pool=POOL) for share in (0, 0.5)
    )
    pd.testing.assert_frame_equal(plain.frame, pooled.frame, rtol=1e-5)
    assert pooled.provenance["held"] == plain.provenance["held"] == ["layer norm scale", "embedding norm"]


def test_heads_below_an_adapter_have_no_names(planned, pictures):
    detector = planned("both adapters", torch.float32)
    with pytest.raises(ConfigError, match=r"a name for L1H2: the adapter after block 2 .*name heads above block 2"):
        name_heads(detector, pictures, [Head("global", 3, 0), Head("global", 1, 2)], pool=POOL)
    with pytest.raises(ConfigError, match=r"a name for L2H1/local: the adapter after block 3"):
        name_heads(detector, pictures, [Head("local", 2, 1)], pool=POOL)
