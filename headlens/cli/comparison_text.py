"""What ``headlens compare`` prints of a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headlens.heads import Comparison, Variance


def agreement(result: Comparison) -> str:
    """Agreement of runs, with 95 % intervals over runs."""
    import pandas as pd

    table = result.agreement
    columns = {"": table["statistic"], "pairs of runs": table["pairs"], "number": table["count"]}
    columns["value"] = [
        ("-" if value != value else f"{value:.2f}") + ("" if low != low else f" [{low:.2f}, {high:.2f}]")
        for value, low, high in table[["value", "low", "high"]].itertuples(index=False)
    ]
    columns["by chance"] = table["chance"].map("{:.2f}".format)
    columns["p"] = table["p"].map(lambda p: "" if p != p else f"{p:.2g}")
    top = result.provenance["k"]
    return (
        f"Agreement of two runs on the order of {len(result.frame)} heads, and how many of their top {top} they share "
        "[95 % jackknife interval over runs]\n\n" + pd.DataFrame(columns).to_string(index=False)
    )


def differing(result: Comparison, rows: int) -> str:
    """The first heads by false discovery rate and difference."""
    several, pairs = len(result.groups) > 2, result.provenance["pairs"]
    shown = result.strongest.head(rows)
    for side in ("first", "second"):
        shown = shown.assign(**{f"mean of {side}": [row[row[side]] for _, row in shown.iterrows()]})
    sides = ["first", "second", "mean of first", "mean of second"] if several else [*result.groups]
    shown = shown[["name", *sides, "difference", "error", "p", "q_own", "q"]]
    shown = shown.rename(columns={"name": "head", "q_own": "q of p"})
    text = shown.to_string(index=False, na_rep="-", float_format="{:.3f}".format)
    splits, smallest = max(pair["splits"] for pair in pairs), min(pair["smallest_p"] for pair in pairs)
    over = "all heads of all pairs" if several else "all heads"
    about = (
        f"p: permutation of runs, {splits} splits, so at least {smallest:.2g}; q of p: its false discovery rate;\n"
        f"q: by the pooled null of {over}, significant up to {result.provenance['level']:.3g}"
        if splits > 1
        else "Not tested: that takes two runs in each group, or better three"
    )
    which = "second minus first" if several else f"{result.groups[1]} minus {result.groups[0]}"
    return f"Heads that differ most, {which}.\n{about}\n\n{text}"


def pairwise(result: Comparison) -> list[str]:
    """Of more than two groups: agreement as matrices, and a row for each two groups."""
    return [
        *(_matrix(result, statistic) for statistic in ("spearman", f"top {result.provenance['k']}")),
        _pairs(result),
    ]


def _matrix(result: Comparison, statistic: str) -> str:
    import pandas as pd

    rows = result.agreement[(result.agreement["statistic"] == statistic) & (result.agreement["kind"] != "contrast")]
    cells = pd.DataFrame("-", index=list(result.groups), columns=list(result.groups))
    for row in rows.itertuples():
        if row.value == row.value:
            text = f"{row.value:.2f}" + (f" [{row.low:.2f}, {row.high:.2f}]" if row.low == row.low else "")
            cells.loc[row.first, row.second] = cells.loc[row.second, row.first] = text
    what = {"spearman": f"Rank correlation of two runs over {len(result.frame) // len(result.pairs)} heads"}
    title = what.get(statistic, f"Share of their {statistic} heads that two runs have in common")
    return f"{title}, within groups on the diagonal [95 % jackknife interval over runs]\n\n{cells.to_string()}"


def _pairs(result: Comparison) -> str:
    table = result.pairs[["first", "second", "difference", "p", "q", "heads", "any_p", "splits"]]
    names = {"difference": "between - within", "heads": "heads that differ", "any_p": "p of all heads"}
    text = table.rename(columns=names).to_string(index=False, na_rep="-", float_format="{:.3g}".format)
    return (
        "Two groups at a time: by how much two runs of different groups agree less than two of one (rank correlation; "
        "p by permuting runs, q: its false discovery rate over pairs), and heads with q of at most "
        f"{result.provenance['level']:.3g}\n\n{text}"
    )


def split(result: Variance) -> str:
    """Shares of the variance between runs, of all heads with intervals, and layer by layer."""
    rows = result.frame[result.frame["stream"] == "all"][["component", "share", "low", "high", "p"]]
    rows = rows.assign(**{name: 100 * rows[name] for name in ("share", "low", "high")})
    every = rows.to_string(index=False, na_rep="-", float_format="{:.3g}".format)
    shown = result.table[result.table["stream"] != "all"]
    shown = shown.assign(**{name: 100 * shown[name] for name in result.components})
    layers = shown.to_string(index=False, na_rep="-", float_format="{:.0f}".format)
    return (
        "Variance between runs at the same head, in percent (low, high: 95 % jackknife interval over runs; p by "
        f"permuting runs)\n\n{every}\n\nThe same by layer\n\n{layers}"
    )
