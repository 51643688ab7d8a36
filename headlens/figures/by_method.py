"""Importance of every head in every method and domain: what figures about several methods are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from headlens.figures.context import KEYS, Domain, FigureContext
from headlens.figures.spec import counted, listed
from headlens.training.run import Run

SEEDS, IMAGES = 3, 2
"""Runs of a method whose gradients are taken, and images of each category: as few as a laptop does in minutes."""


def runs_of(domain: Domain) -> dict[str, list[Run]]:
    """The first seeds of each method."""
    return {method: runs[:SEEDS] for method, runs in domain.runs.methods.items()}


def importance(context: FigureContext) -> pd.DataFrame:
    """Domain, method, run, stream, layer, head, value: importance for the joint margin.

    A run's mean head of a stream that all methods have is 1: methods differ in how steep their margins are.
    """
    frames = []
    for domain in context:
        for method, runs in runs_of(domain).items():
            for run in runs:
                rows = context.importance(domain, run, IMAGES)
                about = {"domain": domain.name, "method": method, "run": run.folder.name}
                frames.append(rows[[*KEYS, "importance"]].assign(**about))
    every = pd.concat(frames, ignore_index=True)
    mean = every[every["stream"].isin(streams_of_all(every))].groupby("run")["importance"].mean()
    value = every["importance"] / every["run"].map(mean)
    return every.assign(value=value)[["domain", "method", "run", *KEYS, "value"]]


def streams_of_all(frame: pd.DataFrame) -> list[str]:
    """The streams that every run of a frame has."""
    return [str(stream) for stream, runs in frame.groupby("stream")["run"] if runs.nunique() == frame["run"].nunique()]


def by_run(frame: pd.DataFrame, of: Sequence[str]) -> dict[Any, list[pd.DataFrame]]:
    """Rows of the runs of each group, a frame for each run, as ``headlens.heads.compare`` takes them.

    >>> rows = pd.DataFrame({"method": ["a", "a", "b"], "run": ["a-0", "a-1", "b-0"], "value": 1.0})
    >>> {name: len(runs) for name, runs in by_run(rows, ["method"]).items()}
    {'a': 2, 'b': 1}
    """
    groups = frame.groupby(of[0] if len(of) == 1 else list(of), sort=False)
    return {name: [run for _, run in rows.groupby("run", sort=False)] for name, rows in groups}


def images_of(context: FigureContext) -> str:
    """How many images gradients are of."""
    words = []
    for domain in context:
        count = len(context.few(domain, IMAGES))
        words.append(f"{counted(count, 'image')} of {domain.images.name}")
    return f"{listed(words)} ({IMAGES} of each category)"


def runs_in_words(context: FigureContext) -> str:
    """How many runs of each method."""
    words = []
    for domain in context:
        counts = [f"{len(runs)} {method}" for method, runs in runs_of(domain).items()]
        words.append(f"{domain.name}: {listed(counts)}")
    return "; ".join(words)
