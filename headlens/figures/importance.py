"""Figure 3: do more important heads have larger learned weights? A point for each head, and rank correlations."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats

from headlens.figures.context import KEYS, Domain, FigureContext, mean_and_interval
from headlens.figures.spec import FigureSpec, RenderedFigure, counted, images_of, listed, made_on, with_interval
from headlens.plots.intervals import intervals
from headlens.plots.scatter import by_layer
from headlens.plots.style import width

FIRST = 3
"""Runs of a domain whose gradients are taken, which takes as long for each."""
ROWS = {
    "weight": "weight",
    "within": "weight, within layers",
    "unit": "weight (importance ÷ weight)",
    "distance": "distance from 1",
}
"""With what importance is correlated, as the figure calls it."""


def draw(context: FigureContext) -> RenderedFigure:
    """A point for each weighted head, means over the first runs; below, rank correlations of runs with intervals."""
    frames_of = {domain.name: _joined(context, domain) for domain in context}
    ranks = {
        name: rows.groupby("run", sort=False)[["layer", "weight", "importance"]].apply(correlations)
        for name, rows in frames_of.items()
    }
    fig = Figure(figsize=(width(len(context.domains)), 3.35), layout="constrained")
    above, below = np.asarray(fig.subfigures(2, 1, height_ratios=[1.95, 1.4]))
    axes = above.subplots(1, len(frames_of), squeeze=False, sharex=True, sharey=True)[0]
    for (name, rows), ax in zip(frames_of.items(), axes, strict=True):
        means = rows.groupby(KEYS, sort=False)[["weight", "importance"]].mean().reset_index()
        by_layer(means, "weight", "importance", ax, centre=1, title=f"{name} ({counted(rows['run'].nunique(), 'run')})")
        ax.set_xlabel("head weight")
        ax.text(0.97, 0.04, f"ρ = {with_interval(ranks[name]['weight'])}", transform=ax.transAxes, ha="right")
    axes[0].set_ylabel("importance (logits)")
    bar = above.colorbar(axes[-1].collections[0], ax=list(axes), label="layer", aspect=28, pad=0.02)
    bar.locator = MaxNLocator(integer=True)
    panel = below.subplots()
    intervals(_points(ranks), panel, rows=list(ROWS.values()), label="rank correlation with importance")
    panel.xaxis.set_major_locator(MaxNLocator(5))
    if len(ranks) > 1:
        below.legend(*panel.get_legend_handles_labels(), loc="outside upper right", ncols=len(ranks), frameon=False)
    runs = [run for domain in context for run in domain.weighed[:FIRST]]
    return RenderedFigure(fig, _caption(context, frames_of, ranks), runs, [domain.subset for domain in context])


def _joined(context: FigureContext, domain: Domain) -> pd.DataFrame:
    """Run, stream, layer, head, weight, importance."""
    frames = [context.importance(domain, run).assign(run=run.folder.name) for run in domain.weighed[:FIRST]]
    learned = context.weights(domain).rename(columns={"value": "weight"})
    return learned.merge(pd.concat(frames)[["run", *KEYS, "importance"]], on=["run", *KEYS])


def correlations(rows: pd.DataFrame) -> pd.Series:
    """Spearman's correlations of one run's importance over its heads.

    ``weight``: with the weight; ``within``: the same within each layer, mean over layers; ``unit``: of importance
    divided by the weight's size, with the weight; ``distance``: with the weight's distance from 1.

    >>> rows = pd.DataFrame({"layer": [0, 0, 1, 1], "weight": [1.0, 2.0, 0.5, 3.0], "importance": [4.0, 3.0, 1.0, 2.0]})
    >>> correlations(rows).round(2).to_dict()
    {'weight': 0.2, 'within': 0.0, 'unit': -0.8, 'distance': -0.4}
    """
    weight, slope = rows["weight"], rows["importance"]
    layers = [stats.spearmanr(layer["weight"], layer["importance"]).statistic for _, layer in rows.groupby("layer")]
    real = weight != 0  # what nothing is multiplied with has no slope to divide
    return pd.Series(
        {
            "weight": stats.spearmanr(weight, slope).statistic,
            "within": float(np.nanmean(layers)),
            "unit": stats.spearmanr(weight[real], slope[real] / weight[real].abs()).statistic,
            "distance": stats.spearmanr((weight - 1).abs(), slope).statistic,
        }
    )


def _points(ranks: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """What ``intervals`` draws: a row for each correlation, a group for each domain."""
    rows = []
    for name, table in ranks.items():
        for key, label in ROWS.items():
            mean, half = mean_and_interval(table[key])
            rows.append((label, name, mean, mean - half, mean + half))
    return pd.DataFrame(rows, columns=["row", "group", "value", "low", "high"])


def _first_of(runs: str, domain: Domain) -> str:
    return f"the first {FIRST} of {runs}" if len(domain.weighed) > FIRST else runs


def _answer(name: str, table: pd.DataFrame) -> str:
    """Whether more important heads have larger weights in a domain, in words."""
    mean, half = mean_and_interval(table["weight"])
    if np.isnan(half):
        verdict = "of one run, so without an interval"
    elif abs(mean) <= half:
        verdict = "the interval includes 0: this is not shown"
    else:
        verdict = f"more important heads have {'larger' if mean > 0 else 'smaller'} weights"
    others = [
        f"{with_interval(table['within'])} within layers",
        f"{with_interval(table['unit'])} of importance per unit of weight",
        f"{with_interval(table['distance'])} with the distance from 1",
    ]
    return f"In {name}: {with_interval(table['weight'])} ({verdict}); {listed(others)}"


def _caption(context: FigureContext, frames_of: dict[str, pd.DataFrame], ranks: dict[str, pd.DataFrame]) -> str:
    heads = len(next(iter(frames_of.values())).drop_duplicates(KEYS))
    runs = listed([_first_of(counted(len(domain.weighed), f"{domain.name} run"), domain) for domain in context])
    answers = ". ".join(_answer(name, table) for name, table in ranks.items())
    return (
        f"Do more important heads have larger learned weights? Above: {heads} heads, means over {runs}, which differ "
        "in their seed; colours are layers. Importance is the mean over images of |d joint margin / d gate|, in "
        "logits. Below: Spearman's correlation ρ of importance with the weight over all heads of a run (mean over runs "
        "± 95 % interval by Student's t). The gate multiplies the output of the head after its weight, so a larger "
        "weight makes a head more important by itself: importance per unit of weight is divided by the size of the "
        "weight: how much the head would matter at weight 1, to first order. Within layers: the mean over "
        f"layers of the correlation among the heads of one. {answers}. Gradients on {images_of(context)}. "
        f"{made_on(context)}"
    )


SPEC = FigureSpec("importance", "Importance against learned weight", draw)
