"""One pass of a detector over a data set: the loop of every question about many images.

    images -> this rank's batches -> finished parts from a folder, or computed and put there -> the parts of all ranks

A part is one batch of the set, always of the same images: a sweep that was killed goes on from its folder, several
processes (``headlens.parallel``) share one, and the answer is the same to the bit.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headlens import parallel
from headlens.clips import Shown
from headlens.data import Batch, DataSet, Loader, Preprocess, Record
from headlens.data.loading import ahead
from headlens.data.notes import Notes, notes_of
from headlens.data.staging import arrived
from headlens.detectors.detector import Detector
from headlens.detectors.precision import at_precision
from headlens.errors import ConfigError, RunError
from headlens.heads.store import Part, Store
from headlens.parallel import Arrays
from headlens.progress import Progress, followed
from headlens.provenance import computed, provenance

Compute = Callable[[Detector, Batch, Tensor], Mapping[str, np.ndarray]]
"""The detector as it computes in the sweep's precision, a batch and its normalised images to arrays [V, B, ...]."""


class Images:
    """Iterates over batches in the order of the set; what cannot be read is left out and named in ``notes``.

    Images are resized to a square of ``size``, the detector's own when None, and go to its device.
    """

    def __init__(self, detector: Detector, data: DataSet, size: int | None = None, batch: int = 8) -> None:
        self.size = size or detector.image_size
        self._device = detector.device
        options = {"on_error": "skip", "normalise": False, "device": self._device}
        self._loader = Loader(data, Preprocess(self.size), batch, **options)  # type: ignore[arg-type]
        self.cut = self._loader.cut

    def __len__(self) -> int:
        """Batches, when nothing is left out."""
        return len(self.cut)

    def __iter__(self) -> Iterator[tuple[Batch, Tensor]]:
        """Each batch, and its normalised images [B, 3, S, S] on the detector's device."""
        return self.of(range(len(self._loader.dataset)))

    def of(self, numbers: Sequence[int]) -> Iterator[tuple[Batch, Tensor]]:
        """The same of the images with these numbers alone, in this order."""
        for batch in self._loader.batches(numbers):
            yield batch, self._normalised(batch)

    def at_once(self, numbers: Sequence[int]) -> Iterator[tuple[Batch, Tensor]]:
        """All of these in one batch, if one can be read at all."""
        for _, batch in self._loader.pieces({0: numbers}):
            yield batch, self._normalised(batch)

    def number_of(self, image: int) -> int:
        """The batch that an image is in."""
        return bisect_right(self.cut, image, key=lambda piece: piece.start) - 1

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


def categories(batch: Batch) -> Shown:
    """What the images of a batch show, and which of them are one clip, for methods that read it."""
    return batch.shown


def one_patch(detector: Detector) -> Tensor:
    """The smallest image that a detector reads, [1, 3, p, p]: for what is the same whatever the images."""
    edge = detector.backbone.vision.cfg.patch_size
    return torch.zeros(1, 3, edge, edge, device=detector.device)


@dataclass(frozen=True)
class Swept:
    """A finished sweep.

    Args:
        parts: in the order of the set; none where they were taken one by one.
        store: where they wait.
        provenance: of the result, with notes of the images that were left out.
    """

    parts: list[Part]
    store: Store
    provenance: dict[str, Any]

    @property
    def records(self) -> list[Record]:
        """Of the N images that were read."""
        return [record for part in self.parts for record in part.records]

    def joined(self, name: str) -> Tensor:
        """An array of all images, [V, N, ...]."""
        return torch.from_numpy(np.concatenate([part.arrays[name] for part in self.parts], 1))

    def of_images(self, name: str, images: Sequence[int]) -> Tensor:
        """Rows [V, n, ...] of n images, by their numbers in rising order, of a large array that waits.

        Where parts are in a folder no more than these are in memory: of patch maps 5.5 kB for each image and variant at
        37 x 37 patches. Of several ranks each has the first row, and its share of the others (``Ranks.rows``).

        Raises:
            RunError: a part is gone, or damaged.
        """
        places = [(number, row) for number, part in enumerate(self.parts) for row in range(len(part.records))]
        pieces = []
        for number, of_part in groupby((places[i] for i in images), key=itemgetter(0)):
            part = self.parts[number]
            array = part.arrays.get(name)
            if array is None:
                arrays = self.store.get(part.number, part.records)
                if arrays is None:
                    raise RunError(f"{self.store.folder}: part {part.number} is gone; begin again")
                array = parallel.current().rows(arrays[name])
            pieces.append(array[:, [row for _, row in of_part]])
        return torch.from_numpy(np.concatenate(pieces, 1))


