"""Figure 6: which heads draw the anomaly map of an image, and which work against it."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from headlens import heads
from headlens.figures.context import FigureContext, examples
from headlens.figures.spec import FigureSpec, RenderedFigure, made_on
from headlens.heads.map_parts import peak_of
from headlens.plots.head_maps import head_maps
from headlens.plots.style import COLUMN

TOP = 3


def draw(context: FigureContext) -> RenderedFigure:
    """A part of the figure for each domain: the image, the sum of all parts, the strongest heads of either sign."""
    fig = Figure(figsize=(COLUMN, 2.3 * len(context.domains)), layout="constrained")
    parts = np.atleast_1d(np.asarray(fig.subfigures(len(context.domains), 1, squeeze=True)))
    facts = []
    for domain, on in zip(context, parts, strict=True):
        run = domain.run
        shown = examples(domain.subset, 2, run.size)[-1]  # in the shipped industrial set the first is plain stone
        result = heads.map_parts(run.detector, shown.image, size=run.size, category=shown.record.category)
        where: dict[str, Any] = {"peak": peak_of(result.margin), "shape": result.native, "mask": shown.mask}
        head_maps(result.image, result.margin, result.strongest(TOP), on=on, title=shown.title, **where)
        ranked = result.shares["peak"].sort_values(ascending=False)
        facts.append(
            f"{domain.name} ({shown.record.name}): {100 * ranked[:TOP].sum() / ranked[ranked > 0].sum():.0f} % of "
            f"all that heads add to the peak comes from the first {TOP}, and "
            f"{100 * ranked[-TOP:].sum() / ranked[ranked < 0].sum():.0f} % of what they take from it from the last"
        )
    caption = (
        "Margin maps (abnormal minus normal logit, mean over taps) of one image as an exact sum over heads of both "
        "streams and a rest (MLPs, biases, embedding). Left: the image with its anomaly outlined, and the sum of all "
        f"parts. Right: the {TOP} heads that add most to the peak over the rest of the image (above) and the {TOP} "
        "that take most from it (below); the peak, outlined in every map, is the 5 % of patches where the sum is "
        "highest. Each map has its mean over the image subtracted: white is the mean, not 0, and the number "
        "above a head's map is the mean of what is drawn within the peak, in logits. Heads of an image share a scale. "
        f"{'; '.join(facts)}. Each image is the first anomalous one of its category, not selected by its result. Runs: "
        f"{', '.join(domain.run.folder.name for domain in context)}. {made_on(context)}"
    )
    return RenderedFigure(fig, caption, [domain.run for domain in context], [domain.subset for domain in context])


SPEC = FigureSpec("head-maps", "Per-head anomaly maps", draw)
