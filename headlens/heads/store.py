"""Finished parts of a sweep on disk: whoever is killed goes on from there, to the same bits."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from headlens.errors import RunError
from headlens.heads.results import write

ABOUT = "_sweep.json"  # with an underscore, so that readers of Parquet folders pass it by


class Store:
    """Arrays of numbered parts, one Parquet file each, in a folder; without a folder nothing is kept.

    Args:
        folder: made if need be.
        about: what all parts must have in common, as JSON.

    Raises:
        RunError: the folder holds parts of another sweep, or cannot be read or written.
    """

    def __init__(self, folder: Path | None, about: Mapping[str, Any]) -> None:
        self.folder = folder
        if folder is None:
            return
        path, now = folder / ABOUT, json.loads(json.dumps(about))
        if not path.is_file():
            write(path, (json.dumps(now, indent=1) + "\n").encode())
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: damaged ({error}); delete {folder} to begin again") from error
        if changed := sorted(key for key in {*before, *now} if before.get(key) != now.get(key)):
            key = changed[0]
            raise RunError(
                f"{folder} holds a sweep with {key} = {before.get(key)!r}, not {now.get(key)!r}: go on as it began, or "
                "name another folder"
            )

    def get(self, number: int) -> dict[str, np.ndarray] | None:
        """Part ``number`` as it was put, or None.

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
            shapes = json.loads((table.schema.metadata or {})[b"shapes"])
            return {name: _array(table[name], shapes[name]) for name in table.column_names}
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise RunError(f"{path}: damaged ({error}); delete it, and it is computed again") from error

    def put(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes part ``number``: arrays of the same first two axes, [V, B, ...], a row for each variant and image.

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
        shapes = json.dumps({name: array.shape for name, array in arrays.items()}).encode()
        sink = io.BytesIO()
        pq.write_table(pa.table(columns).replace_schema_metadata({b"shapes": shapes}), sink)
        write(path, sink.getvalue())

    def _path(self, number: int) -> Path | None:
        return None if self.folder is None else self.folder / f"part-{number:05d}.parquet"


def _array(column: Any, shape: list[int]) -> np.ndarray:
    flat = column.combine_chunks()
    return (flat if len(shape) == 2 else flat.flatten()).to_numpy(zero_copy_only=False).reshape(shape)
