"""Mosaics: four images of one category in place of one, as APRIL-GAN (arXiv 2305.17382) trains on MVTec AD."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from random import Random
from typing import TypeVar

import torch
from torch import Tensor

from headlens.data import Batch, Loader, Pixels
from headlens.training.augmenting import chance

Thing = TypeVar("Thing")


class Mosaics:
    """Batches in which four images may stand in place of one, each of half its height and width.

    Args:
        loader: of uint8 images and masks of their size, or none.
        readable: numbers of the images that may be in a mosaic.
        probability: of a mosaic, for each image and epoch.
        seed: from which follows, with epoch and number, which images are in it.
    """

    def __init__(self, loader: Loader, readable: Sequence[int], probability: float, seed: int) -> None:
        self.loader, self.probability, self.seed = loader, probability, seed
        self._families: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number in readable:
            record = loader.dataset.records[number]
            self._families[record.category][record.family].append(number)

    def tiles(self, number: int, epoch: int) -> tuple[int, ...]:
        """Which images are shown in place of image ``number``: itself alone, or four, row by row.

        First a kind of anomaly is drawn, or none, and then one of its images: as it is published, and with replacement.
        """
        draw = chance("mosaic", self.seed, epoch, number)
        if draw.random() >= self.probability:
            return (number,)
        families = list(self._families[self.loader.dataset.records[number].category].values())
        return tuple(_one(_one(families, draw), draw) for _ in range(4))

    def batches(self, rows: Sequence[Sequence[int]], epoch: int) -> Iterator[Batch]:
        """A batch for each row of image numbers; images of which a part can no longer be read are left out."""
        tiles = [{number: self.tiles(number, epoch) for number in row} for row in rows]
        needed = {row: list(dict.fromkeys(chain(*shown.values()))) for row, shown in enumerate(tiles)}
        for row, batch in self.loader.pieces(needed):
            places = {number: place for place, number in enumerate(batch.index.tolist())}
            shown = {
                number: [places[tile] for tile in parts]
                for number, parts in tiles[row].items()
                if all(tile in places for tile in parts)
            }
            if shown:
                yield self._together(batch, shown)

    def _together(self, parts: Batch, shown: Mapping[int, Sequence[int]]) -> Batch:
        """The images whose numbers are in ``shown``, each of these rows of ``parts``."""
        pixels = [self._pixels(parts, rows) for rows in shown.values()]
        masks = [one.mask for one in pixels if one.mask is not None]
        return Batch(
            images=torch.stack([one.image for one in pixels]),
            masks=torch.stack(masks) if masks else None,
            has_mask=torch.stack([parts.has_mask[rows].all() for rows in shown.values()]),
            inside=None,
            labels=torch.tensor([_label(parts.labels[rows].tolist()) for rows in shown.values()]),
            index=torch.tensor(list(shown)),
            records=tuple(self.loader.dataset.records[number] for number in shown),
            native=tuple(parts.native[rows[0]] for rows in shown.values()),
        )

    def _pixels(self, parts: Batch, rows: Sequence[int]) -> Pixels:
        images, masks = parts.images[rows], parts.masks
        marked = masks[rows] if isinstance(masks, Tensor) else None
        if len(rows) == 1:
            return Pixels(images[0], None if marked is None else marked[0])
        prepared = self.loader.preprocess(Pixels(_square(images), None if marked is None else _square(marked)))
        return Pixels(prepared.image, prepared.mask)


def _one(things: Sequence[Thing], draw: Random) -> Thing:
    return things[int(draw.random() * len(things))]


def _square(four: Tensor) -> Tensor:
    """[4, ..., S, S] to [..., 2 S, 2 S], row by row."""
    return torch.cat([torch.cat([four[0], four[1]], -1), torch.cat([four[2], four[3]], -1)], -2)


def _label(labels: Sequence[int]) -> int:
    """1 where one is anomalous, else -1 where one is not known, else 0."""
    return 1 if 1 in labels else min(labels)
