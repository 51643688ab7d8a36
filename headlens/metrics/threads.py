"""Work on many maps by as many threads as torch may use: numpy and torch let go of the interpreter while they count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def shares(work: Callable[[Sequence[Item]], Result], items: Sequence[Item]) -> list[Result]:
    """``work`` on equal shares of ``items``, in order, one for each thread that torch is allowed; no item, one share.

    >>> shares(sum, [1, 2, 3])[0] in (3, 6, 1)
    True
    """
    count = max(1, min(torch.get_num_threads(), len(items)))
    parts = [items[len(items) * i // count : len(items) * (i + 1) // count] for i in range(count)]
    if count == 1:
        return [work(parts[0])]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, parts))
