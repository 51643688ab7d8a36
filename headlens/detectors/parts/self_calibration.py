"""SC-CLIP's local stream (arXiv 2411.15869): CLIP's own earlier patches say which patches of the last block belong.

With ``x(b)`` the patches that enter block b, ``R`` the repair of outliers among those that enter the last block L,
``U`` unit vectors, and a matrix of similarities cut off below a threshold and brought to rows of 1,

    S(x)  = rows of [U(x) U(x)ᵀ where above the threshold]
    M     = U(R x(similar)) U(R x(similar))ᵀ
    A_h   = ( softmax(sharpness (M - mean M) where above 0) + softmax(k_h k_hᵀ / √d) ) / 2
    z_h   = S(x(mixed)) ( A_h v_h of S(R x(similar)) R x(L)  +  A_h v_h of Σ x(levels) )
    y     = share (CLS(L) + Σ CLS(levels))  +  Σ_h z_h W_O^h + b_O for each of the two

There is neither a residual nor an MLP: heads of the last block write all of a patch but its image's CLS. Both passes
have one W_O, so that a head is one head in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.backbone import LocalStream
from headlens.backbone.blocks import Block
from headlens.backbone.plan import Source, Sourced
from headlens.detectors.parts.outliers import outliers, repaired
from headlens.errors import ShapeError
from headlens.precision import wide


@dataclass(frozen=True)
class SelfCalibration(Source):
    """A ``Source`` of the local stream of block ``last``; nothing in it is learned or random.

    Args:
        last: the block.
        similar, mixed: blocks whose entering patches give the two similarities.
        levels: blocks whose entering patches are added up to a second pass; none: there is no such pass.
        outlying: share of patches that are repaired; 0 is none.
        neighbours: of a patch among others, that its local outlier factor is taken of.
        textbook: that factor's reach is the textbook's, as of ``local_outlier_factor``.
        threshold: of similarities.
        sharpness: what multiplies them in the attention.
        cls: share of CLS in every patch.
        grid: rows and columns of patches; None where they are as many.
    """

    last: int
    similar: int
    mixed: int
    levels: tuple[int, ...] = ()
    outlying: float = 0.05
    neighbours: int = 30
    textbook: bool = False
    threshold: float = 0.4
    sharpness: float = 3.0
    cls: float = 0.3
    grid: tuple[int, int] | None = None

    @property
    def past(self) -> tuple[int, ...]:
        """All of these blocks."""
        return tuple(sorted({self.last, self.similar, self.mixed, *self.levels}))

    def __call__(self, block: Block, past: Mapping[int, Tensor]) -> Sourced:
        """What the heads of the last block write at all T tokens; those but patches write nothing."""
        entered, tokens = past[self.last], past[self.last].shape[1]
        grid = self._grid(tokens)
        count = grid[0] * grid[1]
        patches = {number: stream[:, 1 : 1 + count] for number, stream in past.items()}
        wrong = outliers(patches[self.last], self.outlying, self.neighbours, self.textbook)
        alike = _similarity(repaired(patches[self.similar], wrong, grid))  # M
        coherent = self._rows(alike).to(entered) @ repaired(patches[self.last], wrong, grid)
        shared = self.sharpness * (alike - alike.mean((1, 2), keepdim=True))
        shared = shared.masked_fill(shared < 0, -torch.inf).softmax(-1).to(entered)
        z = _attended(block, coherent, shared)
        begin = self.cls * entered[:, :1]
        if self.levels:
            z = z + _attended(block, torch.stack([patches[number] for number in self.levels]).sum(0), shared)
            of_levels = torch.stack([past[number][:, :1] for number in self.levels]).sum(0)
            begin = begin + self.cls * of_levels + block.attn.b_O  # the second pass is projected by itself
        mixing = self._rows(_similarity(patches[self.mixed])).to(entered)
        z = (mixing @ z.flatten(2)).unflatten(2, z.shape[2:])  # W_O and biases commute with rows that add up to 1
        return Sourced(F.pad(z, (0, 0, 0, 0, 1, tokens - 1 - count)), begin.expand(-1, tokens, -1))

    def _rows(self, similarity: Tensor) -> Tensor:
        """Similarities [B, N, N] above the threshold, in rows that add up to 1: a patch is like itself."""
        similar = torch.where(similarity < self.threshold, 0.0, similarity)
        return similar / similar.sum(-1, keepdim=True)

    def _grid(self, tokens: int) -> tuple[int, int]:
        grid = self.grid or (round((tokens - 1) ** 0.5),) * 2
        if grid[0] * grid[1] > tokens - 1 or (self.grid is None and grid[0] * grid[1] != tokens - 1):
            raise ShapeError(f"{tokens - 1} patches are not {grid[0]} x {grid[1]}: give SelfCalibration the grid")
        return grid


def _similarity(patches: Tensor) -> Tensor:
    """Cosines of patches [B, N, D], [B, N, N], at least float32."""
    unit = F.normalize(wide(patches), dim=-1)
    return unit @ unit.mT


def _attended(block: Block, patches: Tensor, shared: Tensor) -> Tensor:
    """What heads mix of patches [B, N, D], [B, N, H, d]: half by a matrix shared by all, half by their keys."""
    _, k, v = block.attn.project(block.ln1(patches), hooked=False)
    by_keys = block.attn.mix(k, k, v, ("kk",))
    of_shared = (shared @ v.flatten(2)).view_as(v)
    return (of_shared + by_keys) / 2


LEVELS = (4, 5, 6, 7, 8, 9, 10)


def self_calibrated(
    depth: int,
    grid: tuple[int, int] | None = None,
    similar: int = 9,
    mixed: int = 4,
    levels: tuple[int, ...] = LEVELS,
    **settings: Any,
) -> LocalStream:
    """The stream in a tower of ``depth`` blocks: any plan may have it, read at its last block.

    Args:
        depth: of the tower.
        grid: rows and columns of patches, where they are not as many.
        similar, mixed, levels: as of ``SelfCalibration``, in twelfths of the depth: of a tower of 12 they are blocks.
        **settings: others of it.

    >>> self_calibrated(12).source.past, self_calibrated(24).source.past
    ((4, 5, 6, 7, 8, 9, 10, 11), (8, 10, 12, 14, 16, 18, 20, 23))
    """

    def block(twelfths: int) -> int:
        return min(depth - 1, round(twelfths * depth / 12))

    several = tuple(dict.fromkeys(map(block, levels)))
    source = SelfCalibration(depth - 1, block(similar), block(mixed), several, grid=grid, **settings)
    return LocalStream(depth - 1, source=source)
