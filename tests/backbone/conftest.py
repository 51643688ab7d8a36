"""A tiny CLIP, open_clip's and ours with the same weights, and something to feed it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from open_clip.model import CLIP

from headlens.backbone import Backbone, architecture_from_config, assemble
from tests.backbone.models import TINY, listed, random_clip


@pytest.fixture(scope="module", autouse=True)
def named() -> Iterator[None]:
    with listed():
        yield


@pytest.fixture(scope="session")
def theirs() -> CLIP:
    return random_clip(TINY)


@pytest.fixture
def ours(theirs: CLIP) -> Backbone:
    """A copy of its own for each test, so that no test can leave anything behind for the next."""
    state = {key: value.clone() for key, value in theirs.state_dict().items()}
    return assemble(architecture_from_config(TINY, "tiny"), state, dtype=torch.float64)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def tokens() -> torch.Tensor:
    """Three prompts of 5, 8 and 16 tokens, ending in the highest id, then padding."""
    ids = torch.randint(1, 62, (3, 16), generator=torch.Generator().manual_seed(2))
    for row, end in enumerate((4, 7, 15)):
        ids[row, end], ids[row, end + 1 :] = 63, 0
    return ids
