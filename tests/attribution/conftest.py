"""Targets that are known in closed form."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from headlens.attribution.targets import Target


@pytest.fixture(autouse=True)
def threads(one_torch_thread):
    """One for each test."""


@dataclass(frozen=True)
class Linear(Target):
    """``Σ weight · image``, and how many images it was given at once."""

    weight: Tensor | None = None
    batches: list[int] = field(default_factory=list)

    def __call__(self, images: Tensor, hooked: bool = False) -> Tensor:
        self.batches.append(len(images))
        return (images * self.weight).sum((1, 2, 3))

    def read(self, seen) -> Tensor:
        raise NotImplementedError


@pytest.fixture
def linear(detector, images) -> Linear:
    weight = torch.randn(images.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return Linear(detector, "linear", weight=weight)


def untouched(detector) -> bool:
    """No gradient and no hook is left behind."""
    points = detector.backbone.vision.hook_dict.values()
    gradients = [p.grad for p in [*detector.parameters(), *detector.backbone.parameters()]]
    return all(g is None for g in gradients) and not any(p._forward_hooks or p._backward_hooks for p in points)
