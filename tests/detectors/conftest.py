"""A tiny CLIP that can read sentences, as open_clip's model and as ours."""

from __future__ import annotations

import pytest
import torch
from open_clip.model import CLIP

from headlens.backbone import Backbone, architecture_from_config, assemble
from tests.backbone.models import random_clip
from tests.tiny import SENTENCES


@pytest.fixture(scope="session")
def theirs() -> CLIP:
    return random_clip(SENTENCES, torch.float32)


@pytest.fixture(scope="session")
def clip(theirs: CLIP) -> Backbone:
    return assemble(architecture_from_config(SENTENCES, "tiny"), theirs.state_dict())


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 40, generator=torch.Generator().manual_seed(1))
