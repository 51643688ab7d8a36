"""``mask_colours.csv``: what the colours of a set's masks mean, where black is not all that is normal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from headlens.data.mask_sources import Colour, Coloured, MaskSource, United
from headlens.data.readers.listings import label_of
from headlens.data.readers.tables import MASK_COLOURS, table
from headlens.data.readers.tree import Root
from headlens.data.samples import Record
from headlens.errors import DataError


def coloured(root: Root, records: list[Record]) -> Iterator[Record]:
    """The records with their masks read by the table of colours, if one is in the folder or right above it.

    Raises:
        DataError: the table has other columns than ``colour`` and ``label``, or a cell that is neither.
    """
    above = root.path.absolute().parent / MASK_COLOURS
    path = root.find_file(root.path, MASK_COLOURS) or (above if above.is_file() else None)
    if path is None:
        yield from records
        return
    meanings = _meanings(path)
    colours = [tuple(colour for colour, anomalous in meanings.items() if anomalous is kind) for kind in (True, False)]

    def read(mask: Path | MaskSource | None) -> Any:
        if isinstance(mask, United):
            return United(tuple(read(part) for part in mask.masks))
        return Coloured(mask, *colours) if isinstance(mask, Path) and mask.suffix.lower() != ".mat" else mask

    for record in records:
        yield replace(record, mask=read(record.mask))


def _meanings(path: Path) -> dict[Colour, bool]:
    columns, rows = table(path, Root(path.parent).refuse)
    if not {"colour", "color"} & {*columns} or "label" not in columns:
        raise DataError(f"{path}: has the columns {', '.join(columns)[:200]}; colour and label are needed")
    meanings: dict[Colour, bool] = {}
    for place, row in rows:
        text = row.get("colour", row.get("color", ""))
        try:
            colour, anomalous = _colour(text), label_of(row["label"].strip())
            if meanings.setdefault(colour, anomalous) != anomalous:
                raise DataError(f"{text} is both normal and anomalous")
        except DataError as error:
            raise DataError(f"{path}: {place}: {error}") from error
    return meanings


def _colour(text: str) -> Colour:
    """``#ff0000``, ``255 0 0`` or, as a grey value or the number of a class, ``3``."""
    if match := re.fullmatch(r"\s*#?([0-9a-fA-F]{6})\s*", text):
        red, green, blue = bytes.fromhex(match[1])
        return red, green, blue
    numbers = [int(number) for number in re.findall(r"\d{1,3}", text)]
    if re.fullmatch(r"[\s\d,;()\[\]]+", text) and len(numbers) in (1, 3) and max(numbers) < 256:
        red, green, blue = numbers * (3 if len(numbers) == 1 else 1)
        return red, green, blue
    raise DataError(f"{text[:40]!r} is not a colour; write #ff0000, 255 0 0, or a grey value as 3")
