"""A detector as it computes in another precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import nn

from headlens.backbone.hooks import hooked
from headlens.detectors.detector import Detector
from headlens.errors import ConfigError
from headlens.precision import allow_tf32, check_precision


@contextmanager
def at_precision(detector: Detector, precision: str | None = None) -> Iterator[Detector]:
    """Gives ``detector`` as it computes in ``precision``; the settings of torch that this takes end with the block.

    Args:
        detector: it stays as it is; where its image tower has another precision, a copy of that is made.
        precision: one of ``PRECISIONS``; None gives the detector itself and changes nothing.

    Raises:
        ConfigError: an unknown precision, or one that the detector's device has not.

    >>> from headlens.backbone import load
    >>> from headlens.detectors import HeadCLIP
    >>> with at_precision(HeadCLIP(load("mini")), "bfloat16") as detector:
    ...     detector.backbone.vision.proj.dtype, detector.backbone.text.proj.dtype
    (torch.bfloat16, torch.float32)
    """
    check_precision(precision, detector.device)
    if precision is None:
        yield detector
        return
    half = precision in ("float16", "bfloat16")
    dtype = getattr(torch, precision) if half else torch.float32
    if detector.backbone.vision.proj.dtype != dtype:
        if hooks := hooked(detector.backbone.vision, "vision"):  # they may hold on to what they are set around
            raise ConfigError(
                f"precision {precision} computes with a copy of the image tower, and the hook at {hooks[0]} is not "
                "made for one: load the backbone in that dtype, or leave precision out"
            )
        text = detector.backbone.text  # shared: it is read once, and stays as fine as it is
        detector = deepcopy(detector, {id(text): text})
        detector.backbone.vision.to(dtype)
        for module in detector.backbone.vision.modules():
            if isinstance(module, nn.LayerNorm):  # between streams in float32 and products in half precision
                module.float()
    with (
        allow_tf32(precision == "tf32", detector.device),
        torch.autocast(detector.device.type, dtype if half else None, enabled=half),
    ):
        yield detector
