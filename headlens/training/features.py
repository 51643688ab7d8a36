"""What nothing learned influences is computed once for each image, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from headlens.data import Batch
from headlens.detectors.headclip import Detector, Features
from headlens.detectors.parts import LocalParts, assemble, local_parts, only_local

Kept = TypeVar("Kept", Features, LocalParts)


class FeatureStore(Generic[Kept]):
    """Keeps what ``compute`` makes of images in memory, as far as the budget goes; the rest is computed each time.

    Args:
        compute: normalised images [B, 3, h, w] to ``Features`` or ``LocalParts``.
        budget: bytes that may be kept.
    """

    def __init__(self, compute: Callable[[Tensor], Kept], budget: int = 4 * 2**30) -> None:
        self.compute: Callable[[Tensor], Kept] = compute
        self.room = budget
        self._kept: dict[int, Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    @torch.no_grad()
    def of(self, batch: Batch, images: Tensor) -> Kept:
        """What belongs to the normalised ``images`` [B, 3, h, w] of ``batch``."""
        numbers = batch.index.tolist()
        if all(number in self._kept for number in numbers):
            return _together([self._kept[number] for number in numbers], images.device)
        made = self.compute(images)
        for row, number in enumerate(numbers):
            if number not in self._kept:
                own = _row(made, row)
                size = sum(part.numel() * part.element_size() for part in _tensors(own))
                if size <= self.room:
                    self._kept[number] = own
                    self.room -= size
        return made


def store_of(detector: Detector) -> tuple[Callable[[Batch, Tensor], Features], bool]:
    """How to get features of a batch while ``detector`` is trained, and whether anything of them is kept.

    Without head weights the features themselves are; with local ones alone, the parts that they weigh.
    """
    if detector.weights is None:
        return FeatureStore(detector.features).of, True
    if only_local(detector):
        store = FeatureStore(lambda images: local_parts(detector, images))
        return lambda batch, images: assemble(detector, store.of(batch, images)), True
    return lambda batch, images: detector.features(images), False


def _each(kept: Kept, change: Callable[[Tensor], Tensor]) -> Kept:
    """The same with every tensor changed; the size of the images stays."""
    changed: dict[str, Any] = {
        name: change(value) if isinstance(value, Tensor) else {key: change(part) for key, part in value.items()}
        for name, value in vars(kept).items()
        if name != "size"
    }
    return replace(kept, **changed)


def _row(kept: Kept, row: int) -> Kept:
    return _each(kept, lambda value: value[row].cpu().clone())  # a view would keep the whole batch


def _tensors(kept: Features | LocalParts) -> Iterator[Tensor]:
    for name, value in vars(kept).items():
        if name != "size":
            yield from [value] if isinstance(value, Tensor) else value.values()


def _together(rows: list[Kept], device: torch.device) -> Kept:
    """Images one by one to a batch of them."""
    columns = zip(*map(_tensors, rows), strict=True)
    return _each(rows[0], lambda _: torch.stack(next(columns)).to(device))
