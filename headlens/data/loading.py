"""``Loader``: batches of a data set, read and resized ahead of time by threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from headlens.clips import Shown, pieces, runs
from headlens.data.cache import FolderCache, MemoryCache, key_of
from headlens.data.decoding import GATE
from headlens.data.mask_fit import fitted
from headlens.data.preprocess import Prepared, Preprocess
from headlens.data.samples import DataSet, Record
from headlens.data.staging import Stage, arrived
from headlens.errors import DataError
from headlens.printing import printable

Item = TypeVar("Item")


@dataclass(frozen=True)
class Batch:
    """``B`` images of one set.

    Args:
        images: [B, 3, S, S], float32 and normalised, or uint8.
        masks: [B, S, S] bool; with native masks a list of [H, W]; None in a set without masks. Masks are empty for
            normal images, and for anomalous images without a mask: see ``has_mask``.
        has_mask: [B] bool: whether the mask is known, so that pixel metrics may count the image.
        inside: [B, S, S] bool, False on padding; None where nothing is padded.
        labels: [B] int64: 1 anomalous, 0 normal, -1 unknown.
        index: [B] int64, positions in the set.
        records: their records.
        native: height and width of each on disk, for ``Preprocess.restore``.
    """

    images: Tensor
    masks: Tensor | list[Tensor] | None
    has_mask: Tensor
    inside: Tensor | None
    labels: Tensor
    index: Tensor
    records: tuple[Record, ...]
    native: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def shown(self) -> Shown:
        """What the images show, and which of them are one clip; for methods that read it."""
        return Shown.of((record.category, record.clip) for record in self.records)

    def to(self, device: torch.device | str) -> Batch:
        """The same with every tensor on ``device``."""
        # The host need not wait for a copy to a device; for one back it must, as it may read it at once.
        options: dict[str, Any] = {"device": device, "non_blocking": torch.device(device).type != "cpu"}
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: tensor.to(**options) for name, tensor in tensors.items()}
        if isinstance(self.masks, list):
            moved["masks"] = [mask.to(**options) for mask in self.masks]
        return replace(self, **moved)


@dataclass(frozen=True)
class Skipped:
    """An image that was left out, or its mask, and why."""

    record: Record
    reason: str


class Loader:
    """Iterates over batches, in the order of the set, the same every time.

    Threads read ahead by about one batch: PIL and torch release the interpreter while they decode and resize, and
        threads share a cache and start quickly. Leaving the loop early, by ``break`` or an exception, ends them.

    Args:
        dataset: the data set.
        preprocess: size, fit and masks.
        batch: images per batch, except the last; images that are left out do not make batches smaller. No clip is
            parted: a batch goes on to the end of one.
        workers: threads; one per core, up to 16, when None; 0 reads in the caller's thread.
        cache: ``"memory"``, or a folder, or None: a cached image is not read or resized again. A folder serves later
            runs too; generated images are cached in memory even then.
        cache_bytes: size of the cache in memory; further images are read each time.
        on_error: ``"raise"``, or ``"skip"``: unreadable images are left out and listed in ``skipped``; images with an
            unusable mask come without it and are listed in ``unmasked``.
        normalise: give float32 with CLIP's statistics; else uint8, a quarter of the bytes to transfer to a GPU, where
            ``preprocess.normalise`` does the rest.
        device: a GPU on which images are resized, to the same bytes, and on which ``images`` of a batch then are; masks
            stay on the CPU. Cached images are resized before.

    Raises:
        DataError: at an image that cannot be read or a mask that cannot be used, or, with ``"skip"``, when no image was
            read so far.

    >>> from headlens.data.samples import DataSet, Pixels, Record
    >>> class Grey(DataSet):
    ...     def pixels(self, i):
    ...         return Pixels(torch.full((3, 20, 30), 99, dtype=torch.uint8), torch.zeros(20, 30, dtype=torch.bool))
    ...     def where(self, keep):
    ...         return Grey(self.name, self.domain, filter(keep, self.records))
    >>> grey = Grey("grey", "industrial", [Record(f"wall/{i}", "wall", False) for i in range(5)])
    >>> [tuple(batch.images.shape) for batch in Loader(grey, Preprocess(14), batch=2)]
    [(2, 3, 14, 14), (2, 3, 14, 14), (1, 3, 14, 14)]
    """

    def __init__(
        self,
        dataset: DataSet,
        preprocess: Preprocess | None = None,
        batch: int = 8,
        workers: int | None = None,
        cache: Literal["memory"] | Path | None = None,
        *,
        cache_bytes: int = 2**32,
        on_error: Literal["raise", "skip"] = "raise",
        normalise: bool = True,
        device: torch.device | None = None,
    ) -> None:
        if batch < 1 or (workers is not None and workers < 0) or on_error not in ("raise", "skip"):
            rule = "a batch holds at least 1, workers are not negative, on_error is 'raise' or 'skip'"
            raise DataError(f"batch={batch}, workers={workers}, on_error={on_error!r}: {rule}")
        if not (cache is None or cache == "memory" or isinstance(cache, Path)):
            raise DataError(f"cache={cache!r} is none of None, 'memory' and a pathlib.Path")
        self.dataset, self.preprocess, self.batch = dataset, preprocess or Preprocess(), batch
        # a container often has fewer cores than the machine
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.workers = min(cores, 16) if workers is None else workers
        self.on_error, self.normalise = on_error, normalise
        self._stage = Stage(device, self.preprocess) if device is not None and device.type == "cuda" else None
        self._memory = MemoryCache(cache_bytes) if cache is not None else None
        self._folder = FolderCache(cache) if isinstance(cache, Path) else None
        self._skipped: dict[int, str] = {}
        self._unmasked: dict[int, str] = {}
        self._adjusted: dict[int, str] = {}
        self._masked = {record.category for record in dataset.records if record.anomalous and record.mask}
        self._read_any = False
        self._has_masks = dataset.has_masks

    def __len__(self) -> int:
        """Batches, when nothing is left out."""
        return len(self.cut)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(range(len(self.dataset)))

    @property
    def cut(self) -> list[range]:
        """Which images of the set are in which batch, when nothing is left out."""
        return pieces([record.clip for record in self.dataset.records], self.batch)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Images left out so far, each listed once; they are not tried again."""
        return self._named(self._skipped)

    @property
    def unmasked(self) -> tuple[Skipped, ...]:
        """Images so far whose mask is missing, unreadable, of another shape, or empty although they are anomalous.

        ``Batch.has_mask`` is False for them.
        """
        return self._named(self._unmasked)

    @property
    def adjusted(self) -> tuple[Skipped, ...]:
        """Images so far whose mask was resized or rotated to match, or is empty at the size of the batch."""
        return self._named(self._adjusted)

    def _named(self, reasons: dict[int, str]) -> tuple[Skipped, ...]:
        return tuple(Skipped(self.dataset.records[i], reason) for i, reason in reasons.items())

    def report(self) -> str:
        """Images left out or changed so far: a line per image, under lines with counts; empty if there are none."""
        about = f"of {len(self.dataset)} images of {self.dataset.name}"
        lines = []
        for reasons, what in (
            (self._skipped, "were left out"),
            (self._unmasked, "count without a mask"),
            (self._adjusted, "have a mask that does not count as it is stored"),
        ):
            if reasons:
                lines += [f"{len(reasons)} {about} {what}:", *(f"  {reason}" for reason in reasons.values())]
        return "\n".join(map(printable, lines))

    def batches(self, order: Sequence[int]) -> Iterator[Batch]:
        """The images numbered in ``order``: some of them, or all of them shuffled."""
        rows: list[tuple[int, Prepared]] = []
        ends = {clip[-1] for clip in runs([self.dataset.records[i].clip for i in order])}
        with closing(self._ahead(order)) as results:
            for place, row in enumerate(results):
                rows += self._usable([row])
                if len(rows) >= self.batch and place in ends:
                    yield self._together(rows)
                    rows = []
        if rows:
            yield self._together(rows)
        if len(order) and not self._read_any:  # one batch of bad images says nothing about the others
            raise self.nothing(order)

    def numbered(self, numbers: Sequence[int]) -> Generator[tuple[int, Batch], None, None]:
        """Batches ``numbers`` of the set, as it is ``cut``, each with its number.

        An unreadable image makes its batch smaller and does not change the others, so that batches can be shared among
        processes; an empty batch is left out.
        """
        cut = self.cut
        return self.pieces({number: cut[number] for number in numbers})

    def pieces(self, pieces: Mapping[int, Sequence[int]]) -> Generator[tuple[int, Batch], None, None]:
        """For each number in ``pieces`` a batch of these images, of any length, as ``numbered`` gives them."""
        with closing(self._ahead([i for piece in pieces.values() for i in piece])) as results:
            for number, piece in pieces.items():
                if rows := self._usable(islice(results, len(piece))):
                    yield number, self._together(rows)

    def _usable(self, results: Iterable[tuple[int, Prepared | DataError]]) -> list[tuple[int, Prepared]]:
        """Those that could be read; why the others could not is remembered."""
        rows = []
        for i, result in results:
            if isinstance(result, DataError):
                self._skipped[i] = str(result)
            else:
                rows.append((i, result))
                self._read_any = True
        return rows

    def nothing(self, asked: Sequence[int] | None = None) -> DataError:
        """The error to raise if none of the images, or of those ``asked`` for, could be read, with a reason."""
        asked = range(len(self.dataset)) if asked is None else asked
        reason = next((f"; {self._skipped[i]}" for i in asked if i in self._skipped), "")
        return DataError(f"none of {len(asked)} images of {self.dataset.name} could be read{reason}")

    def _ahead(self, order: Sequence[int]) -> Generator[tuple[int, Prepared | DataError], None, None]:
        """Results in order, with a bounded number of them under way."""
        if not self.workers:
            for i in order:
                yield i, self._attempt(i)
            return
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="headlens-loader")
        left = iter(order)
        under_way: deque[tuple[int, Future[Prepared | DataError]]] = deque()
        try:
            while True:
                room = self.batch + 2 * self.workers - len(under_way)
                under_way += [(i, pool.submit(self._attempt, i)) for i in islice(left, room)]
                if not under_way:
                    return
                i, result = under_way.popleft()
                yield i, result.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _attempt(self, i: int) -> Prepared | DataError:
        if i in self._skipped:
            return DataError(self._skipped[i])
        try:
            prepared = self._cached(i)
            if self.on_error == "raise" and prepared.mask is None and prepared.mask_note:
                raise DataError(prepared.mask_note)
            return prepared
        except DataError as error:
            named = DataError(f"{self.dataset.records[i].name}: {error}")
            if self.on_error == "skip":
                return named
            raise named from error

    def _cached(self, i: int) -> Prepared:
        key = key_of(self.dataset.records[i], self.preprocess) if self._folder else None
        cache = self._folder if key else self._memory
        key = key or str(i)
        if cache and (cached := cache.get(key)):
            return cached
        with GATE:  # until it is small, others wait where all together would be too many pixels
            pixels = fitted(self.dataset.pixels(i), self.dataset.records[i])
            if self._stage is not None and cache is None and self._stage.takes(pixels):
                native = (pixels.image.shape[1], pixels.image.shape[2])
                return Prepared(pixels.image, pixels.mask, native, pixels.mask_note)
            prepared = self.preprocess(pixels)
            del pixels
        if cache:
            cache.put(key, prepared)
        return prepared

    def _together(self, rows: list[tuple[int, Prepared]]) -> Batch:
        index, prepared = [i for i, _ in rows], [row for _, row in rows]
        records = tuple(self.dataset.records[i] for i in index)
        if self._stage is not None:
            images, prepared = self._stage(prepared)
            images = arrived(images, self._stage.device) if self.normalise else images
        else:
            images = torch.stack([row.image for row in prepared])
        padded = self.preprocess.fit == "pad"
        return Batch(
            self.preprocess.normalise(images) if self.normalise else images,
            self._masks_of(prepared) if self._has_masks else None,
            torch.tensor([self._has_mask(i, row) for i, row in zip(index, prepared, strict=True)]) & self._has_masks,
            torch.stack([self.preprocess.inside(row.native) for row in prepared]) if padded else None,
            torch.tensor([-1 if record.anomalous is None else int(record.anomalous) for record in records]),
            torch.tensor(index),
            records,
            tuple(row.native for row in prepared),
        )

    def _has_mask(self, i: int, row: Prepared) -> bool:
        """Whether the mask that arrived counts for image ``i``; keeps what there is to say of it."""
        record = self.dataset.records[i]
        if row.mask is None:
            bare = record.anomalous and record.category in self._masked
            if reason := row.mask_note or ("anomalous, without a mask in a category that has masks" if bare else ""):
                self._unmasked[i] = f"{record.name}: {reason}"
            return record.anomalous is False
        size, lost = self.preprocess.size, record.anomalous and not row.mask.numpy().any()
        left = f"nothing of its mask is left at {size}x{size} pixels: all of it counts as normal" if lost else ""
        if notes := [note for note in (row.mask_note, left) if note]:
            self._adjusted[i] = f"{record.name}: {'; '.join(notes)}"
        return True

    def _masks_of(self, prepared: list[Prepared]) -> Tensor | list[Tensor]:
        native, square = self.preprocess.masks == "native", (self.preprocess.size, self.preprocess.size)
        masks = [
            torch.zeros(row.native if native else square, dtype=torch.bool) if row.mask is None else row.mask
            for row in prepared
        ]
        # Copies either way: what a caller does to a batch must not reach the cache.
        return [mask.clone() for mask in masks] if native else torch.stack(masks)


def ahead(items: Iterable[Item], depth: int = 2) -> Iterator[Item]:
    """The same items, made by a thread that is up to ``depth`` of them ahead of who asks.

    Leaving early ends the thread, and closes ``items`` where it is a generator; what it raises is raised here.

    >>> list(ahead(range(3)))
    [0, 1, 2]
    """
    left, end = iter(items), object()
    pool = ThreadPoolExecutor(1, thread_name_prefix="headlens-ahead")
    coming: deque[Future[Any]] = deque(pool.submit(next, left, end) for _ in range(depth))
    try:
        while (item := coming.popleft().result()) is not end:
            coming.append(pool.submit(next, left, end))
            yield item
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if isinstance(left, Generator):
            left.close()
