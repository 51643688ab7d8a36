"""What a stage of training cannot change is computed once for each image, and kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
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
            rows = [self._rows[number] for number in numbers]
            return _mapped(lambda *parts: torch.stack(parts).to(images.device), *rows)
        features = self.compute(images)
        if not self._rows:
            sizes: list[int] = []
            _mapped(lambda part: sizes.append(part.nbytes), features)
            self.keeps = sum(sizes) / len(numbers) * self.images <= self.budget
        if self.keeps:
            for row, number in enumerate(numbers):
                if number not in self._rows:  # a view would keep the whole batch
                    self._rows[number] = _mapped(lambda part, row=row: part[row].cpu().clone(), features)
        return features


def _mapped(change: Callable[..., Any], *features: Any) -> Any:
    """One like the first of ``features``, with ``change`` of their tensors in place of each tensor."""
    first = features[0]
    if isinstance(first, Tensor):
        return change(*features)
    if isinstance(first, dict):
        return {key: _mapped(change, *(one[key] for one in features)) for key in first}
    if is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in fields(first)]
        return replace(first, **{name: _mapped(change, *(getattr(one, name) for one in features)) for name in names})
    return first
