"""What the lens refuses, and why: parts of a detector are asked, never which method it is."""

from __future__ import annotations

from headlens.detectors.detector import Detector
from headlens.errors import ConfigError


def check_unhooked(detector: Detector, what: str, *, calls_tower: bool = False) -> None:
    """Raises ConfigError where a hook would not be called: at the image tower, or at the detector itself.

    What is computed from weights and streams calls neither modules nor hook points. Hooks at the text tower and at
    what is learned are always called.

    Args:
        detector: which.
        what: is computed, for the message.
        calls_tower: the image tower's forward is called, so that only the detector's is not.
    """
    for name in detector.hooks:
        if name == "detector":
            others = "predict or eval"
        elif name.startswith("vision") and not calls_tower:
            others = "predict, eval, importance, or attribute with a score as its target"
        else:
            continue
        raise ConfigError(f"{what} would not call the hook at {name}: remove it, or take {others}, which call it")
