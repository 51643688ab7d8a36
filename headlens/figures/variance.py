"""Figure 12: is it the method, the domain or the seed that makes heads important? The variance between runs, split."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from headlens import heads
from headlens.errors import ConfigError
from headlens.figures.by_method import by_run, images_of, importance, runs_in_words, runs_of, streams_of_all
from headlens.figures.context import FigureContext
from headlens.figures.spec import FigureSpec, RenderedFigure, listed, made_on
from headlens.plots.intervals import intervals
from headlens.plots.style import COLUMN

FACTORS = ("method", "domain")
LEVEL = 0.05


def draw(context: FigureContext) -> RenderedFigure:
    """Above: shares of every layer. Below: shares of all heads with their intervals."""
    methods = [set(domain.runs.methods) for domain in context]
    shared = set.intersection(*methods)
    if len(methods) < 2 or len(shared) < 2:
        raise ConfigError(
            f"two domains or more are split, and two methods or more that all have; here are {len(methods)} and "
            f"{len(shared)}: name runs of others"
        )
    frame = importance(context)
    frame = frame[frame["method"].isin(shared)]
    frame = frame[frame["stream"].isin(streams_of_all(frame))]
    ranks = frame.assign(value=frame.groupby("run")["value"].rank() / frame.groupby("run")["value"].transform("count"))
    result = heads.variance(by_run(ranks, FACTORS), FACTORS, seed=context.seed)
    whole = result.frame[result.frame["layer"].isna()]
    streams = list(dict.fromkeys(result.frame.loc[result.frame["layer"].notna(), "stream"]))
    fig = Figure(figsize=(COLUMN, 2.0 * len(streams) + 1.35), layout="constrained")
    *above, below = np.atleast_1d(fig.subplots(len(streams) + 1, 1, height_ratios=[2.0] * len(streams) + [0.95]))
    result.plot(above)
    legend = above[-1].get_legend()
    fig.legend(*above[-1].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    legend.remove()
    points = whole.rename(columns={"component": "row", "share": "value", "value": "variance"})
    points = points.assign(group="all heads", **{name: 100 * points[name] for name in ("value", "low", "high")})
    intervals(points, below, label="share of all heads' variance between runs (%)")
    runs = [run for domain in context for method, each in runs_of(domain).items() if method in shared for run in each]
    return RenderedFigure(fig, _caption(context, result, streams), runs, [domain.subset for domain in context])


def _caption(context: FigureContext, result: heads.Variance, streams: list[str]) -> str:
    whole = result.frame[result.frame["layer"].isna()].set_index("component")
    layers = result.frame[result.frame["layer"].notna()]
    shares, facts = [], []
    for name, row in whole.iterrows():
        ends = "" if np.isnan(row["low"]) else f" [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"
        sure = "" if np.isnan(row["p"]) else f" (p = {row['p']:.2g})"
        shares.append(f"{100 * row['share']:.0f} %{ends} the {name}'s{sure}")
        each = layers[layers["component"] == name]
        top = each.loc[each["share"].idxmax()]
        facts.append(f"{name} in layer {top['layer']} ({100 * top['share']:.0f} %)")
    tested = [name for name in result.components if whole.at[name, "p"] == whole.at[name, "p"]]
    passed = [
        f"{(layers.loc[layers['component'] == name, 'q'] <= LEVEL).sum()} of {layers['layer'].nunique()} layers "
        f"({name})"
        for name in tested
    ]
    return (
        "Is it the method, the domain or the seed that makes heads important? The variance between runs of a head's "
        "rank by importance for the joint margin (over the heads of a run), mean over the heads of the "
        f"{listed(streams)} stream, which all methods have, split over crossed factors without bias (equal groups: "
        "omega squared); estimates below 0 are drawn as 0. A domain is both the training set and the images on which "
        "importance is measured. Above: by layer, counted from 0. Below: all heads, with 95 % jackknife intervals over "
        f"runs: {listed(shares)}. The largest share has the {listed(facts)}. By permutation of runs q ≤ {LEVEL:g} in "
        f"{listed(passed)}. Gradients on {images_of(context)}; intervals do not cover the choice of images. Runs: "
        f"{runs_in_words(context)}. {made_on(context)}"
    )


SPEC = FigureSpec("variance", "Variance between runs: method, domain, seed", draw)
