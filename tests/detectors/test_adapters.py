"""What adapters do to tokens, and what is read through them, against plain formulas."""

from __future__ import annotations

import pytest
import torch

from headlens.detectors.parts.adapters import LeakyProjection, ResidualAdapter, ResidualAdapters
from tests.backbone.models import close


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(2, 5, 12, dtype=torch.float64, generator=seeded(3))


@torch.no_grad()
def test_an_adapter_is_its_formula_token_by_token(tokens):
    adapter = ResidualAdapter(12, 0.1, seeded())
    weight = adapter.linear.weight.double()
    assert float(weight.abs().max()) <= 0.5 and float(weight.abs().max()) > 0.4, "uniform up to sqrt(6 / (12 + 12))"
    for image, row in zip(adapter(tokens), tokens, strict=True):
        for after, x in zip(image, row, strict=True):
            y = torch.tensor([max(v, 0.01 * v) for v in (weight @ x).tolist()], dtype=torch.float64)
            close(after, 0.1 * y * x.norm() / y.norm() + 0.9 * x, 1e-12)
    assert torch.equal(ResidualAdapter(12, 0.0, seeded())(tokens), tokens)


def test_what_is_read_after_an_adapter_is_read_before_it(tokens):
    adapter = ResidualAdapter(12, 0.4, seeded())
    covector = torch.randn(2, 5, 12, dtype=torch.float64, generator=seeded(4))
    pulled = adapter.pull(tokens, covector)
    close((tokens * pulled).sum(-1), (adapter(tokens) * covector).sum(-1), 1e-12)
    weight, other = adapter.linear.weight.double(), torch.randn(2, 5, 12, dtype=torch.float64, generator=seeded(5))
    slope = torch.ones_like(tokens).where(tokens @ weight.T > 0, 0.01)
    scale = tokens.norm(dim=-1, keepdim=True) / (tokens @ weight.T * slope).norm(dim=-1, keepdim=True)
    held = 0.4 * scale * (other @ weight.T) * slope + 0.6 * other  # of other tokens, signs and norms held
    close((other * pulled).sum(-1), (held * covector).sum(-1), 1e-12)


def test_adapters_stand_after_the_first_blocks_and_differ():
    adapters = ResidualAdapters(3, 8, 0.1, seeded())
    assert list(adapters.by_block) == [0, 1, 2]
    assert not torch.equal(adapters[0].linear.weight, adapters[1].linear.weight)
    again = ResidualAdapters(3, 8, 0.1, seeded())
    assert all(torch.equal(a, b) for a, b in zip(adapters.parameters(), again.parameters(), strict=True))


def test_a_projection_ends_in_leaky_relu(tokens):
    projection = LeakyProjection(12, 7, seeded())
    hidden = tokens @ projection.linear.weight.double().T
    close(projection(tokens), torch.maximum(hidden, 0.01 * hidden), 1e-12)
