"""Figure 7: which pixels the joint score comes from, by several methods, in every domain."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from headlens.attribution import attribute
from headlens.attribution.methods import method_of
from headlens.detectors.scoring import check_map
from headlens.errors import ConfigError
from headlens.figures.context import RULE, Domain, Example, FigureContext, Frames, examples
from headlens.figures.spec import FigureSpec, RenderedFigure, listed, made_on
from headlens.heads.exactness import blank_reading
from headlens.plots.gallery import Column, gallery
from headlens.units import PLURAL, Unit

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "integrated_gradients": ("joint_margin", {}),
    "occlusion": ("joint_margin", {"cells": 8}),
    "relevance": ("joint_margin", {}),
    "legrad": ("joint_margin", {}),
    "contributions": ("image_margin", {}),
}
"""Methods with their target and what is set: the joint margin, but for exact contributions, which know its parts."""


def draw(context: FigureContext) -> RenderedFigure:
    """A column for each image: itself, its anomaly map, and a row for each method.

    Raises:
        ConfigError: runs whose maps have no unit in common.
    """
    unit = _unit(context)
    columns, missed, names = [], 0.0, []
    for domain in context:
        shown = examples(domain.subset, 2, domain.run.size)
        frame = _attributed(context, domain, shown)
        names.append(f"{listed([example.title for example in shown])} ({domain.name})")
        missed = max(missed, float(frame["missed"].abs().max()))
        side = domain.run.size
        for number, example in enumerate(shown):
            rows = frame[frame["image"] == number].set_index("kind")
            maps = {kind: np.asarray(rows.at[kind, "map"]).reshape(side, side) for kind in rows.index}
            columns.append(
                Column(example.title, example.seen, example.mask, maps.pop("anomaly_map"), maps, example.shape)
            )
    unsigned = [name for name in METHODS if not method_of(name).sign]
    reads_cls = all(blank_reading(domain.run.detector).pooling.reads_cls for domain in context)
    carried = "CLS" if reads_cls else "the image feature"
    scale = "the scale 0 to 1" if unit == "probability" else "one scale, in logits"
    fig, _ = gallery(columns, "attribution, as a share of the end below it", unsigned, unit)
    caption = (
        "Attributions to pixels of the joint margin (contributions: of the image margin, the exact sum of what heads "
        f"carry from each patch to {carried}). Red supports the target, blue opposes it, 0 shows the "
        "image. Every attribution has its own scale: its end, within which 99.5 % of the pixels lie, is printed "
        "below it, in logits per pixel; relevance and LeGrad's positive gradient have no sign, and a scale from 0 "
        "(pale) "
        f"up. Anomaly maps share {scale}. Integrated gradients and occlusion replace absent "
        f"pixels by those of a blurred image (integrated gradients miss at most {100 * missed:.2g} % of the change; "
        f"occlusion: 8 x 8 cells). Images: {listed(names)}, {RULE}: no image was selected by its result. Runs: "
        f"{', '.join(domain.run.folder.name for domain in context)}. {made_on(context)}"
    )
    runs, images = [domain.run for domain in context], [domain.subset for domain in context]
    return RenderedFigure(fig, caption, runs, images, dpi=160)


def _unit(context: Iterable[Domain]) -> Unit:
    """Of the anomaly maps, which share one scale."""
    runs = [domain.run for domain in context]
    for run in runs:
        check_map(run.detector.reads_map, "the figure gallery")
    units = {run.folder.name: run.detector.scoring.unit for run in runs}
    if len(set(units.values())) > 1:
        each = ", ".join(f"{name} gives {PLURAL[unit]}" for name, unit in units.items())
        raise ConfigError(f"the anomaly maps of a gallery share one scale, but {each}: name runs of one method")
    return next(iter(units.values()))


def _attributed(context: FigureContext, domain: Domain, shown: list[Example]) -> pd.DataFrame:
    """A row for each image and method, and for its anomaly map: image, kind, missed (a share), map."""
    run = domain.run
    settings = {name: [target, method_of(name).settings(**options)] for name, (target, options) in METHODS.items()}
    names = [example.record.name for example in shown]
    asked = context.asked(run.detector, domain.subset, what="attributions", methods=settings, shown=names)

    def compute(parts: Path | None) -> Frames:
        rows: list[dict[str, Any]] = []
        with context.progress(f"{domain.name}: attributions", len(shown) * len(METHODS)) as update:
            for number, example in enumerate(shown):
                for method, (target, options) in METHODS.items():
                    how = {"size": run.size, "category": example.record.category, "progress": update, **options}
                    result = attribute(run.detector, example.image, method, target, **how)
                    missed = np.nan
                    if result.residual is not None:
                        row = result.frame.iloc[0]
                        missed = float(result.residual[0] / (row["value"] - row["baseline"]))
                    rows.append({"image": number, "kind": method, "missed": missed, "map": result.map[0].ravel()})
                shown_map = result.anomaly_map[0].ravel()
                rows.append({"image": number, "kind": "anomaly_map", "missed": np.nan, "map": shown_map})
        return {"": pd.DataFrame(rows)}

    return context.cache.of(f"attributions-{domain.name}-{run.folder.name}", asked, compute)[""]


SPEC = FigureSpec("gallery", "Attribution gallery", draw)
