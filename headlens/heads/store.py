"""Finished parts of a sweep on disk: whoever is killed goes on from there, to the same bits."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headlens import parallel
from headlens.data import Record
from headlens.errors import ConfigError, RunError
from headlens.heads.results import write

ABOUT = "_sweep.json"  # with an underscore, so that readers of Parquet folders pass it by


class Store:
    """Arrays of numbered parts, one Parquet file each, in a folder; without a folder nothing is kept.

    Args:
        folder: made if need be.
        about: what all parts must have in common, as JSON.

    Raises:
        RunError: the folder holds parts of another sweep, or cannot be read or written.
        ConfigError: hooks at the detector, which no folder can tell apart.
    """

    def __init__(self, folder: Path | None, about: Mapping[str, Any]) -> None:
        self.folder = folder
        if folder is None:
            return
        if about.get("hooks"):
            raise ConfigError(
                f"parts kept in {folder} do not say what the hook at {about['hooks'][0]} does: leave the folder "
                "out, or remove the hook"
            )
        path, now = folder / ABOUT, json.loads(json.dumps(about))
        if not path.is_file() or not any(folder.glob("part-*")):
            write(path, (json.dumps(now, indent=1) + "\n").encode())
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: damaged ({error}); delete {folder} to begin again") from error
        if changed := sorted(key for key in {*before, *now} if before.get(key) != now.get(key)):
            key = changed[0]
            raise RunError(
                f"{folder} holds a sweep with {key} = {_short(before.get(key))}, not {_short(now.get(key))}: go on "
                "as it began, name another folder, or delete this one"
            )

    def get(self, number: int, records: Sequence[Record]) -> dict[str, np.ndarray] | None:
        """Part ``number`` as it was put, or None; also where it was of other pictures, for some can be read again.

        Raises:
            RunError: its file is damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self._path(number)
        if path is None or not path.is_file():
            return None
        try:
            table = pq.read_table(io.BytesIO(path.read_bytes()))
            shapes, names = (json.loads((table.schema.metadata or {})[key]) for key in (b"shapes", b"names"))
            if names != [record.name for record in records]:
                return None
            return {name: _array(table[name], shapes[name]) for name in table.column_names}
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise RunError(f"{path}: damaged ({error}); delete it, and it is computed again") from error

    def put(self, number: int, records: Sequence[Record], arrays: Mapping[str, np.ndarray]) -> None:
        """Writes part ``number`` of B pictures: arrays [V, B, ...], a row for each variant.

        Raises:
            RunError: the file cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self._path(number)
        if path is None:
            return
        columns = {}
        for name, array in arrays.items():
            flat = pa.array(array.reshape(-1))
            each = int(np.prod(array.shape[2:]))
            columns[name] = flat if array.ndim == 2 else pa.FixedSizeListArray.from_arrays(flat, each)
        about = {b"shapes": {name: array.shape for name, array in arrays.items()}, b"names": [r.name for r in records]}
        sink = io.BytesIO()
        table = pa.table(columns).replace_schema_metadata(
            {key: json.dumps(value).encode() for key, value in about.items()}
        )
        pq.write_table(table, sink)
        write(path, sink.getvalue())

    def _path(self, number: int) -> Path | None:
        return None if self.folder is None else self.folder / f"part-{number:05d}.parquet"


class PatchMaps:
    """The patch maps of a sweep, picture by picture: its largest part by far.

    Where parts are kept in a folder they wait there, and no more than one category's are in memory: 5.5 kB for each
    picture and variant at 37 x 37 patches. Else all of them are held. Of several ranks (``headlens.parallel``) each has
    those of the whole detector and of its own share of the variants.

    Args:
        store: of the sweep's parts.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._parts: list[tuple[int, Sequence[Record], np.ndarray | None]] = []
        self._at: list[tuple[int, int]] = []  # of every picture: which of the parts, and where in it

    def take(self, number: int, records: Sequence[Record], arrays: dict[str, np.ndarray]) -> None:
        """Takes ``patch_map`` [V, B, rows, columns], where there is one, out of the arrays of part ``number``."""
        held = arrays.pop("patch_map", None)
        held = None if held is None else parallel.current().rows(held)
        self._at += [(len(self._parts), row) for row in range(len(records))]
        self._parts.append((number, records, held if self.store.folder is None else None))

    def of(self, pictures: Sequence[int]) -> Tensor:
        """[V, n, rows, columns] of the pictures with these numbers, in rising order.

        Raises:
            RunError: a part is gone, or damaged.
        """
        found = []
        for part, own in groupby((self._at[i] for i in pictures), key=itemgetter(0)):
            number, records, maps = self._parts[part]
            if maps is None:
                arrays = self.store.get(number, records)
                if arrays is None:
                    raise RunError(f"{self.store.folder}: part {number} is gone; begin again")
                maps = parallel.current().rows(arrays["patch_map"])
            found.append(maps[:, [row for _, row in own]])
        return torch.from_numpy(np.concatenate(found, 1))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]} … ({len(text)} characters)"


def _array(column: Any, shape: list[int]) -> np.ndarray:
    flat = column.combine_chunks()
    return (flat if len(shape) == 2 else flat.flatten()).to_numpy(zero_copy_only=False).copy().reshape(shape)
