"""Variance between runs, split over crossed factors and the seed, without bias where groups have unequal sizes.

Arrays only. R runs lie in C cells, one for each combination of the factors' levels. Everything is a quadratic form of
the runs: sums of squares over heads are traces with the runs' Gram matrix K [R, R], the mean over heads of the products
of two runs. So a form is made once of the design, and serves any heads, any permutation and any run left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import combinations

import numpy as np
import scipy  # its parts are imported when they are used

MOST = 2000
"""Permutations that are drawn."""
_ROUNDING = 1e-9


def effects_of(factors: int) -> list[tuple[int, ...]]:
    """Each factor, then each interaction.

    >>> effects_of(2)
    [(0,), (1,), (0, 1)]
    """
    return [effect for size in range(1, factors + 1) for effect in combinations(range(factors), size)]


def forms(cells: np.ndarray, levels: Sequence[int]) -> np.ndarray:
    """Quadratic forms [effects + 1, R, R] whose traces with K are variances: of each effect, and of the seed.

    The variance of an effect is that of its true means over cells that weigh alike. Means of cells vary by the seed,
    too: its variance is estimated in each cell, and what it adds to an effect is subtracted. So estimates have no bias,
    whatever sizes and variances cells have, and may be below 0. With equal sizes their shares are omega squared.

    Args:
        cells: [R], the cell of each run; the last factor's level changes fastest.
        levels: of each factor, two at least.
    """
    sizes = np.bincount(cells, minlength=int(np.prod(levels)))
    count = len(sizes)
    member = (cells == np.arange(count)[:, None]).astype(float)  # [C, R]
    means = member / sizes[:, None]
    within = [(np.diag(row) - np.outer(row, row) / size) / (size - 1) for row, size in zip(member, sizes, strict=True)]
    noise = sum(form / size for form, size in zip(within, sizes, strict=True))
    components = []
    for effect in effects_of(len(levels)):
        parts = [np.eye(n) - 1 / n if factor in effect else np.full((n, n), 1 / n) for factor, n in enumerate(levels)]
        projection = reduce(np.kron, parts)
        freedom = np.prod([levels[factor] - 1 for factor in effect])
        components.append((means.T @ projection @ means - freedom / count * noise) / count)
    return np.stack([*components, sum(within) / count])


def grams(values: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """K of each group of heads, [G, R, R], of values [R, N]; heads [N] bool."""
    centred = values - values.mean(0)
    return np.stack([centred[:, heads] @ centred[:, heads].T / heads.sum() for heads in groups])


def variances(gram: np.ndarray, form: np.ndarray) -> np.ndarray:
    """[..., R, R] and [E, R, R] to [..., E]."""
    return np.einsum("...rs,ers->...e", gram, form)


def shares(parts: np.ndarray) -> np.ndarray:
    """Parts [..., E] over their sum; NaN where runs do not differ."""
    total = parts.sum(-1, keepdims=True)
    return np.divide(parts, total, out=np.full_like(parts, np.nan), where=total > 0)


def intervals(gram: np.ndarray, cells: np.ndarray, levels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Ends of 95 % intervals of shares, [G, E] each: the jackknife over runs of each cell, with Student's t.

    NaN where a cell has fewer than three runs.
    """
    sizes = np.bincount(cells)
    value = shares(variances(gram, forms(cells, levels)))
    if sizes.min() < 3:
        return np.full_like(value, np.nan), np.full_like(value, np.nan)
    variance = np.zeros_like(value)
    for cell, size in enumerate(sizes):
        without = []
        for run in np.flatnonzero(cells == cell):
            rest = np.delete(np.arange(len(cells)), run)
            without.append(shares(variances(gram[:, rest][:, :, rest], forms(cells[rest], levels))))
        each = np.stack(without)
        variance += (size - 1) / size * ((each - each.mean(0)) ** 2).sum(0)
    half = scipy.stats.t.ppf(0.975, len(cells) - len(sizes)) * np.sqrt(variance)
    return value - half, value + half


def p_values(gram: np.ndarray, cells: np.ndarray, levels: Sequence[int], seed: int = 0) -> np.ndarray:
    """Of each effect's variance over the seed's, [G, effects], by permuting runs; the true order is one permutation.

    A factor: runs change places among its levels alone, within each level of the other, which is exact where the factor
    does nothing. An interaction: what is left of runs without it changes places freely, which is nearly exact (Still
    and White 1981).
    """
    generator, form = np.random.default_rng(seed), forms(cells, levels)
    place = np.stack(np.unravel_index(cells, levels))  # [factors, R]
    chances = []
    for number, effect in enumerate(effects_of(len(levels))):
        here = gram
        blocks = np.zeros(len(cells), int)
        if len(effect) > 1:
            left = np.eye(len(cells)) - _additive(cells, levels)
            here = left @ gram @ left.T
        elif len(levels) > 1:
            blocks = place[1 - effect[0]]
        orders = np.stack([np.arange(len(cells)), *(_shuffled(blocks, generator) for _ in range(MOST))])
        effect_of, seed_of = (_moved(each, orders) @ here.reshape(len(here), -1).T for each in (form[number], form[-1]))
        ratio = np.divide(effect_of, seed_of, out=np.full_like(seed_of, np.inf), where=seed_of > 0)
        chances.append((ratio >= ratio[0] * (1 - _ROUNDING * np.sign(ratio[0]))).mean(0))
    return np.stack(chances, 1)


def _moved(form: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """A form [R, R] of runs in each of A orders, [A, R * R]."""
    return form[orders[:, :, None], orders[:, None, :]].reshape(len(orders), -1)


def _shuffled(blocks: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """An order of runs that leaves each in its block."""
    order = np.empty(len(blocks), int)
    for block in np.unique(blocks):
        runs = np.flatnonzero(blocks == block)
        order[runs] = generator.permutation(runs)
    return order


def _additive(cells: np.ndarray, levels: Sequence[int]) -> np.ndarray:
    """What takes values [R] to their fit by main effects of cells that weigh alike, [R, R]."""
    count = int(np.prod(levels))
    member = (cells == np.arange(count)[:, None]).astype(float)
    projection = reduce(np.kron, [np.full((n, n), 1 / n) for n in levels])
    for factor in range(len(levels)):
        parts = [np.eye(n) - 1 / n if other == factor else np.full((n, n), 1 / n) for other, n in enumerate(levels)]
        projection = projection + reduce(np.kron, parts)
    return member.T @ projection @ (member / member.sum(1, keepdims=True))
