"""Margins prompt by prompt: sums, the loop over prompts, and the sentences that prompts are near."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from headlens import knowledge
from headlens.data import Pixels, Preprocess
from headlens.detectors import AbnormalAlone, Pair, PromptSets
from headlens.errors import DataError, ShapeError
from headlens.heads import PromptParts, prompt_parts
from headlens.heads.map_parts import peak_of
from headlens.knowledge import Knowledge, Row
from headlens.predict import as_bytes, predict
from tests.backbone.models import close
from tests.methods.cases import CASES

ROWS = (
    Row("industrial", "*", "normal", "The surface is even.", "a test"),
    Row("industrial", "nut", "anomalous", "A corner is off.", "a test"),
    Row("industrial", "nut", "normal", "A corner is off.", "a test"),
    Row("industrial", "nut", "anomalous", "The nut is cracked.", "a test"),
)
IMAGE = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(2))


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("images", [(), (3,)])
@pytest.mark.parametrize("tokens", [(), (5,)])
def test_contrasts_are_sums_over_prompts_and_linear_where_held(images, tokens):
    e, sets = drawn(3, *tokens, 6), normalize(drawn(*images, 2, 4, 6, seed=1), dim=-1)
    pair = sets[..., 0, :]
    for text in (Pair(pair), AbnormalAlone(pair[..., 1, :]), PromptSets(sets), PromptSets(sets, 0.1, "max")):
        margin = text.margin(e)
        close(sum(share.sum(-1) for share in text.shares(e).values()), margin, 1e-12)
        u = text.held(e)
        u = u if u.ndim == e.ndim or not tokens else u[:, None]
        close(((normalize(e, dim=-1) if text.unit else e) * u).sum(-1), margin, 1e-12)
        assert text.linear == (text.held(e).ndim == 2 and len(text.held(e)) in (1, 3)) or not tokens
        many = text.rows(2).margin(torch.cat([e, 2 * e]))
        close(many[3:], 2 * margin if not text.unit else margin, 1e-12)


def test_a_set_is_compared_by_its_mean_or_by_its_best():
    e, sets = drawn(3, 6), normalize(drawn(2, 4, 6, seed=1), dim=-1)
    unit, means = normalize(e, dim=-1), normalize(sets.mean(1), dim=-1)
    close(PromptSets(sets, 0.5).margin(e), (unit @ means[1] - unit @ means[0]) / 0.5, 1e-12)
    best = [max(float(x @ p) for p in sets[1]) - max(float(x @ p) for p in sets[0]) for x in unit]
    close(PromptSets(sets, 0.5, "max").margin(e), torch.tensor(best, dtype=torch.float64) / 0.5, 1e-12)


@pytest.mark.parametrize("case", ["headclip", "kanoclip", "aa-clip", "winclip"])
def test_prompts_add_up_to_the_margins_of_the_image(case):
    detector = CASES[case]()
    parts, whole = prompt_parts(detector, IMAGE, base=Knowledge(ROWS), size=32), predict(detector, IMAGE, size=32)
    margin = torch.stack(list(whole.tap_margins.values())).mean(0)[0]
    peak = torch.from_numpy(peak_of(margin.numpy()))
    total = parts.frame[["value", "peak", "image"]].sum()
    expected = [margin.mean(), margin[peak].mean() - margin.mean(), whole.image_margin]
    assert total.tolist() == pytest.approx(list(map(float, expected)), abs=1e-9)
    assert set(parts.frame["state"]) == {"normal", "abnormal"}


@torch.no_grad()
def test_nearest_sentences_are_those_of_the_image_s_own_prompts():
    detector = CASES["kanoclip"]()
    parts = prompt_parts(detector, IMAGE, base=Knowledge(ROWS), size=32, nearest=2)
    assert len(parts.frame) == 4 and len(parts.sentences) == 8
    sentences = ["The surface is even.", "A corner is off.", "The nut is cracked."]
    known = detector.backbone.encode_text(detector.backbone.tokenizer(sentences), normalize=True)
    shown = parts.sentences.set_index(["state", "prompt", "rank"])
    preprocess = Preprocess(32)
    seen = preprocess.normalise(preprocess(Pixels(as_bytes(IMAGE), None)).image[None])
    for state, vectors in detector.reading(seen).text.prompts.items():
        for prompt, vector in enumerate(vectors[0]):
            ranked = sorted(((float(vector @ k), s) for k, s in zip(known, sentences, strict=True)), reverse=True)
            for rank in (1, 2):
                row = shown.loc[state, prompt, rank]
                assert (row["cosine"], row["sentence"]) == (pytest.approx(ranked[rank - 1][0]), ranked[rank - 1][1])
    said_of = dict(zip(parts.sentences["sentence"], parts.sentences["said_of"], strict=True))
    assert said_of.get("A corner is off.", "both") == "both"


def test_a_result_is_saved_drawn_and_refused(tmp_path):
    detector, path = CASES["kanoclip"](), tmp_path / "base.jsonl"
    knowledge.write(path, ROWS[:2])
    parts = prompt_parts(detector, IMAGE, base=path, size=32, nearest=5)
    assert parts.provenance["sentences"] == 2 and parts.provenance["base_sha256"] == knowledge.load(path).fingerprint
    again = PromptParts.load(parts.save(tmp_path / "parts.parquet"))
    assert again.frame.equals(parts.frame) and again.sentences.equals(parts.sentences)
    _, ax = again.plot()
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == sorted(parts.frame["peak"], reverse=True)
    assert "prompts of a map" in parts._repr_html_()
    with pytest.raises(ShapeError, match="nearest is 0"):
        prompt_parts(detector, IMAGE, base=path, nearest=0)
    with pytest.raises(DataError, match=r"none\.jsonl"):
        prompt_parts(detector, IMAGE, base=tmp_path / "none.jsonl")
