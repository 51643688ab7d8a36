"""Figure 11: do methods agree which heads are important? Rank correlations of runs, methods by methods."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from headlens import heads
from headlens.errors import ConfigError
from headlens.figures.by_method import by_run, images_of, importance, runs_in_words, runs_of, streams_of_all
from headlens.figures.context import FigureContext
from headlens.figures.spec import FigureSpec, RenderedFigure, listed, made_on
from headlens.plots.style import PAGE


def draw(context: FigureContext) -> RenderedFigure:
    """A row for each domain: rank correlations, with seeds on the diagonal, and how many heads differ."""
    if few := [domain.name for domain in context if len(domain.runs.methods) < 2]:
        raise ConfigError(f"agreement of methods takes two methods or more; in {few[0]} is one: name runs of another")
    frame = importance(context)
    shared = frame[frame["stream"].isin(streams_of_all(frame))]
    results = {
        str(name): heads.compare(by_run(rows, ["method"]), k=1, seed=context.seed)
        for name, rows in shared.groupby("domain", sort=False)
    }
    most = max(len(result.groups) for result in results.values())
    fig = Figure(figsize=(PAGE, (0.75 + 0.52 * most) * len(results)), layout="constrained")
    for part, (name, result) in zip(
        np.atleast_1d(np.asarray(fig.subfigures(len(results), 1))), results.items(), strict=True
    ):
        result.matrix(part.subplots(1, 2))
        part.suptitle(name, x=0.01, ha="left", weight="bold")
    runs = [run for domain in context for seeds in runs_of(domain).values() for run in seeds]
    caption, images = _caption(context, frame, results), [domain.subset for domain in context]
    return RenderedFigure(fig, caption, runs, images, dpi=150)


def _caption(context: FigureContext, frame: pd.DataFrame, results: dict[str, heads.Comparison]) -> str:
    facts, local = [], []
    for name, result in results.items():
        table = result.agreement[result.agreement["statistic"] == "spearman"].dropna(subset=["value"])
        within, between = (table[table["kind"] == kind].sort_values("value") for kind in ("within", "between"))
        seeds = f"seeds of one method {_span(within)}, " if len(within) else ""
        low, high = between.iloc[0], between.iloc[-1]
        facts.append(
            f"{name}: {seeds}two methods {_span(between)}, lowest for {low['first']} and {low['second']}, highest for "
            f"{high['first']} and {high['second']}"
        )
        local += _of_others(frame[frame["domain"] == name], name)
    streams = streams_of_all(frame)
    count = len(frame.loc[frame["stream"].isin(streams), ["stream", "layer", "head"]].drop_duplicates())
    rest = f" Heads of other streams, which not all methods have: {'; '.join(local)}." if local else ""
    level = next(iter(results.values())).provenance["level"]
    return (
        "Do methods agree which heads are important? Left: Spearman's correlation of two runs' importance (mean over "
        f"images of |d joint margin / d gate|) over the {count} heads of the {listed(streams)} stream, which all "
        "methods have: two methods beside the diagonal; on it two runs of one method that differ in their seed, which "
        "is as much as can be expected. In brackets 95 % jackknife intervals over runs. Right: how many heads differ "
        f"with q ≤ {level:.3g} between two methods, in units of the mean head; the null distribution is pooled over "
        f"heads and rates are over all pairs. {'; '.join(facts)}.{rest} Gradients on {images_of(context)}; intervals "
        f"do not cover the choice of images. Runs: {runs_in_words(context)}. {made_on(context)}"
    )


def _span(rows: pd.DataFrame) -> str:
    low, high = rows["value"].min(), rows["value"].max()
    return f"{low:.2f}" if len(rows) == 1 else f"{low:.2f} to {high:.2f}"


def _of_others(frame: pd.DataFrame, domain: str) -> list[str]:
    """What methods agree in that have a stream that not all of them have."""
    lines = []
    for stream, rows in frame[~frame["stream"].isin(streams_of_all(frame))].groupby("stream", sort=False):
        groups = by_run(rows, ["method"])
        if len(groups) < 2:
            continue
        table = heads.compare(groups, k=1).agreement
        table = table[table["statistic"].eq("spearman") & table["kind"].ne("contrast")].dropna(subset=["value"])
        each = [
            f"{row.value:.2f} ({row.first if row.first == row.second else f'{row.first} and {row.second}'})"
            for row in table.itertuples()
        ]
        lines.append(f"{stream}, {domain}: {listed(each)}")
    return lines


SPEC = FigureSpec("agreement", "Agreement of methods on the importance of heads", draw)
