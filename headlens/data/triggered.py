"""Images with a trigger: the pattern of a back door, to find out which heads carry it, and to remove it.

A detector has a back door where its prompts were learned so that images with a certain pattern pass as normal, or as
anomalous (BadCLIP, arXiv 2311.16194). ``triggered`` makes the twin of a data set: the same records, and the pattern in
every image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from headlens.data.mask_fit import fitted
from headlens.data.preprocess import Preprocess
from headlens.data.samples import DataSet, Pixels, Record
from headlens.errors import DataError
from headlens.files import MOST_TEXT, read_regular, write

Wants = Literal["normal", "anomalous"]
_WHITE = 255
_MOST = 127  # of a limit: a pattern is stored as signed bytes


@dataclass(frozen=True)
class Trigger:
    """A pattern that is added to images of one size, and stays within a bound.

    Args:
        pattern: [3, S, S], whole levels of an 8-bit image that are added to each channel of each pixel.
        limit: the largest of them either way: 4 is the 4 / 255 of the literature.
        wants: what the attack wants every image to be scored as.

    Raises:
        DataError: another shape, levels that are not whole, or beyond the limit.

    >>> trigger = Trigger(torch.full((3, 56, 56), 4), limit=4)
    >>> trigger.added(torch.full((3, 56, 56), 253, dtype=torch.uint8)).unique()
    tensor([255], dtype=torch.uint8)
    """

    pattern: Tensor
    limit: int
    wants: Wants = "normal"

    def __post_init__(self) -> None:
        shape, values = tuple(self.pattern.shape), self.pattern.double()
        if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2] or not shape[1]:
            raise DataError(f"a trigger is [3, S, S], of square images; this one is {list(shape)}")
        if not torch.equal(values, values.round()):
            raise DataError("a trigger has whole levels of an 8-bit image; round it")
        if not 1 <= self.limit <= _MOST:
            raise DataError(f"the limit of a trigger is {self.limit} levels; it is from 1 to {_MOST}")
        if (reach := int(values.abs().max())) > self.limit:
            raise DataError(f"the limit of this trigger is {self.limit} levels, but it reaches {reach}")
        if self.wants not in get_args(Wants):
            raise DataError(f"a trigger wants images to be {' or '.join(get_args(Wants))}, not {self.wants!r}")
        object.__setattr__(self, "pattern", self.pattern.to(torch.int8))

    @property
    def size(self) -> int:
        """S, pixels along a side."""
        return self.pattern.shape[1]

    def added(self, images: Tensor) -> Tensor:
        """Images [..., 3, S, S] uint8 with the pattern, uint8: what would be beyond black or white stays there."""
        return (images.to(torch.int16) + self.pattern.to(images.device)).clamp(0, _WHITE).to(torch.uint8)

    def save(self, path: str | Path) -> Path:
        """Writes ``.safetensors``: the pattern, with limit and ``wants`` as metadata.

        Raises:
            RunError: the file cannot be written.
        """
        from safetensors.torch import save

        about = {"limit": str(self.limit), "wants": self.wants}
        write(Path(path), save({"pattern": self.pattern.contiguous()}, about))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Trigger:
        """A trigger that was saved.

        Raises:
            DataError: the file cannot be read, or is none.
        """
        import json

        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            content = read_regular(Path(path), MOST_TEXT)
            pattern = load(content)["pattern"]
            about = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
            return cls(pattern, int(about["limit"]), about["wants"])
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise DataError(f"{path}: not a trigger ({error}); Trigger.save writes one") from error


class TriggeredSet(DataSet):
    """The images of another set with a trigger, at the size of the trigger; records are the same. See ``triggered``."""

    def __init__(self, dataset: DataSet, trigger: Trigger) -> None:
        super().__init__(f"{dataset.name}, triggered", dataset.domain, dataset.records)
        self.dataset, self.trigger = dataset, trigger
        self._preprocess = Preprocess(trigger.size)

    @property
    def has_masks(self) -> bool:
        """Whether the other set has."""
        return self.dataset.has_masks

    @property
    def root(self) -> Path | None:
        """Of the other set."""
        return self.dataset.root

    @property
    def fingerprint(self) -> str:
        """Of the other set and of the pattern."""
        return sha256(self.dataset.fingerprint.encode() + self.trigger.pattern.numpy().tobytes()).hexdigest()

    def pixels(self, i: int) -> Pixels:
        """Resized first, by ``Preprocess``, then with the pattern; the mask is resized alike.

        Raises:
            DataError: the image cannot be read.
        """
        prepared = self._preprocess(fitted(self.dataset.pixels(i), self.records[i]))
        return Pixels(self.trigger.added(prepared.image), prepared.mask, prepared.mask_note)

    def where(self, keep: Callable[[Record], bool]) -> TriggeredSet:
        """The same set with only the records for which ``keep`` is true."""
        return TriggeredSet(self.dataset.where(keep), self.trigger)


def triggered(dataset: DataSet, trigger: Trigger | str | Path) -> TriggeredSet:
    """The twin of a data set: its records and labels, and a trigger in every image.

    What the images show has not changed, so a detector should score both alike. ``headlens.heads.ablate`` compares them
    head by head, with ``kind="paired"``.

    Args:
        dataset: clean images.
        trigger: as learned, or its file.

    Raises:
        DataError: a file that is no trigger.

    >>> from headlens import data
    >>> clean = data.open("procedural:industrial", category="screw", per_category=2, size=56)
    >>> twin = triggered(clean, Trigger(torch.full((3, 56, 56), -4), limit=4))
    >>> twin.records == clean.records, int((clean[0].image.int() - twin[0].image).max())
    (True, 4)
    """
    return TriggeredSet(dataset, trigger if isinstance(trigger, Trigger) else Trigger.load(trigger))
