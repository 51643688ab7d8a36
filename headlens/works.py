"""Which functions of the lens work on a detector: each is called once, on two small images, and its answer is noted.

Nothing here knows a method. A function that refuses says why, and a result says what was held fixed to make it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

from headlens import data, heads
from headlens.attribution import attribute
from headlens.data import DataSet
from headlens.detectors.detector import Detector, HasDetector, detector_of
from headlens.errors import HeadlensError
from headlens.heads.exactness import NORMS, held_before
from headlens.heads.variants import Head, single_heads, stream_layers
from headlens.results import Result

_PHRASES = ("damaged object", "flawless object")
_SIDE = 4  # patches along a side of the images


Answer = dict[str, str]
"""What came of one function, by its mark. Two marks are those of the highest and of the lowest layer.

``E`` exact, as the function defines it; ``h`` exact, with more held fixed in each image than the norms of the read-out,
and the names of that; ``R`` refused, and what the refusal says; ``-`` there are no such heads, or no learned weights.
"""


class _Asked(NamedTuple):
    """A detector and the images that it is shown."""

    detector: Detector
    images: DataSet

    def attribute(self, method: str, target: str) -> Result:
        return attribute(self.detector, self.images.pixels(0).image, method, target, size=self.size)

    @property
    def size(self) -> int:
        return _SIDE * self.detector.backbone.vision.cfg.patch_size


def _ablate(asked: _Asked, head: Head) -> Result:
    return heads.ablate(*asked, single_heads([head]), metrics=(), replicates=1, size=asked.size)


def _name(asked: _Asked, head: Head) -> Result:
    return heads.name_heads(*asked, [head], pool=_PHRASES, phrases=1, size=asked.size)


_OF_SCORES: Mapping[str, Callable[[_Asked], Result]] = {
    "importance": lambda asked: heads.importance(*asked, size=asked.size),
    "contributions image": lambda asked: asked.attribute("contributions", "image_margin"),
    "contributions map": lambda asked: asked.attribute("contributions", "map_margin"),
    "map_parts": lambda asked: heads.map_parts(asked.detector, asked.images.pixels(0).image, size=asked.size),
    "attribute pixels": lambda asked: asked.attribute("input_x_gradient", "joint_margin"),
    "attention image": lambda asked: asked.attribute("legrad", "image_margin"),
    "attention map": lambda asked: asked.attribute("legrad", "map_margin"),
}
_OF_HEADS: Mapping[str, Callable[[_Asked, Head], Result]] = {
    "ablate": _ablate,
    "name": _name,
    "attribute head": lambda asked, head: asked.attribute("input_x_gradient", str(head)),
}
FUNCTIONS = (
    *("weights", "ablate global", "ablate local", "importance"),
    *("contributions image", "contributions map", "map_parts", "name global", "name local"),
    *("attribute pixels", "attribute head global", "attribute head local", "attention image", "attention map"),
)
"""What is asked, in the order of tables; of heads, those of the lowest and of the highest layer of a stream."""


def works_on(detector: Detector | HasDetector) -> dict[str, Answer]:
    """What each of ``FUNCTIONS`` answers for a detector, or a run.

    ``works_on(headlens.load("mini-industrial"))["weights"]`` is ``{"E": ""}``.
    """
    detector = detector_of(detector)
    images = data.open("procedural:industrial/aux", category="wood", per_category=2, size=64)
    asked = _Asked(detector, images)
    learned = bool(detector.head_weights())
    answers = {"weights": _answer(detector, lambda: heads.weights(detector)) if learned else {"-": ""}}
    for function, ask in _OF_SCORES.items():
        answers[function] = _answer(detector, partial(ask, asked))
    for stream, layers in stream_layers(detector).items():
        for function, of_head in _OF_HEADS.items():
            ends = [Head(stream, layer, 0) for layer in dict.fromkeys([*layers[-1:], *layers[:1]])]
            answers[f"{function} {stream}"] = _both(_answer(detector, partial(of_head, asked, head)) for head in ends)
    return {function: answers[function] for function in FUNCTIONS}


def _answer(detector: Detector, ask: Callable[[], Result]) -> Answer:
    try:
        provenance = ask().provenance
    except HeadlensError as refusal:
        return {"R": str(refusal)}
    held = provenance["held"] if "held" in provenance else held_before(detector)
    more = [name for name in held if name not in NORMS]
    return {"h": ", ".join(more)} if more else {"E": ""}


def _both(ends: Iterable[Answer]) -> Answer:
    """Of the highest layer and the lowest one."""
    merged: Answer = {}
    for answer in ends:
        merged |= answer
    return merged or {"-": ""}
