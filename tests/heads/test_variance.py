"""Variance between runs: naive formulas, planted components, nulls, coverage, words, bad input."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

from headlens.errors import ConfigError
from headlens.heads import anova
from headlens.heads.variance import Variance, variance

HEADS = pd.DataFrame(list(product(["local"], range(3, 8), range(8))), columns=["stream", "layer", "head"])
METHODS, DOMAINS = ("a", "b", "c"), ("food", "wood")
ALL = [np.ones(40, bool)]


def runs(sizes: list[int], seed: int = 0, effects=(1.0, 0.5, 0.3), noise=1.0, shared=0.0, design: int = 0):
    """Cells [R] of three methods by two domains, values [R, 40], and the true shares; a design has the same effects."""
    fixed, random = np.random.default_rng(design), np.random.default_rng(1000 + seed)
    method, domain, both = (fixed.standard_normal(shape) for shape in ((3, 1, 40), (1, 2, 40), (3, 2, 40)))
    both = both - both.mean(0) - both.mean(1, keepdims=True) + both.mean((0, 1))
    parts = [(method - method.mean(0)) * effects[0], (domain - domain.mean(1)) * effects[1], both * effects[2]]
    cells, spread = np.repeat(np.arange(6), sizes), np.broadcast_to(noise, 6)
    rows = (len(cells), 40)
    drawn = np.sqrt(1 - shared) * random.standard_normal(rows)
    drawn += np.sqrt(shared) * random.standard_normal((len(cells), 1)) * random.standard_normal(40)
    values = sum(parts).reshape(6, 40)[cells] + spread[cells, None] * drawn
    true = np.array([*(np.mean(part**2) for part in parts), np.mean(spread**2)])
    return cells, values, true / true.sum()


def found(cells: np.ndarray, values: np.ndarray, levels=(3, 2)) -> np.ndarray:
    return anova.variances(anova.grams(values, ALL), anova.forms(cells, levels))[0]


def grouped(cells: np.ndarray, values: np.ndarray) -> dict:
    named = list(product(METHODS, DOMAINS))
    return {named[c]: [HEADS.assign(value=row) for row in values[cells == c]] for c in range(6)}


def test_equal_groups_have_the_omega_squared_of_textbooks():
    cells, values, _ = runs([4] * 6)
    omegas, total = np.zeros(3), 0.0
    for y in values.T.reshape(40, 3, 2, 4):  # one head
        grand, by_method, by_domain, by_cell = y.mean(), y.mean((1, 2)), y.mean((0, 2)), y.mean(2)
        square = [8 * ((by_method - grand) ** 2).sum(), 12 * ((by_domain - grand) ** 2).sum()]
        square += [4 * ((by_cell - by_method[:, None] - by_domain + grand) ** 2).sum()]
        error = ((y - by_cell[:, :, None]) ** 2).sum() / 18
        omegas += np.array(square) - np.array([2, 1, 2]) * error
        total += ((y - grand) ** 2).sum() + error
    assert np.allclose(anova.shares(found(cells, values))[:3], omegas / total)


def test_unequal_groups_are_those_of_naive_loops():
    sizes = [2, 3, 5, 4, 2, 6]
    cells, values, _ = runs(sizes)
    expected = np.zeros(4)
    for head in range(40):
        means, errors = np.zeros((3, 2)), np.zeros((3, 2))
        for cell, (i, j) in enumerate(product(range(3), range(2))):
            means[i, j], errors[i, j] = values[cells == cell, head].mean(), values[cells == cell, head].var(ddof=1)
        noise = (errors / np.array(sizes).reshape(3, 2)).sum()
        for i, j in product(range(3), range(2)):
            rows, columns, grand = means[i].mean(), means[:, j].mean(), means.mean()
            expected[0] += (rows - grand) ** 2 / 6
            expected[1] += (columns - grand) ** 2 / 6
            expected[2] += (means[i, j] - rows - columns + grand) ** 2 / 6
        expected[:3] -= np.array([2, 1, 2]) / 36 * noise
        expected[3] += errors.mean()
    assert np.allclose(found(cells, values), expected / 40)


def test_one_factor_is_that_of_a_naive_loop():
    _, values, _ = runs([3] * 6)
    cells = np.repeat([0, 1, 2], 6)
    means = np.stack([values[cells == cell].mean(0) for cell in range(3)])
    error = np.mean([values[cells == cell].var(0, ddof=1) for cell in range(3)], axis=0)
    between = ((means - means.mean(0)) ** 2).mean(0) - 2 / 3 * error / 6
    assert np.allclose(found(cells, values, (3,)), [between.mean(), error.mean()])


def test_planted_components_are_found_without_bias_and_intervals_cover_them():
    sizes, spread = [3, 5, 4, 3, 6, 4], np.array([0.6, 1.2, 1.0, 0.8, 1.4, 0.9])  # some groups vary more than others
    values, covered = [], []
    for seed in range(100):
        cells, drawn, true = runs(sizes, seed, noise=spread, shared=0.3)
        gram = anova.grams(drawn, ALL)
        values.append(anova.shares(found(cells, drawn)))
        low, high = anova.intervals(gram, cells, (3, 2))
        covered.append((low[0] <= true) & (true <= high[0]))
    assert np.allclose(np.mean(values, 0), true, atol=3 * np.std(values, 0).max() / 10)
    assert (np.mean(covered, 0) >= 0.88).all()


@pytest.mark.parametrize("effects", [(0, 0, 0), (2, 2, 0)])
def test_what_has_no_effect_is_rejected_at_the_stated_rate(effects, monkeypatch):
    monkeypatch.setattr(anova, "MOST", 99)
    p = []
    for seed in range(200):
        cells, values, _ = runs([3] * 6, seed, effects=effects, shared=0.5)
        p.append(anova.p_values(anova.grams(values, ALL), cells, (3, 2), seed)[0])
    rejected = (np.array(p) <= 0.05).mean(0)
    nothing = np.array(effects) == 0
    assert (rejected[nothing] <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5).all() and (rejected[~nothing] > 0.9).all()


def test_the_result_has_layers_words_table_and_figure(tmp_path):
    cells, values, _ = runs([3] * 6, effects=(3.0, 0.0, 0.0))
    values[:, :8] = np.random.default_rng(6).standard_normal((18, 8))  # nothing in layer 3
    result = variance(grouped(cells, values))
    assert result.components == ("method", "domain", "method x domain", "seed")
    table = result.table
    assert table["heads"].tolist() == [40] + 5 * [8] and table["layer"].dropna().tolist() == [3, 4, 5, 6, 7]
    assert np.allclose(table[list(result.components)].sum(axis=1), 1)
    assert table["method"][1] < 0.3 and (table["method"][2:] > 0.6).all()
    layer = variance({key: [run[run["layer"] == 5] for run in each] for key, each in grouped(cells, values).items()})
    assert np.allclose(
        table.loc[3, list(result.components)].astype(float), layer.table.loc[0, list(result.components)].astype(float)
    )
    rows = result.frame[result.frame["component"] == "method"]
    assert rows["p"].iloc[0] < 0.01 and rows["q"].iloc[1] > 0.05 and (rows["q"].iloc[2:] < 0.05).all()
    text = result.paragraph
    assert text.startswith("Values of 40 heads, 3 methods and 2 domains, 3 runs of each. Of the variance between runs ")
    assert f"{100 * table['method'][0]:.0f} % [" in text and "nan" not in text
    drawn = result.plot()
    heights = np.array([bar.get_height() for bar in drawn.axes.patches]).reshape(4, 5)
    assert (
        np.allclose(heights.sum(0), 100) and [text.get_text() for text in drawn.axes.get_legend().texts][-1] == "method"
    )
    again = Variance.load(result.save(tmp_path / "v.parquet"))
    assert again.paragraph == text
    pd.testing.assert_frame_equal(again.table, table, check_dtype=False)
    assert "Shares of the variance" in result._repr_html_()


def test_units_order_and_names_do_not_matter():
    cells, values, _ = runs([3, 4, 2, 3, 5, 3])
    groups = grouped(cells, values)
    one = variance(groups).frame
    other = {
        key: [run.assign(value=7 - 3 * run["value"]) for run in reversed(each)]
        for key, each in reversed(groups.items())
    }
    assert np.allclose(one["share"], variance(other).frame["share"])
    swapped = variance(
        {(domain, method): each for (method, domain), each in groups.items()}, ("domain", "method")
    ).frame
    ours = one.set_index("component").loc["method", "share"]
    assert np.allclose(ours, swapped.set_index("component").loc["method", "share"])


def test_runs_that_do_not_differ_have_no_shares():
    groups = {cell: [HEADS.assign(value=1.0)] * 2 for cell in product(METHODS, DOMAINS)}
    result = variance(groups)
    assert result.frame["share"].isna().all() and result.paragraph.endswith("Runs do not differ.")
    two = variance(grouped(*runs([2] * 6)[:2]))
    assert two.frame["low"].isna().all() and "Three runs of each give intervals" in two.paragraph
    one = variance({name: [HEADS.assign(value=v) for v in (i, i + 1.0)] for i, name in enumerate("ab")}, ("domain",))
    assert one.components == ("domain", "seed")


def test_bad_designs_are_named():
    groups = grouped(*runs([3] * 6)[:2])
    cases = [
        (
            "no runs of c / wood: each method takes runs of each domain",
            {k: v for k, v in groups.items() if k != ("c", "wood")},
            {},
        ),
        ("a / food: one run; what the seed does takes two", {**groups, ("a", "food"): groups["a", "food"][:1]}, {}),
        ("group a: expected a level of each factor, method / domain", {**groups, "a": groups["a", "food"]}, {}),
        ("factor domain has one level, food", {k: v for k, v in groups.items() if k[1] == "food"}, {}),
        ("factors seed, domain: name one or two", groups, {"factors": ("seed", "domain")}),
        ("factors a, b, c: name one or two", groups, {"factors": "abc"}),
    ]
    for message, given, options in cases:
        with pytest.raises(ConfigError, match=message):
            variance(given, **options)
