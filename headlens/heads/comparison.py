"""``compare``: compares the same heads in groups of runs, with runs as the unit of uncertainty; see ``permutation``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from headlens import html, plots
from headlens.errors import ConfigError
from headlens.heads.comparison_words import listed, paragraph
from headlens.heads.per_run import grouped_sources, head_table
from headlens.heads.permutation import agreement, differences, kendall, overlap, pairs_of, spearman
from headlens.heads.sources import KEYS, LABELS, NEUTRAL, Item
from headlens.heads.variants import names_of
from headlens.provenance import versions
from headlens.results import Result, ordered

_TAKEN = {*KEYS, "name", "first", "second", "size", "difference", "error", "p", "q_own", "q"}
_TAKEN |= {"q_pooled", "significant"}


@dataclass(frozen=True)
class Comparison(Result):
    """Groups of runs compared, head by head and over all heads.

    Args:
        frame: a row for each head and each two groups, ``first`` and ``second``: stream, layer, head, a column for each
            group (the mean over its runs), ``difference`` (second minus first), its standard ``error``, and ``p``,
            ``q_own``, ``q_pooled``, ``q`` as in ``permutation.differences``; ``significant`` where q is at most the
            level.
        agreement: ``statistic`` (``spearman``, ``kendall``, ``top k``), ``pairs`` of runs, their ``kind`` (``within``
            a group, ``between`` two, ``contrast``: between minus within) and groups ``first`` and ``second``;
            ``value``, ``low``, ``high``, ``count``, ``p``, ``q`` as in ``permutation.agreement``, and ``chance``, the
            value for heads in random order.
    """

    TABLES: ClassVar = ("agreement",)
    agreement: pd.DataFrame

    @property
    def groups(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.provenance["runs"])

    @property
    def made_by(self) -> str:
        """One line that says which backbone this is of, and how many runs of each group."""
        runs = self.provenance["runs"]
        if len(runs) > 3:
            return f"{super().made_by} · {sum(map(len, runs.values()))} runs in {len(runs)} groups"
        return f"{super().made_by} · runs: {listed([f'{len(each)} {group}' for group, each in runs.items()])}"

    @property
    def strongest(self) -> pd.DataFrame:
        """The rows of ``frame``, named by ``name``: the smallest q first, then the largest difference."""
        frame = self.frame.assign(name=names_of(self.frame), size=self.frame["difference"].abs())
        return frame.sort_values(["q", "q_pooled", "size"], ascending=[True, True, False], kind="stable").drop(
            columns="size"
        )

    @property
    def pairs(self) -> pd.DataFrame:
        """A row for each two groups.

        ``first``, ``second``; ``agreement``, ``low``, ``high``: Spearman's correlation of two runs, one of each;
        ``difference``: how much lower than within a group it is (negative), with its ``p`` and ``q``; ``heads``: how
        many differ significantly; ``any_p``: of all heads together, and ``splits``, which it has tried.
        """
        rows = self.agreement[self.agreement["statistic"] == "spearman"]
        between, apart = rows[rows["kind"] == "between"], rows[rows["kind"] == "contrast"]
        pairs = between[["first", "second", "value", "low", "high"]].rename(columns={"value": "agreement"})
        pairs = pairs.merge(apart[["first", "second", "value", "p", "q"]], on=["first", "second"], sort=False)
        count = self.frame.groupby(["first", "second"], sort=False)["significant"].sum().astype(int)
        tests = pd.DataFrame(self.provenance["pairs"])[["first", "second", "any_p", "splits"]]
        pairs = pairs.rename(columns={"value": "difference"}).merge(count.rename("heads").reset_index())
        return pairs.merge(tests, on=["first", "second"])

    @property
    def paragraph(self) -> str:
        """What the numbers show, and what they do not, in words."""
        return paragraph(self)

    def _parts(self) -> list[str]:
        columns = ["name", *self.groups, "difference", "q"]
        if len(self.groups) > 2:
            columns[1:1] = ["first", "second"]
        return [
            html.paragraph(self.paragraph),
            html.table(self.agreement, "Agreement of runs", most=len(self.agreement)),
            html.table(self.strongest[columns], "Heads, smallest q first"),
        ]

    def plot(self, ax: Any = None, pair: tuple[str, str] | None = None) -> plots.Figure:
        """Two groups: both and their difference side by side, a row for each stream; of more groups, ``matrix``.

        Args:
            ax: axes to draw on, three for each stream; a new figure when None.
            pair: which two groups, of more.

        Raises:
            ConfigError: another number of axes, or no such pair.
        """
        if pair is None and len(self.groups) > 2:
            return self.matrix(ax)
        first, second = pair or self.groups
        rows = self.frame[(self.frame["first"] == first) & (self.frame["second"] == second)]
        if rows.empty:
            known = "; ".join(", ".join(each) for each in self.pairs[["first", "second"]].to_numpy())
            raise ConfigError(f"no pair {first}, {second} here; available: {known}")
        of = self.provenance["of"]
        centre = NEUTRAL[of] if of == "weight" else None
        level = self.provenance["level"]
        drawn = plots.comparison(rows, (first, second), ax, label=LABELS[of], centre=centre, level=level)
        return plots.signed(drawn, self.made_by, ax)

    def matrix(self, ax: Any = None, statistic: str = "spearman") -> plots.Figure:
        """Groups by groups: how far two runs agree, and how many heads differ.

        Args:
            ax: two axes to draw on; a new figure when None.
            statistic: ``spearman``, ``kendall`` or ``top k``, as in ``agreement``.

        Raises:
            ConfigError: another number of axes, or no such statistic.
        """
        rows = self.agreement[self.agreement["statistic"] == statistic]
        if rows.empty:
            raise ConfigError(
                f"no statistic {statistic!r}; available: {', '.join(self.agreement['statistic'].unique())}"
            )
        rows = rows[rows["kind"] != "contrast"]
        level, heads = self.provenance["level"], len(self.frame) // len(self.pairs)
        drawn = plots.agreement(rows, self.pairs, self.groups, ax, statistic=statistic, heads=heads, level=level)
        return plots.signed(drawn, self.made_by, ax)


def compare(
    groups: Mapping[str, Item | Sequence[Item]],
    *,
    stream: str | None = None,
    k: int = 20,
    level: float = 0.05,
    seed: int = 0,
) -> Comparison:
    """Compares the heads of two or more groups of runs: domains, methods, data sets.

    ``compare({name: headlens.runs(f"mini-captions-{name}") for name in ("industrial", "medical")})``

    Args:
        groups: names, each with one or several runs, all of one kind: ``Run`` or ``Detector``, whose
            learned head weights are compared; results of ``importance``, ``ablate``, ``contributions`` or
            ``name_heads``, of which ``head_values`` makes one number for each head; or frames with columns stream,
            layer, head, value.
        stream: only heads of this one; all when None. Methods without a local stream share ``global`` with the others.
        k: number of top heads whose overlap is measured.
        level: false discovery rate, over all heads of all pairs of groups, below which heads count as different.
        seed: seed of the label permutations, which are sampled if there are too many to try all.

    Raises:
        ConfigError: fewer than two groups, no run, a run twice, different backbones, nothing learned, a bad setting.
        ShapeError: runs that have different heads, heads twice, or values that are not finite.

    >>> heads = pd.DataFrame({"stream": "local", "layer": 5, "head": range(4)})
    >>> runs = [heads.assign(value=[1.0, 2.0, 3.0 + seed, 9.0]) for seed in range(9)]
    >>> result = compare({"food": runs[:3], "wood": runs[3:6], "cloth": runs[6:]}, k=2)
    >>> result.frame.pivot(index="head", columns=["first", "second"], values="difference").loc[2].tolist()
    [3.0, 6.0, 3.0]
    """
    check_groups(groups)
    grouped = grouped_sources(groups, stream)
    every = [source for each in grouped.values() for source in each]
    keys, values = head_table(every)
    of, labels = every[0].of, np.repeat(np.arange(len(grouped)), [len(each) for each in grouped.values()])
    if not 1 <= k < len(keys):
        raise ConfigError(f"k={k}: the overlap needs at least 1 head and fewer than all {len(keys)}")
    if not 0 < level < 1:
        raise ConfigError(f"level={level}: a false discovery rate lies between 0 and 1, such as 0.05")
    columns, tests = differences(values, labels, seed)
    names = list(grouped)
    pairs = [(names[first], names[second]) for first, second in pairs_of(len(names))]
    means = keys.assign(**{name: values[labels == number].mean(0) for number, name in enumerate(names)})
    frame = pd.concat([means.assign(first=first, second=second) for first, second in pairs], ignore_index=True)
    frame = frame.assign(**columns)
    frame["significant"] = frame["q"] <= level
    about: dict[str, Any] = {"what": "comparison", "of": of, "backbone": every[0].backbone}
    about["runs"] = {name: [source.about for source in each] for name, each in grouped.items()}
    about |= {"stream": stream, "k": k, "level": level, "seed": seed}
    about["pairs"] = [{"first": a, "second": b, **each} for (a, b), each in zip(pairs, tests, strict=True)]
    about["versions"] = versions("numpy", "scipy", "torch")
    if (dataset := every[0].about.get("dataset")) and all(source.about["dataset"] == dataset for source in every):
        about["dataset"] = dataset
    alike = _agreement(values, labels, names, k, of, seed)
    return Comparison(ordered(frame), json.loads(json.dumps(about)), alike)


def check_groups(groups: Mapping[str, object]) -> None:
    """Raises ConfigError where there are fewer than two, or one has the name of a column."""
    if len(groups) < 2:
        got = ", ".join(groups) or "none"
        raise ConfigError(f"a comparison takes at least two groups of runs, got {got}; give a dict of names and runs")
    if taken := sorted({*groups} & _TAKEN):
        raise ConfigError(f"a group cannot be called {taken[0]!r}, as a column of the result is; rename it")


def _agreement(
    values: np.ndarray, labels: np.ndarray, names: Sequence[str], k: int, of: str, seed: int
) -> pd.DataFrame:
    """``Comparison.agreement`` of values [R, N]; intervals end where the statistic does."""
    two = len(names) == 2
    pairs = [(names[first], names[second]) for first, second in pairs_of(len(names))]
    between = ["between" if two else f"between {first} and {second}" for first, second in pairs]
    rows: list[tuple[str, str, str | None, str | None]] = [(f"within {name}", "within", name, name) for name in names]
    rows += [(text, "between", *pair) for text, pair in zip(between, pairs, strict=True)]
    rows += [(f"{text} - within", "contrast", *pair) for text, pair in zip(between, pairs, strict=True)]
    rows += [] if two else [("between - within", "contrast", None, None)]
    similar = {  # matrix, lowest value, value by chance
        "spearman": (spearman(values), -1, 0.0),
        "kendall": (kendall(values), -1, 0.0),
        f"top {k}": (overlap(np.abs(values - NEUTRAL[of]), k), 0, k / values.shape[1]),
    }
    tables = []
    for statistic, (matrix, lowest, chance) in similar.items():
        table = pd.DataFrame(rows, columns=["pairs", "kind", "first", "second"])
        table = table.assign(statistic=statistic, **agreement(matrix, labels, seed))
        plain = table["kind"] != "contrast"
        table.loc[plain, ["low", "high"]] = table.loc[plain, ["low", "high"]].clip(lowest, 1)
        tables.append(table.assign(chance=np.where(plain, chance, 0.0)))
    columns = ["statistic", *(name for name in tables[0] if name != "statistic")]
    return pd.concat(tables, ignore_index=True)[columns]
