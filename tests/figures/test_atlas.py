"""Figures about several methods: which heads are on the page, what is printed of them, and agreement by SciPy."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from headlens import heads
from headlens.errors import ConfigError
from headlens.figures import FigureContext, agreement, atlas, variance
from headlens.figures.by_method import importance, runs_of, streams_of_all

KEYS = ["stream", "layer", "head"]


@pytest.fixture(scope="module")
def kept(domains, tmp_path_factory) -> FigureContext:
    return FigureContext(domains, tmp_path_factory.mktemp("kept"))


@pytest.fixture(scope="module")
def page(kept):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atlas, "MOST", 4)
        return atlas.SPEC.draw(kept)


def test_importance_of_a_run_has_mean_1_over_the_heads_that_all_methods_have(kept):
    frame = importance(kept)
    assert streams_of_all(frame) == ["global"] and set(frame["method"]) == {"headclip", "april-gan"}
    shared = frame[frame["stream"] == "global"].groupby("run")["value"]
    assert np.allclose(shared.mean(), 1) and shared.ngroups == 8
    domain = kept.domains["medical"]
    run = domain.runs.others["april-gan"][1]
    rows = frame[frame["run"] == run.folder.name].set_index(KEYS)["value"]
    slopes = heads.importance(run, kept.few(domain, 2), batch=8).summary.set_index(KEYS)["importance"]
    assert np.allclose(rows, slopes / slopes.mean())


def test_the_page_has_the_heads_with_the_highest_mean_of_each_stream(kept, page):
    frame = importance(kept)
    chosen = atlas.most_important(frame, 4)
    assert [head.stream for head in chosen] == ["global", "global", "local", "local"]
    means = {}
    for head in heads.heads_of(kept.domains["medical"].run.detector):
        rows = frame[(frame[KEYS] == list(head)).all(axis=1)]
        cells = [rows[(rows["domain"] == d) & (rows["method"] == m)] for d, m in product(kept.domains, ("headclip",))]
        if head.stream == "global":
            cells += [rows[(rows["domain"] == d) & (rows["method"] == "april-gan")] for d in kept.domains]
        means[head] = np.mean([cell["value"].mean() for cell in cells])
    for stream in ("global", "local"):
        ranked = sorted((head for head in means if head.stream == stream), key=lambda head: -means[head])
        assert [head for head in chosen if head.stream == stream] == ranked[:2]
    texts = [text.get_text() for text in page.figure.texts]
    assert [text for text in texts if text in map(str, chosen)] == list(map(str, chosen))


def test_weights_and_missing_heads_are_printed(kept, page):
    first = atlas.most_important(importance(kept), 4)[2]
    texts = [text.get_text() for text in page.figure.texts]
    for domain in kept:
        learned = [run.detector.head_weights()["local"][first.layer, first.head] for run in domain.runs.whole]
        assert f"weight {float(sum(learned)) / len(learned):.2f}" in texts
    inside = [text.get_text() for ax in page.figure.axes for text in ax.texts]
    assert inside.count("no such head") == 2  # APRIL-GAN has none of both local heads
    assert "(2 global and 2 local)" in page.caption and "nan" not in page.caption


def test_phrases_are_kept(kept, page, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("named again")

    monkeypatch.setattr(heads, "name_heads", never)
    monkeypatch.setattr(atlas, "MOST", 4)
    again = FigureContext([*kept], kept.cache.folder)
    assert atlas.SPEC.draw(again).caption == page.caption
    assert "names-industrial-industrial-0" in again.cache.reused


def test_the_patch_that_looks_is_in_the_middle_of_the_mask_or_the_peak():
    margin = np.zeros((4, 4))
    margin[0, 3] = 1
    mask = np.zeros((32, 32), bool)
    mask[8:16, 8:32] = True
    mask[16:20, 8:16] = True
    assert atlas._anomalous(mask, margin) == (1, 2)
    assert atlas._anomalous(None, margin) == (0, 3)


def test_agreement_is_scipys_mean_over_pairs_of_runs(kept):
    rendered = agreement.SPEC.draw(kept)
    columns: dict[str, list[pd.Series]] = {}
    for method, runs in runs_of(kept.domains["industrial"]).items():
        for run in runs:
            rows = kept.importance(kept.domains["industrial"], run, 2).query("stream == 'global'")
            columns.setdefault(method, []).append(rows.set_index(KEYS)["importance"])
    pairs = [stats.spearmanr(one, other).statistic for one, other in product(*columns.values())]
    within = stats.spearmanr(*columns["april-gan"]).statistic
    texts = [text.get_text().splitlines()[0] for ax in rendered.figure.axes[:1] for text in ax.texts]
    assert texts.count(f"{np.mean(pairs):.2f}") >= 2 and f"{within:.2f}" in texts
    assert f"two methods {np.mean(pairs):.2f}" in rendered.caption and "16 heads of the global" in rendered.caption


def test_variance_is_that_of_ranks_by_method_and_domain(kept):
    frame = importance(kept).query("stream == 'global'")
    groups: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for (domain, method, _), rows in frame.groupby(["domain", "method", "run"], sort=False):
        ranks = rows.assign(value=stats.rankdata(rows["value"]) / len(rows))
        groups.setdefault((method, domain), []).append(ranks[[*KEYS, "value"]])
    table = heads.variance(groups).frame.query("stream == 'all'").set_index("component")
    rendered = variance.SPEC.draw(kept)
    for name in ("method", "domain", "method x domain", "seed"):
        assert f"{100 * table.loc[name, 'share']:.0f} % the {name}'s" in rendered.caption
    upper, lower = rendered.figure.axes
    assert len(upper.patches) == 4 * 4 and lower.get_yticklabels()[0].get_text() == "method"  # components, layers


def test_one_method_does_not_agree_with_itself_and_has_an_atlas(alone, monkeypatch):
    with pytest.raises(ConfigError, match="takes two methods or more; in industrial is one"):
        agreement.SPEC.draw(alone)
    with pytest.raises(ConfigError, match="here are 1 and 1: name runs of others"):
        variance.SPEC.draw(alone)
    monkeypatch.setattr(atlas, "MOST", 2)
    assert "(1 global and 1 local)" in atlas.SPEC.draw(alone).caption
