"""Threads over blocks of pixels, none inside a small operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch's own threads off, on the CPU: for what is so small that they wait for each other longer than they work.

    On a machine that has other work to do, ten times longer.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def shares(work: Callable[[Sequence[Item]], Result], items: Sequence[Item]) -> list[Result]:
    """``work`` on equal shares of ``items``, in order, one for each thread that torch is allowed; no item, one share.

    numpy and torch let go of the interpreter while they count, so the shares do run at the same time.

    >>> sum(shares(sum, [1, 2, 3]))
    6
    """
    count = max(1, min(torch.get_num_threads(), len(items)))
    parts = [items[len(items) * i // count : len(items) * (i + 1) // count] for i in range(count)]
    with one_thread():
        if count == 1:
            return [work(parts[0])]
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(work, parts))
