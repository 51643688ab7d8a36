"""Random numbers that belong to a sample, not to a batch.

A generator with a state would give image ``i`` other numbers in another batch, and other numbers on a GPU. Here every
number is a hash of (key of the sample, number of the call, position), in 32-bit integers: the same bits on every
device, whatever stands beside it in the batch.
"""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor

_CALL, _POSITION = 0x9E3779B1 - (1 << 32), 0x85EBCA77 - (1 << 32)  # odd constants, as signed 32-bit integers

_DECK = 4096


def mix(x: Tensor) -> Tensor:
    """A bijection of int32 whose bits avalanche (two rounds of xor-shift and multiply, Wellons's lowbias32)."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * (0x846CA68B - (1 << 32))
    return x ^ ((x >> 16) & 0xFFFF)


class Draw:
    """What chance decides in ``B`` samples, one call after the other.

    Args:
        keys: [B] int32, one for each sample.

    >>> a = Draw(torch.tensor([7, 8], dtype=torch.int32)).uniform(0, 1)
    >>> b = Draw(torch.tensor([8], dtype=torch.int32)).uniform(0, 1)
    >>> a.shape, bool(a[1] == b[0])
    (torch.Size([2, 1, 1, 1]), True)
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys
        self._calls = 0
        self._deck: Tensor | None = None  # small calls are dealt from one table: hashing each alone is 30 operations
        self._dealt = 0

    @classmethod
    def of(cls, seed: int, name: str, index: Tensor) -> Draw:
        """Draws of the samples ``index`` [B] of the set ``name``."""
        start = torch.full_like(index, _signed(seed * 0x9E3779B1 ^ zlib.crc32(name.encode())), dtype=torch.int32)
        return cls(mix(mix(start) ^ mix(index.to(torch.int32) * _POSITION + 1)))

    @property
    def device(self) -> torch.device:
        """Where the numbers are made."""
        return self.keys.device

    def fork(self, name: str) -> Draw:
        """Draws of their own, which no earlier call moves."""
        return Draw(mix(self.keys ^ _signed(zlib.crc32(name.encode()))))

    def bits(self, *shape: int) -> Tensor:
        """[B, *shape] int32."""
        self._calls += 1
        position = torch.arange(math.prod(shape), dtype=torch.int32, device=self.device)
        key = mix(self.keys + self._calls * _CALL)
        return mix(mix(position * _POSITION + 1) ^ key[:, None]).view(len(self.keys), *shape)

    def uniform(self, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = (1, 1, 1)) -> Tensor:
        """[B, *shape], evenly from ``low`` to ``high``. The default shape broadcasts over images [B, C, H, W]."""
        count = math.prod(shape)
        if count > _DECK // 4:
            return self._unit(*shape) * (high - low) + low
        if self._deck is None or self._dealt + count > _DECK:
            self._deck, self._dealt = self._unit(_DECK), 0
        self._dealt += count
        cards = self._deck[:, self._dealt - count : self._dealt]
        return (cards * (high - low) + low).view(-1, *shape)

    def _unit(self, *shape: int) -> Tensor:
        return ((self.bits(*shape) >> 8) & 0xFFFFFF).to(torch.float32) * 2.0**-24

    def normal(self, shape: tuple[int, ...] = (1, 1, 1)) -> Tensor:
        """[B, *shape], mean 0, standard deviation 1 (Box and Muller)."""
        radius = (-2 * (1 - self.uniform(shape=shape)).log()).sqrt()
        return radius * (2 * math.pi * self.uniform(shape=shape)).cos()

    def integers(self, high: int, shape: tuple[int, ...] = (1, 1, 1)) -> Tensor:
        """[B, *shape] int64 in 0..high-1."""
        return (self.uniform(shape=shape) * high).long()

    def chance(self, p: float, shape: tuple[int, ...] = (1, 1, 1)) -> Tensor:
        """[B, *shape] float: 1 with probability ``p``, else 0."""
        return (self.uniform(shape=shape) < p).to(torch.float32)

    def pick(self, values: Tensor) -> Tensor:
        """One row of ``values`` [N, C] for each sample, as [B, C, 1, 1]: a colour out of a palette."""
        rows = values.to(self.device)[self.integers(len(values), (1,)).flatten()]
        return rows[:, :, None, None]


def _signed(x: int) -> int:
    x &= 0xFFFFFFFF
    return x - (1 << 32) if x >= 1 << 31 else x
