"""Figure 4: what is left as more and more heads are taken away, by importance and in random order."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from headlens import heads
from headlens.figures.context import KEYS, Domain, FigureContext
from headlens.figures.spec import FigureSpec, RenderedFigure, images_of, listed, made_on
from headlens.plots.effects import curves
from headlens.plots.style import named, width

STEPS, RANDOM = 8, 3
BEST, LEAST = "most important", "least important"
METRICS = ("image_auroc", "pixel_auroc")


def draw(context: FigureContext) -> RenderedFigure:
    """A row for each metric, a column for each domain; heads on a logarithmic axis, for the first ones tell most."""
    metrics = metrics_of(context)
    frames = {domain.name: _grown(context, domain, metrics) for domain in context}
    fig = Figure(figsize=(width(len(context.domains)), 0.45 + 1.25 * len(metrics)), layout="constrained")
    axes = fig.subplots(len(metrics), len(frames), squeeze=False, sharex=True, sharey="row")
    for place, (metric, row) in enumerate(zip(metrics, axes, strict=True)):
        for (name, curves_of), ax in zip(frames.items(), row, strict=True):
            shown = curves_of[curves_of["metric"] == metric]
            curves(shown, ax, title="" if place else name)
            ax.get_legend().remove()
            ax.lines[0].remove()  # 0, which is no landmark of a metric
            for line in ax.lines:
                line.set_markersize(3)
            ax.axhline(shown["baseline"].iloc[0], color="black", linewidth=0.6, linestyle=":", zorder=0)
            ax.relim()
            ax.autoscale_view()
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
            ax.set(ylabel=label_of(metric), xlabel="heads removed")
            ax.label_outer()
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    runs = [domain.run for domain in context]
    return RenderedFigure(fig, _caption(context, frames, metrics), runs, [domain.subset for domain in context])


def metrics_of(context: FigureContext) -> tuple[str, ...]:
    """The metrics that all sets allow; where there is none, the quantities that need neither labels nor masks."""
    shared = [name for name in METRICS if all(name in domain.subset.metrics for domain in context)]
    return tuple(shared) or ("joint_margin", "anomaly_map")


def label_of(metric: str) -> str:
    """Of an axis; the map has no value of its own, only a distance from the whole detector's."""
    return ("change of " if metric == "anomaly_map" else "") + named(metric) + (" (%)" if metric in METRICS else "")


def _grown(context: FigureContext, domain: Domain, metrics: tuple[str, ...]) -> pd.DataFrame:
    """Order, heads, metric, effect (the metric's own value), low, high, baseline; random orders are one."""
    ranked = context.importance(domain, domain.run).sort_values("importance", ascending=False, kind="stable")
    order = [heads.Head(*row) for row in ranked[KEYS].itertuples(index=False)]
    steps = sorted({round(step) for step in np.geomspace(1, len(order), STEPS)})
    variants = heads.growing(order, steps[:-1], names=(BEST, LEAST), random=RANDOM, seed=context.seed)
    orders = dict.fromkeys(variant.order for variant in variants)
    variants += heads.cumulative(order, steps[-1:], BEST)  # without any head all orders are the same
    asked = [name for name in metrics if name in METRICS]
    frame = context.ablation(domain, "cumulative", variants, asked)
    frame = frame[frame["metric"].isin(metrics)]
    last = frame[frame["heads"] == len(order)]
    frame = pd.concat([frame, *(last.assign(order=name) for name in orders if name != BEST)])
    scale = np.where(frame["metric"].isin(METRICS), 100, 1)
    frame = frame.assign(**{name: (frame["baseline"] + frame[name]) * scale for name in ("effect", "low", "high")})
    frame = frame.assign(baseline=frame["baseline"] * scale)
    frame = frame[["order", "heads", "metric", "effect", "low", "high", "baseline"]]
    random = frame["order"].str.startswith("random")
    drawn = frame[random].groupby(["heads", "metric"])["effect"].agg(effect="mean", low="min", high="max").reset_index()
    baseline = drawn["metric"].map(frame.groupby("metric")["baseline"].first())
    return pd.concat([frame[~random], drawn.assign(order="random", baseline=baseline)], ignore_index=True)


def _caption(context: FigureContext, frames: dict[str, pd.DataFrame], metrics: tuple[str, ...]) -> str:
    count = max(frame["heads"].max() for frame in frames.values())
    steps = next(iter(frames.values()))["heads"].nunique()
    facts = []
    for name, frame in frames.items():
        first = frame[frame["metric"] == metrics[0]]
        table = first.pivot(index="heads", columns="order", values="effect")
        at = int(table.index[np.abs(np.log(table.index / (count / 10))).argmin()])
        row = table.loc[at]
        facts.append(
            f"{name}, without {at} heads: {row[BEST]:.1f} (the most important), {row['random']:.1f} (random ones), "
            f"{row[LEAST]:.1f} (the least important), all heads {first['baseline'].iloc[0]:.1f}"
        )
    runs = listed([f"{domain.run.folder.name}" for domain in context])
    return (
        f"Heads of both streams ({count}) set to zero together, more to the right ({steps} steps); exact, with "
        "everything downstream recomputed. Most and least important heads come first by gate gradients of the joint "
        "margin on the "
        f"same images; {RANDOM} orders are random (grey: their mean and range). Bands of the other two are 95 % "
        f"bootstrap intervals of the change over images; dotted: nothing removed. {named(metrics[0])}: "
        f"{'; '.join(facts)}. One run a domain ({runs}), means over categories of {images_of(context)}. "
        f"{made_on(context)}"
    )


SPEC = FigureSpec("ablation", "Ablation curves: most important first against random", draw)
