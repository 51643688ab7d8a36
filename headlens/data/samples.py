"""Data sets: records that say where an image and its mask are, and a way to get their pixels.

A set is a map-style data set of torch: ``images[3]`` is one image, ``images[:4]`` a set, and a ``DataLoader`` takes it.
"""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data._utils.collate import default_collate_fn_map

from headlens import html
from headlens.data.decoding import RULES
from headlens.data.mask_sources import MaskSource, files_of
from headlens.errors import DataError
from headlens.printing import unicode

if TYPE_CHECKING:
    import pandas as pd


def stat_of(path: Path) -> tuple[int, int] | None:
    """Size and time of change of a file; None where there is none, or none that one may look at."""
    try:
        about = path.stat()
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
    return about.st_size, about.st_mtime_ns


@dataclass(frozen=True)
class Record:
    """One image of a data set, before it is read.

    Args:
        name: unique in its set, as a path without suffix: ``bottle/test/crack/003``.
        category: what the image shows, such as ``bottle``.
        anomalous: None if unknown (a plain folder of images).
        family: the kind of anomaly, ``good`` if there is none, empty if unknown.
        split: ``train``, ``test`` or ``valid``.
        image: its file; None if it is generated.
        mask: the file of its mask, or a ``MaskSource`` for other forms; None if there is none. The mask of a normal
            image is not read.
        crop: left, top, right and bottom in pixels, if the image is a part of the upright file.
        clip: the name of the clip that it is a frame of; empty for an image, which is a clip of one. Frames of a clip
            stand one behind the other. Where only the clip's kind of anomaly is known, and not its frames', these have
            the clip's ``family``, and ``anomalous`` is None.
        frame: its number in the file, from 0, if that is a video.
        caption: a sentence about the image that does not say whether it is anomalous; empty if there is none.
    """

    name: str
    category: str
    anomalous: bool | None
    family: str = ""
    split: str = "test"
    image: Path | None = None
    mask: Path | MaskSource | None = None
    crop: tuple[int, int, int, int] | None = None
    clip: str = ""
    frame: int | None = None
    caption: str = ""

    def __post_init__(self) -> None:
        for text in (
            "name",
            "category",
            "family",
            "clip",
            "caption",
        ):  # of folders and files: their names may be no text
            object.__setattr__(self, text, unicode(getattr(self, text)))

    @property
    def files(self) -> tuple[Path, ...]:
        """Its image, and what its mask is made of."""
        return (*(() if self.image is None else (self.image,)), *files_of(self.mask))


@dataclass(frozen=True)
class Pixels:
    """One image and its mask, in their original resolution.

    Args:
        image: [3, H, W] uint8.
        mask: [H, W] bool, of the image's size; None if there is none, or it cannot belong to the image.
        mask_note: why there is no mask although the record names one, or how it was changed to match the image.
        record: what the set knows of the image; None of an image that is of no set.
    """

    image: Tensor
    mask: Tensor | None
    mask_note: str = ""
    record: Record | None = None

    def __repr__(self) -> str:
        mask = "no mask" if self.mask is None else f"{int(self.mask.sum())} anomalous pixels"
        name = f"{self.record.name!r}, " if self.record else ""
        return f"Pixels({name}{' x '.join(map(str, self.image.shape))}, {mask})"

    def _repr_png_(self) -> bytes:
        from PIL import Image

        sink = io.BytesIO()
        Image.fromarray(self.image.permute(1, 2, 0).numpy()).save(sink, "png")
        return sink.getvalue()


def collate(images: Sequence[Pixels], *, collate_fn_map: Any = None) -> dict[str, Any]:
    """Images of one size as a batch: what a ``DataLoader`` of a set gives.

    Returns:
        ``image`` [B, 3, H, W] uint8; ``mask`` [B, H, W] bool, empty where it is unknown, and ``has_mask`` [B] bool;
        ``label`` [B], 1 anomalous, 0 normal, -1 unknown; ``category`` and ``name``, lists of text.

    Raises:
        DataError: images of several sizes, or of no set.

    >>> from torch.utils.data import DataLoader
    >>> from headlens import data
    >>> images = data.open("procedural:industrial", category="screw", per_category=4, size=56)
    >>> batch = next(iter(DataLoader(images, batch_size=4)))
    >>> batch["image"].shape, batch["label"]
    (torch.Size([4, 3, 56, 56]), tensor([0, 0, 1, 1]))
    """
    records = [pixels.record for pixels in images if pixels.record is not None]
    if len(records) < len(images):
        raise DataError("an image of no set has no label, category and name; take it from a set, as in images[3]")
    sizes = {tuple(pixels.image.shape[1:]) for pixels in images}
    if len(sizes) > 1:
        shown = ", ".join(f"{height} x {width}" for height, width in sorted(sizes)[:3])
        raise DataError(f"a batch of images of {shown} pixels; headlens.data.Loader resizes them, or take batch_size=1")
    masks = [torch.zeros(sizes.copy().pop(), dtype=torch.bool) if each.mask is None else each.mask for each in images]
    return {
        "image": torch.stack([pixels.image for pixels in images]),
        "mask": torch.stack(masks),
        "has_mask": torch.tensor([pixels.mask is not None for pixels in images]),
        "label": torch.tensor([-1 if record.anomalous is None else int(record.anomalous) for record in records]),
        "category": [record.category for record in records],
        "name": [record.name for record in records],
    }


default_collate_fn_map[Pixels] = collate  # as the documentation of torch's default_collate says


