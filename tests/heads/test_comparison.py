"""Comparison of domains: oracles of every statistic, calibration by simulation, planted heads, words, bad input."""

from __future__ import annotations

import importlib
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from typer import Typer
from typer.testing import CliRunner

import headlens
from headlens.cli.compare import compare as verb
from headlens.detectors import Detector
from headlens.errors import ConfigError, RunError, ShapeError
from headlens.heads import permutation
from headlens.heads.comparison import Comparison, compare
from headlens.heads.importance import importance
from headlens.heads.weights import weights
from headlens.training.shipped import DOMAINS, default

HEADS = pd.DataFrame([("local", layer, head) for layer in range(5, 15) for head in range(10)])
HEADS.columns = ["stream", "layer", "head"]
BOTH = np.array([False] * 3 + [True] * 3)


def frames(values: np.ndarray) -> list[pd.DataFrame]:
    return [HEADS.head(values.shape[1]).assign(value=row) for row in values]


def compared(values: np.ndarray, first: int = 3, **options) -> Comparison:
    runs = frames(values)
    return compare({"industrial": runs[:first], "medical": runs[first:]}, **{"k": 10, **options})


def noise(seed: int, runs: int = 6, heads: int = 100, shared: float = 0.0) -> np.ndarray:
    """Runs without any difference of domains; ``shared`` of a run's variance moves all its heads together."""
    random = np.random.default_rng(seed)
    scale = np.exp(0.5 * random.standard_normal(heads))
    together = random.standard_normal((runs, 1)) * random.standard_normal(heads)
    return scale * (np.sqrt(1 - shared) * random.standard_normal((runs, heads)) + np.sqrt(shared) * together)


def planted(seed: int, size: float = 6.0, count: int = 12, runs: int = 6) -> tuple[np.ndarray, np.ndarray]:
    values, random = noise(seed, runs), np.random.default_rng(seed + 1000)
    where = random.choice(100, count, replace=False)
    values[runs // 2 :, where] += size * values.std() * random.choice([-1, 1], count)
    return values, where


def typed(*arguments: object) -> str:
    app = Typer()
    app.command()(verb)
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False).output


def test_correlations_are_scipys_ties_included():
    values = np.round(noise(0, 4), 0)
    rho, tau = permutation.spearman(values), permutation.kendall(values)
    for i, j in combinations(range(4), 2):
        assert np.isclose(rho[i, j], stats.spearmanr(values[i], values[j]).statistic)
        assert np.isclose(tau[j, i], stats.kendalltau(values[i], values[j]).statistic)


def test_overlap_counts_common_heads_and_ties_are_drawn_by_lot():
    values = noise(1, 3)
    top = [set(np.argsort(-row)[:7]) for row in values]
    found = permutation.overlap(values, 7)
    assert all(np.isclose(found[i, j], len(top[i] & top[j]) / 7) for i, j in combinations(range(3), 2))
    assert np.allclose(permutation.overlap(np.zeros((2, 50)), 10), 10 / 50)  # chance, not agreement


@pytest.mark.parametrize(("first", "second"), [(3, 3), (2, 3), (1, 4), (4, 4)])
def test_splits_are_all_and_each_once(first, second):
    labels = np.repeat([False, True], [first, second])
    ways = permutation.splits(labels)
    assert (ways[0] == labels).all() and (ways.sum(1) == second).all()
    assert len({tuple(way) for way in ways}) == len(ways) == comb(first + second, second) // (1 + (first == second))


def test_many_splits_are_drawn_by_seed():
    labels = np.repeat([False, True], 9)
    one, again, other = (permutation.splits(labels, seed) for seed in (0, 0, 1))
    assert len(one) == permutation.MOST + 1 and (one == again).all() and (one != other).any()


def test_p_is_scipys_exact_permutation_test_and_the_error_that_of_t():
    values = noise(2)
    found, tests = permutation.differences(values, BOTH)
    t = stats.ttest_ind(values[BOTH], values[~BOTH]).statistic
    assert np.allclose(found["difference"] / found["error"], t)
    for head in range(10):
        exact = stats.permutation_test(
            (values[BOTH, head], values[~BOTH, head]), lambda a, b: a.mean() - b.mean(), n_resamples=np.inf
        )
        assert np.isclose(found["p"][head], exact.pvalue)
    assert tests == [{"splits": 10, "smallest_p": 0.1, "any_p": tests[0]["any_p"]}]


