"""The next step's batch, made while this one computes: by a thread, which works while autograd is in C++."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


class Ahead:
    """Calls ``make`` once ahead, in a thread and, on a GPU, on a CUDA stream of its own.

    Args:
        make: arguments to what a step needs: tensors, or dataclasses and tuples of them. It is never called twice at
            a time.
        device: of its tensors.

    >>> ahead = Ahead(lambda n: torch.ones(n), torch.device("cpu"))
    >>> ahead.begin(2)
    >>> ahead.take()
    tensor([1., 1.])
    >>> ahead.end()
    """

    def __init__(self, make: Callable[..., Any], device: torch.device) -> None:
        self._make, self._device = make, device
        self._thread = ThreadPoolExecutor(1)
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._made: Future[tuple[Any, torch.cuda.Event | None]] | None = None

    def begin(self, *args: Any) -> None:
        """Starts to make the next one."""
        self._made = self._thread.submit(self._work, *args)

    def take(self) -> Any:
        """What was begun, once it is there; what the thread raised is raised here."""
        assert self._made is not None
        made, ready = self._made.result()
        if ready is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(ready)
            for tensor in tensors(made):  # they were allocated on the other stream
                if tensor.is_cuda:
                    tensor.record_stream(current)
        return made

    def end(self) -> None:
        """Waits for what was begun, and for nothing more."""
        self._thread.shutdown(wait=True)

    def _work(self, *args: Any) -> tuple[Any, torch.cuda.Event | None]:
        if self._side is None:
            return self._make(*args), None
        torch.cuda.set_device(self._device)
        with torch.cuda.stream(self._side):
            made = self._make(*args)
            return made, self._side.record_event()


def tensors(made: Any) -> Iterator[Tensor]:
    """Every tensor in tensors, tuples, lists and dataclasses."""
    if isinstance(made, Tensor):
        yield made
    elif isinstance(made, (tuple, list)):
        for part in made:
            yield from tensors(part)
    elif hasattr(made, "__dataclass_fields__"):
        yield from tensors(list(vars(made).values()))
