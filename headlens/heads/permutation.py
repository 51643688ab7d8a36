"""Two groups of a few runs each, over many heads: permutation tests, false discovery rates, intervals over runs.

The unit of uncertainty is the run (a training seed): labels of whole runs are permuted, and runs are left out. Heads of
one run were learned together, pairs of runs share runs; neither are independent draws. Arrays only: values [R, N] of R
runs and N heads, and ``second`` [R], which runs are of the second group.
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


def differences(
    values: np.ndarray, second: np.ndarray, seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Per-head differences of two groups of runs, and what all heads together say.

    ``p`` is the permutation test of the head alone, by its absolute difference (t would order the splits likewise),
    ``q_own`` Benjamini and Hochberg's over heads. Few runs have few splits, and ``q_own`` may never get small.

    ``q`` is the false discovery rate by the pooled null of Tusher, Tibshirani and Chu (SAM, 2001): scores
    ``|difference| / (error + s0)`` of all heads under all other splits are one distribution, which takes heads to be
    exchangeable where nothing differs. ``s0``, the median error, keeps heads that happen to vary little from leading.
    Counting one more than the null has makes q a little too large, and never 0.

    Args:
        values: [R, N].
        second: [R] bool.
        seed: of the splits that are drawn, where there are too many.

    Returns:
        ``difference``, ``error``, ``p``, ``q_own``, ``q``, [N] each; and ``splits``, ``smallest_p``, ``any_p``, the
        permutation test of the mean squared difference. With one run in a group all but the difference is NaN: how
        that group varies is unknown, and a run that is odd would pass for a group that is.
    """
    if min((~second).sum(), second.sum()) < 2:
        nothing = np.full(values.shape[1], np.nan)
        apart = {"difference": values[second].mean(0) - values[~second].mean(0)}
        untested = dict.fromkeys(("error", "p", "q_own", "q"), nothing)
        return apart | untested, {"splits": 1, "smallest_p": np.nan, "any_p": np.nan}
    ways = splits(second, seed)
    difference, error = shifts(values, ways)
    size, spread = np.abs(difference), error + np.median(error[0])
    score = np.where(size > 0, np.divide(size, spread, out=np.full_like(size, np.inf), where=spread > 0), 0.0)
    null = np.sort(score[1:], axis=None)
    above = len(null) - np.searchsorted(null, score[0] * (1 - _ROUNDING))
    p = p_value(size)
    return {
        "difference": difference[0],
        "error": error[0],
        "p": p,
        "q_own": scipy.stats.false_discovery_control(p),
        "q": scipy.stats.false_discovery_control((1 + above) / (1 + len(null))),
    }, {"splits": len(ways), "smallest_p": 1 / len(ways), "any_p": float(p_value((difference**2).mean(1)))}


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


def pair_means(similarity: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Means over pairs of runs [4]: within the first group, within the second, between, and between minus within.

    Within is the mean of both groups. NaN where there is no such pair.
    """
    first, other = np.flatnonzero(~second), np.flatnonzero(second)

    def mean(pairs: np.ndarray) -> float:
        return float(pairs.mean()) if pairs.size else np.nan

    within = [mean(similarity[np.ix_(runs, runs)][np.triu_indices(len(runs), 1)]) for runs in (first, other)]
    between = mean(similarity[np.ix_(first, other)])
    return np.array([*within, between, between - sum(within) / 2])


def agreement(similarity: np.ndarray, second: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Agreement of runs within and between two groups, with 95 % intervals over runs.

    Intervals leave out one run at a time (the jackknife of a two-sample U-statistic, Arvesen 1969) and take Student's t
    with one degree of freedom less than runs in the (smaller) group; NaN where leaving one out leaves no pair. A
    bootstrap over runs would pair runs with themselves, one over pairs would count a run as often as it has pairs.

    Args:
        similarity: [R, R].
        second: [R] bool.
        seed: as in ``splits``.

    Returns:
        ``value``, ``low``, ``high``, ``count`` (pairs) and ``p``, [4] each, in the order of ``pair_means``. ``p`` is of
        the last alone: the permutation test, one-sided, of whether the groups agree less than runs of one group do.
    """
    value = pair_means(similarity, second)
    sizes = np.array([(~second).sum(), second.sum()])
    variance = np.zeros(4)
    for group, size in zip((~second, second), sizes, strict=True):
        left = [np.delete(np.arange(len(second)), run) for run in np.flatnonzero(group)]
        without = np.stack([pair_means(similarity[np.ix_(rest, rest)], second[rest]) for rest in left])
        variance += (size - 1) / size * ((without - without.mean(0)) ** 2).sum(0)
    freedom = np.array([*sizes, sizes.min(), sizes.min()]) - 1
    half = scipy.stats.t.ppf(0.975, np.maximum(freedom, 1)) * np.sqrt(variance)
    contrast = np.array([pair_means(similarity, way)[3] for way in splits(second, seed)]).round(9)  # 0 is 0 in all
    p = np.array([np.nan] * 3 + [np.nan if np.isnan(value[3]) else float(p_value(-contrast))])
    pairs = np.array([comb(int(sizes[0]), 2), comb(int(sizes[1]), 2), sizes.prod(), comb(len(second), 2)])
    return {"value": value, "low": value - half, "high": value + half, "count": pairs, "p": p}
