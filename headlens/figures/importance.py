"""Figure 3: how important a head is for the score, against the weight that was learned for it."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats

from headlens.figures.context import KEYS, Domain, FigureContext
from headlens.figures.spec import FigureSpec, RenderedFigure, counted, images_of, listed, made_on, with_interval
from headlens.plots.scatter import by_layer
from headlens.plots.style import COLUMN

FIRST = 3
"""Runs of a domain whose gradients are taken, which takes as long for each."""


def draw(context: FigureContext) -> RenderedFigure:
    """A point for each weighted head: means over the first runs of both; a panel for each domain."""
    frames_of = {domain.name: _joined(context, domain) for domain in context}
    fig = Figure(figsize=(COLUMN, 1.95), layout="constrained")
    axes = fig.subplots(1, len(frames_of), squeeze=False, sharex=True, sharey=True)[0]
    correlations = {}
    for (name, rows), ax in zip(frames_of.items(), axes, strict=True):
        means = rows.groupby(KEYS, sort=False)[["weight", "importance"]].mean().reset_index()
        by_layer(means, "weight", "importance", ax, centre=1, title=f"{name} ({counted(rows['run'].nunique(), 'run')})")
        ax.set_xlabel("head weight")
        correlations[name] = rows.groupby("run", sort=False)[["weight", "importance"]].apply(_correlations)
    axes[0].set_ylabel("importance (logits)")
    bar = fig.colorbar(axes[-1].collections[0], ax=list(axes), label="layer", aspect=28, pad=0.02)
    bar.locator = MaxNLocator(integer=True)
    runs = [run for domain in context for run in domain.weighed[:FIRST]]
    return RenderedFigure(fig, _caption(context, frames_of, correlations), runs, [domain.subset for domain in context])


def _joined(context: FigureContext, domain: Domain) -> pd.DataFrame:
    """Run, stream, layer, head, weight, importance."""
    frames = [context.importance(domain, run).assign(run=run.folder.name) for run in domain.weighed[:FIRST]]
    learned = context.weights(domain).rename(columns={"value": "weight"})
    return learned.merge(pd.concat(frames)[["run", *KEYS, "importance"]], on=["run", *KEYS])


def _correlations(rows: pd.DataFrame) -> pd.Series:
    slope = rows["importance"]
    ranks = {"weight": stats.spearmanr(rows["weight"], slope).statistic}
    ranks["distance"] = stats.spearmanr((rows["weight"] - 1).abs(), slope).statistic
    return pd.Series(ranks)


def _first_of(runs: str, domain: Domain) -> str:
    return f"the first {FIRST} of {runs}" if len(domain.weighed) > FIRST else runs


def _caption(context: FigureContext, frames_of: dict[str, pd.DataFrame], ranks: dict[str, pd.DataFrame]) -> str:
    facts = [
        f"{name} {with_interval(rank['weight'])} with the weight, {with_interval(rank['distance'])} with its distance "
        "from 1"
        for name, rank in ranks.items()
    ]
    heads = len(next(iter(frames_of.values())).drop_duplicates(KEYS))
    runs = listed([_first_of(counted(len(domain.weighed), f"{domain.name} run"), domain) for domain in context])
    return (
        f"Importance against learned weight of {heads} heads, means over {runs}, which differ in their seed; "
        "colours are layers. Importance is the mean over images of |d joint margin / d gate|, in logits; the gate "
        "multiplies the output of the head after its weight, so a larger weight makes a head more important by itself. "
        f"Spearman's correlation (mean over runs ± 95 % interval by Student's t): {'; '.join(facts)}. Gradients on "
        f"{images_of(context)}. {made_on(context)}"
    )


SPEC = FigureSpec("importance", "Importance against learned weight", draw)
