"""Comparison of more than two groups: each pair as if alone, rates over all pairs, planted heads, nulls, words."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from headlens.errors import ConfigError, ShapeError
from headlens.heads import permutation
from headlens.heads.comparison import Comparison, compare

HEADS = pd.DataFrame([("local", layer, head) for layer in range(10) for head in range(10)])
HEADS.columns = ["stream", "layer", "head"]
THREE = np.repeat([0, 1, 2], 3)
NAMES = ("food", "wood", "cloth")


def noise(seed: int, runs: int = 9, shared: float = 0.0, heads: int = 100) -> np.ndarray:
    """Equal groups; ``shared`` of a run's variance moves all its heads together."""
    random = np.random.default_rng(seed)
    scale = np.exp(0.5 * random.standard_normal(heads))
    together = random.standard_normal((runs, 1)) * random.standard_normal(heads)
    return scale * (np.sqrt(1 - shared) * random.standard_normal((runs, heads)) + np.sqrt(shared) * together)


def grouped(values: np.ndarray, sizes=(3, 3, 3), names=NAMES) -> dict[str, list[pd.DataFrame]]:
    rows = iter(values)
    return {
        name: [HEADS.assign(value=next(rows)) for _ in range(size)] for name, size in zip(names, sizes, strict=True)
    }


def compared(values: np.ndarray, sizes=(3, 3, 3), **options) -> Comparison:
    return compare(grouped(values, sizes), **{"k": 10, **options})


def test_each_pair_is_what_it_is_alone_and_rates_are_over_all_of_them():
    values = noise(0, 10)
    values[3:7, :20] += 4
    result = compared(values, (3, 4, 3))
    groups = grouped(values, (3, 4, 3))
    for first, second in combinations(NAMES, 2):
        alone = compare({name: groups[name] for name in (first, second)}, k=10)
        rows = result.frame[(result.frame["first"] == first) & (result.frame["second"] == second)]
        same = [first, second, "difference", "error", "p"]
        pd.testing.assert_frame_equal(rows[same].reset_index(drop=True), alone.frame[same])
        columns = ["statistic", "value", "low", "high", "count", "p", "chance"]
        for kind in ("between", "contrast"):
            ours = result.agreement.query("kind == @kind and first == @first and second == @second")
            theirs = alone.agreement[alone.agreement["kind"] == kind]
            pd.testing.assert_frame_equal(ours[columns].reset_index(drop=True), theirs[columns].reset_index(drop=True))
        within = result.agreement.query("kind == 'within' and first == @first")[columns].reset_index(drop=True)
        theirs = alone.agreement[alone.agreement["pairs"] == f"within {first}"][columns].reset_index(drop=True)
        pd.testing.assert_frame_equal(within, theirs)
    assert np.allclose(result.frame["q_own"], stats.false_discovery_control(result.frame["p"]))
    rows = result.agreement.query("kind == 'contrast' and first.notna()")
    for _, each in rows.groupby("statistic"):
        assert np.allclose(each["q"], stats.false_discovery_control(each["p"]))


def test_the_contrast_of_all_groups_is_that_of_naive_loops():
    values = noise(1)
    similarity = permutation.spearman(values)

    def contrast(labels):
        within = np.mean([np.mean([similarity[i, j] for i, j in combinations(np.flatnonzero(labels == g), 2)])
                          for g in range(3)])  # fmt: skip
        between = [np.mean([similarity[i, j] for i in np.flatnonzero(labels == g) for j in np.flatnonzero(labels == h)])
                   for g, h in combinations(range(3), 2)]  # fmt: skip
        return np.mean(between) - within

    ways = permutation.deals(THREE, 5)[:40]
    assert np.allclose(permutation.contrasts(similarity, ways), [contrast(way) for way in ways])
    found = permutation.agreement(similarity, THREE, 5)
    assert np.isclose(found["value"][-1], contrast(THREE)) and found["count"][-1] == 36
    every = permutation.contrasts(similarity, permutation.deals(THREE, 5))
    assert np.isclose(found["p"][-1], (every <= every[0] + 1e-9).mean())


def test_order_of_groups_does_not_matter():
    values = noise(2)
    values[:3, :15] -= 5
    one = compared(values)
    groups = grouped(values)
    other = compare({name: groups[name] for name in reversed(NAMES)}, k=10)
    ours, theirs = one.frame, other.frame.rename(columns={"first": "second", "second": "first"})
    both = ours.merge(theirs, on=["first", "second", "stream", "layer", "head"], suffixes=("", "_other"))
    assert len(both) == 300 and np.allclose(both["difference"], -both["difference_other"])
    assert np.allclose(both["q"], both["q_other"]) and np.allclose(both["q_own"], both["q_own_other"])


