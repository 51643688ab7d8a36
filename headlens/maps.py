"""Patch grids to smooth maps: bilinear, then Gaussian, as one matrix for each axis; means of neighbours."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.errors import ShapeError
from headlens.precision import full_precision


def upsample(
    maps: Tensor, size: tuple[int, int], sigma: float | None = None, corners: bool = False, reach: int | None = None
) -> Tensor:
    """Maps [B, rows, columns] to [B, *size], bilinear, then smoothed by a Gaussian.

    Both steps are linear and treat the axes apart, so a map is ``U X Vᵀ``: equal to ``F.interpolate`` and
    torchvision's ``gaussian_blur`` (cut off at 4 sigma, or where the shorter side ends; reflecting at the border) up to
    rounding. Differentiable; half precision is computed in float32 and comes back as it was.

    Args:
        maps: patch-wise.
        size: height and width in pixels.
        sigma: in pixels; 4 at 518 px, and in proportion elsewhere, when None.
        corners: the corners of the grid are those of the map (``align_corners``), not half a patch inside it.
        reach: pixels on either side that the Gaussian has; 4 sigma when None.

    Raises:
        ShapeError: maps that have not three axes, or an empty size.

    >>> upsample(torch.ones(2, 3, 4), (21, 28)).shape
    torch.Size([2, 21, 28])
    """
    if maps.ndim != 3 or 0 in maps.shape[1:] or min(size) < 1:
        raise ShapeError(f"maps have shape {tuple(maps.shape)}, size is {size}; expected [B, rows, columns] and pixels")
    sigma = 4.0 * max(size) / 518 if sigma is None else sigma
    radius = min(round(4 * sigma) if reach is None or not sigma else reach, min(size) - 1)
    dtype = torch.float64 if maps.dtype == torch.float64 else torch.float32
    rows, columns = (
        _matrix(patches, pixels, sigma, radius, corners, dtype, maps.device)
        for patches, pixels in zip(maps.shape[1:], size, strict=True)
    )
    with full_precision(maps.device):  # anything else would round every pixel
        wide = maps.to(dtype) @ columns.T  # [B, rows, W]
        return torch.bmm(rows.expand(maps.shape[0], -1, -1), wide).to(maps.dtype)


def neighbour_mean(maps: Tensor, side: int) -> Tensor:
    """Every pixel of maps [B, rows, columns] as the mean of ``side`` x ``side`` around it; borders are repeated.

    Args:
        maps: of any size.
        side: odd.

    >>> neighbour_mean(torch.tensor([[[9.0, 0.0, 0.0]]]), 3)
    tensor([[[6., 3., 0.]]])
    """
    padded = F.pad(maps[:, None], (side // 2,) * 4, mode="replicate")
    return F.avg_pool2d(padded, side, stride=1)[:, 0]


def windows(grid: tuple[int, int], side: int) -> Tensor:
    """The patches of every square window of ``side`` x ``side`` on a grid, row by row, [W, n]; no larger than the grid.

    >>> windows((2, 3), 2).tolist()
    [[0, 1, 3, 4], [1, 2, 4, 5]]
    """
    numbers = torch.arange(grid[0] * grid[1]).view(grid)
    height, width = (min(side, edge) for edge in grid)
    return numbers.unfold(0, height, 1).unfold(1, width, 1).flatten(0, 1).flatten(1)


@lru_cache(maxsize=16)
def covering(grid: tuple[int, int], side: int, like: torch.dtype, device: torch.device) -> Tensor:
    """[N, W] whose product with numbers of windows is the mean over those that cover each patch."""
    with torch.inference_mode(False):
        of = windows(grid, side)
        covers = torch.zeros(len(of), grid[0] * grid[1], dtype=like).scatter_(1, of, 1.0).T
        return (covers / covers.sum(1, keepdim=True)).to(device)


@lru_cache(maxsize=64)
def _matrix(
    patches: int, pixels: int, sigma: float, radius: int, corners: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """[pixels, patches]: what one axis of the map is made of."""
    with torch.inference_mode(False):  # an inference tensor in the cache would fail the next one who differentiates
        unit = torch.eye(patches, dtype=torch.float64)[None]
        spread = F.interpolate(unit, size=pixels, mode="linear", align_corners=corners)  # [1, patches, pixels]
        if radius:
            kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
            padded = F.pad(spread, (radius, radius), mode="reflect")
            spread = F.conv1d(padded.transpose(0, 1), (kernel / kernel.sum())[None, None]).transpose(0, 1)
        return spread[0].T.contiguous().to(dtype).to(device)
