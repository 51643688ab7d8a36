"""Groups of a few runs each, over many heads: permutation tests, false discovery rates, intervals over runs.

The unit of uncertainty is the run (a training seed): labels of whole runs are permuted, and runs are left out. Heads of
one run were learned together, pairs of runs share runs; neither are independent draws. Arrays only: values [R, N] of R
runs and N heads, and ``labels`` [R], which group each run is of, numbers from 0 up. With G groups there are
P = G (G - 1) / 2 pairs of groups, in the order of ``pairs_of``.
"""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import scipy  # its parts are imported when they are used

MOST = 2000  # splits that are enumerated; where there are more, so many are drawn
_ROUNDING = 1e-9


def splits(second: np.ndarray, seed: int = 0) -> np.ndarray:
    """Ways to deal the labels to R runs, [A, R] bool, the true one first.

    All of them, up to ``MOST``; else that many are drawn. Where the groups are of one size, of a split and its mirror
    only one is kept: two-sided statistics cannot tell them apart.

    >>> len(splits(np.array([False] * 3 + [True] * 3))), len(splits(np.array([False, True, True])))
    (10, 3)
    """
    second = np.asarray(second, bool)
    runs, size = len(second), int(second.sum())
    mirrored = 2 * size == runs
    if comb(runs, size) // (2 if mirrored else 1) > MOST:
        generator = np.random.default_rng(seed)
        return np.stack([second, *(generator.permutation(second) for _ in range(MOST))])
    every = (np.isin(np.arange(runs), chosen) for chosen in combinations(range(runs), size))
    others = [split for split in every if not (mirrored and split[0] != second[0]) and (split != second).any()]
    return np.stack([second, *others])


def p_value(statistics: np.ndarray) -> np.ndarray:
    """The share of splits [A, ...] whose statistic is at least the first's, [...].

    The true split is one of them, so p is never 0 (Phipson and Smyth, arXiv 1603.05766).
    """
    return (statistics >= statistics[0] - _ROUNDING * np.abs(statistics[0])).mean(0)