class DataSet(html.Shown, Dataset[Pixels], ABC):
    """Images of one domain, read on request: ``images[3]``, ``images[:4]``, ``len(images)``, iteration over images.

    Args:
        name: its name in results.
        domain: ``industrial``, ``medical`` or any other; empty if unknown.
        records: in the order of the set; ``images.records`` says what is known without reading an image.
    """

    def __init__(self, name: str, domain: str, records: Iterable[Record]) -> None:
        self.name, self.domain = unicode(name), domain
        self.records = tuple(records)

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, which: int) -> Pixels: ...

    @overload
    def __getitem__(self, which: slice) -> DataSet: ...

    def __getitem__(self, which: int | slice) -> Pixels | DataSet:
        """One image with its record, or a set of some.

        Raises:
            IndexError: there is no such image.
            DataError: it cannot be read; the message names the file.
        """
        if isinstance(which, slice):
            chosen = {record.name for record in self.records[which]}
            part = self.where(lambda record: record.name in chosen)
            return Backwards(part) if (which.step or 1) < 0 else part
        if not -len(self) <= which < len(self):
            raise IndexError(f"image {which} does not exist; {self.name} has {len(self)}, counted from 0")
        number = range(len(self))[which]
        return replace(self.pixels(number), record=self.records[number])

    def __iter__(self) -> Iterator[Pixels]:
        return (self[number] for number in range(len(self)))

    def __repr__(self) -> str:
        labels = [record.anomalous for record in self.records]
        masks = "masks" if self.has_masks else "no masks"
        return (
            f"{type(self).__name__}({self.name!r}, {self.domain or 'no domain'}, {len(self.categories)} categories, "
            f"{labels.count(False)} normal + {labels.count(True)} anomalous, {masks})"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: how many images of which kind there are."""
        import pandas as pd

        kinds = {None: "unknown", False: "normal", True: "anomalous"}
        rows = [(record.category, kinds[record.anomalous]) for record in self.records]
        frame = pd.DataFrame(rows, columns=["category", "label"])
        counts = pd.crosstab(frame["category"], frame["label"]).reindex(list(self.categories))
        facts = {
            "domain": self.domain or "unknown",
            "images": len(self),
            "masks": "yes" if self.has_masks else "no",
            "what can be measured": ", ".join(self.metrics) or "nothing without labels",
        }
        return html.card(f"{type(self).__name__} {self.name}", facts, html.table(counts.reset_index(), most=20))

    @property
    def parts(self) -> tuple[DataSet, ...]:
        """The sets that it is made of: itself, where it is not several."""
        return (self,)

    @property
    def categories(self) -> tuple[str, ...]:
        """In order of appearance."""
        return tuple(dict.fromkeys(record.category for record in self.records))

    @property
    def has_clips(self) -> bool:
        """Whether images are frames of clips."""
        return any(record.clip for record in self.records)

    @property
    def has_masks(self) -> bool:
        """Whether anomalies have masks; pixel metrics need them."""
        return any(record.anomalous and record.mask is not None for record in self.records)

    @property
    def has_normals(self) -> bool:
        """Whether there are both normal and anomalous images; image metrics need them."""
        return len({record.anomalous for record in self.records} & {True, False}) == 2

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that are defined here, by the names of ``headlens.metrics.table``."""
        image = ("image_auroc", "image_ap", "image_f1max") if self.has_normals else ()
        return image + (("pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_aupro") if self.has_masks else ())

    @property
    def root(self) -> Path | None:
        """The innermost folder that all its files are in; None for images that are made."""
        parents = {os.path.abspath(record.image.parent) for record in self.records if record.image}  # noqa: PTH100
        return Path(os.path.commonpath(parents)) if parents else None

    @property
    def fingerprint(self) -> str:
        """Changes when an image, a mask or a label may have: SHA-256 of names, labels, sizes and times of files.

        It changes, too, with the rules by which files become images and masks.
        """
        digest = sha256(self.name.encode())
        for record in self.records:
            facts = (record.name, record.category, record.anomalous, record.crop)
            of_clip = (record.clip, record.frame, record.family) if record.clip else ()
            digest.update(repr((*facts, *of_clip)).encode())
            if isinstance(record.mask, MaskSource):
                digest.update(repr(record.mask).encode("utf-8", "surrogateescape"))
            for path in record.files:
                digest.update(RULES + repr(stat_of(path)).encode())
        return digest.hexdigest()

    @abstractmethod
    def pixels(self, i: int) -> Pixels:
        """Image and mask of record ``i`` in their own resolution. Normal images have an empty mask.

        Raises:
            DataError: it cannot be read; the message names the file.
        """

    @abstractmethod
    def where(self, keep: Callable[[Record], bool]) -> DataSet:
        """The same set with only the records for which ``keep`` is true."""

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each record."""
        import pandas as pd

        frame = pd.DataFrame([{"domain": self.domain, "dataset": self.name, **vars(record)} for record in self.records])
        for files in ("image", "mask"):  # as text: Parquet knows no paths
            frame[files] = [None if path is None else unicode(str(path)) for path in frame[files]]
        return frame


class Backwards(DataSet):
    """Another set, from its last image to its first: ``images[::-1]``.

    Args:
        forwards: that set.
    """

    def __init__(self, forwards: DataSet) -> None:
        super().__init__(forwards.name, forwards.domain, forwards.records[::-1])
        self.forwards = forwards

    has_masks = property(lambda self: self.forwards.has_masks)
    fingerprint = property(lambda self: sha256(f"backwards {self.forwards.fingerprint}".encode()).hexdigest())

    def pixels(self, i: int) -> Pixels:
        """As the set underneath."""
        return self.forwards.pixels(len(self) - 1 - i)

    def where(self, keep: Callable[[Record], bool]) -> Backwards:
        """As the set underneath."""
        return Backwards(self.forwards.where(keep))
