"""Figure 6: which heads draw the anomaly map of a picture, and which work against it."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from headlens import heads
from headlens.figures.context import Material
from headlens.figures.examples import examples
from headlens.figures.spec import Drawn, Recipe, made_on
from headlens.heads.map_parts import peak_of
from headlens.plots.head_maps import head_maps
from headlens.plots.style import COLUMN

TOP = 3
PLACE = 1  # the second category: in the shipped industrial set the first is plain stone


def draw(material: Material) -> Drawn:
    """A part of the figure for each domain: the picture, the sum of all parts, the strongest heads of either sign."""
    fig = Figure(figsize=(COLUMN, 1.9 * len(material.subjects)), layout="constrained")
    parts = np.atleast_1d(np.asarray(fig.subfigures(len(material.subjects), 1, squeeze=True)))
    said = []
    for subject, on in zip(material, parts, strict=True):
        run = subject.run
        shown = examples(subject.few, PLACE + 1, run.size)[-1]
        found = heads.map_parts(run.detector, shown.image, size=run.size, thing=shown.record.category)
        where: dict[str, Any] = {"peak": peak_of(found.margin), "shape": found.native, "mask": shown.mask}
        head_maps(found.image, found.margin, found.strongest(TOP), on=on, title=shown.title, **where)
        ranked = found.shares["peak"].sort_values(ascending=False)
        said.append(
            f"{subject.domain} ({shown.record.name}): {100 * ranked[:TOP].sum() / ranked[ranked > 0].sum():.0f} % of "
            f"all that heads add to the peak comes from the first {TOP}, and "
            f"{100 * ranked[-TOP:].sum() / ranked[ranked < 0].sum():.0f} % of what they take from it from the last"
        )
    caption = (
        "Margin maps (abnormal minus normal logit, mean over taps) of one picture as an exact sum over heads of both "
        "streams and a rest (MLPs, biases, embedding). Left: the picture with its flaw outlined, and the sum of all "
        f"parts. Right: the {TOP} heads that add most to the peak over the rest of the picture (above) and the {TOP} "
        "that take most from it (below); the peak, outlined in every map, is the 5 % of patches where the sum is "
        "highest. Of every map its own mean over the picture is taken off: white is the mean, not 0, and the number "
        "above a head's map is the mean of what is drawn within the peak, in logits. Heads of a picture share a scale. "
        f"{'; '.join(said)}. Each picture is the first flawed one of its category, whatever came of it. Runs: "
        f"{', '.join(subject.run.folder.name for subject in material)}. {made_on(material)}"
    )
    return Drawn(fig, caption, [subject.run for subject in material], [subject.few for subject in material])


RECIPE = Recipe("head-maps", "Per-head anomaly maps", draw)
