"""Small tensors all over."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def threads(one_torch_thread):
    """One for each test."""
