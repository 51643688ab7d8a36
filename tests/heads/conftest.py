"""Detectors with other plans than HeadCLIP's."""

from __future__ import annotations

import pytest
import torch

from headlens.detectors import Detector
from tests.heads.plans import planned as with_plan
from tests.heads.plans import plans


@pytest.fixture(autouse=True)
def threads(one_torch_thread):
    """One for each test."""


@pytest.fixture
def planned(make):
    """Builds detectors with another plan: the name of one of ``PLANS``, or its changes; and other fields of config."""

    def made(changes: str | dict, dtype: torch.dtype = torch.float64, **config) -> Detector:
        detector = make(dtype, **config)
        width = detector.backbone.vision.cfg.d_model
        return with_plan(detector, plans(width)[changes] if isinstance(changes, str) else changes)

    return made
