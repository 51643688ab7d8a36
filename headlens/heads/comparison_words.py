"""What a comparison of groups of runs shows, and what it does not, in words."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import pandas as pd

from headlens.heads.sources import NOUNS

_SURE = 0.05  # p of the contrast (its false discovery rate, of several pairs) up to which groups agree less than seeds


class Compared(Protocol):
    """What is read of a ``Comparison``."""

    @property
    def frame(self) -> pd.DataFrame: ...  # noqa: D102

    @property
    def provenance(self) -> dict[str, Any]: ...  # noqa: D102

    @property
    def agreement(self) -> pd.DataFrame: ...  # noqa: D102

    @property
    def groups(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def strongest(self) -> pd.DataFrame: ...  # noqa: D102

    @property
    def pairs(self) -> pd.DataFrame: ...  # noqa: D102


def paragraph(result: Compared) -> str:
    """Who was compared, how far they agree, which heads differ, and what these numbers rest on."""
    agree = _agree if len(result.groups) == 2 else _agree_all
    return " ".join((_who(result), agree(result), _differ(result), _limits(result))).rstrip()


def listed(words: list[str]) -> str:
    """Words as a sentence has them.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _who(result: Compared) -> str:
    runs = result.provenance["runs"]
    what = NOUNS[result.provenance["of"]]
    counts = listed([f"{len(each)} {name} {'run' if len(each) == 1 else 'runs'}" for name, each in runs.items()])
    on = f" on {result.provenance['dataset']['name']}" if "dataset" in result.provenance else ""
    return f"{what} of {_heads(result)} heads{on} in {counts}."


def _heads(result: Compared) -> int:
    return len(result.frame) // len(result.provenance["pairs"])


def _shown(row: Any) -> str:
    return f"{row.value:.2f}" + ("" if np.isnan(row.low) else f" [{row.low:.2f}, {row.high:.2f}]")


def _agree(result: Compared) -> str:
    """Agreement of runs, and whether those of two groups are less alike."""
    rows = result.agreement[result.agreement["statistic"] == "spearman"].set_index("pairs")
    within, between, contrast = list(rows.index[:2]), rows.loc["between"], rows.loc["between - within"]
    if np.isnan(between["value"]):
        return "Rank correlation is undefined, because in at least one run all heads have the same value."
    text = f"Two runs of different groups have a rank correlation of {_shown(between)}"
    if np.isnan(contrast["value"]):
        return f"{text}. One run in a group does not show how far its seeds agree: train more."
    text += "".join(f", two {pairs.removeprefix('within ')} runs of {_shown(rows.loc[pairs])}" for pairs in within)
    gap, p, tests = contrast["value"], contrast["p"], result.provenance["pairs"][0]
    if p <= _SURE:
        return f"{text}: groups agree less than seeds do, by {-gap:.2f} (p = {p:.2g}, permuting runs)."
    if p <= tests["smallest_p"] * 1.001:
        return (
            f"{text}: groups agree less than seeds do by {-gap:.2f}, the largest difference among all "
            f"{tests['splits']} "
            f"splits of these runs. This is a hint and not a proof: with so few runs p cannot be below {p:.2g}."
        )
    return f"{text}. This does not show that groups agree less than seeds do (p = {p:.2g}, permuting runs)."


def _agree_all(result: Compared) -> str:
    """The same of more than two groups: within each, between every two, and which pairs stand out."""
    rows = result.agreement[result.agreement["statistic"] == "spearman"]
    within, between, apart = (rows[rows["kind"] == kind] for kind in ("within", "between", "contrast"))
    known = between.dropna(subset="value").sort_values("value", ascending=False, kind="stable")
    if known.empty:
        return "Rank correlation is undefined, because in at least one run of every pair all heads have the same value."
    seeds = [f"{_shown(row)} ({row.first})" for row in within.itertuples() if not np.isnan(row.value)]
    text = f"Two runs of one group have a rank correlation of {listed(seeds)}. " if seeds else ""
    text += f"Two runs of different groups have one of {_span(known)}."
    if alone := [name for name, runs in result.provenance["runs"].items() if len(runs) == 1]:
        text += f" How far seeds of {listed(alone)} agree is unknown: one run does not show it, train more."
    contrasts = apart[apart["first"].notna()].dropna(subset="value")
    return f"{text} {_contrasts(contrasts, apart.iloc[-1], result)}" if len(contrasts) else text


