"""What nothing learned influences is computed once for each image, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from headlens.data import Batch
from headlens.detectors.detector import Detector
from headlens.detectors.methods.headclip import Features
from headlens.detectors.methods.headclip_features import LocalParts, assemble, local_parts, only_local

Kept = TypeVar("Kept", Features, LocalParts)


class FeatureStore(Generic[Kept]):
    """Keeps what ``compute`` makes of images in memory, if that of all images fits the budget; else nothing.

    A batch of shuffled images hardly ever finds all of its own among some that are kept.

    Args:
        compute: normalised images [B, 3, h, w] to ``Features`` or ``LocalParts``.
        images: how many there are.
        budget: bytes that may be kept.
    """

    def __init__(self, compute: Callable[[Tensor], Kept], images: int, budget: int = 4 * 2**30) -> None:
        self.compute: Callable[[Tensor], Kept] = compute
        self.images, self.budget, self.keeps = images, budget, True
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
        if not self._kept:
            size = sum(part.numel() * part.element_size() for part in _tensors(made)) / len(numbers)
            self.keeps = size * self.images <= self.budget
        if self.keeps:
            for row, number in enumerate(numbers):
                self._kept.setdefault(number, _row(made, row))
        return made


def features_of(
    detector: Detector, images: int
) -> tuple[Callable[[Batch, Tensor], Features], FeatureStore[Features] | FeatureStore[LocalParts] | None]:
    """How to get features of a batch while ``detector`` is trained on so many images, and what is kept on the way.

    Without head weights the features themselves are; with local ones alone, the parts that they weigh; else nothing.
    """
    if detector.weights is None:
        features = FeatureStore(detector.features, images)
        return features.of, features
    if only_local(detector):
        parts = FeatureStore(lambda batch: local_parts(detector, batch), images)

        def of(batch: Batch, images: Tensor) -> Features:
            # Where too many images leave nothing to keep, the tower differentiates its local stream alone, too.
            return assemble(detector, parts.of(batch, images)) if parts.keeps else detector.features(images)

        return of, parts
    return lambda batch, images: detector.features(images), None


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
