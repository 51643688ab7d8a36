"""Whether this process is one of several; a question that must not cost an import of torch.

``torchrun`` and ``accelerate launch`` say so in the environment. What they leave there, or a pod of a training job has
from the start, looks the same: a process that waits for others says for which, and for how long.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from headlens.errors import ConfigError

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_OTHERS = ("OMPI_COMM_WORLD_", "PMI_", "MV2_COMM_WORLD_", "PALS_")  # of MPI's launchers, which accelerate listens to


@dataclass(frozen=True)
class Place:
    """This process among others."""

    rank: int  # from 0
    size: int  # how many there are
    local: int | None  # its number on this machine, from 0; None where the environment does not say
    meeting: str  # where they meet, ADDRESS:PORT


def place() -> Place | None:
    """This process among those that were started together; None where it was started by itself.

    Raises:
        ConfigError: a ``WORLD_SIZE`` that is no number, or one above 1 without the rest that it takes.
    """
    if "WORLD_SIZE" not in os.environ:
        return None
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        return None
    if missing := [name for name in _NEEDED if not os.environ.get(name)]:
        raise ConfigError(f"WORLD_SIZE is {size} and {missing[0]} is not set: {_way_out()}")
    local = _number("LOCAL_RANK", 0) if "LOCAL_RANK" in os.environ else None
    meeting = f"{os.environ['MASTER_ADDR']}:{_number('MASTER_PORT', 1, 65535)}"
    return Place(_number("RANK", 0, size - 1), size, local, meeting)


def launched() -> bool:
    """Whether this process was started as one of several; raises ConfigError as ``place`` does."""
    return place() is not None


def by_torchrun() -> bool:
    """Whether ``torchrun``, or ``accelerate launch`` through it, has started several: no variables that were left."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") not in ("", "1")


def unset_command() -> str:
    """The shell command that unsets the variables which make this process one of several."""
    return " ".join(["unset", *(name for name in (*_NEEDED, "LOCAL_RANK") if name in os.environ)])


@contextmanager
def alone() -> Iterator[None]:
    """Within it, libraries that look at the environment by themselves see a process that was started by itself.

    >>> os.environ["LOCAL_RANK"] = "0"
    >>> with alone():
    ...     "LOCAL_RANK" in os.environ
    False
    >>> os.environ.pop("LOCAL_RANK")
    '0'
    """
    names = [name for name in os.environ if name in (*_NEEDED, "LOCAL_RANK") or name.startswith(_OTHERS)]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _number(name: str, low: int, high: int | None = None) -> int:
    value = os.environ.get(name, "")
    if not (value.isascii() and value.isdigit() and low <= int(value) <= (int(value) if high is None else high)):
        expected = f"a number from {low} on" if high is None else f"a number from {low} to {high}"
        raise ConfigError(f"{name} is {value!r} in the environment, expected {expected}: {_way_out()}")
    return int(value)


def _way_out() -> str:
    return f"start several processes with torchrun, or one after `{unset_command()}`"
