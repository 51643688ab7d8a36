"""Rankings of heads: what one run says of its heads, as an order of the heads of another detector, the best first."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
import scipy  # its parts are imported when they are used
from torch import Tensor

from headlens.backbone.plan import STREAMS
from headlens.detectors.detector import Detector, detector_of
from headlens.errors import ConfigError, ShapeError
from headlens.heads.sources import KEYS, NEUTRAL, Item, Source, identity, source_of
from headlens.heads.variants import Head, heads_of, stream_layers

Order: TypeAlias = "Item | Sequence[Head | str]"
"""A run with head weights, a result of ``importance``, a frame with a value for each head, or heads, the best first."""


@dataclass(frozen=True)
class Ranking:
    """Heads in an order.

    Args:
        name: what it is called in results.
        heads: the best first.
        source: what it was made of.
        weights: learned head weights, ``{stream: [L, H]}``, where it is a run that has them.
    """

    name: str
    heads: tuple[Head, ...]
    source: Source
    weights: Mapping[str, Tensor]


def rankings_of(detector: Detector, orders: Mapping[str, Order], streams: Sequence[str] | None = None) -> list[Ranking]:
    """Rankings of the same heads of a detector.

    Learned weights rank by their distance from 1; importance and values of a frame by their size, the largest first. A
    frame with true and false is a mask. Equal values come in the order of stream (global, local), layer and head.

    Args:
        detector: whose heads are ranked.
        orders: where the rankings come from, by name.
        streams: which heads; by default those of all streams that the detector has and every ranking has.

    Raises:
        ConfigError: no ranking, no common stream, another backbone, or a run without head weights.
        ShapeError: a head that is missing, that does not exist, that is there twice, or whose value is not finite.
    """
    if not orders:
        raise ConfigError("no ranking of heads; give a run with head weights, importance, a frame, or heads in order")
    if unknown := [stream for stream in streams or () if stream not in STREAMS]:
        raise ConfigError(f"stream {unknown[0]!r} does not exist; streams are {', '.join(STREAMS)}")
    sources = {name: _source(order, name) for name, order in orders.items()}
    columns = {name: source.column() for name, source in sources.items()}
    ours = identity(asdict(detector.backbone.provenance))
    for name, source in sources.items():
        theirs = identity(source.backbone)
        if theirs and theirs != ours:
            raise ConfigError(
                f"{name} is on {theirs}, the detector on {ours}: their heads do not correspond; rank and measure "
                "on one backbone"
            )
    there = [stream for stream, layers in stream_layers(detector).items() if len(layers)]
    asked = there if streams is None else [stream for stream in there if stream in streams]
    ranked = {name: set(column.index.get_level_values("stream")) for name, column in columns.items()}
    for name, its in ranked.items():
        if not its & set(asked):
            raise ConfigError(
                f"{name} ranks heads of the {' and '.join(sorted(its))} stream, and the detector ({detector.method}) "
                f"has heads of the {' and '.join(there)} stream, of which {' and '.join(asked) or 'none'} are asked for"
            )
    common = [stream for stream in asked if all(stream in its for its in ranked.values())]
    if not common:
        raise ConfigError(f"the rankings {', '.join(orders)} have no stream in common; measure them one by one")
    return [_ranking(detector, name, sources[name], columns[name], common, orders[name]) for name in orders]


def _source(order: Order, name: str) -> Source:
    if isinstance(order, Sequence) and not isinstance(order, str):
        heads = [Head.of(head) if isinstance(head, str) else Head(*head) for head in order]
        frame = pd.DataFrame(heads, columns=KEYS)
        return Source("value", frame.assign(value=range(len(heads), 0, -1)), {}, {"name": name})
    return source_of(order, name)


def _ranking(
    detector: Detector, name: str, source: Source, column: pd.Series, streams: Sequence[str], order: Order
) -> Ranking:
    column = column[column.index.get_level_values("stream").isin(streams)]
    ranked, expected = [Head(*key) for key in column.index], heads_of(detector, streams=streams)
    theirs, ours = _grid(ranked), _grid(expected)
    if theirs and theirs != ours:
        raise ShapeError(f"{name} ranks heads of another grid ({theirs}) than the detector's ({ours})")
    if missing := sorted(set(expected) - set(ranked)):
        raise ShapeError(
            f"{name} does not rank {missing[0]}, which the detector has ({len(missing)} of {len(expected)} heads are "
            "missing): give each head a value"
        )
    if unknown := sorted(set(ranked) - set(expected)):
        raise ShapeError(f"{name} ranks {unknown[0]}, which the detector does not have or does not read; leave it out")
    size = (column - NEUTRAL[source.of]).abs() if source.of == "weight" else column
    values = dict(zip(ranked, size, strict=True))
    heads = tuple(sorted(values, key=lambda head: (-values[head], head)))
    weights = detector_of(order).head_weights() if source.of == "weight" else {}
    return Ranking(name, heads, source, {stream: weight.detach() for stream, weight in weights.items()})


def _grid(heads: Sequence[Head]) -> str:
    """Layers and heads of each stream, such as ``global 0..23 x 0..15``; empty where heads are missing in between."""
    parts = []
    for stream in dict.fromkeys(head.stream for head in heads):
        layers, numbers = ({head[axis] for head in heads if head.stream == stream} for axis in (1, 2))
        spans = [f"{min(numbers)}..{max(numbers)}" for numbers in (layers, numbers)]
        if len(layers) * len(numbers) != sum(head.stream == stream for head in heads):
            return ""
        parts.append(f"{stream} {spans[0]} x {spans[1]}")
    return ", ".join(parts)


@dataclass(frozen=True)
class Overlap:
    """How far two sets of heads agree.

    Args:
        common: heads in both.
        jaccard: their share of the heads in either; 1 where both are empty.
        chance: what it is for sets of these sizes drawn at random, on average.
        p: the chance that random sets have as many heads in common, or more.
    """

    common: int
    jaccard: float
    chance: float
    p: float


def overlap_of(first: Collection[Head], second: Collection[Head], total: int) -> Overlap:
    """The agreement of two sets of heads out of ``total``; chance is exact, by the hypergeometric distribution.

    >>> heads = [Head("local", 5, number) for number in range(4)]
    >>> overlap_of(heads[:2], heads[1:3], 4)
    Overlap(common=1, jaccard=0.333..., chance=0.388..., p=0.833...)
    """
    a, b, common = len(first), len(second), len(set(first) & set(second))
    drawn, number = scipy.stats.hypergeom(total, a, b), np.arange(min(a, b) + 1)
    share = number / np.maximum(a + b - number, 1) if a + b else np.ones(1)
    return Overlap(common, float(share[common]), float(drawn.pmf(number) @ share), float(drawn.sf(common - 1)))
