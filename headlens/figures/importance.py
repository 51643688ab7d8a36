"""Figure 3: how important a head is for the score, against the weight that was learned for it."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats

from headlens.figures.context import KEYS, Material, Subject
from headlens.figures.spec import Drawn, Recipe, counted, made_on, pictured, with_interval
from headlens.plots.scatter import by_layer
from headlens.plots.style import COLUMN


def draw(material: Material) -> Drawn:
    """A point for each weighted head: means over runs of both; a panel for each domain."""
    found = {subject.domain: _joined(material, subject) for subject in material}
    fig = Figure(figsize=(COLUMN, 1.95), layout="constrained")
    axes = fig.subplots(1, len(found), squeeze=False, sharex=True, sharey=True)[0]
    correlations = {}
    for (domain, own), ax in zip(found.items(), axes, strict=True):
        means = own.groupby(KEYS, sort=False)[["weight", "importance"]].mean().reset_index()
        by_layer(
            means, "weight", "importance", ax, centre=1, title=f"{domain} ({counted(own['run'].nunique(), 'run')})"
        )
        ax.set_xlabel("head weight")
        correlations[domain] = own.groupby("run", sort=False)[["weight", "importance"]].apply(_correlations)
    axes[0].set_ylabel("importance (logits)")
    bar = fig.colorbar(axes[-1].collections[0], ax=list(axes), label="layer", aspect=28, pad=0.02)
    bar.locator = MaxNLocator(integer=True)
    runs = [run for subject in material for run in subject.weighed]
    return Drawn(fig, _caption(material, found, correlations), runs, [subject.few for subject in material])


def _joined(material: Material, subject: Subject) -> pd.DataFrame:
    """Run, stream, layer, head, weight, importance."""
    frames = [material.importance(subject, run).assign(run=run.folder.name) for run in subject.weighed]
    learned = material.weights(subject).rename(columns={"value": "weight"})
    return learned.merge(pd.concat(frames)[["run", *KEYS, "importance"]], on=["run", *KEYS])


def _correlations(own: pd.DataFrame) -> pd.Series:
    slope = own["importance"]
    ranks = {"weight": stats.spearmanr(own["weight"], slope).statistic}
    ranks["distance"] = stats.spearmanr((own["weight"] - 1).abs(), slope).statistic
    return pd.Series(ranks)


def _caption(material: Material, found: dict[str, pd.DataFrame], ranks: dict[str, pd.DataFrame]) -> str:
    said = [
        f"{domain} {with_interval(own['weight'])} with the weight, {with_interval(own['distance'])} with its distance "
        "from 1"
        for domain, own in ranks.items()
    ]
    heads = len(next(iter(found.values())).drop_duplicates(KEYS))
    return (
        f"Importance against learned weight of {heads} heads, means over runs that differ in their seed; colours are "
        "layers. Importance is the mean over pictures of |d joint margin / d gate|, in logits; the gate multiplies "
        "what the head writes after its weight, so a larger weight makes a head more important by itself. Spearman's "
        f"correlation (mean over runs ± 95 % interval by Student's t): {'; '.join(said)}. Gradients on "
        f"{pictured(material)}. {made_on(material)}"
    )


RECIPE = Recipe("importance", "Importance against learned weight", draw)