def shifts(values: np.ndarray, ways: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every split [A, R] the second group's mean minus the first's, and its pooled standard error: [A, N] each.

    The error takes both groups to vary alike. Three runs at least.
    """
    centred = values - values[0]  # exactly 0 where all runs agree
    runs, sizes = len(values), np.array([(~ways[0]).sum(), ways[0].sum()])
    first, second = (~ways @ centred) / sizes[0], (ways @ centred) / sizes[1]
    squares = (centred**2).sum(0)
    rest = squares - sizes[0] * first**2 - sizes[1] * second**2
    rest = np.where(rest > _ROUNDING * squares, rest, 0.0)
    return second - first, np.sqrt(rest / (runs - 2) * (1 / sizes).sum())


def pairs_of(groups: int) -> list[tuple[int, int]]:
    """Every two of so many groups.

    >>> pairs_of(3)
    [(0, 1), (0, 2), (1, 2)]
    """
    return list(combinations(range(groups), 2))


def deals(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """``MOST`` ways, drawn at random, to deal the labels of any number of groups to R runs, the true one first."""
    generator = np.random.default_rng(seed)
    return np.stack([labels, *(generator.permutation(labels) for _ in range(MOST))])


def differences(
    values: np.ndarray, labels: np.ndarray, seed: int = 0
) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
    """Per-head differences of every two groups of runs, and what all heads together say of them.

    A pair of groups is tested by dealing their labels to their runs; other groups have no part in it. ``p`` is the
    permutation test of the head alone, by its absolute difference (t would order the splits likewise), ``q_own``
    Benjamini and Hochberg's over all heads of all pairs. Few runs have few splits, and ``q_own`` may never get small.

    ``q_pooled`` is the false discovery rate by the pooled null of Tusher, Tibshirani and Chu (SAM, 2001): scores
    ``|difference| / (error + s0)`` of all heads under all other splits are one distribution, which takes heads to be
    exchangeable where nothing differs. ``s0``, the median error, keeps heads that happen to vary little from leading.
    Counting one more than the null has makes q a little too large, and never 0. Each pair has its null; the rate is
    over all heads of all pairs.

    Heads of one run move together, which that null does not know: with few runs it would name heads too often where
    groups are equal. ``q`` is therefore never below the rate, over pairs, of ``any_p``, the exact test of all heads of
    a pair together. A head is named only where its pair differs (as in Yekutieli, JASA 2008), and where no groups
    differ, any head is named as rarely as the level says, however heads depend on each other.

    Args:
        values: [R, N].
        labels: [R].
        seed: of the splits that are drawn, where there are too many.

    Returns:
        ``difference`` (second minus first), ``error``, ``p``, ``q_own``, ``q_pooled``, ``q``, [P * N] each, the first
        pair first; and of each pair ``splits``, ``smallest_p``, ``any_p``, the permutation test of the mean squared
        difference.
        With one run in a group all but the difference is NaN: how that group varies is unknown, and a run that is odd
        would pass for a group that is.
    """
    labels = np.asarray(labels, int)
    tested = []
    for first, second in pairs_of(int(labels.max()) + 1):
        here = np.isin(labels, (first, second))
        tested.append(_pair(values[here], labels[here] == second, seed))
    columns_of = {name: np.concatenate([columns[name] for columns, _ in tested]) for name in tested[0][0]}
    columns_of |= {"q_own": _rates(columns_of["p"]), "q_pooled": _rates(columns_of.pop("pooled"))}
    of_pairs = _rates(np.array([tests["any_p"] for _, tests in tested]))
    columns_of["q"] = np.maximum(columns_of["q_pooled"], np.repeat(of_pairs, values.shape[1]))
    return columns_of, [tests for _, tests in tested]


def _pair(values: np.ndarray, second: np.ndarray, seed: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """``differences`` of two groups, before any rate: ``p``, and ``pooled``, p by the pooled null."""
    if min((~second).sum(), second.sum()) < 2:
        nothing = np.full(values.shape[1], np.nan)
        apart = {"difference": values[second].mean(0) - values[~second].mean(0)}
        untested = dict.fromkeys(("error", "p", "pooled"), nothing)
        return apart | untested, {"splits": 1, "smallest_p": np.nan, "any_p": np.nan}
    ways = splits(second, seed)
    difference, error = shifts(values, ways)
    size, spread = np.abs(difference), error + np.median(error[0])
    score = np.where(size > 0, np.divide(size, spread, out=np.full_like(size, np.inf), where=spread > 0), 0.0)
    null = np.sort(score[1:], axis=None)
    above = len(null) - np.searchsorted(null, score[0] * (1 - _ROUNDING))
    return {
        "difference": difference[0],
        "error": error[0],
        "p": p_value(size),
        "pooled": (1 + above) / (1 + len(null)),
    }, {"splits": len(ways), "smallest_p": 1 / len(ways), "any_p": float(p_value((difference**2).mean(1)))}


def _rates(p: np.ndarray) -> np.ndarray:
    """Benjamini and Hochberg's false discovery rate over those that were tested; NaN where nothing was."""
    known = ~np.isnan(p)
    rates = np.full(p.shape, np.nan)
    if known.any():
        rates[known] = scipy.stats.false_discovery_control(p[known])
    return rates


def spearman(values: np.ndarray) -> np.ndarray:
    """Rank correlation of every two runs, [R, R]; NaN with a run whose heads are all alike."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.corrcoef(scipy.stats.rankdata(values, axis=1))


def kendall(values: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of every two runs, [R, R]; NaN with a run whose heads are all alike."""
    return pd.DataFrame(values.T).corr("kendall").to_numpy()


def overlap(values: np.ndarray, k: int) -> np.ndarray:
    """The share of the k largest heads that every two runs have in common, [R, R]; by chance it is k / N.

    Heads that tie for the last places share them, as if drawn by lot for each run.

    >>> float(overlap(np.array([[3.0, 2.0, 0.0, 0.0], [3.0, 0.0, 2.0, 0.0]]), 2)[0, 1])
    0.5
    """
    last = np.sort(values, axis=1)[:, [-k]]
    above, tied = values > last, values == last
    member = above + tied * (k - above.sum(1, keepdims=True)) / tied.sum(1, keepdims=True)
    return member @ member.T / k


def pair_means(similarity: np.ndarray, labels: np.ndarray, groups: int) -> np.ndarray:
    """Means over pairs of runs: within each group [G], between every two [P], and between minus within of these [P].

    Within is the mean of both groups. NaN where there is no such pair of runs. Of more than two groups the last
    number is the mean of all between minus within.
    """
    runs = [np.flatnonzero(labels == group) for group in range(groups)]

    def mean(pairs: np.ndarray) -> float:
        return float(pairs.mean()) if pairs.size else np.nan

    within = [mean(similarity[np.ix_(own, own)][np.triu_indices(len(own), 1)]) for own in runs]
    pairs = pairs_of(groups)
    between = [mean(similarity[np.ix_(runs[first], runs[second])]) for first, second in pairs]
    apart = [one - (within[first] + within[second]) / 2 for one, (first, second) in zip(between, pairs, strict=True)]
    return np.array([*within, *between, *apart, *([np.mean(apart)] if len(pairs) > 1 else [])])


def contrasts(similarity: np.ndarray, ways: np.ndarray) -> np.ndarray:
    """Between minus within, the mean over every two groups, for each way [A, R] to deal the labels: [A]."""
    groups = int(ways.max()) + 1
    member = (ways[:, None] == np.arange(groups)[:, None]).astype(float)  # [A, G, R]
    sums = member @ np.where(np.eye(len(similarity), dtype=bool), 0.0, similarity) @ member.transpose(0, 2, 1)
    sizes = np.bincount(ways[0])
    means = sums / (np.outer(sizes, sizes) - np.diag(sizes))
    within = np.trace(means, axis1=1, axis2=2)
    between = (means.sum((1, 2)) - within) / (groups * (groups - 1))
    return between - within / groups


def agreement(similarity: np.ndarray, labels: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Agreement of runs within and between groups, with 95 % intervals over runs.

    Intervals leave out one run at a time (the jackknife of a two-sample U-statistic, Arvesen 1969) and take Student's t
    with one degree of freedom less than runs in the (smallest) group; NaN where leaving one out leaves no pair. A
    bootstrap over runs would pair runs with themselves, one over pairs would count a run as often as it has pairs.

    Args:
        similarity: [R, R].
        labels: [R].
        seed: of the splits that are drawn.

    Returns:
        ``value``, ``low``, ``high``, ``count`` (pairs of runs), ``p`` and ``q``, in the order of ``pair_means``. ``p``
        is of between minus within alone: the permutation test, one-sided, of whether groups agree less than runs of
        one group do. ``q`` is its false discovery rate over pairs of groups.
    """
    labels = np.asarray(labels, int)
    sizes = np.bincount(labels)
    groups, pairs = len(sizes), pairs_of(len(sizes))
    value = pair_means(similarity, labels, groups)
    variance = np.zeros(len(value))
    for group, size in enumerate(sizes):
        left = [np.delete(np.arange(len(labels)), run) for run in np.flatnonzero(labels == group)]
        without = np.stack([pair_means(similarity[np.ix_(rest, rest)], labels[rest], groups) for rest in left])
        variance += (size - 1) / size * ((without - without.mean(0)) ** 2).sum(0)
    smaller = [min(sizes[first], sizes[second]) for first, second in pairs]
    last = len(pairs) > 1
    freedom = np.array([*sizes, *smaller, *smaller, *([sizes.min()] if last else [])]) - 1
    half = scipy.stats.t.ppf(0.975, np.maximum(freedom, 1)) * np.sqrt(variance)
    p = np.full(len(value), np.nan)
    place = groups + len(pairs)
    for number, pair in enumerate(pairs):
        here = np.isin(labels, pair)
        ways = splits(labels[here] == pair[1], seed).astype(int)
        p[place + number] = _less(similarity[np.ix_(here, here)], ways, value[place + number])
    q = np.full(len(value), np.nan)
    q[place:] = _rates(p[place:])
    if last:
        p[-1] = _less(similarity, deals(labels, seed), value[-1])
    of_pairs = [comb(int(sizes[list(pair)].sum()), 2) for pair in pairs]
    counts = [comb(int(size), 2) for size in sizes] + [int(sizes[list(pair)].prod()) for pair in pairs] + of_pairs
    counts += [comb(len(labels), 2)] if last else []
    return {"value": value, "low": value - half, "high": value + half, "count": np.array(counts), "p": p, "q": q}


def _less(similarity: np.ndarray, ways: np.ndarray, value: float) -> float:
    """The share of ways whose contrast is no larger than the true one's; NaN where there is no such ``value``."""
    if np.isnan(value):
        return np.nan
    return float(p_value(-contrasts(similarity, ways).round(9)))  # 0 is 0 in all
