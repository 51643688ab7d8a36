"""What the lens refuses, and what it holds: parts of a detector are asked, never which method it is.

Each refusal says what cannot be, why, and what holds instead.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable

import torch

from headlens.backbone.hooks import is_changed
from headlens.backbone.plan import VisionPlan
from headlens.detectors.detector import Detector
from headlens.detectors.reading import Reading
from headlens.detectors.readout import Readout
from headlens.errors import ConfigError, ShapeError
from headlens.heads.sweep import one_patch

MARGINS = ("image", "patches")
"""What heads may have a part in: the margin of the image, and those of its patches."""
NORMS = ("layer norm scale", "embedding norm")
"""What every sum over heads holds."""
TEXT = "text of the image"
"""What is held where sentences depend on the image."""


@torch.no_grad()
def blank_reading(detector: Detector, category: str = "object") -> Reading:
    """How a detector reads one empty image: what of a reading no image has a part in.

    The category matters to none of it; the sentences of one that is read anyway are not encoded again.
    """
    return detector.reading(one_patch(detector), [category])


def held(detector: Detector, category: str = "object", of: Collection[str] = MARGINS) -> list[str]:
    """What is held at what it is in each image, so that a margin is a sum over heads.

    Args:
        detector: which.
        category: what images show.
        of: which of ``MARGINS`` are sums.
    """
    reading = blank_reading(detector, category)
    pools, readouts = reading.pooling.reads_patches and "image" in of, _readouts(reading, of)
    texts = [text for text, margin in ((reading.image_contrast, "image"), (reading.text, "patches")) if margin in of]
    facts = {
        "pooling weights": pools,
        "adapters": any(reading.plan.adapters.values()),
        "similarities of patches": reading.plan.source is not None and (pools or "patches" in of),
        TEXT: reading.follow is not None,
        "choice of prompts": not all(text.linear or text.opaque for text in texts),
    }
    return [*held_in(readouts), *(name for name, true in facts.items() if true), *_beforehand(reading, readouts)]


def held_in(readouts: Collection[Readout]) -> list[str]:
    """What is held where embeddings are read, so that they are linear in what heads write."""
    facts = {
        NORMS[0]: any(readout.norm is not None for readout in readouts),
        NORMS[1]: True,
        "adapted embeddings": any(readout.tail is not None for readout in readouts),
    }
    return [name for name, true in facts.items() if true]


def held_before(detector: Detector, category: str = "object") -> list[str]:
    """What was computed from each image before its margins, and stays as it is when heads are ablated or gated."""
    reading = blank_reading(detector, category)
    text = [] if reading.follow is None else [TEXT]
    return [*text, *_beforehand(reading, _readouts(reading, MARGINS))]


def _readouts(reading: Reading, of: Collection[str]) -> list[Readout]:
    """Those that the margins are read by."""
    readouts = [reading.image] if "image" in of else []
    if reading.pooling.reads_patches and "image" in of:
        readouts += [reading.patches_of_image(tap) for tap in reading.pooling.image_taps or reading.taps]
    return [*readouts, *(reading.taps.values() if "patches" in of else ())]


def _beforehand(reading: Reading, readouts: Iterable[Readout]) -> list[str]:
    named = [readout.beforehand for readout in readouts if readout.beforehand]
    return [*reading.beforehand, *dict.fromkeys(named)]


def check_unhooked(detector: Detector, what: str, *, calls_tower: bool = False) -> None:
    """Raises ConfigError where a hook would not be called: at the image tower, or at the detector itself.

    What is computed from weights and streams calls neither modules nor hook points. Hooks at the text tower and at
    what is learned are always called.

    Args:
        detector: which.
        what: is computed, for the message.
        calls_tower: the image tower's forward is called, so that only the detector's is not.
    """
    vision = detector.backbone.vision
    if not any(map(is_changed, (detector, vision, *vision.mod_dict.values()))):
        return  # names are looked up where there are any: that takes longer than some blocks
    for name in detector.hooks:
        if name == "detector":
            others = "predict or eval"
        elif name.startswith("vision") and not calls_tower:
            others = "predict, eval, importance, or attribute with a score as its target"
        else:
            continue
        raise ConfigError(f"{what} would not call the hook at {name}: remove it, or take {others}, which call it")


def check_tap(plan: VisionPlan, tap: int) -> None:
    """Raises ShapeError for a tap at which no patch is read."""
    if tap not in plan.taps:
        raise ShapeError(f"tap {tap} is not read; taps are {', '.join(map(str, plan.taps))}")


def check_local(plan: VisionPlan) -> None:
    """Raises ConfigError where there are no local heads."""
    if plan.beside is None:
        raise ConfigError("this detector has no local stream: its taps read the global one; take its global heads")


def check_attends(plan: VisionPlan, stream: str, what: str) -> None:
    """Raises ConfigError for heads of a stream that are given what they write, and attend to nothing."""
    if stream == "local" and (plan.source is not None or plan.copies > 1):
        raise ConfigError(
            f"{what}: heads of the local stream mix patches by similarities of earlier blocks, or of another network, "
            "and no attention matrix of theirs stands for that; take contributions, ablate, or a method of "
            "attribution to pixels"
        )


def check_reads_cls(reading: Reading) -> None:
    """Raises ConfigError where CLS has no part in the image feature."""
    if not reading.pooling.reads_cls:
        raise ConfigError(
            "CLS has no part in this detector's image feature, which is made of patches: where CLS attends to does not "
            "reach the image margin; map_parts has what heads contribute at patches"
        )


def check_reached(reached: Container[tuple[str, int]], stream: str, layer: int) -> None:
    """Raises ConfigError for a layer below an adapter that has no ``pull``."""
    if (stream, layer) not in reached:
        raise ConfigError(
            f"heads of layer {layer} of the {stream} stream have no direct effect: what they write is read through an "
            "adapter that is not a linear map, even with its masks and norms held; contributions has the stream below "
            "it "
            "as one part, 'below', and ablate and importance measure these heads"
        )


def check_straight(plan: VisionPlan, heads: Iterable[tuple[str, int, int]], what: str) -> None:
    """Raises ConfigError for heads below an adapter, which changes what they write."""
    for head in heads:
        stream, layer, _ = head
        adapted = [block for block in plan.adapters.get(stream, {}) if plan.attention(stream, block)]
        if above := [block for block in adapted if block >= layer]:
            raise ConfigError(
                f"{what} for {head}: the adapter after block {min(above)} changes what it writes, differently at every "
                f"token, and no one map takes it to the joint space; name heads above block {max(above)}, or take "
                "contributions or ablate"
            )


def check_summed(readout: Readout, what: str) -> None:
    """Raises ConfigError for a read-out after which no sum over heads is the margin."""
    if readout.tail is not None and readout.tail.opaque:
        raise ConfigError(
            f"{what} are not sums over heads: they are read through {readout.tail.opaque}; use ablate or importance"
        )


def check_image_summed(reading: Reading) -> None:
    """Raises ConfigError where the image margin is no sum over heads."""
    if opaque := reading.image_contrast.opaque:
        raise ConfigError(
            f"the image margin is not a sum over heads: it is read through {opaque}. Up to there heads are as "
            "everywhere: capture and name have what they do, and ablate and importance measure them"
        )


def check_one_map(readout: Readout, stream: str) -> None:
    """Raises ConfigError where what heads of a stream write reaches the joint space differently in every image."""
    if readout.tail is not None and not readout.tail.residual:
        raise ConfigError(
            f"heads of the {stream} stream have no names: their embeddings are adapted in each image, differently at "
            "every token, and no one map takes what they write to the joint space; name global heads, or take ablate"
        )


def check_unadapted(plan: VisionPlan, head: tuple[str, int, int]) -> None:
    """Raises ConfigError for a head as a target of attribution below an adapter, which changes what it writes."""
    if any(block >= head[1] for adapters in plan.adapters.values() for block in adapters):
        raise ConfigError(
            f"{head} as a target is read where the head writes, and an adapter changes that before the margin is read: "
            "attribute a score; contributions has the head's direct effect itself, and ablate its total effect"
        )


def check_gradients(detector: Detector, precision: str | None) -> None:
    """Raises ConfigError for gradients in float16."""
    if (precision or str(detector.backbone.vision.proj.dtype).removeprefix("torch.")) == "float16":
        raise ConfigError("gradients are smaller than float16 can tell from 0; choose bfloat16, tf32 or float32")


def check_follows(detector: Detector) -> None:
    """Raises ConfigError for a text that does not depend on what is ablated."""
    if blank_reading(detector).follow is None:
        raise ConfigError(
            f"text 'follows': the text of {detector.method} does not depend on what is ablated, so that nothing can "
            "follow; text 'held' is exact for it"
        )
