"""Masks that lie: what is wrong, or looks wrong, with a mask by itself and with all masks of a set together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from torch import Tensor

from headlens.data.decoding import decoded
from headlens.data.mask_fit import nearest, same_shape, upright
from headlens.data.pixel_values import levels
from headlens.data.preprocess import Preprocess
from headlens.data.samples import Record

_FEW, _NEARLY_ALL = 3, 0.9  # masks that say nothing of a habit; their share that does
_AT = Preprocess()
Finding = tuple[str, str, Path | None, str]
"""The kind of a problem, the record or category it is about, a file to look at, and a message."""


@dataclass(frozen=True)
class Seen:
    """The mask of one anomalous image: the share of its pixels that is marked, and the labels in it but 0."""

    record: Record
    share: float
    labels: tuple[float, ...]


def seen(record: Record, mask: Tensor, max_pixels: int) -> Seen:
    """What the checks of the whole set need of a mask that has been read."""
    file = record.mask if isinstance(record.mask, Path) and record.mask.suffix.lower() != ".mat" else None
    stored = levels(decoded(file, max_pixels)) if file else ()
    return Seen(record, float(mask.numpy().mean()), tuple(level for level in stored if level))


def of_image(record: Record, size: tuple[int, int], orientation: int, mask: Tensor) -> Iterator[tuple[str, str]]:
    """Kinds of problems of one mask [h, w] as it was read, with messages; its image has the upright ``size``."""
    stored, over = (mask.shape[0], mask.shape[1]), upright(mask, size, orientation)
    why = f"{record.image} is rotated as its EXIF data says (orientation {orientation})"
    if over is not mask:
        yield "orientation", f"{why}, and {record.mask} along with it; save both upright"
    elif orientation > 1 and same_shape(stored, size if orientation < 5 else size[::-1]) and record.anomalous:
        yield "orientation", f"{why}; {record.mask} fits both ways and is taken to be upright; save the image upright"
    height, width = over.shape
    if (height, width) != size:
        fits = same_shape((height, width), size)
        sizes = f"{record.mask} is {width}x{height}, {record.image} is {size[1]}x{size[0]}"
        mend = f"the mask {'is resized to it' if fits else 'does not count'}; save it in the size of the image"
        yield "mask-scaled" if fits else "mask-size", f"{sizes}: {mend}"
        if not fits:
            return
        over = nearest(over, size)
    yield from of_marks(record, over)


def of_marks(record: Record, mask: Tensor) -> Iterator[tuple[str, str]]:
    """Kinds of problems of what is marked in a mask, with messages; the mask is as large as its image."""
    marked, everything = bool(mask.numpy().any()), bool(mask.numpy().all())
    name = str(record.mask or "its mask")
    if record.anomalous and not marked:
        yield "empty-mask", f"anomalous, but nothing is marked in {name}, which does not count; mark the anomaly"
    elif record.anomalous and everything and record.mask:
        yield "all-marked", f"all of {name} is marked; is white normal here, or is it not a mask?"
    elif record.anomalous is False and marked:
        part = "everything (is white normal here?)" if everything else "something"
        yield "marked-normal", f"normal, but {part} is marked in {name}, which counts as empty; correct one of them"
    elif record.anomalous and record.mask and not bool(_AT.mask(mask).numpy().any()):
        size = f"{_AT.size}x{_AT.size}"
        yield "lost-mask", f"{name} vanishes at {size} pixels, where all pixels of its image count as normal"


def of_set(masks: Sequence[Seen], content: Mapping[Path, str]) -> Iterator[Finding]:
    """Problems of the masks of all anomalous images; ``content`` is a text for each file, equal where bytes are."""
    return chain(_inverted(masks), _labels(masks), _copies(masks, content))


def _inverted(masks: Sequence[Seen]) -> Iterator[Finding]:
    of_category: dict[str, list[Seen]] = defaultdict(list)
    for mask in masks:
        of_category[mask.record.category].append(mask)
    for category, several in of_category.items():
        inverted = [mask for mask in several if mask.share > 0.5]
        if len(several) >= _FEW and len(inverted) >= _NEARLY_ALL * len(several):
            file = _file(inverted[0])
            share = f"{category}: more than half is marked in {len(inverted)} of {len(several)} masks, such as {file}"
            yield "inverted-masks", category, file, f"{share}; the anomaly must be white, all else black"


def _labels(masks: Sequence[Seen]) -> Iterator[Finding]:
    """What counts as one although it is many: labels of kinds, and 255 for what is to be ignored."""
    several = [mask for mask in masks if len(mask.labels) > 1]
    void = [mask for mask in several if mask.labels[-1] == 255 and mask.labels[-2] <= 64]  # more kinds have no names
    for kind, labelled, advice in (
        ("ignore-label", void, "255 often stands for what is to be ignored, but counts as anomalous: make it 0"),
        ("mask-labels", [mask for mask in several if mask not in void], "all count as anomalous: make others 0"),
    ):
        if labelled:
            values = sorted({label for mask in labelled for label in mask.labels})
            few = ", ".join([*(f"{value:g}" for value in values[:8]), *(["..."] if len(values) > 8 else [])])
            file = _file(labelled[0])
            yield kind, "", file, f"{len(labelled)} masks have the labels {few}, such as {file}; {advice}"


def _copies(masks: Sequence[Seen], content: Mapping[Path, str]) -> Iterator[Finding]:
    """Masks that are their own images, and one mask for many images."""
    alike: dict[tuple[str, object], dict[str, Seen]] = defaultdict(dict)
    for mask in masks:
        file, image = _file(mask), content.get(mask.record.image) if mask.record.image else None
        if file is None or file not in content or image is None:
            continue
        if content[file] == image:
            message = f"{mask.record.name}: {file} is the image itself, not its mask; name the mask"
            yield "mask-is-image", mask.record.name, file, message
        elif 0 < mask.share < 1:
            alike[content[file], mask.record.crop].setdefault(image, mask)
    for copies in alike.values():
        if len(copies) >= _FEW:
            first, *others = copies.values()
            message = f"{first.record.name}: {len(others)} other images have the same mask, {_file(first)}"
            yield (
                "same-mask",
                first.record.name,
                _file(first),
                f"{message}; correct only for an object that did not move",
            )


def _file(mask: Seen) -> Path | None:
    return mask.record.mask if isinstance(mask.record.mask, Path) else None
