"""What a stage of training cannot change is computed once for each image, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor


class FeatureStore:
    """Keeps in memory what ``compute`` makes of images, if that of all images fits the budget; else nothing.

    A batch of shuffled images hardly ever finds all of its images among some that are kept.

    Args:
        compute: normalised images [B, 3, h, w] to a frozen dataclass of tensors [B, ...] and dicts of them; other
            fields are the same for all images, such as their size.
        images: how many there are.
        budget: bytes that may be kept.
    """

    def __init__(self, compute: Callable[[Tensor], Any], images: int, budget: int = 4 * 2**30) -> None:
        self.compute, self.images, self.budget = compute, images, budget
        self.keeps = True
        self._rows: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @torch.no_grad()
    def of(self, index: Tensor, images: Tensor) -> Any:
        """What ``compute`` makes of the normalised ``images`` [B, 3, h, w], which have these numbers [B] in the set."""
        numbers = index.tolist()
        if all(number in self._rows for number in numbers):
            return _batch([self._rows[number] for number in numbers], images.device)
        features = self.compute(images)
        if not self._rows:
            size = sum(part.numel() * part.element_size() for part in _tensors(features)) / len(numbers)
            self.keeps = size * self.images <= self.budget
        if self.keeps:
            for row, number in enumerate(numbers):
                self._rows.setdefault(number, _row(features, row))
        return features


def _each(features: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same with every tensor changed."""
    changed: dict[str, Any] = {}
    for name, value in vars(features).items():
        if isinstance(value, Tensor):
            changed[name] = change(value)
        elif isinstance(value, dict):
            changed[name] = {key: change(part) for key, part in value.items()}
    return replace(features, **changed)


def _row(features: Any, row: int) -> Any:
    return _each(features, lambda value: value[row].cpu().clone())  # a view would keep the whole batch


def _tensors(features: Any) -> Iterator[Tensor]:
    for value in vars(features).values():
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            yield from value.values()


def _batch(rows: list[Any], device: torch.device) -> Any:
    """Images one by one to a batch of them."""
    columns = zip(*map(_tensors, rows), strict=True)
    return _each(rows[0], lambda _: torch.stack(next(columns)).to(device))
