"""Which device is meant, whether this machine has it, and how many threads torch may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from headlens.errors import ConfigError


def best_device() -> str:
    """``cuda`` or ``mps`` where there is one, else ``cpu``."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def device_of(given: str | torch.device | None) -> torch.device:
    """The device of that name; torch's default when None. ``meta``, where tensors have shapes alone, is one, too.

    Raises:
        ConfigError: no device is called so, or this machine has none.

    >>> device_of("cpu")
    device(type='cpu')
    >>> device_of("gpu")
    Traceback (most recent call last):
    headlens.errors.ConfigError: unknown device 'gpu'; available: cpu, cuda, cuda:0, cuda:1, …, mps
    """
    if given is None:
        return torch.get_default_device()
    try:
        device = torch.device(given)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"unknown device {given!r}; available: cpu, cuda, cuda:0, cuda:1, …, mps") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            there = (
                "no GPU that torch can use" if not count else f"{count} GPU{'s' if count > 1 else ''}, from cuda:0 on"
            )
            raise ConfigError(f"device {device}: this machine has {there}; take {best_device()}")
    elif device.type == "cpu":
        if device.index:
            raise ConfigError(f"device {device}: there is one CPU; take cpu")
    elif not _works(device):
        raise ConfigError(f"device {device}: this machine has none that torch can use; take {best_device()}")
    return device


def _works(device: torch.device) -> bool:
    try:
        torch.zeros((), device=device)
    except Exception:  # each back end of torch has errors of its own
        return False
    return True


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch's own threads off, on the CPU: for what is so small that they wait for each other longer than they work.

    On a machine that has other work to do, ten times longer. It is a setting of the process: a thread that first uses
    torch meanwhile keeps it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
