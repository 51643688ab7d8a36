"""Figure 1: the grid of learned head weights, one panel a domain."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from headlens.figures.context import KEYS, FigureContext
from headlens.figures.spec import FigureSpec, RenderedFigure, counted, listed, made_on
from headlens.plots.grid import grid
from headlens.plots.style import width


def draw(context: FigureContext) -> RenderedFigure:
    """Means over runs; all panels share one scale, white at 1, where every weight began."""
    weights = {domain.name: context.weights(domain).groupby(KEYS, sort=False)["value"] for domain in context}
    frames = {name: each.agg(mean="mean", spread="std").reset_index() for name, each in weights.items()}
    streams = list(dict.fromkeys(stream for frame in frames.values() for stream in frame["stream"]))
    reach = max(float((frame["mean"] - 1).abs().max()) for frame in frames.values()) or 1.0
    layers = max(frame["layer"].nunique() for frame in frames.values())
    fig = Figure(
        figsize=(width(len(context.domains)), 0.75 + (0.35 + 0.085 * max(10, layers)) * len(streams)),
        layout="constrained",
    )
    axes = fig.subplots(len(streams), len(frames), squeeze=False, sharey=True)
    for stream, row in zip(streams, axes, strict=True):
        for (name, frame), ax in zip(frames.items(), row, strict=True):
            count = counted(len(context.domains[name].runs.whole), "run")
            title = f"{name} ({count})" + (f", {stream}" if len(streams) > 1 else "")
            shown = frame[frame["stream"] == stream]
            grid(shown, "mean", ax, title=title, centre=1, limits=(1 - reach, 1 + reach), bar=False, every=4)
            ax.tick_params(left=ax is row[0])
            ax.label_outer()
    bar = fig.colorbar(axes[0, 0].collections[0], ax=list(axes.flat), location="bottom", aspect=35, pad=0.02)
    bar.set_label("head weight (mean over runs)")
    runs = [run for domain in context for run in domain.weighed]
    return RenderedFigure(fig, _caption(context, frames, streams), runs)


def _caption(context: FigureContext, frames: dict[str, pd.DataFrame], streams: list[str]) -> str:
    facts = []
    for name, frame in frames.items():
        weights, spread = frame["mean"], frame["spread"].median()
        text = (
            f"{name}: {weights.min():.2f} to {weights.max():.2f}, {100 * (weights > 1).mean():.0f} % of "
            f"{len(frame)} heads above 1"
        )
        if spread == spread:
            text += f", standard deviation between runs {spread:.2f} (median over heads)"
        facts.append(text)
    runs = listed([counted(len(s.runs.whole), f"{s.name} run") for s in context])
    seeds = ", which differ in their seed" if any(len(s.runs.whole) > 1 for s in context) else ""
    return (
        f"Learned head weights of the {listed(streams)} stream, mean over {runs}{seeds}. A weight "
        "multiplies the output of a head, and starts at 1 (white); red is above 1, blue below. Layers and "
        f"heads count from 0; the first layer is at the bottom. {'; '.join(facts)}. {made_on(context)}"
    )


SPEC = FigureSpec("weights", "Learned head weights of every domain", draw)
