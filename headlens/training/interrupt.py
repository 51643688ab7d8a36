"""Ctrl-C and SIGTERM as requests to stop after a whole step; a second one ends the process at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SAME = 1.0  # seconds within which a second signal is the same request: Ctrl-C, from the terminal and from ``torchrun``


class Stopped(KeyboardInterrupt):
    """Training has ended early as signal ``number`` asked it to, with its state after ``step`` of ``steps`` saved."""

    def __init__(self, step: int, steps: int, number: int) -> None:
        super().__init__(f"stopped at step {step} of {steps}")
        self.step, self.steps, self.number = step, steps, number


@contextmanager
def stop_requested(notify: Callable[[], object] = lambda: None) -> Iterator[Callable[[], int]]:
    """Gives what returns the number of the first SIGINT or SIGTERM that has come within the block, 0 before.

    The first calls ``notify``, the next one does what it did before. Signals that were ignored stay so. Outside of the
    main thread, where Python allows no handlers of signals, none is noticed.

    >>> with stop_requested() as requested:
    ...     signal.raise_signal(signal.SIGINT)
    ...     requested() == signal.SIGINT
    True
    """
    came: list[tuple[int, float]] = []

    def take(number: int, frame: FrameType | None) -> None:
        if not came:
            came.append((number, time.monotonic()))
            notify()
        elif time.monotonic() - came[0][1] > _SAME:
            signal.signal(number, before[number])
            signal.raise_signal(number)

    before: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for listened in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(listened)
                if handler is not None and handler != signal.SIG_IGN:  # None: not Python's, and cannot be put back
                    before[listened] = handler
                    signal.signal(listened, take)
        yield lambda: came[0][0] if came else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
