"""The tables that ``headlens compare`` prints of a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headlens.tables import Table, interval, number

if TYPE_CHECKING:
    from headlens.heads import Comparison, Variance


def agreement(result: Comparison) -> Table:
    """Agreement of runs of two groups, with 95 % intervals over runs."""
    frame = result.agreement
    rows = [
        [
            row.statistic,
            row.pairs,
            str(row.number),
            interval(row.value, row.low, row.high, ".2f"),
            number(row.chance, ".2f"),
            number(row.p, ".2g"),
        ]
        for row in frame.rename(columns={"count": "number"}).itertuples(index=False)
    ]
    return Table(
        ["statistic", "pairs of runs", "number", "value", "by chance", "p"],
        rows,
        numbers=4,
        name="agreement",
        title=f"Agreement of two runs on the order of {len(result.frame)} heads, and how many of their top "
        f"{result.provenance['k']} they share [95 % jackknife interval over runs]",
        frame=frame,
    )


def differing(result: Comparison, rows: int) -> Table:
    """The first heads by false discovery rate and difference."""
    several, pairs = len(result.groups) > 2, result.provenance["pairs"]
    shown = result.strongest.head(rows)
    for side in ("first", "second"):
        shown = shown.assign(**{f"mean of {side}": [row[row[side]] for _, row in shown.iterrows()]})
    texts = ["name", "first", "second"] if several else ["name"]
    means = ["mean of first", "mean of second"] if several else [*result.groups]
    forms = dict.fromkeys([*means, "difference", "error"], ".3f") | dict.fromkeys(["p", "q_own", "q"], ".2g")
    numbers = list(forms)
    cells = [
        [*row[: len(texts)], *map(number, row[len(texts) :], forms.values())]
        for row in shown[[*texts, *numbers]].itertuples(index=False, name=None)
    ]
    splits, smallest = max(pair["splits"] for pair in pairs), min(pair["smallest_p"] for pair in pairs)
    over = "all heads of all pairs" if several else "all heads"
    about = (
        f"p: permutation of runs, {splits} splits, so at least {smallest:.2g}; q of p: its false discovery rate; "
        f"q: by the pooled null of {over}, and no less than by the test of all heads together; significant up to "
        f"{result.provenance['level']:.3g}"
        if splits > 1
        else "Not tested: that takes two runs in each group, or better four"
    )
    which = "second minus first" if several else f"{result.groups[1]} minus {result.groups[0]}"
    titles = {"name": "head", "q_own": "q of p"}
    return Table(
        [titles.get(name, name) for name in (*texts, *numbers)],
        cells,
        numbers=len(numbers),
        name="heads",
        title=f"Heads that differ most, {which}.\n{about}",
        frame=result.strongest,
    )


def pairwise(result: Comparison) -> list[Table]:
    """Of more than two groups: agreement as matrices, and a row for each two groups."""
    return [
        *(_matrix(result, statistic) for statistic in ("spearman", f"top {result.provenance['k']}")),
        _pairs(result),
    ]


def _matrix(result: Comparison, statistic: str) -> Table:
    rows = result.agreement[(result.agreement["statistic"] == statistic) & (result.agreement["kind"] != "contrast")]
    cells: dict[tuple[str, str], str] = {}
    for row in rows.itertuples():
        cells[row.first, row.second] = cells[row.second, row.first] = interval(row.value, row.low, row.high, ".2f")
    what = {"spearman": f"Rank correlation of two runs over {len(result.frame) // len(result.pairs)} heads"}
    title = what.get(statistic, f"Share of their {statistic} heads that two runs have in common")
    return Table(
        ["", *result.groups],
        [[group, *(cells.get((group, other), "-") for other in result.groups)] for group in result.groups],
        numbers=len(result.groups),
        name="agreement",
        title=f"{title}, within groups on the diagonal [95 % jackknife interval over runs]",
        frame=rows,
    )


def _pairs(result: Comparison) -> Table:
    numbers = ["difference", "p", "q", "heads", "any_p", "splits"]
    names = {"difference": "between - within", "heads": "heads that differ", "any_p": "p of all heads"}
    table = result.pairs[["first", "second", *numbers]]
    cells = [
        [*row[:2], *(number(value, ".3g") for value in row[2:])] for row in table.itertuples(index=False, name=None)
    ]
    return Table(
        ["first", "second", *(names.get(name, name) for name in numbers)],
        cells,
        numbers=len(numbers),
        name="pairs",
        title="Two groups at a time: by how much two runs of different groups agree less than two of one (rank "
        "correlation; p by permuting runs, q: its false discovery rate over pairs), and heads with q of at most "
        f"{result.provenance['level']:.3g}",
        frame=result.pairs,
    )


def split(result: Variance) -> list[Table]:
    """Shares of the variance between runs, of all heads with intervals, and layer by layer."""
    rows = result.frame[result.frame["stream"] == "all"]
    every = [
        [row.component, interval(100 * row.share, 100 * row.low, 100 * row.high, ".3g"), number(row.p, ".2g")]
        for row in rows.itertuples()
    ]
    table = result.table[result.table["stream"] != "all"]
    names = [name for name in table if name not in result.components]
    layers = [
        [*map(str, row[: len(names)]), *(number(100 * value, ".0f") for value in row[len(names) :])]
        for row in table[[*names, *result.components]].itertuples(index=False, name=None)
    ]
    title = (
        "Variance between runs at the same head, in percent [95 % jackknife interval over runs]; p by permuting runs"
    )
    return [
        Table(["component", "share", "p"], every, 2, "shares", title, frame=rows),
        Table([*names, *result.components], layers, len(result.components), "layers", "The same by layer", frame=table),
    ]
