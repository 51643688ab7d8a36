"""What the fuzzing scripts share: the command line in a forked process, and what no input may ever bring about.

The parent imports everything once; each call is a fork of it, so that hundreds of calls cost little, and a call that
hangs, takes memory or kills itself harms no other one.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_GIB = 2**30
MOST_MEMORY = 2 * _GIB
MOST_SECONDS = 60.0


@dataclass(frozen=True)
class Call:
    """How one call of the command line ended.

    Args:
        args: its arguments.
        status: the exit status; negative: the signal that ended it; None: it did not end in time.
        said: what it wrote to stdout and stderr.
        seconds: wall-clock time.
        memory: bytes at the peak.
    """

    args: tuple[str, ...]
    status: int | None
    said: str
    seconds: float
    memory: int

    @property
    def faults(self) -> list[str]:
        """What must never happen, whatever the input is."""
        faults = []
        if "Traceback (most recent call last)" in self.said:
            faults.append("traceback")
        if self.status is None:
            faults.append(f"still running after {self.seconds:.0f} s")
        elif self.status not in (0, 1, 2):
            faults.append(f"status {self.status}")
        if self.memory > MOST_MEMORY:
            faults.append(f"{self.memory / _GIB:.1f} GiB")
        return faults


def call(*args: object, most_seconds: float = MOST_SECONDS, prepare: Callable[[], object] = lambda: None) -> Call:
    """Runs ``headlens ARGS`` in a fork.

    Args:
        *args: arguments of the command line.
        most_seconds: the process is killed after so many.
        prepare: called in the fork before the command.
    """
    words = tuple(map(str, args))
    read, write = os.pipe()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(read)
        _run(words, write, prepare)
    os.close(write)
    said, status, memory = _wait(child, read, start + most_seconds)
    return Call(words, status, said, time.monotonic() - start, memory)


def _run(words: tuple[str, ...], write: int, prepare: Callable[[], object]) -> None:
    """The fork's part: it never returns."""
    status = 70
    try:
        os.dup2(write, 1)
        os.dup2(write, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        with Path("/proc/self/statm").open() as file:  # a bomb must not take the machine: its allocation fails instead
            now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (now + 6 * _GIB, now + 6 * _GIB))
        prepare()
        sys.argv = ["headlens", *words]
        from headlens.cli import main

        main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _wait(child: int, read: int, until: float) -> tuple[str, int | None, int]:
    """Reads what the fork says until it ends; kills it when its time is over."""
    import select

    said, late = b"", False
    while True:
        left = until - time.monotonic()
        if left <= 0:
            late = True
            os.kill(child, signal.SIGKILL)
            break
        if select.select([read], [], [], left)[0]:
            chunk = os.read(read, 1 << 16)
            if not chunk:
                break
            said += chunk
    os.close(read)
    _, code, usage = os.wait4(child, 0)
    status = None if late else os.waitstatus_to_exitcode(code)
    return said.decode("utf-8", "replace"), status, usage.ru_maxrss * 1024


@dataclass
class Tally:
    """Counts calls and collects what went wrong."""

    calls: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    most_memory: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, what: str, done: Call, more: Sequence[str] = ()) -> None:
        """One call about ``what``, and faults that only who made the case can see."""
        verb = " ".join(done.args[:2]) if done.args[0] == "data" else done.args[0]
        self.calls[verb] += 1
        self.statuses[f"{verb} {'killed late' if done.status is None else done.status}"] += 1
        self.slowest, self.most_memory = max(self.slowest, done.seconds), max(self.most_memory, done.memory)
        if faults := [*done.faults, *more]:
            last = next((line for line in reversed(done.said.strip().splitlines()) if line.strip()), "")
            self.failures.append(f"{what}: headlens {' '.join(done.args)}: {'; '.join(faults)} | {last[:300]}")
            print(self.failures[-1], flush=True)

    def report(self) -> int:
        """Prints the counts; the exit status."""
        calls = ", ".join(f"{count} {verb}" for verb, count in sorted(self.calls.items()))
        print(f"calls: {calls}")
        print("statuses: " + ", ".join(f"{name}: {count}" for name, count in sorted(self.statuses.items())))
        print(f"slowest {self.slowest:.1f} s, most memory {self.most_memory / _GIB:.2f} GiB")
        print(f"{len(self.failures)} failures")
        return int(bool(self.failures))


def warm_up() -> None:
    """Imports in the parent what the verbs import, so that forks need not: by doing once what they do."""
    import tempfile

    import torch

    torch.set_num_threads(1)
    from headlens import data, heads, load
    from headlens.plots.overlay import overlay
    from headlens.results import Result
    from headlens.training.evaluation import evaluate

    images = data.open("procedural:industrial", category="screw", per_category=2, size=56)
    detector = load("mini-industrial").detector
    evaluate(detector, images, size=56)
    with tempfile.TemporaryDirectory() as folder:
        ablated = heads.ablate(detector, images, heads.single_heads(heads.heads_of(detector, [23], [0])), size=56)
        Result.load(ablated.save(Path(folder) / "frame.parquet"))
        ablated.plot()
        data.check(images)
    image = images.pixels(0).image.permute(1, 2, 0).numpy()
    overlay(image, image[..., 0] / 255.0, "")
