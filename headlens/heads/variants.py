"""Which heads are ablated together: one head, a layer, or the first n heads of an order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from headlens.backbone.plan import STREAMS
from headlens.detectors.detector import Detector, HasDetector, detector_of
from headlens.errors import ShapeError
from headlens.heads.exactness import check_local

if TYPE_CHECKING:
    import pandas as pd


class Head(NamedTuple):
    """One attention head of one stream, counted from 0.

    >>> print(Head("global", 18, 7), Head("local", 18, 7))
    L18H7 L18H7/local
    """

    stream: str
    layer: int
    head: int

    @classmethod
    def of(cls, name: str) -> Head:
        """The head with this name.

        Raises:
            ShapeError: no such form.

        >>> Head.of("L18H7/local")
        Head(stream='local', layer=18, head=7)
        """
        match = re.fullmatch(r"L(\d+)H(\d+)(?:/(\w+))?", name.strip())
        if not match:
            numbers, end = re.findall(r"\d+", name), "/local" if "local" in name else ""
            likely = (
                f"did you mean L{numbers[0]}H{numbers[1]}{end}?" if len(numbers) == 2 else "write L18H7 or L18H7/local"
            )
            raise ShapeError(f"{name!r} is not a head; {likely}")
        return cls(match[3] or "global", int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}" + ("" if self.stream == "global" else f"/{self.stream}")


@dataclass(frozen=True)
class Variant:
    """A detector with some heads ablated; with no heads at all it is the probe of the noise floor.

    Args:
        name: its name in results.
        heads: all that are ablated together.
        order: the name of the cumulative order that it is a step of.
    """

    name: str
    heads: tuple[Head, ...]
    order: str = ""

    @property
    def stream(self) -> str:
        """``global``, ``local``, or ``both``."""
        streams = {head.stream for head in self.heads}
        return streams.pop() if len(streams) == 1 else "both"

    @property
    def layer(self) -> int | None:
        """The layer, where all heads are in one."""
        layers = {head.layer for head in self.heads}
        return layers.pop() if len(layers) == 1 else None

    @property
    def head(self) -> int | None:
        """The head, where there is only one."""
        return self.heads[0].head if len(self.heads) == 1 else None


def names_of(frame: pd.DataFrame) -> list[str]:
    """What the heads in the rows of a frame are called, by its columns stream, layer and head.

    >>> import pandas as pd
    >>> names_of(pd.DataFrame({"stream": ["local"], "layer": [18], "head": [7]}))
    ['L18H7/local']
    """
    return [str(Head(*key)) for key in frame[["stream", "layer", "head"]].itertuples(index=False)]


def heads_of(
    detector: Detector | HasDetector,
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
    streams: Sequence[str] = STREAMS,
) -> list[Head]:
    """The heads in ``layers`` (all by default), numbered ``heads`` (all by default), of ``streams``.

    Heads of the local stream exist from its start to the last tap; above that nothing is read.

    Raises:
        ShapeError: a layer, head or stream that does not exist; the message says which do.
        ConfigError: the local stream of a detector that has none.

    >>> from headlens.backbone import load
    >>> from headlens.detectors import HeadCLIP
    >>> [str(head) for head in heads_of(HeadCLIP(load("mini")), [18], [7])]
    ['L18H7', 'L18H7/local']
    """
    detector = detector_of(detector)
    if unknown := [stream for stream in streams if stream not in STREAMS]:
        raise ShapeError(f"stream {unknown[0]!r} does not exist; streams are {', '.join(STREAMS)}")
    vision, layers_of = detector.backbone.vision.cfg, stream_layers(detector)
    if list(streams) == ["local"]:
        check_local(detector.plan)
    numbers = range(vision.n_heads) if heads is None else list(heads)
    _check(numbers, range(vision.n_heads), "head", "heads")
    if layers is not None:
        layers = list(layers)
        _check(layers, layers_of["global" if "global" in streams else "local"], "layer", "layers")
    asked = {s: layers_of[s] if layers is None else [n for n in layers if n in layers_of[s]] for s in streams}
    return [Head(stream, layer, head) for stream in streams for layer in asked[stream] for head in numbers]


def stream_layers(detector: Detector) -> dict[str, range]:
    """Of each stream, the layers whose heads have an effect; in the local one, from its start to the last tap."""
    return {"global": range(detector.backbone.vision.cfg.n_layers), "local": detector.plan.local_layers}


def single_heads(heads: Iterable[Head]) -> list[Variant]:
    """Each head by itself."""
    return [Variant(str(head), (head,)) for head in heads]


def whole_layers(heads: Iterable[Head]) -> list[Variant]:
    """All of ``heads`` that are in one layer of one stream, together.

    >>> [variant.name for variant in whole_layers([Head("global", 1, 0), Head("global", 1, 2), Head("local", 1, 0)])]
    ['L1', 'L1/local']
    """
    groups: dict[str, list[Head]] = {}
    for head in heads:
        groups.setdefault(str(head).replace(f"H{head.head}", ""), []).append(head)
    return [Variant(name, tuple(group)) for name, group in groups.items()]


def cumulative(order: Sequence[Head], steps: Iterable[int] | None = None, name: str = "first") -> list[Variant]:
    """The first 1, 2, ... heads of ``order`` together, or the numbers in ``steps``; ``name`` is the name of the order.

    >>> order = [Head("global", 0, 1), Head("global", 2, 0)]
    >>> [(variant.name, len(variant.heads)) for variant in cumulative(order)]
    [('first 1', 1), ('first 2', 2)]
    """
    steps = range(1, len(order) + 1) if steps is None else list(steps)
    _check(steps, range(1, len(order) + 1), "step", "steps")
    return [Variant(f"{name} {count}", tuple(order[:count]), name) for count in steps]


def shuffled(heads: Sequence[Head], seed: int = 0) -> list[Head]:
    """The same heads in a random order that depends only on ``seed``, for comparison with a cumulative order."""
    order = torch.randperm(len(heads), generator=torch.Generator().manual_seed(seed))
    return [heads[i] for i in order]


def growing(
    order: Sequence[Head],
    steps: Iterable[int] | None = None,
    *,
    names: tuple[str, str] = ("strongest first", "weakest first"),
    random: int = 3,
    seed: int = 0,
) -> list[Variant]:
    """Cumulative ablations in ``order``, in reverse, and in random orders for comparison.

    Args:
        order: the heads.
        steps: how many of them; every number when None.
        names: of the order and its reverse.
        random: how many random orders.
        seed: of the first of them.
    """
    orders = {names[0]: list(order), names[1]: list(order)[::-1]}
    orders |= {f"random {i}": shuffled(sorted(order), seed + i) for i in range(random)}
    steps = None if steps is None else list(steps)
    return [variant for name, heads in orders.items() for variant in cumulative(heads, steps, name)]


def check_variants(detector: Detector, variants: Sequence[Variant]) -> None:
    """Raises ShapeError for a head that ``detector`` does not have, for an empty variant, and for no variants."""
    if not variants:
        raise ShapeError("no head to ablate; give at least one variant, such as single_heads(heads_of(detector))")
    vision, layers_of = detector.backbone.vision.cfg, stream_layers(detector)
    for variant in variants:
        if not variant.heads or len(set(variant.heads)) != len(variant.heads):
            raise ShapeError(f"variant {variant.name!r} ablates no head, or one of them twice")
        for head in variant.heads:
            if head.stream not in STREAMS:
                raise ShapeError(f"stream {head.stream!r} does not exist; streams are {', '.join(STREAMS)}")
            _check([head.layer], layers_of[head.stream], f"{head.stream} layer", "layers")
            _check([head.head], range(vision.n_heads), "head", "heads")
    names = [variant.name for variant in variants]
    if len(set(names)) != len(names):
        raise ShapeError(f"two variants are called {max(names, key=names.count)!r}; results would be mixed up")


def _check(asked: Iterable[int], existing: range, one: str, many: str) -> None:
    for number in asked:
        if number not in existing:
            last = f"{many} are {existing[0]}..{existing[-1]}" if existing else f"there are no such {many}"
            raise ShapeError(f"{one} {number} does not exist; {last}")
