"""Which images are shown: by their place in the set, never by how they turned out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from headlens.data import DataSet, Preprocess, Record
from headlens.errors import DataError

RULE = "the first anomalous image of each of the first categories, with an outline where there is one"


@dataclass(frozen=True)
class Example:
    """An image and what is known of it.

    Args:
        record: which.
        image: as it is on disk, [3, H, W] uint8.
        seen: as the detector sees it, [S, S, 3] uint8.
        mask: the same of its outline, [S, S] bool; None where there is none.
    """

    record: Record
    image: Tensor
    seen: np.ndarray
    mask: np.ndarray | None

    @property
    def title(self) -> str:
        """Its category."""
        return self.record.category.replace("_", " ")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width on disk."""
        return self.image.shape[1], self.image.shape[2]


def examples(data: DataSet, count: int, size: int) -> list[Example]:
    """As ``RULE`` says.

    Args:
        data: of which set.
        count: at most so many.
        size: S, what the detector resizes images to.

    Raises:
        DataError: a set without any anomalous image.
    """
    first: dict[str, int] = {}
    for number, record in enumerate(data.records):
        if record.anomalous:
            first.setdefault(record.category, number)
    if not first:
        raise DataError(f"{data.name}: no image is known to be anomalous, so there is none to show")
    chosen = []
    for number in list(first.values())[:count]:
        pixels = data.pixels(number)
        seen = Preprocess(size)(pixels)
        mask = None if seen.mask is None else seen.mask.numpy()
        chosen.append(Example(data.records[number], pixels.image, seen.image.permute(1, 2, 0).numpy(), mask))
    return chosen
