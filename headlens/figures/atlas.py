"""Figure 10: the most important heads on one page: what they attend to and draw, weights, importance, names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from headlens import heads
from headlens.figures.by_method import images_of, importance, runs_in_words, runs_of
from headlens.figures.context import KEYS, Domain, Example, FigureContext, Frames, examples
from headlens.figures.spec import FigureSpec, RenderedFigure, listed, made_on
from headlens.heads.map_parts import peak_of
from headlens.heads.variants import Head, names_of
from headlens.lab.view import HeadView
from headlens.plots import atlas as plot
from headlens.plots.head_maps import Panel

MOST = 8
"""Heads on the page, as many of each stream."""
PHRASES = 3
"""Of each head and domain."""
BETTER = 0.95
"""The share of random draws that phrases must beat to be more than chance."""


def draw(context: FigureContext) -> RenderedFigure:
    """A row for each head: attention and map in one image of each domain, importance by method, phrases."""
    frame = importance(context)
    chosen = most_important(frame, MOST)
    shown, panels, phrases = {}, {}, {}
    for domain in context:
        example = examples(domain.subset, 2, domain.run.size)[-1]  # the one of the figure of head maps
        shown[domain.name], panels[domain.name] = _seen(domain, example, chosen)
        phrases[domain.name] = _named(context, domain, chosen)
    weights = {domain.name: _weights(domain) for domain in context}
    entries = [
        plot.Entry(
            str(head),
            head.stream,
            {name: of_domain[head] for name, of_domain in panels.items()},
            {name: learned[head] for name, learned in weights.items() if head in learned},
            {name: of_domain[head] for name, of_domain in phrases.items()},
        )
        for head in chosen
    ]
    strip = frame.assign(name=names_of(frame))
    strip = strip[strip["name"].isin(map(str, chosen))].groupby(["name", "method", "domain"], sort=False)["value"]
    strip = strip.agg(value="mean", low="min", high="max").reset_index()
    drawn = plot.atlas(shown, entries, strip)
    runs = [run for domain in context for runs in runs_of(domain).values() for run in runs]
    caption = _caption(context, frame, chosen, phrases)
    return RenderedFigure(drawn.figure, caption, runs, [domain.subset for domain in context], dpi=150)


def most_important(frame: pd.DataFrame, count: int) -> list[Head]:
    """Those of each stream with the highest importance, mean over methods and domains that have it; global ones first.

    >>> rows = pd.DataFrame({"stream": "local", "layer": [5, 5, 6], "head": [0, 1, 0], "value": [1.0, 3.0, 2.0]})
    >>> [str(head) for head in most_important(rows.assign(domain="d", method="m", run="r"), 2)]
    ['L5H1/local', 'L6H0/local']
    """
    means = frame.groupby(["domain", "method", *KEYS])["value"].mean().groupby(KEYS).mean()
    streams = list(dict.fromkeys(means.index.get_level_values("stream")))
    chosen = []
    for stream in streams:
        ranked = means[means.index.get_level_values("stream") == stream].sort_values(ascending=False, kind="stable")
        chosen += [Head(*key) for key in ranked.index[: count // len(streams)]]
    return chosen


def _seen(domain: Domain, example: Example, chosen: list[Head]) -> tuple[plot.Shown, dict[Head, Panel]]:
    """The domain's image, and what its first run's heads do in it."""
    run, images = domain.run, domain.subset.where(lambda record: record.name == example.record.name)
    view = HeadView({domain.name: run}, images, size=run.size)
    margin = heads.map_parts(run.detector, example.image, size=run.size, category=example.record.category).margin
    looks = _anomalous(example.mask, margin)
    panels = {}
    for head in chosen:
        at = looks if head.stream == "local" else None
        panels[head] = Panel(view.attention(domain.name, 0, head, at), view.contribution(domain.name, 0, head))
    return plot.Shown(example.seen, example.mask, example.shape, margin, example.title, looks), panels


def _anomalous(mask: np.ndarray | None, margin: np.ndarray) -> tuple[int, int]:
    """The patch that the mask covers most, the one in the middle of several; without a mask that of the peak."""
    rows, columns = margin.shape
    covered = peak_of(margin)
    if mask is not None and mask.any():
        shares = mask.reshape(rows, mask.shape[0] // rows, columns, mask.shape[1] // columns).mean((1, 3))
        covered = shares == shares.max()
    places = np.flatnonzero(covered)
    row, column = np.unravel_index(places[len(places) // 2], margin.shape)
    return int(row), int(column)


def _weights(domain: Domain) -> dict[Head, float]:
    """Of every weighted head, the mean over the domain's runs; empty where none is learned."""
    if not domain.run.detector.head_weights():
        return {}
    frames = [heads.weights(run.detector).frame for run in domain.runs.whole]
    means = pd.concat(frames).groupby(KEYS)["value"].mean()
    return {Head(*key): float(value) for key, value in means.items()}


