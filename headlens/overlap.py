"""Work that reads what a device has just made, done while the device goes on with what comes next."""

from __future__ import annotations

from collections.abc import Callable

import torch


class Overlap:
    """Runs work on a second stream of a CUDA device, so that its waits are not the next forward's; elsewhere at once.

    Work is run when the next comes, or when all is done: by then the device has the next forward to go on with.

    >>> results = []
    >>> overlap, made = Overlap(torch.device("cpu")), torch.ones(2)
    >>> overlap(lambda: results.append(float(made.sum())), made)
    >>> overlap.done()
    >>> results
    [2.0]
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._next: tuple[Callable[[], None], torch.cuda.Event] | None = None

    def __call__(self, work: Callable[[], None], reads: torch.Tensor) -> None:
        """Runs ``work``, which reads a tensor that the current stream makes."""
        if self.stream is None:
            work()
            return
        reads.record_stream(self.stream)
        made = torch.cuda.current_stream(reads.device).record_event()
        last, self._next = self._next, (work, made)
        self._run(last)

    def done(self) -> None:
        """Runs what is left, and waits for it."""
        last, self._next = self._next, None
        self._run(last)
        if self.stream is not None:
            self.stream.synchronize()

    def _run(self, item: tuple[Callable[[], None], torch.cuda.Event] | None) -> None:
        if item is not None and self.stream is not None:
            with torch.cuda.stream(self.stream):
                self.stream.wait_event(item[1])
                item[0]()
