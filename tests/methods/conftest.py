"""Every method in turn, its detector, and what is shown to it."""

from __future__ import annotations

from functools import cache

import pytest
from torch import Tensor

from headlens import data
from headlens.detectors import Detector
from tests.methods.cases import CASES, images


@pytest.fixture(autouse=True)
def threads(one_torch_thread):
    """One for each test."""


@cache
def detector_of(case: str) -> Detector:
    """Made once; no test may change it."""
    return CASES[case]()


@pytest.fixture(params=CASES)
def case(request) -> str:
    return request.param


@pytest.fixture
def detector(case) -> Detector:
    return detector_of(case)


@pytest.fixture
def shown() -> Tensor:
    return images()


@pytest.fixture(scope="session")
def dataset() -> data.DataSet:
    return data.open("procedural:industrial/aux", category="wood", per_category=4, size=32)
