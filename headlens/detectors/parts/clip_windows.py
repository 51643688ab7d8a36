"""Clips of any length as windows of one: cut to be scored, or averaged to be learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """Clips of a batch of B frames, each cut into windows of T frames one behind the other; the last may be shorter.

    Args:
        at: [W, T], which frame stands where; B where there is none.
        lengths: [W], frames of each.
        place: [B], where each frame stands among all W T.

    >>> windows = Windows.of([3, 1], 2)
    >>> windows.at.tolist(), windows.lengths.tolist(), windows.place.tolist()
    ([[0, 1], [2, 4], [3, 4]], [2, 1, 1], [0, 1, 2, 4])
    """

    at: Tensor
    lengths: Tensor
    place: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], size: int, device: torch.device | None = None) -> Windows:
        """Of clips with these numbers of frames, in order, and T = ``size``."""
        count, rows, start = sum(lengths), list[list[int]](), 0
        for length in lengths:
            for first in range(start, start + length, size):
                row = list(range(first, min(first + size, start + length)))
                rows.append(row + [count] * (size - len(row)))
            start += length
        at = torch.tensor(rows).reshape(-1, size)
        place = (at.flatten() < count).nonzero().flatten()
        return cls(at.to(device), (at < count).sum(1).to(device), place.to(device))

    def cut(self, frames: Tensor) -> Tensor:
        """Frames of V variants [V, B, d], one behind the other, to windows [V, W, T, d], with zeros where none is."""
        padded = torch.cat([frames, frames.new_zeros(len(frames), 1, frames.shape[-1])], 1)
        return padded[:, self.at]

    def joined(self, windows: Tensor) -> Tensor:
        """What was made of windows, [V, W, T, ...], frame by frame: [V, B, ...]."""
        return windows.flatten(1, 2)[:, self.place]


def averaged(frames: Tensor, most: int) -> Tensor:
    """A clip's frames [n, d], or the means of ``most`` pieces of as many frames, up to rounding, where n is larger.

    >>> averaged(torch.arange(5.0)[:, None], 2).flatten()
    tensor([0.5000, 3.0000])
    """
    count = len(frames)
    if count <= most:
        return frames
    ends = torch.arange(1, most + 1, device=frames.device) * count // most  # as linspace is, cut to whole numbers
    piece = torch.bucketize(torch.arange(count, device=frames.device), ends, right=True)
    sizes = piece.bincount(minlength=most).to(frames.dtype)
    return frames.new_zeros(most, frames.shape[1]).index_add(0, piece, frames) / sizes[:, None]