@pytest.mark.parametrize("first", [2, 3])
def test_pooled_rates_and_the_test_of_all_heads_are_those_of_naive_loops(first):
    values, _ = planted(3, runs=6)
    labels = np.arange(6) >= first
    found, tests = permutation.differences(values, labels)
    scores, squares, s0 = [], [], None
    for chosen in combinations(range(6), int(labels.sum())):
        if first == 3 and 0 in chosen:
            continue  # a mirror
        a = np.array([row for i, row in enumerate(values) if i not in chosen])
        b = values[list(chosen)]
        pooled = (((a - a.mean(0)) ** 2).sum(0) + ((b - b.mean(0)) ** 2).sum(0)) / 4
        error = np.sqrt(pooled * (1 / len(a) + 1 / len(b)))
        true = chosen == tuple(range(first, 6))
        s0 = np.median(error) if true else s0
        scores.append((true, np.abs(b.mean(0) - a.mean(0)), error))
        squares.append((true, ((b.mean(0) - a.mean(0)) ** 2).mean()))
    own = next(d / (e + s0) for true, d, e in scores if true)
    null = np.concatenate([d / (e + s0) for true, d, e in scores if not true])
    p = np.array([(1 + (null >= one).sum()) / (1 + len(null)) for one in own])
    rates = [min(1.0, min(100 * level / (p <= level).sum() for level in p[p >= one])) for one in p]
    assert np.allclose(found["q_pooled"], rates)
    assert np.isclose(tests[0]["any_p"], np.mean([one >= dict(squares)[True] for _, one in squares]))
    assert np.allclose(found["q"], np.maximum(rates, tests[0]["any_p"]))


@pytest.mark.parametrize("runs", [3, 5])
@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_where_nothing_differs_heads_are_named_as_rarely_as_the_level_says(runs, shared):
    """Complete null: any finding is false. Heads that move together are the worst case: one split leads in all."""
    labels = np.repeat([False, True], runs)
    every = [permutation.differences(noise(seed, 2 * runs, shared=shared), labels) for seed in range(200)]
    assert np.mean([(columns["q"] <= 0.05).any() for columns, _ in every]) <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5
    smallest = [np.isclose(tests[0]["any_p"], tests[0]["smallest_p"]) for _, tests in every]
    expected = 1 / len(permutation.splits(labels))
    assert abs(np.mean(smallest) - expected) <= 3 * (expected / 200) ** 0.5


def test_planted_heads_are_found_first_and_few_others():
    first, false, right = [], [], []
    for seed in range(15):
        values, where = planted(seed, runs=10)
        result = compared(values, 5)
        first.append(len(set(result.strongest.index[: len(where)]) & set(where)) / len(where))
        chosen = set(result.frame.index[result.frame["significant"]])
        right.append(len(chosen & set(where)) / len(where))
        false.append(len(chosen - set(where)) / max(1, len(chosen)))
    assert np.mean(first) > 0.9 and np.mean(right) > 0.9 and np.mean(false) <= 0.08


def test_three_and_three_runs_put_planted_heads_first_and_name_none():
    """Of 10 splits the true one is the first by chance in one of ten draws: no rate of 5 % can be kept."""
    for seed in range(5):
        values, where = planted(seed)
        result = compared(values)
        assert len(set(result.strongest.index[: len(where)]) & set(where)) > 0.8 * len(where)
        assert (result.frame[["q_own", "q"]] >= 0.1).all(axis=None) and result.frame["q_pooled"].min() < 0.1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.permutations(range(3)), st.permutations(range(3)), st.floats(0.1, 10))
def test_order_of_runs_and_heads_units_and_names_of_domains_do_not_matter(seed, one, two, scale):
    values, _ = planted(seed, count=5)
    found, tests = permutation.differences(values, BOTH)
    shuffled = np.concatenate([values[:3][one], values[3:][two]])
    heads = np.random.default_rng(seed).permutation(100)
    other, again = permutation.differences(shuffled[:, heads] * scale + 3, BOTH)
    swapped, back = permutation.differences(values, ~BOTH)
    assert np.allclose(other["difference"], scale * found["difference"][heads])
    assert np.allclose(swapped["difference"], -found["difference"])
    for name in ("p", "q_own", "q"):
        assert np.allclose(other[name], found[name][heads]) and np.allclose(swapped[name], found[name])
    assert tests == again == back
    alike = [permutation.agreement(permutation.spearman(v), b) for v, b in ((values, BOTH), (values, ~BOTH))]
    for name in ("value", "low", "high"):
        assert np.allclose(alike[0][name], alike[1][name][[1, 0, 2, 3]])


