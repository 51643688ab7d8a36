"""A data set of image files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from headlens.data.images import MAX_PIXELS, read_upright
from headlens.data.mask_fit import fitted, upright
from headlens.data.mask_sources import read_marked
from headlens.data.samples import DataSet, Pixels, Record
from headlens.data.videos import read_frame
from headlens.errors import DataError


class FileSet(DataSet):
    """Records with files behind them, read when asked for.

    Args:
        name, domain, records: see ``DataSet``.
        layout: the reader that found the records.
        max_pixels: images with more are refused.
        root: the folder that was opened; without it the innermost one that all the files are in.
        notes: what users should know of how the folder was read, a line each.
    """

    def __init__(
        self,
        name: str,
        domain: str,
        records: Iterable[Record],
        layout: str = "",
        max_pixels: int = MAX_PIXELS,
        root: Path | None = None,
        notes: Iterable[str] = (),
    ) -> None:
        super().__init__(name, domain, records)
        self.layout, self.max_pixels, self._root, self.notes = layout, max_pixels, root, tuple(notes)

    @property
    def root(self) -> Path | None:
        """What the set is, on disk: parts of it, such as a split, keep the root of the whole."""
        return self._root or super().root

    def pixels(self, i: int) -> Pixels:
        """Image and mask of record ``i``; a mask that cannot be the image's is None, and ``mask_note`` says why.

        A normal image has an empty mask, whatever lies in the file of its mask; an anomalous one without a file has
        none rather than an empty one.

        Raises:
            DataError: the image cannot be read; the message names the file.
        """
        record = self.records[i]
        if record.image is None:
            raise DataError(f"record {record.name!r} of {self.name} has no image file")
        if record.frame is None:
            image, orientation = read_upright(record.image, self.max_pixels)
        else:
            image, orientation = read_frame(record.image, record.frame, self.max_pixels), 1
        height, width = image.shape[1:]
        mask, note = None, ""
        if record.mask is not None and (record.anomalous is not False or record.crop is not None):
            try:
                stored = read_marked(record.mask, (height, width), self.max_pixels)
                mask = upright(stored, (height, width), orientation)
                if mask is not stored:
                    note = f"{record.mask}: drawn before its image was turned as its EXIF says; turned along"
            except DataError as error:
                note = str(error)
        if record.crop is not None:
            left, top, right, bottom = record.crop
            if mask is not None and mask.shape != (height, width):
                sizes = f"{mask.shape[1]}x{mask.shape[0]}, {record.image} is {width}x{height}"
                raise DataError(f"{record.mask}: is {sizes}; parts of {record.name!r} can only be cut where they agree")
            if bottom > height or right > width:
                raise DataError(f"{record.image}: is {width}x{height}, too small for the part {record.crop}")
            window = (..., slice(top, bottom), slice(left, right))
            image, mask = image[window].clone(), None if mask is None else mask[window].clone()
        if record.anomalous is False:
            mask = torch.zeros(image.shape[1:], dtype=torch.bool)
        return fitted(Pixels(image, mask, note), record)

    def where(self, keep: Callable[[Record], bool]) -> FileSet:
        """The same set with only the records for which ``keep`` is true."""
        records = filter(keep, self.records)
        return FileSet(self.name, self.domain, records, self.layout, self.max_pixels, self.root, self.notes)
