"""How finely a detector computes: float32, or faster on a GPU, with the residual streams in float32 all the same.

    float32    as finely as single precision goes; no TF32 on the way
    tf32       matrix products of float32 numbers rounded to 10 bits of fraction
    float16    weights, matrix products and attention in half precision, 10 bits of fraction, up to 65,504
    bfloat16   the same with 7 bits of fraction, and no limit that is ever met

In both half precisions LayerNorms, residual streams, margins, maps and scores stay float32: what a head adds is not
rounded to the size of what it is added to. CLIP was trained in float16; a backbone that overflows in it gives NaN.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from headlens.backbone.hooks import hooked
from headlens.errors import ConfigError

if TYPE_CHECKING:
    from headlens.detectors.headclip import Detector

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")


def check_precision(name: str | None, device: torch.device | None = None) -> None:
    """Raises ConfigError for a precision that does not exist, or not on ``device``; None is as the backbone was loaded.

    >>> check_precision("tf32", torch.device("cpu"))
    Traceback (most recent call last):
    headlens.errors.ConfigError: precision tf32 is one of CUDA GPUs; on cpu take float32 or bfloat16
    """
    if name is not None and name not in PRECISIONS:
        raise ConfigError(f"unknown precision {name!r}: there are {', '.join(PRECISIONS)}")
    if device is None or name in (None, "float32"):
        return
    halves = torch.amp.is_autocast_available(device.type)
    if name == "tf32" and device.type != "cuda":
        other = "float32 or bfloat16" if halves else "float32"
        raise ConfigError(f"precision tf32 is one of CUDA GPUs; on {device} take {other}")
    if name != "tf32" and not halves:
        raise ConfigError(f"precision {name}: torch has none on {device}; take float32")


def fast_precision(device: str | torch.device, gradients: bool = False) -> str | None:
    """What is taken when nobody says: float16 on CUDA, bfloat16 there for gradients; elsewhere as it was loaded.

    >>> fast_precision(torch.device("cuda")), fast_precision("cpu")
    ('float16', None)
    """
    if torch.device(device).type != "cuda":
        return None
    return "bfloat16" if gradients else "float16"


@contextmanager
def computing(detector: Detector, precision: str | None = None) -> Iterator[Detector]:
    """Gives ``detector`` as it computes in ``precision``; the settings of torch that this takes end with the block.

    Args:
        detector: it stays as it is; where its image tower has another precision, a copy of that is made.
        precision: one of ``PRECISIONS``; None gives the detector itself and changes nothing.

    Raises:
        ConfigError: an unknown precision, or one that the detector's device has not.

    >>> from headlens.backbone import load
    >>> from headlens.detectors.headclip import Detector
    >>> with computing(Detector(load("mini")), "bfloat16") as detector:
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
        _tf32(precision == "tf32", detector.device),
        torch.autocast(detector.device.type, dtype if half else None, enabled=half),
    ):
        yield detector


def unit(dtype: torch.dtype, device: torch.device) -> float:
    """How finely matrix products of that type are rounded on a device now, relative to their factors.

    >>> unit(torch.float16, torch.device("cpu")) == 2**-10
    True
    """
    if dtype == torch.float32 and device.type == "cuda":
        (products, _), name = _tf32_places()
        if getattr(products, name) in (True, "tf32"):
            return 2.0**-10
    return torch.finfo(dtype).eps


@contextmanager
def finely(device: torch.device) -> Iterator[None]:
    """Matrix products in the precision of their factors, whatever is going on around: for what is small and counts."""
    with _tf32(False, device), torch.autocast(device.type, enabled=False):
        yield


@contextmanager
def repeatable(device: torch.device, wanted: bool = True) -> Iterator[None]:
    """Gradients to the same bits every time on CUDA, too, as they are elsewhere; a quarter to a half slower.

    There the backward of attention adds up in any order, in each of torch's fused kernels. What torch itself cannot
    repeat raises its RuntimeError. ``CUBLAS_WORKSPACE_CONFIG`` is set where it is not, and stays.
    """
    if not wanted or device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch insists; 32 MiB, as an H100 has anyway
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # a pass over every new tensor, and none is read unset
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled


@contextmanager
def _tf32(allowed: bool, device: torch.device) -> Iterator[None]:
    if device.type != "cuda":  # nowhere else is there TF32, and a setting of torch that nobody needs stays untouched
        yield
        return
    places, name = _tf32_places()
    before = [getattr(place, name) for place in places]
    wanted = allowed if name == "allow_tf32" else ("tf32" if allowed else "ieee")
    for place in places:
        setattr(place, name, wanted)
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            setattr(place, name, value)


def _tf32_places() -> tuple[tuple[Any, ...], str]:
    """Where torch keeps whether products may be rounded: its older flags, or the newer, where those are in use."""
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    try:
        _ = matmul.allow_tf32, convolution.allow_tf32
    except RuntimeError:  # the two must not be mixed, and somebody has set the newer
        return (matmul, convolution.conv), "fp32_precision"  # type: ignore[attr-defined]
    return (matmul, convolution), "allow_tf32"
