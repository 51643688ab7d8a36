"""A tiny detector in float64 whose head weights are not 1, pictures for it, and the plain way to ablate a head."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headlens import data
from headlens.backbone import architecture_from_config, assemble
from headlens.detectors.detector import Detector
from headlens.detectors.methods.headclip import HeadCLIP
from headlens.detectors.methods.registry import preset
from headlens.metrics.threads import one_thread
from tests.backbone.models import random_clip, tiny_config
from tests.heads.plans import planned as with_plan
from tests.heads.plans import plans

SMALL = {"taps": (1, 3), "local_start": 1, "deep": 2, "deep_tokens": 3, "context": 5, "streams": ("global", "local")}
SENTENCES = tiny_config(vocab_size=49408, context_length=32)


@pytest.fixture(autouse=True)
def threads():
    """One: these tensors are so small that torch's threads would wait for each other longer than they work."""
    with one_thread():
        yield


@pytest.fixture(scope="session")
def state() -> dict[str, Tensor]:
    return random_clip(SENTENCES).state_dict()


@pytest.fixture
def make(state):
    """Builds detectors: of which config, and in which precision; its backbone is nobody else's."""

    def made(dtype: torch.dtype = torch.float64, **changes) -> Detector:
        own = {key: value.clone() for key, value in state.items()}
        clip = assemble(architecture_from_config(SENTENCES, "tiny"), own, dtype=dtype)
        detector = HeadCLIP(clip, preset("headclip", **(SMALL | changes)), seed=1)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in detector.prompts.parameters():
                parameter.mul_(20)  # as large as learned ones become
            for raw in detector.weights.raw.values():
                raw.add_(torch.rand(raw.shape, generator=generator) - 0.5)
        return detector.requires_grad_(False)

    return made


@pytest.fixture
def detector(make) -> Detector:
    return make()


@pytest.fixture
def planned(make):
    """Builds detectors with another plan: the name of one of ``PLANS``, or its changes; and other fields of config."""

    def made(changes: str | dict, dtype: torch.dtype = torch.float64, **config) -> Detector:
        detector = make(dtype, **config)
        width = detector.backbone.vision.cfg.d_model
        return with_plan(detector, plans(width)[changes] if isinstance(changes, str) else changes)

    return made


@pytest.fixture
def images() -> Tensor:
    """Not square: rows and columns must not be mixed up."""
    return torch.randn(3, 3, 32, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def pictures() -> data.DataSet:
    return data.open("procedural:industrial/aux", per_category=6, size=32).where(
        lambda record: record.category in ("wood", "nut")
    )
