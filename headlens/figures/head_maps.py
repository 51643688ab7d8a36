"""Figure 6: which heads draw the anomaly map of a picture, and which work against it."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from headlens import heads
from headlens.figures.drawing import Drawn, Recipe, made_on
from headlens.figures.examples import examples
from headlens.figures.material import Material
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
        maps = {name.replace("  ", "\n"): own - own.mean() for name, own in found.strongest(TOP).items()}
        margin = found.margin - found.margin.mean()
        head_maps(found.image, margin, maps, on=on, mask=shown.mask, title=shown.title)
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
        "that take most from it (below); the peak is the 5 % of patches where the sum is highest, and the number is "
        "what the head adds there more than on the whole, in logits. Of every map its own mean over the picture is "
        "taken off: white is the mean, not 0. Heads of a picture share one scale. "
        f"{'; '.join(said)}. Each picture is the first flawed one of its category, whatever came of it. Runs: "
        f"{', '.join(subject.run.folder.name for subject in material)}. {made_on(material)}"
    )
    return Drawn(fig, caption, [subject.run for subject in material], [subject.few for subject in material])


RECIPE = Recipe("head-maps", "Per-head anomaly maps", draw)
