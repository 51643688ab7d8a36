"""Several processes on one question: which share is whose, and how the shares come together.

``torchrun --nproc-per-node 2 -m -- headlens ablate …`` starts the same command twice. Within ``ranks()`` the work is
dealt by batches of images, rank r of W taking batches r, r + W, …, and afterwards every rank holds the results of
all, so that all return the same frame. Outside of it there is one rank, which has everything and waits for no other.

What travels are arrays, over gloo: nothing is pickled, and a rank that dies is noticed by those that wait for it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from headlens.errors import RunError
from headlens.launch import Place, by_torchrun, place, unset_command
from headlens.locking import locked

Arrays = dict[str, np.ndarray]

# How long a rank may wait for a slower one: a share can take hours. A dead one is noticed at once, by its connection.
_WAITING = timedelta(days=30)
_MEETING = timedelta(minutes=5)  # for all of them to come: they are started at one time


@dataclass(frozen=True)
class Ranks:
    """One of several processes.

    Args:
        rank: which, from 0.
        size: how many there are.
        group: of ``torch.distributed``, over gloo.

    >>> list(Ranks(1, 3).share(8))
    [1, 4, 7]
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @property
    def main(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.rank == 0

    @property
    def of_metrics(self) -> dict[str, Any]:
        """Arguments of a torchmetrics class whose states are sums over the images of all ranks."""
        return {"process_group": self.group, "distributed_available_fn": lambda: self.size > 1}

    def share(self, count: int) -> range:
        """Which of ``count`` things are this rank's."""
        return range(self.rank, count, self.size)

    def behind(self, number: int, batches: Sequence[Sized]) -> int:
        """Images in batch ``number`` and in those that the other ranks do meanwhile, for a progress bar.

        >>> batches = [range(first, min(first + 4, 21)) for first in range(0, 21, 4)]
        >>> [Ranks(0, 2).behind(number, batches) for number in Ranks(0, 2).share(6)]
        [8, 8, 5]
        """
        return sum(map(len, batches[number : number + self.size]))

    def rows(self, array: Any) -> Any:
        """Of an array or tensor [1 + V, ...] the first row and this rank's share of the others."""
        return array if self.size == 1 else array[[0, *(1 + row for row in self.share(len(array) - 1))]]

    def each(self, arrays: Mapping[str, np.ndarray]) -> list[Arrays]:
        """The arrays of every rank, in the order of ranks. All must ask."""
        return [self._from(source, arrays) for source in range(self.size)]

    def gathered(self, value: Any) -> list[Any]:
        """A value that JSON can hold, of every rank, in the order of ranks. All must ask.

        >>> Ranks().gathered({"a": 1})
        [{'a': 1}]
        """
        text = np.frombuffer(bytearray(json.dumps(value).encode()), np.uint8)
        return [json.loads(part["json"].tobytes()) for part in self.each({"json": text})]

    def merged(self, parts: Iterable[tuple[int, Arrays]], count: int) -> Iterator[Arrays]:
        """The parts of all ranks, one after the other by their numbers; those that no rank has are left out.

        Alone, a process has its parts as they come; of several, each makes and holds all of its own first.

        Args:
            parts: this rank's in rising order, each with its number; numbers are from its ``share(count)``.
            count: of all.
        """
        if self.size == 1:
            yield from (arrays for _, arrays in parts if arrays)
            return
        mine = dict(parts)
        for number in range(count):
            if arrays := self._from(number % self.size, mine.pop(number, {})):
                yield arrays

    def _from(self, source: int, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """What ``arrays`` are on rank ``source``."""
        if self.size == 1:
            return dict(arrays)
        here = source == self.rank
        held = {name: np.require(array, None, ["C", "W"]) for name, array in arrays.items()} if here else {}
        about = np.frombuffer(
            bytearray(json.dumps([[name, a.dtype.str, a.shape] for name, a in held.items()]).encode()), np.uint8
        )
        length = self._sent(source, np.array([about.size]))
        about = self._sent(source, about if here else np.empty(length[0], np.uint8))
        for name, dtype, shape in json.loads(about.tobytes()):
            held[name] = self._sent(source, held[name] if here else np.empty(shape, dtype))
        return held

    def _sent(self, source: int, array: np.ndarray) -> np.ndarray:
        """``array`` as it is on rank ``source``; it has this shape and type on all."""
        if array.nbytes:
            distributed.broadcast(torch.from_numpy(array.reshape(-1).view(np.uint8)), source, self.group)
        return array


_current = Ranks()


def current() -> Ranks:
    """This process among those that ``ranks()`` has brought together; alone, outside of it."""
    return _current


@contextmanager
def ranks() -> Iterator[Ranks]:
    """Within it, headlens shares its work with the other processes: all of them must call the same in the same order.

    Who they are is said by ``torch.distributed``'s default group, if there is one already, or by the environment that
    ``torchrun`` and ``accelerate launch`` make. A process that was started by itself stays alone.

    Raises:
        ConfigError: an environment that contradicts itself; see ``headlens.launch.place``.
        RunError: another process has not come in five minutes, has ended, or cannot be reached.

    >>> with ranks() as process:
    ...     process.rank, process.size
    (0, 1)
    """
    global _current
    before, began = _current, not distributed.is_initialized()
    here = place() if began and before.size == 1 else None
    if before.size > 1 or (began and here is None):
        yield before
        return
    with _noticed():
        if here is not None:
            _meet(here)
        group = distributed.new_group(backend="gloo", timeout=_WAITING)
        _current = Ranks(distributed.get_rank(), distributed.get_world_size(), group)
        try:
            yield _current
        finally:
            _current = before
            distributed.destroy_process_group(None if began else group)


@contextmanager
def holding(folder: Path | None) -> Iterator[None]:
    """Has ``folder``, where it is not None, for the processes of this run alone; raises RunError as ``locked`` does."""
    with locked(folder) if folder is not None and _current.main else nullcontext():
        _current.each({})  # none begins before the main one has it
        yield


def _meet(here: Place) -> None:
    """Makes torch's default group, once all are there; a line on stderr says who is waited for, and how not to wait."""
    what = f"{here.size} processes at {here.meeting} (WORLD_SIZE is {here.size}, RANK {here.rank})"
    if here.rank == 0 or not by_torchrun():
        minutes = f"{_MEETING.total_seconds() / 60:.3g} minutes"
        sys.stderr.write(f"headlens: waiting for {what}, {minutes} at most; to work alone, `{unset_command()}` first\n")
        sys.stderr.flush()
    try:
        store, rank, size = next(distributed.rendezvous("env://", here.rank, here.size, timeout=_MEETING))
    except RuntimeError as error:
        raise RunError(
            f"timed out waiting for {what}; start them all at one time, or `{unset_command()}` to work alone"
        ) from error
    store.set_timeout(_WAITING)
    # gloo on the CPU, and each accelerator's own
    distributed.init_process_group(store=store, rank=rank, world_size=size, timeout=_WAITING)


@contextmanager
def _noticed() -> Iterator[None]:
    """What ``torch.distributed`` says when another process has ended, as a RunError."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, distributed.DistError) or "gloo" in str(error)):
            raise
        raise RunError(
            "another process of this run has ended, or cannot be reached; look for its message, mend that, and run the "
            "same command again: finished work was saved"
        ) from error
