"""A Conv-Adapter on a grid of embeddings: a few channels, mixed with those of neighbours, and back.

    out = W_up act(c * (W_down x))        c: one kernel for each of the few channels, zeros around the grid

A single token is a grid of one. With the signs that ``act`` looks at held it is linear; at 1 x 1 for each token by
itself.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headlens.detectors.parts.projections import seeded_linear
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

    def pull(self, unit: Tensor, u: Tensor, level: int) -> Tensor:
        """``v`` with ``<adapter(x), u> = <x, v>`` at 1 x 1, signs held; [R, n, d_e] of ``u`` [R or 1, n or 1, d_e]."""
        with full_precision(unit.device):
            down, up, scale = (w.to(unit.dtype) for w in (self.down.weight, self.up.weight, self.kernel[:, 0, 0]))
            through = (u @ up) * scale
            through = through * (unit @ down.T * scale > 0) if self.relu else through
            return self.gate[level].to(unit.dtype) * (through @ down).expand(unit.shape)

    def _mixed(self, unit: Tensor, grid: tuple[int, int]) -> Tensor:
        hidden, kernel = unit @ self.down.weight.to(unit.dtype).T, self.kernel.to(unit.dtype)
        if self.side == 1:
            return hidden * kernel[:, 0, 0]
        maps = hidden.mT.unflatten(2, grid)  # (R, hidden, rows, columns)
        return F.conv2d(maps, kernel[:, None], padding=self.side // 2, groups=len(kernel)).flatten(2).mT