def _named(context: FigureContext, domain: Domain, chosen: list[Head]) -> dict[Head, tuple[list[str], bool]]:
    """The first phrases of each head in the domain's first run, and whether they explain more than chance."""
    run = domain.run
    asked = context.asked(run.detector, domain.subset, what="naming", heads=list(map(str, chosen)), phrases=PHRASES)

    def compute(parts: Path | None) -> Frames:
        options: dict[str, Any] = {"phrases": PHRASES, "batch": context.batch, "out": parts}
        with context.progress(f"{domain.name}: names of {len(chosen)} heads", len(domain.subset)) as update:
            return {"": heads.name_heads(run.detector, domain.subset, chosen, progress=update, **options).frame}

    frame = context.cache.of(f"names-{domain.name}-{run.folder.name}", asked, compute)[""]
    names = {}
    for key, rows in frame.groupby(KEYS, sort=False):
        phrases = rows["phrase"].dropna().tolist()
        names[Head(*key)] = (phrases, bool(phrases) and bool(rows["beats"].iloc[-1] >= BETTER))
    return names


def _caption(
    context: FigureContext,
    frame: pd.DataFrame,
    chosen: list[Head],
    phrases: dict[str, dict[Head, tuple[list[str], bool]]],
) -> str:
    counts = pd.Series([head.stream for head in chosen]).value_counts(sort=False)
    which = listed([f"{count} {stream}" for stream, count in counts.items()])
    better = [
        f"{sum(more for _, more in of_domain.values())} of {len(of_domain)} ({name})"
        for name, of_domain in phrases.items()
    ]
    tops = []
    for (domain, method), rows in frame.groupby(["domain", "method"], sort=False):
        means = rows.groupby(KEYS)["value"].mean()
        shared = sum(Head(*key) in chosen for key in means.nlargest(len(chosen)).index)
        tops.append(f"{shared} ({method}, {domain})")
    names = listed([f"{domain.run.folder.name} on an image of {domain.images.name}" for domain in context])
    return (
        f"The most important heads of each stream ({which}), by importance for the joint margin, mean over methods and "
        f"domains that have the head. A row for each. Maps of {names}; the anomaly is outlined, and the first row has "
        "the image and the margin map that all parts add up to. Left of each pair: attention, of CLS for a global "
        "head, of the framed patch, which the mask covers most, for a local one. Right: what the head draws minus its "
        "mean, in logits, red for anomalous: a local head into the margin of each patch (mean over taps), a global one "
        "into the image margin, by the patches that CLS "
        "attends to. The end of each map's scale is printed above it. Weights are means over runs. Points: importance "
        "in each method, mean over runs, with their range (first "
        f"{max(len(runs) for domain in context for runs in runs_of(domain).values())} seeds), on "
        f"{images_of(context)}. Phrases: the first {PHRASES} by TextSpan that span what the head writes over "
        f"{listed([f'{len(domain.subset)} images of {domain.images.name}' for domain in context])}, in colour where "
        f"they explain more than {100 * BETTER:.0f} % of random mixtures do: {listed(better)} heads. Of the first "
        f"{len(chosen)} heads of each method, so many are on this page: {listed(tops)}. Runs: "
        f"{runs_in_words(context)}. {made_on(context)}"
    )


SPEC = FigureSpec("atlas", "Atlas of the most important heads", draw)
