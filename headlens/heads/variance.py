"""``variance``: how much of what differs between runs is due to the method, the domain, both together, and the seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import scipy  # its parts are imported when they are used

from headlens import html, plots
from headlens.errors import ConfigError
from headlens.heads.anova import effects_of, forms, grams, intervals, p_values, shares, variances
from headlens.heads.comparison_words import listed
from headlens.heads.per_run import grouped_sources, head_table
from headlens.heads.sources import NOUNS, Item
from headlens.provenance import versions
from headlens.results import Result, ordered

SEED, ALL = "seed", "all"
_LAYER = ["stream", "layer"]


@dataclass(frozen=True)
class Variance(Result):
    """What differs between runs at the same head, split over factors and the seed.

    Args:
        frame: a row for each ``component`` (each factor, their interaction, ``seed``) of all heads (``stream`` is
            ``all``, no layer), and of the heads of each layer: ``heads`` (how many), ``value`` (the variance between
            runs, mean over heads), ``share`` (of the sum of components) with its ``low`` and ``high``, ``p`` of the
            permutation test of a factor or interaction, and ``q``, its false discovery rate over layers.
    """

    @property
    def made_by(self) -> str:
        """One line that says which backbone this is of, and how many runs."""
        runs = sum(len(each) for each in self.provenance["runs"].values())
        return f"{super().made_by} · {runs} runs in {len(self.provenance['runs'])} groups"

    @property
    def components(self) -> tuple[str, ...]:
        """Factors, interaction, seed."""
        return tuple(dict.fromkeys(self.frame["component"]))

    @property
    def table(self) -> pd.DataFrame:
        """Shares: a row for all heads and one for each layer, a column for each component."""
        rows = {name: each.reset_index(drop=True) for name, each in self.frame.groupby("component", sort=False)}
        return rows[SEED][[*_LAYER, "heads"]].assign(**{name: each["share"] for name, each in rows.items()})

    @property
    def paragraph(self) -> str:
        """What the numbers show, and what they do not, in words."""
        about = self.provenance
        counts = [len(each) for each in about["runs"].values()]
        many = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
        what = NOUNS[about["of"]]
        rows = self.frame[self.frame["stream"] == ALL].set_index("component")
        on = f" on {about['dataset']['name']}" if "dataset" in about else ""
        levels = listed([f"{len(each)} {name}s" for name, each in about["factors"].items()])
        text = f"{what} of {rows['heads'].iloc[0]} heads{on}, {levels}, {many} runs of each. "
        if rows["share"].isna().any():
            return f"{text}Runs do not differ."
        each = [f"{_percent(row)} is due to the {name}" for name, row in rows.loc[[*about["factors"]]].iterrows()]
        both = rows.drop([*about["factors"], SEED])
        each += [f"{_percent(row)} to their interaction" for _, row in both.iterrows()]
        text += f"Of the variance between runs {listed([*each, f'{_percent(rows.loc[SEED])} to the seed'])}. "
        text += (
            "Intervals leave out one run at a time"
            if rows["low"].notna().all()
            else "Three runs of each give intervals"
        )
        text += ", p permutes runs. Groups weigh alike, however many runs they have."
        if str(about["backbone"].get("weights", "")).startswith("embedded"):
            name = about["backbone"]["name"]
            text += f" Made by backbone {name}, which has never seen a photograph: it says nothing about other CLIPs."
        return text

    def _parts(self) -> list[str]:
        return [html.paragraph(self.paragraph), html.table(self.table, "Shares of the variance between runs", most=60)]

    def plot(self, ax: Any = None) -> plots.Figure:
        """Stacked bars of shares, one for each layer; a panel for each stream.

        Args:
            ax: axes to draw on, one for each stream; a new figure when None.

        Raises:
            ConfigError: another number of axes.
        """
        layers = self.frame[self.frame["stream"] != ALL]
        return plots.signed(plots.shares(layers, self.components, ax), self.made_by, ax)


def variance(
    groups: Mapping[tuple[str, ...] | str, Item | Sequence[Item]],
    factors: Sequence[str] = ("method", "domain"),
    *,
    stream: str | None = None,
    seed: int = 0,
) -> Variance:
    """Splits the variance between runs over one or two crossed factors and the training seed.

    At each head, the variance of a run that is drawn from groups of equal weight is that of the factors' main effects,
    of their interaction, and of the seed within a group. Estimates have no bias, for groups of unequal sizes, too (see
    ``anova``): where a factor does nothing they scatter about 0, so that a share may be a little negative. With groups
    of one size, shares are omega squared.

    Args:
        groups: runs by the level of each factor, ``{("headclip", "food"): runs, ...}``, of every combination at least
            two; for one factor names suffice. Runs are those of ``compare``.
        factors: what the levels are of, one or two.
        stream: only heads of this one; all when None.
        seed: of the permutations.

    Raises:
        ConfigError: a combination that is missing or has one run, a factor of one level, and what ``compare`` raises.
        ShapeError: runs that have different heads, heads twice, or values that are not finite.

    >>> heads = pd.DataFrame({"stream": "local", "layer": 5, "head": range(3)})
    >>> def run(method, domain, seed):
    ...     return heads.assign(value=[3.0 * method + seed, 0.0, 0.0])
    >>> names = [("a", "food"), ("a", "wood"), ("b", "food"), ("b", "wood")]
    >>> groups = {(m, d): [run(m == "b", d == "wood", seed) for seed in (0, 1)] for m, d in names}
    >>> variance(groups).table.round(2).loc[0, ["method", "domain", "method x domain", "seed"]].tolist()
    [0.85, -0.02, -0.02, 0.2]
    """
    keyed = {(key,) if isinstance(key, str) else tuple(key): runs for key, runs in groups.items()}
    levels = check_design(keyed, factors)
    named = {" / ".join(cell): keyed[cell] for cell in product(*levels)}
    grouped = grouped_sources(named, stream)
    for name, each in grouped.items():
        if len(each) < 2:
            raise ConfigError(f"{name}: one run; what the seed does takes two runs of every group, or better three")
    every = [source for each in grouped.values() for source in each]
    keys, values = head_table(every)
    numbers, shape = np.repeat(np.arange(len(grouped)), [len(each) for each in grouped.values()]), [*map(len, levels)]
    layers = [
        (*layer, (keys[_LAYER] == layer).all(axis=1).to_numpy()) for layer in keys[_LAYER].drop_duplicates().to_numpy()
    ]
    places = [(ALL, None, np.ones(len(keys), bool)), *layers]
    gram = grams(values, [heads for *_, heads in places])
    parts = variances(gram, forms(numbers, shape))
    low, high = intervals(gram, numbers, shape)
    p = np.column_stack([p_values(gram, numbers, shape, seed), np.full(len(gram), np.nan)])
    q = np.full_like(p, np.nan)
    q[1:, :-1] = scipy.stats.false_discovery_control(p[1:, :-1], axis=0)
    names = [" x ".join(factors[factor] for factor in effect) for effect in effects_of(len(factors))] + [SEED]
    frame = pd.DataFrame([(stream_, layer, int(heads.sum())) for stream_, layer, heads in places])
    frame = frame.set_axis([*_LAYER, "heads"], axis=1).astype({"layer": "Int64"})
    tables = [
        frame.assign(component=name, value=parts[:, i], share=shares(parts)[:, i], low=low[:, i], high=high[:, i])
        .assign(p=p[:, i], q=q[:, i])
        for i, name in enumerate(names)
    ]  # fmt: skip
    about: dict[str, Any] = {"what": "variance", "of": every[0].of, "backbone": every[0].backbone}
    about["factors"] = dict(zip(factors, levels, strict=True))
    about["runs"] = {name: [source.about for source in each] for name, each in grouped.items()}
    about |= {"stream": stream, "seed": seed, "versions": versions("numpy", "scipy", "torch")}
    if (dataset := every[0].about.get("dataset")) and all(source.about["dataset"] == dataset for source in every):
        about["dataset"] = dataset
    return Variance(ordered(pd.concat(tables, ignore_index=True)), json.loads(json.dumps(about)))


def check_design(cells: Iterable[tuple[str, ...]], factors: Sequence[str]) -> list[list[str]]:
    """The levels of each factor; raises ConfigError where a combination is missing or a factor has one level."""
    cells = list(cells)
    if not 1 <= len(factors) <= 2 or len({*factors, SEED, ALL}) < len(factors) + 2:
        raise ConfigError(f"factors {', '.join(factors) or 'none'}: name one or two, not {SEED} and not {ALL}")
    for cell in cells:
        if len(cell) != len(factors):
            raise ConfigError(f"group {' / '.join(cell)}: expected a level of each factor, {' / '.join(factors)}")
    levels = [list(dict.fromkeys(cell[number] for cell in cells)) for number in range(len(factors))]
    for name, each in zip(factors, levels, strict=True):
        if len(each) < 2:
            raise ConfigError(
                f"factor {name} has one level, {', '.join(each) or 'none'}: it takes two, or leave it out"
            )
    if missing := [" / ".join(cell) for cell in product(*levels) if cell not in cells]:
        raise ConfigError(
            f"no runs of {', '.join(missing)}: each {factors[0]} takes runs of each {factors[-1]}; add them, or leave "
            "that level out"
        )
    return levels


def _percent(row: pd.Series) -> str:
    """A share with its interval and p."""
    text = f"{100 * row['share']:.0f} %"
    notes = [] if np.isnan(row["low"]) else [f"[{100 * row['low']:.0f}, {100 * row['high']:.0f}]"]
    notes += [] if np.isnan(row["p"]) else [f"(p = {row['p']:.2g})"]
    return " ".join([text, *notes])