def _span(known: pd.DataFrame) -> str:
    """Every pair where there are few, else the two ends."""
    each = [f"{_shown(row)} ({row.first} and {row.second})" for row in known.itertuples()]
    return listed(each) if len(each) <= 3 else f"{each[0]} at most and {each[-1]} at least"


def _contrasts(rows: pd.DataFrame, overall: pd.Series, result: Compared) -> str:
    """Which pairs of groups agree less than seeds do; and all groups together."""
    sure = rows[rows["q"] <= _SURE].sort_values("value", kind="stable")
    text = f"Groups agree less than seeds do in {len(sure)} of {len(rows)} pairs"
    if len(sure):
        first = sure.iloc[0]
        text += f", {first['first']} and {first['second']} by the most, {-first['value']:.2f}"
    text += f" (false discovery rate of {_SURE:.3g} over pairs, permuting runs)"
    smallest = min(pair["smallest_p"] for pair in result.provenance["pairs"] if not np.isnan(pair["smallest_p"]))
    if smallest > _SURE:
        text += f": with so few runs p of a pair cannot be below {smallest:.2g}"
    if np.isnan(overall["value"]):
        return f"{text}."
    less = "less" if overall["value"] < 0 else "more"
    return (
        f"{text}. Over all pairs, groups agree {less} than seeds do by {abs(overall['value']):.2f} "
        f"(p = {overall['p']:.2g})."
    )


def _differ(result: Compared) -> str:
    """How many heads differ, and which the most."""
    about = result.provenance
    if result.frame["q"].isna().all():
        return "No head is tested, because one run gives no estimate of error."
    count, several = int(result.frame["significant"].sum()), len(result.groups) > 2
    rate = f"at an estimated false discovery rate of {about['level']:.3g}" + (" over all pairs" if several else "")
    if count == 0:
        return f"No head differs between {'any two' if several else 'the'} groups {rate}."
    top = result.strongest.iloc[0]
    first, second = top["first"], top["second"]
    example = f"{top['name']} ({first} {top[first]:.2f}, {second} {top[second]:.2f})"
    if not several:
        verb = "differs" if count == 1 else "differ"
        return f"{count} of {len(result.frame)} heads {verb} {rate}; the first is {example}."
    heads = len(result.frame.loc[result.frame["significant"], ["stream", "layer", "head"]].drop_duplicates())
    each = result.pairs.sort_values("heads", ascending=False, kind="stable")
    most, least = each.iloc[0], each.iloc[-1]
    return (
        f"{heads} of {_heads(result)} heads differ in some pair {rate}: {most['heads']} between {most['first']} and "
        f"{most['second']}, the most, and {least['heads']} between {least['first']} and {least['second']}, the fewest; "
        f"the first is {example}."
    )


def _limits(result: Compared) -> str:
    """What the numbers rest on."""
    about, parts = result.provenance, []
    tested = [pair for pair in about["pairs"] if not np.isnan(pair["smallest_p"])]
    if tested:
        smallest, level = min(pair["smallest_p"] for pair in tested), about["level"]
        if smallest > level:
            single = f"no single head can have a p below {smallest:.2g}: there are too few runs to name one"
        else:
            count, of = int((result.frame["q_own"] <= level).sum()), len(result.frame)
            what = "heads" if len(result.groups) == 2 else f"of {of} differences of heads"
            single = f"tested one by one, {count} {what} pass the same rate"
        parts.append(
            "This rate pools the null distributions of all heads, which assumes that heads are exchangeable. Without "
            f"that assumption, all heads together differ with p = {_any_p(tested)}, and {single}."
        )
    if about["of"] not in ("weight", "value") and "dataset" not in about:
        parts.append(
            "Runs saw different images: differences of detectors and of images are mixed, and no interval covers "
            "the choice of images."
        )
    name = about["backbone"].get("name")
    if str(about["backbone"].get("weights", "")).startswith("embedded"):
        parts.append(f"Made by backbone {name}, which has never seen a photograph: it says nothing about other CLIPs.")
    elif name:
        parts.append(f"Made by backbone {name}.")
    return " ".join(parts)


def _any_p(tested: list[dict[str, Any]]) -> str:
    values = sorted(pair["any_p"] for pair in tested)
    if len(values) == 1 or values[0] == values[-1]:
        return f"{values[0]:.2g}" + (" in every pair" if len(values) > 1 else "")
    return f"{values[0]:.2g} to {values[-1]:.2g}, by pair"
