"""The order of files, those that take longest first, so that no process is left alone with one at the end; and what
tests of the lens share: a tiny detector in float64, images and a small data set.

Nothing large is imported here: pytest's first process reads this file before it starts the others, and runs no test.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest

if TYPE_CHECKING:
    import torch

    from headlens import data
    from headlens.data.procedural.worlds import Sample, World

HERE = Path(__file__).parent
LONGEST = ("notebooks", "parallel", "test_cli_lens.py", "test_cli_detector.py", "figures", "data/test_worlds.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Python's sort is stable: all others stay in their order, and the same on every process."""
    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Garbage is looked for among what tests make, not among all that was imported before."""
    gc.collect()
    gc.freeze()


def place(item: pytest.Item) -> int:
    return next((at for at, name in enumerate(LONGEST) if item.path.is_relative_to(HERE / name)), len(LONGEST))


_PAINTED: dict[tuple, Sample] = {}


def kept(paint: Callable[..., Sample]) -> Callable[..., Sample]:
    """``World.sample``, which paints each sample once for all tests; what is done to one reaches no other test."""

    def painted(world: World, i: int, device: str | None = None) -> Sample:
        category, family, number = world.place(i)
        key = (world.spec, world.size, world.seed, category.name, family, number, device)
        if key not in _PAINTED:
            _PAINTED[key] = paint(world, i, device)
        sample = _PAINTED[key]
        return replace(sample, image=sample.image.clone(), mask=sample.mask.clone())

    return painted


@pytest.fixture(scope="session", autouse=True)
def wide_terminal() -> Iterator[None]:
    """What verbs say stands on one line, for tests that look for it; those of widths set theirs."""
    with pytest.MonkeyPatch.context() as patches:
        patches.setenv("COLUMNS", "2000")
        yield


@pytest.fixture(scope="module", autouse=True)
def painted_once(request) -> Iterator[None]:
    """Painting takes longer than what most tests do with an image; those of the worlds themselves paint theirs."""
    if request.path.is_relative_to(HERE / "data"):
        yield
        return
    from headlens.data.procedural.worlds import World

    with patch.object(World, "sample", kept(World.sample)):
        yield


@pytest.fixture(scope="module")
def painted_small() -> Iterator[None]:
    """Worlds whose size is not said have images of 56 pixels along a side: 224 take longer than what is done with them.

    Of one module.
    """
    from headlens.data.procedural.worlds import World

    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(World.__init__, "__defaults__", (80, 56, 0))
        yield


@pytest.fixture(scope="module")
def runs_share_backbones() -> Iterator[None]:
    """For tests that load the same run again and again; that the lens leaves a backbone as it was is tested elsewhere.

    Of one module: what tests elsewhere do to a backbone does not come here.
    """
    from headlens.backbone import load

    with patch("headlens.training.run.load_backbone", cache(load)):
        yield


@pytest.fixture
def one_torch_thread():
    """For tensors so small that torch's threads would wait for each other longer than they work."""
    from headlens.devices import one_thread

    with one_thread():
        yield


@pytest.fixture
def make():
    """Builds detectors: of which config, and in which precision; its backbone is nobody else's."""
    from tests import tiny

    return tiny.headclip


@pytest.fixture
def detector(make):
    return make()


@pytest.fixture
def images() -> torch.Tensor:
    """Not square: rows and columns must not be mixed up."""
    import torch

    return torch.randn(3, 3, 32, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def pictures() -> data.DataSet:
    from headlens import data

    return data.open("procedural:industrial/aux", per_category=6, size=32).where(
        lambda record: record.category in ("wood", "nut")
    )