def test_agreement_is_that_of_naive_loops_and_its_test_is_by_labels():
    values, _ = planted(7, count=60)
    similarity = permutation.spearman(values)
    found = permutation.agreement(similarity, BOTH)

    def means(one, two):
        within = [np.mean([similarity[i, j] for i, j in combinations(own, 2)]) for own in (one, two)]
        between = np.mean([similarity[i, j] for i in one for j in two])
        return np.array([*within, between, between - np.mean(within)])

    runs = {0, 1, 2, 3, 4, 5}
    assert np.allclose(found["value"], means([0, 1, 2], [3, 4, 5]))
    without = [means(sorted({0, 1, 2} - {i}), sorted({3, 4, 5} - {i})) for i in range(6)]
    variance = sum(2 / 3 * ((np.array(own) - np.mean(own, 0)) ** 2).sum(0) for own in (without[:3], without[3:]))
    assert np.allclose(found["high"] - found["value"], stats.t.ppf(0.975, 2) * np.sqrt(variance))
    every = [means(list(one), sorted(runs - set(one)))[3] for one in combinations(range(6), 3)]
    assert (
        np.isclose(found["p"][3], np.mean(np.array(every) <= found["value"][3] + 1e-12))
        and np.isnan(found["p"][:3]).all()
    )
    assert found["count"].tolist() == [3, 3, 9, 15]


def test_intervals_cover_what_more_seeds_would_tell():
    profile = np.random.default_rng(0).standard_normal((2, 100)) * 0.5 + np.random.default_rng(1).standard_normal(100)
    found = []
    for seed in range(150):
        random = np.random.default_rng(seed)
        spread = np.exp(0.3 * random.standard_normal((6, 1)))  # some seeds are noisier than others
        values = profile[[0, 0, 0, 1, 1, 1]] + 0.5 * spread * random.standard_normal((6, 100))
        found.append(permutation.agreement(permutation.spearman(values), BOTH))
    low, high, value = (np.stack([one[name] for one in found]) for name in ("low", "high", "value"))
    assert (((low <= value.mean(0)) & (value.mean(0) <= high)).mean(0) >= 0.88).all()


def test_identical_runs_agree_wholly_and_differ_nowhere():
    result = compared(np.tile(noise(4, 1), (6, 1)))
    rows = result.agreement
    assert np.allclose(rows.loc[rows["pairs"] != "between - within", ["value", "low", "high"]], 1)
    assert (result.frame[["difference", "error"]] == 0).all(axis=None) and (result.frame[["p", "q_own", "q"]] == 1).all(
        axis=None
    )
    assert result.provenance["pairs"][0]["any_p"] == 1 and not result.frame["significant"].any()
    assert "No head differs" in result.paragraph and "This does not show" in result.paragraph
    result.plot()  # no range of colours, and no crash


def test_constant_runs_have_no_correlation_and_the_paragraph_says_so():
    result = compared(np.ones((6, 100)))
    correlations = result.agreement[result.agreement["statistic"] != "top 10"]
    assert correlations[["value", "low", "high", "p"]].isna().all(axis=None)
    assert "Rank correlation is undefined" in result.paragraph and "No head differs" in result.paragraph
    assert "nan" not in result.paragraph


@pytest.mark.parametrize(("runs", "first"), [(2, 1), (4, 1), (4, 3)])
def test_one_run_in_a_domain_is_not_tested(runs, first):
    result = compared(noise(5, runs), first)
    assert result.frame[["error", "p", "q_own", "q"]].isna().all(axis=None) and result.frame["difference"].notna().all()
    contrast = result.agreement[result.agreement["pairs"] == "between - within"]
    assert contrast["value"].isna().all() and not result.frame["significant"].any()
    assert "does not show how far" in result.paragraph and "no estimate of error" in result.paragraph
    assert "nan" not in result.paragraph and "pools" not in result.paragraph


