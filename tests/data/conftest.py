"""What several tests of the worlds ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from headlens.data.procedural.draw import Draw
from headlens.data.procedural.scene import Category


@pytest.fixture(scope="session")
def draws() -> Callable[[Category, int], Draw]:
    """The draws that a world of seed 0 gives the first ``n`` samples of a category."""

    def of(category: Category, n: int) -> Draw:
        return Draw.of(0, f"{category.domain}/{category.name}", torch.arange(n, dtype=torch.int32))

    return of


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small pictures gain nothing from threads, and lose a lot where something else runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
