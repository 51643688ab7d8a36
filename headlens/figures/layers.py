"""Figure 5: what each layer is worth: all its heads of one stream taken away together."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from headlens import heads
from headlens.detectors.scoring import check_map
from headlens.figures.context import FigureContext
from headlens.figures.spec import FigureSpec, RenderedFigure, images_of, listed, made_on
from headlens.plots.effects import profile
from headlens.plots.style import named, width


def draw(context: FigureContext) -> RenderedFigure:
    """How far the map moves, and what the image metric loses; a column for each domain, a line for each stream."""
    for domain in context:
        check_map(domain.run.detector.reads_map, "the figure layers")
    ranked = all("image_auroc" in domain.subset.metrics for domain in context)
    metrics = ("anomaly_map", "image_auroc" if ranked else "joint_margin")
    frames = {}
    for domain in context:
        detector = domain.run.detector
        variants = heads.whole_layers(heads.heads_of(detector, streams=detector.plan.streams))
        frame = context.ablation(domain, "layers", variants, metrics[1:] if ranked else ())
        frames[domain.name] = frame[frame["metric"].isin(metrics)]
    fig = Figure(figsize=(width(len(context.domains)), 2.9), layout="constrained")
    axes = fig.subplots(2, len(frames), squeeze=False, sharex=True, sharey="row")
    for place, (metric, row) in enumerate(zip(metrics, axes, strict=True)):
        scale = 1 if metric == "joint_margin" else 100
        unit = {"anomaly_map": "map moves by\n(relative L1, %)", "image_auroc": "change of I-AUROC\n(points)"}
        for (name, effects), ax in zip(frames.items(), row, strict=True):
            shown = effects[effects["metric"] == metric]
            shown = shown.assign(**{name: scale * shown[name] for name in ("effect", "low", "high")})
            profile(shown, ax, title="" if place else name, label=unit.get(metric, named(metric)))
            ax.get_legend().remove()
            for line in ax.lines:
                line.set_markersize(2)
            ax.label_outer()
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    runs, images = [domain.run for domain in context], [domain.subset for domain in context]
    return RenderedFigure(fig, _caption(context, frames, metrics), runs, images)


def _caption(context: FigureContext, frames: dict[str, pd.DataFrame], metrics: tuple[str, str]) -> str:
    facts = []
    for name, effects in frames.items():
        for stream, rows in effects[effects["metric"] == "anomaly_map"].groupby("stream", sort=True):
            top = rows.loc[rows["effect"].idxmax()]
            facts.append(f"{name}, {stream}: layer {top['layer']}, {100 * top['effect']:.0f} %")
    clear = []
    for name, effects in frames.items():
        rows = effects[effects["metric"] == metrics[1]]
        real = rows[rows["high"] > rows["low"]]  # of single images there is nothing to draw from
        apart = real[np.sign(real["low"]) * np.sign(real["high"]) > 0]
        clear.append(f"{len(apart)} of {len(rows)} ({name})")
    runs = listed([domain.run.folder.name for domain in context])
    return (
        "All heads of one layer and one stream set to zero together; exact, with everything downstream recomputed. "
        "Above: how far "
        "the anomaly map moves (L1 distance, relative to the larger of the two maps' L1 norms). Below: change of "
        f"{named(metrics[1])}{' of the joint score' if metrics[1] == 'image_auroc' else ''}. Bars are 95 % bootstrap "
        f"intervals over images. The map moves most without {'; '.join(facts)}. Intervals of the change below exclude "
        f"0 in {listed(clear)} layers, no correction for their number. Streams stand a little apart at each layer; the "
        f"local one begins at a later layer; layers count from 0. One run a domain ({runs}), means over categories of "
        f"{images_of(context)}. {made_on(context)}"
    )


SPEC = FigureSpec("layers", "Layer profile", draw)
