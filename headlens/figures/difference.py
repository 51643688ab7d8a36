"""Figure 2: where the domains' head weights differ, and whether domains agree less than seeds do."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from headlens import heads
from headlens.errors import ConfigError
from headlens.figures.context import FigureContext
from headlens.figures.spec import FigureSpec, RenderedFigure, counted, listed
from headlens.plots.grid import grid
from headlens.plots.intervals import intervals
from headlens.plots.style import COLUMN, PAGE


def draw(context: FigureContext) -> RenderedFigure:
    """Two domains: differences with a dot on significant ones; more: a matrix of domains."""
    if len(context.domains) < 2:
        names = ", ".join(context.domains)
        raise ConfigError(f"a difference takes two domains or more; here is {names}: name runs of another")
    runs: dict[str, Any] = {domain.name: domain.weighed for domain in context}
    result = heads.compare(runs, k=1, seed=context.seed)  # overlaps of top heads are not shown
    fig, about = _two(result) if len(runs) == 2 else _several(result)
    return RenderedFigure(fig, about + result.paragraph, [run for several in runs.values() for run in several])


def _two(result: heads.Comparison) -> tuple[Figure, str]:
    """A row for each stream; below, rank correlations of runs. And the beginning of the caption."""
    (first, second), frame = result.groups, result.frame
    tested = bool(frame["q"].notna().any())  # one run says nothing of others
    level = f"{result.provenance['level']:.3g}"
    streams, layers = list(frame["stream"].unique()), frame.groupby("stream")["layer"].nunique().max()
    tall = 0.5 + 0.1 * max(10, layers)
    fig = Figure(figsize=(COLUMN, tall * len(streams) + 1.0), layout="constrained")
    axes = fig.subplots(len(streams) + 1, 1, height_ratios=[tall] * len(streams) + [0.8])
    reach = float(frame["difference"].abs().max()) or 1.0
    for stream, ax in zip(streams, axes[:-1], strict=True):
        rows = frame[frame["stream"] == stream]
        scale: dict[str, Any] = {"centre": 0, "limits": (-reach, reach), "every": 4}
        grid(rows, "difference", ax, label="difference of head weight", marks="significant", **scale)
        of = f", {stream} stream" if len(streams) > 1 else ""
        dots = f" (dots: q ≤ {level})" if tested else ""
        ax.set_title(f"{second} − {first}{of}{dots}")
    table = result.agreement[result.agreement["statistic"] == "spearman"]
    table = table[table["kind"] != "contrast"]
    rows = table.rename(columns={"pairs": "row"}).assign(group="pairs of runs")
    intervals(rows, axes[-1], label="rank correlation of two runs' weights")
    axes[-1].set_xlim(min(-0.05, float(np.nanmin([rows["value"].min(), rows["low"].min(), 0.0]))), 1.02)
    marked = f"; dots mark heads with q ≤ {level} by a permutation of runs whose null is pooled over heads"
    about = (
        f"Difference of the mean head weights, {second} minus {first}{marked if tested else ''}. Below: Spearman's "
        "correlation of two runs' weights over all heads, within a domain (other seeds) and between domains "
        f"({listed([counted(count, 'pair') for count in table['count']])})"
        f"{', with 95 % jackknife intervals over runs' if tested else ''}. Layers and heads count from 0. "
    )
    return fig, about


def _several(result: heads.Comparison) -> tuple[Figure, str]:
    """Domains by domains; and the beginning of the caption."""
    count, level = len(result.groups), f"{result.provenance['level']:.3g}"
    fig = Figure(figsize=(PAGE, 0.4 + min(0.75 * count, 2.6)), layout="constrained")
    result.matrix(fig.subplots(1, 2))
    tested = bool(result.frame["q"].notna().any())
    about = (
        "Agreement of head weights, domains by domains. Left: Spearman's correlation of two runs' weights over all "
        "heads; on the diagonal runs of one domain that differ in their seed"
        f"{', with 95 % jackknife intervals over runs' if tested else ''}. Right: how many heads differ with "
        f"q ≤ {level}, by a permutation of runs whose null is pooled over heads; the rate is over all heads of all "
        "pairs. "
    )
    return fig, about


SPEC = FigureSpec("difference", "Difference of the domains' head weights, with significance", draw)
