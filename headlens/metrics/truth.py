"""``Truth``: everything that metrics need from the masks, computed once, because a sweep needs it hundreds of times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import numpy as np
import scipy  # its parts are imported when they are used
import torch
from torch import Tensor

from headlens.errors import ShapeError
from headlens.metrics.checks import checked_labels

FIXED_POINT = 2**40  # a region's weight as an integer: 8 million regions add up in any order to the same bits


@dataclass(frozen=True)
class Truth:
    """Defect pixels and the regions they form, of B masks.

    Args:
        shape: (B, H, W).
        index: [P] int64, rising: positions of the P defect pixels in the flattened masks.
        region: [P] int64: which region each belongs to. Regions are 8-connected and end at their image's border.
        area: [R] int64: pixels of each region.

    >>> truth = Truth.of(torch.tensor([[[1, 0, 0], [0, 1, 0], [0, 0, 0]], [[1, 0, 1], [0, 0, 0], [0, 0, 0]]]))
    >>> truth.area
    tensor([2, 1, 1])
    """

    shape: tuple[int, int, int]
    index: Tensor
    region: Tensor
    area: Tensor

    @classmethod
    def of(cls, masks: Tensor) -> Truth:
        """The truth of ``masks`` [B, H, W] (bool, or numbers that are 0 or 1), on their device.

        Regions are labelled on the CPU: a mask on another device travels there, once.

        Raises:
            MetricError: another value than 0 and 1.
            ShapeError: not three axes.
        """
        masks = checked_labels(masks, "masks")
        if masks.ndim != 3:
            raise ShapeError(f"masks have shape {tuple(masks.shape)}; expected [B, H, W]")
        flags = masks.cpu().numpy()
        index, region, regions = [], [], 0
        for number, flag in enumerate(flags):
            if not flag.any():
                continue
            labels, count = scipy.ndimage.label(flag, structure=np.ones((3, 3)))
            where = np.flatnonzero(flag)
            index.append(where + number * flag.size)
            region.append(labels.ravel()[where].astype(np.int64) + (regions - 1))
            regions += count
        joined = [torch.from_numpy(np.concatenate([np.empty(0, np.int64), *part])) for part in (index, region)]
        area = torch.bincount(joined[1], minlength=regions)
        batch, height, width = masks.shape
        return cls((batch, height, width), *(part.to(masks.device) for part in (*joined, area)))

    @classmethod
    def joined(cls, parts: Sequence[Truth]) -> Truth:
        """The truth of all images of ``parts``, of one size, in their order.

        >>> one, two = (Truth.of(torch.tensor([[[0, 1], [0, 0]]])) for _ in range(2))
        >>> Truth.joined([one, two]).index
        tensor([1, 5])
        """
        pixels = parts[0].shape[1] * parts[0].shape[2]
        images = [0, *accumulate(part.shape[0] for part in parts)]
        regions = [0, *accumulate(part.regions for part in parts)]
        return cls(
            (images[-1], *parts[0].shape[1:]),
            torch.cat([part.index + first * pixels for part, first in zip(parts, images[:-1], strict=True)]),
            torch.cat([part.region + first for part, first in zip(parts, regions[:-1], strict=True)]),
            torch.cat([part.area for part in parts]),
        )

    @property
    def regions(self) -> int:
        """How many there are."""
        return len(self.area)

    @cached_property
    def area_at(self) -> Tensor:
        """[P] int64: the area of the region that each defect pixel belongs to."""
        return self.area[self.region]

    @cached_property
    def weight(self) -> Tensor:
        """[P] int64: the share that each defect pixel has in its region, ``FIXED_POINT / area``, rounded."""
        return torch.round(FIXED_POINT / self.area_at.cpu().double()).long().to(self.area.device)

    @cached_property
    def starts(self) -> list[int]:
        """B + 1 positions in ``index``: the defect pixels of image b are ``index[starts[b]:starts[b + 1]]``."""
        batch, height, width = self.shape
        edges = torch.arange(batch + 1, device=self.index.device) * (height * width)
        return torch.searchsorted(self.index, edges).tolist()

    @property
    def each(self) -> Tensor:
        """[B] int64: how many regions each image has."""
        shares = torch.zeros(self.shape[0], dtype=torch.int64, device=self.index.device)
        shares.scatter_add_(0, self.index // (self.shape[1] * self.shape[2]), self.weight)
        return (shares + FIXED_POINT // 2) // FIXED_POINT

    def images(self, first: int, last: int) -> Truth:
        """The truth of images ``first`` to ``last``, without the latter."""
        last = min(last, self.shape[0])
        rows = slice(self.starts[first], self.starts[last])
        regions, region = self.region[rows].unique(return_inverse=True)
        index = self.index[rows] - first * self.shape[1] * self.shape[2]
        return Truth((last - first, *self.shape[1:]), index, region, self.area[regions])

    def to(self, device: torch.device | str) -> Truth:
        """The same on ``device``; itself, where it already is on it."""
        if self.index.device == torch.device(device):
            return self
        return replace(self, **{name: getattr(self, name).to(device) for name in ("index", "region", "area")})