def sweep(
    detector: Detector,
    data: DataSet,
    compute: Compute,
    *,
    what: str,
    size: int | None = None,
    batch: int = 8,
    precision: str | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    take: Callable[[Part], object] | None = None,
    truth: Callable[[Batch], Arrays] = lambda batch: {},
    waits: Collection[str] = (),
    store: Callable[[Mapping[str, Any]], Store] | None = None,
    **settings: Any,
) -> Swept:
    """Computes arrays for every batch of a data set, each once, and brings them together in the order of the set.

    Args:
        detector: which.
        data: which images.
        compute: arrays of one batch.
        what: name of the question, in the provenance.
        size, batch, precision, out, progress: as in ``headlens.heads.contributions``.
        take: called with every part in order, instead of holding all of them. One process has them as they come; of
            several each holds its own until all are done.
        truth: more arrays of a batch, that are read again with the images and are not in the folder.
        waits: names of large arrays that stay in the folder, where there is one; else each rank holds the first of
            their rows and its share of the others (``Ranks.rows``).
        store: of the parts, made of the provenance; with it, ``out`` is not read.
        settings: that parts must agree on; in the provenance.

    Raises:
        ConfigError: an unknown precision, or one that the device has not; a folder for a detector with hooks.
        DataError: no image could be read.
        RunError: ``out`` holds something else, or cannot be written.
    """
    images = Images(detector, data, size, batch)
    settings = {"what": what, **settings, "size": images.size, "batch": batch}
    about = provenance(detector, data, **settings, **computed(detector, precision))
    finished, ranks = Store(Path(out) if out else None, about) if store is None else store(about), parallel.current()

    def share(lowered: Detector) -> Iterator[tuple[int, Arrays]]:
        for number, part, pixels in images.shared():
            arrays = finished.get(number, part.records)
            if arrays is None:
                with torch.no_grad():  # a detector that is still to be trained has parameters with gradients
                    arrays = dict(compute(lowered, part, pixels))
                finished.put(number, part.records, arrays)
            if finished.folder is not None:
                arrays = {name: array for name, array in arrays.items() if name not in waits}
            done(ranks.behind(number, images.cut))
            yield number, {"index": part.index.numpy(), **truth(part), **arrays}

    parts: list[Part] = []
    with at_precision(detector, precision) as lowered, followed(progress, len(data), what) as done:
        for arrays in ranks.merged(share(lowered), len(images)):
            index = arrays.pop("index").tolist()
            arrays |= {name: ranks.rows(arrays[name]) for name in waits if name in arrays}
            (take or parts.append)(Part(images.number_of(index[0]), [data.records[i] for i in index], arrays))
    return Swept(parts, finished, about | images.notes())


def finite(arrays: Arrays) -> Arrays:
    """The same arrays.

    Raises:
        ConfigError: a value that is not a number, or infinite.
    """
    if bad := [name for name, values in arrays.items() if not np.isfinite(values).all()]:
        raise ConfigError(
            f"{bad[0].replace('_', ' ')}: not a number, or infinite; where the backbone overflows in float16, "
            "take precision bfloat16 or float32"
        )
    return arrays
