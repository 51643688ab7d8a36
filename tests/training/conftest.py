"""A tiny CLIP, and a procedural set small enough to train on in a second."""

from __future__ import annotations

import pytest

from headlens import data
from headlens.backbone import Backbone, architecture_from_config, assemble
from headlens.detectors.methods.headclip import HeadCLIPConfig
from headlens.detectors.methods.registry import METHODS, preset
from tests.backbone.models import tiny_config
from tests.training.two_stages import KNOWN, TwoStages

SMALL = {"taps": (1, 3), "local_start": 1, "deep": 2, "deep_tokens": 3, "context": 5}


def tiny_clip() -> Backbone:
    """The same at every call."""
    config = tiny_config(vocab_size=49408, context_length=32)
    return assemble(architecture_from_config(config, "tiny"), None, seed=4)


@pytest.fixture
def clip() -> Backbone:
    return tiny_clip()


@pytest.fixture(scope="session")
def pictures() -> data.DataSet:
    return data.open("procedural:industrial/aux", category="wood", per_category=10, size=32)


@pytest.fixture
def headclip() -> HeadCLIPConfig:
    return preset("headclip", **SMALL)


@pytest.fixture
def two_stages(monkeypatch) -> type[TwoStages]:
    """A method of two stages that the registry knows."""
    for name, known in KNOWN.items():
        monkeypatch.setitem(METHODS, name, known)
    return TwoStages
