"""A Conv-Adapter on a grid of embeddings: a few channels, mixed with those of neighbours, and back.

    out = W_up act(c * (W_down x))        c: one kernel for each of the few channels, zeros around the grid

A single token is a grid of one. With the signs that ``act`` looks at held, it is a sum over each token's neighbours.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headlens.detectors.parts.projections import seeded_linear
from headlens.detectors.readout import Pulled
from headlens.precision import full_precision


class ConvAdapter(nn.Module):
    """What is added to embeddings of unit length.

    Args:
        width: d_e.
        hidden: channels between the two matrices.
        kernel: odd; patches along a side that are mixed. The initial kernels leave each patch as it is.
        relu: whether there is a ReLU between the matrices.
        levels: the answer is multiplied by a learned gate for each, which begins at 0.
        generator: of the initial matrices, on the CPU.
        device: where.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        kernel: int,
        relu: bool,
        levels: int,
        generator: torch.Generator,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.relu, self.side = relu, kernel
        self.down = seeded_linear(width, hidden, bias=False, init="xavier", generator=generator, device=device)
        self.up = seeded_linear(hidden, width, bias=False, init="xavier", generator=generator, device=device)
        centre = torch.zeros(hidden, kernel, kernel)
        centre[:, kernel // 2, kernel // 2] = 1
        self.kernel = nn.Parameter(centre.to(device))
        self.gate = nn.Parameter(torch.zeros(levels, device=device))

    def forward(self, unit: Tensor, grid: tuple[int, int], level: int) -> Tensor:
        """Unit embeddings of a grid [R, rows * columns, d_e] to what is added to them, times the level's gate."""
        with full_precision(unit.device):
            hidden = self._mixed(unit, grid)
            hidden = hidden.relu() if self.relu else hidden
            return self.gate[level].to(unit.dtype) * (hidden @ self.up.weight.to(unit.dtype).T)

    def pull(self, unit: Tensor, u: Tensor, grid: tuple[int, int], level: int) -> list[Pulled]:
        """``v`` with ``<adapter(x), u> = Σ <x, v>``, signs held: of each patch itself, then of its neighbours.

        Args:
            unit: [R, n, d_e].
            u: [R or 1, n or 1, d_e].
            grid, level: as of a forward.
        """
        half, numbers = self.side // 2, torch.arange(unit.shape[1], device=unit.device).unflatten(0, grid)
        pulled: list[Pulled] = []
        row, column = (torch.arange(length, device=unit.device) for length in grid)
        with full_precision(unit.device):
            down, up, kernel = (w.to(unit.dtype) for w in (self.down.weight, self.up.weight, self.kernel))
            through = self.gate[level].to(unit.dtype) * (u @ up)  # (R or 1, n or 1, hidden)
            through = through * (self._mixed(unit, grid) > 0) if self.relu else through.expand(*unit.shape[:2], -1)
            for i, j in sorted(product(range(-half, half + 1), repeat=2), key=any):
                at = numbers.roll((-i, -j), (0, 1)).flatten() if i or j else None
                inside = _within(row + i, grid[0])[:, None] & _within(column + j, grid[1])
                taken = through * kernel[:, half + i, half + j] * inside.flatten()[:, None]
                pulled.append((at, taken @ down))
        return pulled

    def _mixed(self, unit: Tensor, grid: tuple[int, int]) -> Tensor:
        hidden, kernel = unit @ self.down.weight.to(unit.dtype).T, self.kernel.to(unit.dtype)
        if self.side == 1:
            return hidden * kernel[:, 0, 0]
        maps = hidden.mT.unflatten(2, grid)  # (R, hidden, rows, columns)
        return F.conv2d(maps, kernel[:, None], padding=self.side // 2, groups=len(kernel)).flatten(2).mT


def _within(numbers: Tensor, length: int) -> Tensor:
    return (numbers >= 0) & (numbers < length)
