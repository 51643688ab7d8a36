from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.functional import gaussian_blur

from headlens.errors import ShapeError
from headlens.maps import upsample


def two_steps(maps, size, sigma=None, corners=False):
    """Interpolation, then torchvision's blur: the oracle."""
    large = F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=corners)
    sigma = 4.0 * max(size) / 518 if sigma is None else sigma
    radius = min(round(4 * sigma), min(size) - 1)
    return gaussian_blur(large, [2 * radius + 1] * 2, [sigma, sigma])[:, 0] if radius else large[:, 0]


@settings(max_examples=30, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    size=st.tuples(st.integers(1, 45), st.integers(1, 45)),
    sigma=st.sampled_from([None, 0.1, 0.7, 3.0, 40.0]),
    corners=st.booleans(),
)
def test_one_matrix_an_axis_equals_interpolation_and_blur(grid, size, sigma, corners):
    maps = torch.rand(3, *grid, generator=torch.Generator().manual_seed(0))
    exact = two_steps(maps.double(), size, sigma, corners)
    torch.testing.assert_close(upsample(maps, size, sigma, corners).double(), exact, rtol=0, atol=5e-7)
    torch.testing.assert_close(upsample(maps.double(), size, sigma, corners), exact, rtol=0, atol=1e-13)


def test_at_the_size_papers_use():
    maps = torch.rand(1, 37, 37)
    torch.testing.assert_close(upsample(maps, (518, 518)), two_steps(maps, (518, 518)), rtol=0, atol=3e-6)


def test_gradients_also_after_inference():
    with torch.inference_mode():
        upsample(torch.rand(1, 3, 5, dtype=torch.float64), (9, 8), 1.25)
    maps = torch.rand(1, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: upsample(x, (9, 8), 1.25), maps)


def test_autocast_and_half_precision():
    maps = torch.rand(2, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        inside = upsample(maps, (30, 30))
    assert torch.equal(inside, upsample(maps, (30, 30)))
    half = upsample(maps.bfloat16(), (30, 30))
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, upsample(maps.bfloat16().float(), (30, 30)).bfloat16())


def test_maps_that_are_none():
    for maps, size in ((torch.rand(3, 3), (9, 9)), (torch.rand(1, 3, 3), (0, 9)), (torch.rand(1, 0, 3), (9, 9))):
        with pytest.raises(ShapeError, match=r"expected \[B, rows, columns\]"):
            upsample(maps, size)
