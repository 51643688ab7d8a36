"""Images of a data set as a detector wants them, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from headlens import parallel
from headlens.data import Batch, DataSet, Loader, Preprocess
from headlens.data.loading import ahead
from headlens.data.notes import Notes, notes_of
from headlens.data.staging import arrived
from headlens.detectors.detector import Detector


class Images:
    """Iterates over batches in the order of the set; what cannot be read is left out and named in ``notes``.

    Images are resized to a square of ``size``, the detector's own when None, and go to its device.
    """

    def __init__(self, detector: Detector, data: DataSet, size: int | None = None, batch: int = 8) -> None:
        self.size = size or detector.image_size
        self._device = detector.device
        options = {"on_error": "skip", "normalise": False, "device": self._device}
        self._loader = Loader(data, Preprocess(self.size), batch, **options)  # type: ignore[arg-type]

    def __len__(self) -> int:
        """Batches, when nothing is left out."""
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[Batch, Tensor]]:
        """Each batch, and its normalised images [B, 3, S, S] on the detector's device."""
        return self.of(range(len(self._loader.dataset)))

    def of(self, numbers: Sequence[int]) -> Iterator[tuple[Batch, Tensor]]:
        """The same of the images with these numbers alone, in this order."""
        for batch in self._loader.batches(numbers):
            yield batch, self._normalised(batch)

    def shared(self) -> Iterator[tuple[int, Batch, Tensor]]:
        """This rank's share of the batches, each with its number: ``Loader.numbered``, as ``headlens.parallel`` deals.

        The batches of all ranks together, and what is in each, are the same however many ranks there are.
        """
        for number, batch in ahead(self._loader.numbered(parallel.current().share(len(self)))):
            yield number, batch, self._normalised(batch)

    def _normalised(self, batch: Batch) -> Tensor:
        return self._loader.preprocess.normalise(arrived(batch.images, self._device))

    @property
    def unread(self) -> list[str]:
        """Names of the images that this rank could not read so far."""
        return [skip.record.name for skip in self._loader.skipped]

    def notes(self) -> Notes:
        """Which images did not count so far, or not as they are stored, and why, on all ranks; all must ask.

        Raises:
            DataError: no image could be read.
        """
        notes = notes_of(self._loader)
        if len(notes["skipped"]) == len(self._loader.dataset):
            raise self._loader.nothing()
        return notes


def categories(batch: Batch) -> list[str]:
    """What the images of a batch show, for methods that read it."""
    return [record.category for record in batch.records]


def one_patch(detector: Detector) -> Tensor:
    """The smallest image that a detector reads, [1, 3, p, p]: for what is the same whatever the images."""
    edge = detector.backbone.vision.cfg.patch_size
    return torch.zeros(1, 3, edge, edge, device=detector.device)