def test_two_runs_a_domain_have_no_interval_within():
    table = compared(noise(6, 4), 2).agreement.set_index(["statistic", "pairs"])
    assert np.isnan(table.at[("spearman", "within industrial"), "low"])
    assert np.isfinite(table.loc[[("spearman", "between")], ["low", "high"]]).all(axis=None)


def test_words_follow_the_numbers():
    profiles = np.random.default_rng(2).standard_normal((2, 100))

    def of(share, runs, seed=3):
        """Domains of ``share`` different profiles, and a little noise of ``runs`` seeds each."""
        base = np.stack([profiles[0], (1 - share) * profiles[0] + share * profiles[1]])
        return compared(np.repeat(base, runs, 0) + 0.2 * noise(seed, 2 * runs), runs).paragraph

    hint, sure, none = of(1, 3), of(1, 4), of(0, 4)
    assert "the largest difference among all 10 splits of these runs. This is a hint and not a proof" in hint
    assert "no single head can have a p below 0.1" in hint and "No head differs" in hint
    assert "groups agree less than seeds do, by" in sure and "a hint" not in sure
    assert "tested one by one" in sure and "too few runs" not in sure
    assert "This does not show that groups agree less than seeds do" in none and "No head differs" in none
    assert "backbone" not in none  # frames say nothing of theirs
    values = noise(0)
    values[3:, 41] += 1000
    assert "1 of 100 heads differs" in compared(values, level=0.2).paragraph.replace("\n", " ")


def test_only_weights_that_are_read_count(make):
    detectors = [make() for _ in range(4)]
    random = torch.Generator().manual_seed(0)
    for detector in detectors:
        for raw in detector.weights.raw.values():
            raw.data += 0.1 * torch.randn(raw.shape, generator=random)
    before = compare({"industrial": detectors[:2], "medical": detectors[2:]}, k=3)
    assert len(before.frame) == 16 + 12 and before.provenance["backbone"]["name"] == "tiny"
    for number, detector in enumerate(detectors):
        detector.weights.raw["local"].data[0] = number  # below the local stream's start
    pd.testing.assert_frame_equal(
        before.frame, compare({"industrial": detectors[:2], "medical": detectors[2:]}, k=3).frame
    )
    learned = detectors[0].head_weights()
    for row in weights(detectors[0]).frame.itertuples():
        assert row.value == float(learned[row.stream][row.layer, row.head])
    assert before.plot().axes.shape == (2, 3)


def test_importance_is_compared_in_units_of_the_mean_head(make, pictures):
    detectors = [make(torch.float32), make(torch.float32)]
    detectors[1].weights.raw["local"].data *= 0.7
    runs = [importance(detector, pictures, batch=12) for detector in detectors]
    result = compare({"industrial": runs[:1], "medical": runs[1:]}, k=3)
    assert np.allclose(result.frame[["industrial", "medical"]].mean(), 1) and result.provenance["dataset"]
    assert f"on {pictures.name} in 1 industrial run" in result.paragraph and "are mixed" not in result.paragraph
    with pytest.raises(ConfigError, match="medical 0 and industrial 0 are the same run"):
        compare({"industrial": runs[:1], "medical": runs[:1]}, k=3)
    other = importance(detectors[0], pictures.where(lambda record: record.category == "nut"))
    mixed = compare({"industrial": runs[:1], "medical": [other]}, k=3)  # one detector on two sets is a question, too
    assert "are mixed" in mixed.paragraph and "dataset" not in mixed.provenance
    both = importance(detectors[0], pictures, metrics=("image_margin", "joint_margin"), batch=12)
    with pytest.raises(ConfigError, match="one at a time"):
        compare({"a": [both], "b": runs})
    with pytest.raises(ConfigError, match="importance for image_margin, not joint_margin"):
        compare({"a": runs, "b": [importance(detectors[0], pictures, metrics=("image_margin",), batch=12)]})