def test_heads_that_one_group_does_not_share_are_found_and_shared_ones_are_not():
    """Food and wood share the profile of all heads; cloth shares that of 88."""
    right, false, labels = [], [], np.repeat([0, 1, 2], 4)
    for seed in range(40):
        values, random = noise(seed, 12) + 3 * noise(1000, 1), np.random.default_rng(seed)
        where = random.choice(100, 12, replace=False)
        values[8:, where] += 8 * random.choice([-1, 1], 12)
        chosen = (permutation.differences(values, labels)[0]["q"] <= 0.05).reshape(3, 100)
        right.append(chosen[1:, where].mean())
        false.append((chosen.sum() - chosen[1:, where].sum()) / max(1, chosen.sum()))
    assert np.mean(right) > 0.9 and np.mean(false) <= 0.06
    assert compared(values, (4, 4, 4)).pairs["agreement"].idxmax() == 0


@pytest.mark.parametrize(("sizes", "shared"), [((3, 3, 3), 0.0), ((2, 4, 5), 0.0), ((3,) * 5, 0.9), ((5,) * 3, 0.9)])
def test_where_nothing_differs_little_is_found(sizes, shared):
    """Complete null: any finding, in any pair, is false. ``shared`` of a run's variance moves all its heads."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    found, alone = [], []
    for seed in range(200):
        columns, _ = permutation.differences(noise(seed, len(labels), shared), labels)
        found.append((columns["q"] <= 0.05).any())
        alone.append((columns["q_own"] <= 0.05).any())
    assert np.mean(found) <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5 and np.mean(alone) <= 0.1


def test_a_group_of_one_run_is_compared_and_not_tested():
    result = compared(noise(3, 7), (3, 3, 1))
    rows = result.frame.set_index(["first", "second"])
    assert rows.loc[("food", "wood"), "q"].notna().all()
    assert rows.loc[("food", "cloth"), ["error", "p", "q_own", "q"]].isna().all(axis=None)
    within = result.agreement.query("statistic == 'spearman' and pairs == 'within cloth'").iloc[0]
    assert np.isnan(within["value"]) and within["count"] == 0
    assert "How far seeds of cloth agree is unknown: one run does not show it" in result.paragraph
    assert "nan" not in result.paragraph
    result.plot()
    nobody = compared(noise(3, 3), (1, 1, 1))
    assert "No head is tested" in nobody.paragraph and "nan" not in nobody.paragraph


def test_words_and_figure_of_three_groups():
    profiles = 3 * noise(9, 3)
    result = compared(np.repeat(profiles[[0, 0, 1]], 5, 0) + noise(10, 15), (5, 5, 5))
    text = result.paragraph
    assert text.startswith("Values of 100 heads in 5 food runs, 5 wood runs and 5 cloth runs.")
    assert "Groups agree less than seeds do in 2 of 3 pairs, " in text
    assert "between food and wood, the fewest" in text and "Over all pairs, groups agree less than seeds do" in text
    assert result.pairs["heads"][0] <= 5 and (result.pairs["heads"][1:] > 30).all()
    few = compared(noise(11))
    assert "with so few runs p of a pair cannot be below 0.1" in few.paragraph
    left, right = result.plot().axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == list(NAMES)
    counts = sorted(int(text.get_text()) for text in right.texts)
    assert counts == sorted(2 * result.pairs["heads"].tolist())
    assert result.plot(pair=("food", "cloth")).axes.shape == (1, 3)
    with pytest.raises(ConfigError, match="no pair cloth, food here; available: food, wood; food, cloth"):
        result.plot(pair=("cloth", "food"))
    with pytest.raises(ConfigError, match="no statistic 'tau'; available: spearman, kendall, top 10"):
        result.matrix(statistic="tau")
    same = compared(np.ones((9, 100)))
    assert "Rank correlation is undefined" in same.paragraph and "nan" not in same.paragraph
    same.plot()


def test_groups_are_saved_and_loaded(tmp_path):
    result = compared(noise(4))
    again = Comparison.load(result.save(tmp_path / "three.parquet"))
    assert again.paragraph == result.paragraph and again.groups == NAMES
    pd.testing.assert_frame_equal(again.pairs, result.pairs)


def test_one_stream_alone():
    both = [pd.concat([HEADS, HEADS.assign(stream="global")]).assign(value=noise(5, 1)[0].repeat(2)) for _ in range(2)]
    only = HEADS.assign(stream="global", value=noise(6, 1)[0])
    result = compare({"one": both, "two": only}, stream="global", k=5)
    assert set(result.frame["stream"]) == {"global"} and result.provenance["stream"] == "global"
    with pytest.raises(ShapeError, match="or one stream that all have"):
        compare({"one": both, "two": only}, k=5)
    with pytest.raises(ShapeError, match="two 0 has no head of stream 'local'"):
        compare({"one": both, "two": only}, stream="local", k=5)


def test_bad_groups_are_named():
    groups = grouped(noise(0))
    with pytest.raises(ConfigError, match="at least two groups of runs, got food"):
        compare({"food": groups["food"]})
    with pytest.raises(ConfigError, match="a group cannot be called 'first'"):
        compare({"first": groups["food"], "wood": groups["wood"]})
    with pytest.raises(ConfigError, match="cloth: no run"):
        compare({**groups, "cloth": []})
