"""How many threads torch may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
