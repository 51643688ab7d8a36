"""The precision of a detector: float32, or faster formats on a GPU, always with residual streams in float32.

    float32    full single precision, without TF32
    tf32       matrix products of float32 numbers rounded to 10 bits of fraction
    float16    weights, matrix products and attention in half precision, 10 bits of fraction, up to 65,504
    bfloat16   the same with 7 bits of fraction, and practically no limit

In both half precisions LayerNorms, residual streams, margins, maps and scores stay float32: the output of a head is not
    rounded to the precision of the stream it is added to. CLIP was trained in float16; a backbone that overflows in it
    gives NaN.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from headlens.errors import ConfigError
from headlens.printing import unknown_name

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")


def check_precision(name: str | None, device: torch.device | None = None) -> None:
    """Raises ConfigError for a precision that is unknown, or not available on ``device``; None is that of the backbone.

    >>> check_precision("tf32", torch.device("cpu"))
    Traceback (most recent call last):
    headlens.errors.ConfigError: precision tf32 is one of CUDA GPUs; on cpu take float32 or bfloat16
    """
    if name is not None and name not in PRECISIONS:
        raise ConfigError(unknown_name("precision", name, PRECISIONS))
    if device is None or name in (None, "float32"):
        return
    halves = torch.amp.is_autocast_available(device.type)
    if name == "tf32" and device.type != "cuda":
        other = "float32 or bfloat16" if halves else "float32"
        raise ConfigError(f"precision tf32 is one of CUDA GPUs; on {device} take {other}")
    if name != "tf32" and not halves:
        raise ConfigError(f"precision {name}: torch has none on {device}; take float32")


def default_precision(device: str | torch.device, gradients: bool = False) -> str | None:
    """The default: on CUDA float16, or bfloat16 for gradients; elsewhere None, the precision of the loaded backbone.

    >>> default_precision(torch.device("cuda")), default_precision("cpu")
    ('float16', None)
    """
    if torch.device(device).type != "cuda":
        return None
    return "bfloat16" if gradients else "float16"


def wide(tensor: Tensor) -> Tensor:
    """At least float32: margins in half precision would hide small effects.

    >>> wide(torch.zeros(1, dtype=torch.float16)).dtype, wide(torch.zeros(1, dtype=torch.float64)).dtype
    (torch.float32, torch.float64)
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def rounding_unit(dtype: torch.dtype, device: torch.device) -> float:
    """The relative rounding of matrix products of that type on a device, as torch is set now.

    >>> rounding_unit(torch.float16, torch.device("cpu")) == 2**-10
    True
    """
    if dtype == torch.float32 and device.type == "cuda":
        (products, _), name = _tf32_places()
        if getattr(products, name) in (True, "tf32"):
            return 2.0**-10
    return torch.finfo(dtype).eps


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Matrix products in the precision of their factors, whatever the surrounding context allows."""
    with allow_tf32(False, device), torch.autocast(device.type, enabled=False):
        yield


@contextmanager
def repeatable(device: torch.device, wanted: bool = True) -> Iterator[None]:
    """Makes gradients on CUDA identical in every run, as they are elsewhere; 25 to 50 % slower.

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
def allow_tf32(allowed: bool, device: torch.device) -> Iterator[None]:
    """Whether products of float32 numbers may be rounded to TF32 on a CUDA device meanwhile."""
    if device.type != "cuda":  # nowhere else is there TF32, and a setting of torch without effect stays untouched
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
    except RuntimeError:  # the two must not be mixed, and the newer are set
        return (matmul, convolution.conv), "fp32_precision"  # type: ignore[attr-defined]
    return (matmul, convolution), "allow_tf32"