def test_shipped_runs_by_one_line_and_by_the_verb(runs_share_backbones, tmp_path):
    runs = {domain: headlens.runs(default(domain)) for domain in DOMAINS}
    result = compare(runs)
    assert len(result.frame) == 304 and [len(own) for own in result.provenance["runs"].values()] == [10, 10]
    assert "never seen a photograph" in result.paragraph
    again = Comparison.load(result.save(tmp_path / "one.parquet"))
    pd.testing.assert_frame_equal(again.agreement, result.agreement)
    assert again.paragraph == result.paragraph
    assert np.isclose(result.agreement["chance"].iloc[-2], 20 / 304)
    said = typed("--out", tmp_path / "out")
    assert result.paragraph in said and str(result.strongest["name"].iloc[0]) in said and "2001 splits" in said
    assert "Backbone(mini-captions" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "compare-weights.parquet",
        "compare-weights.agreement.parquet",
        "compare-weights.png",
    }


def test_the_verb_measures_importance_of_few_runs_where_none_is_named(monkeypatch):
    taken = []

    def stopped(of, runs, *others):
        taken.extend(run.folder.name for several in runs.values() for run in several)
        raise RunError("enough")

    monkeypatch.setattr(importlib.import_module("headlens.cli.compare"), "measured", stopped)
    with pytest.raises(RunError, match="enough"):
        typed("--of", "importance")
    assert taken == [f"mini-captions-{domain}-{seed}" for domain in DOMAINS for seed in range(4)]


def test_the_verb_measures_importance_on_the_same_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(Detector, "image_size", 56)  # pixels along a side; 224 take longer
    for name in ("good/0", "crack/1"):
        path = tmp_path / "parts" / "test" / f"{name}.png"
        path.parent.mkdir(parents=True)
        Image.effect_noise((40, 40), 50).convert("RGB").save(path)
    one = ("--industrial", "mini-industrial-0", "--medical", "mini-medical-2")
    said = typed("--of", "importance", *one, "--data", tmp_path / "parts", "--out", tmp_path / "out")
    assert "Importance of 688 heads on parts in 1 industrial run and 1 medical run" in said and "Not tested" in said
    saved = next((tmp_path / "out").glob("*.agreement.parquet"))
    assert Comparison.load(saved.with_name(saved.name.replace(".agreement", ""))).provenance["dataset"]["images"] == 2
    with pytest.raises(ConfigError, match="weights need no images"):
        typed("--data", tmp_path / "parts")
    with pytest.raises(ConfigError, match="--of 'slope'; available: weights, importance"):
        typed("--of", "slope")


def test_bad_input_is_named(make):
    runs = frames(noise(0))
    assert len(compare({"a": runs[0], "b": runs[1]}).frame) == 100  # one run needs no list
    cases = [
        (ConfigError, "at least two groups of runs, got a;", {"a": runs}),
        (ConfigError, "cannot be called 'q'", {"q": runs, "b": runs}),
        (ConfigError, "b: no run", {"a": runs, "b": []}),
        (ConfigError, "int is not a run", {"a": runs, "b": [3]}),
        (ConfigError, "k=100", {"a": runs, "b": runs, "k": 100}),
        (ConfigError, "level=5", {"a": runs, "b": runs, "level": 5}),
        (ConfigError, "a 0 gives value, b 0 gives weight", {"a": runs, "b": [make()]}),
        (
            ConfigError,
            "mini-medical-anomalyclip-0 has no head weights",
            {"a": headlens.runs("mini-medical-anomalyclip"), "b": runs},
        ),
        (ShapeError, "b 0 99: L14H9/local is only in one", {"a": runs, "b": [runs[0][:-1]]}),
        (ShapeError, "L5H0/local has two rows", {"a": [pd.concat([runs[0], runs[0][:1]])], "b": runs}),
        (
            ShapeError,
            "value of L5H1/local is not finite",
            {"a": [runs[0].replace(runs[0]["value"][1], np.nan)], "b": runs},
        ),
        (ShapeError, "no column 'value'", {"a": [HEADS], "b": runs}),
        (ConfigError, "are the same run", {"a": headlens.runs("mini-medical"), "b": headlens.runs("mini-medical-1")}),
        (ConfigError, "compare runs on one backbone", {"a": headlens.load("mini-medical-0"), "b": [make()]}),
    ]
    for error, message, arguments in cases:
        with pytest.raises(error, match=message):
            options = {name: arguments.pop(name) for name in ("k", "level") if name in arguments}
            compare(arguments, **options)


def test_runs_of_one_backbone_share_it():
    one, two = headlens.runs("mini-medical-0", "mini-industrial-2")
    assert one.detector.backbone is two.detector.backbone and one.folder.name == "mini-medical-0"
