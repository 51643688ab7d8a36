"""One value for each head of each run, of groups of runs that are checked to be of one kind and on one backbone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from headlens.errors import ConfigError, ShapeError
from headlens.heads.sources import Item, Source, identity, source_of
from headlens.heads.variants import Head


def grouped_sources(groups: Mapping[str, Item | Sequence[Item]], stream: str | None = None) -> dict[str, list[Source]]:
    """The runs of each group, each run once; of one stream's heads, or of all.

    Raises:
        ConfigError: no run, a run twice, different backbones, nothing learned, more than one kind.
        ShapeError: no head of that stream.
    """
    found = {}
    for group, runs in groups.items():
        several = list(runs) if isinstance(runs, (list, tuple)) else [runs]
        found[group] = [source_of(run, f"{group} {number}", stream) for number, run in enumerate(several)]
        if not found[group]:
            raise ConfigError(f"{group}: no run; give at least one, and three for intervals")
    _check([source for each in found.values() for source in each])
    return found


def _check(every: Sequence[Source]) -> None:
    """Raises ConfigError where runs cannot be compared."""
    first = every[0]
    seen: dict[str, str] = {}
    for source in every:
        name = source.name
        if source.of != first.of:
            raise ConfigError(f"{first.name} gives {first.of}, {name} gives {source.of}; give all of one kind")
        ours, theirs = identity(first.backbone), identity(source.backbone)
        if ours != theirs:
            raise ConfigError(
                f"{first.name} is on {ours}, {name} on {theirs}: their heads do not correspond; compare runs on one "
                "backbone"
            )
        if first.about.get("metric") != source.about.get("metric"):
            raise ConfigError(f"{name}: {first.of} for {source.about['metric']}, not {first.about['metric']}; use one")
        if source.about.get("sha256"):
            key = json.dumps([source.about["sha256"], source.about.get("dataset")])  # one detector may see two sets
            if key in seen:
                raise ConfigError(f"{name} and {seen[key]} are the same run; a run counts once, leave one out")
            seen[key] = name


def head_table(every: Sequence[Source]) -> tuple[pd.DataFrame, np.ndarray]:
    """The heads that all runs have, N rows of ``KEYS``, and their values [R, N].

    Raises:
        ShapeError: runs that have different heads, heads twice, or values that are not finite.
    """
    columns: list[pd.Series] = []
    for source in every:
        column = source.column()
        if columns and (odd := column.index.symmetric_difference(columns[0].index)).size:
            raise ShapeError(
                f"{every[0].name} has {len(columns[0])} heads, {source.name} {len(column)}: {Head(*odd[0])} is only "
                "in one of them; compare runs with the same heads, or one stream that all have"
            )
        columns.append(column)
    return columns[0].index.to_frame(index=False), np.stack(columns)
