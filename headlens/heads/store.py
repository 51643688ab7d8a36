"""Finished parts of a sweep on disk: one that was killed goes on from there, to the same bits."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from hashlib import sha256
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from headlens import parallel
from headlens.data import Record
from headlens.errors import ConfigError, RunError
from headlens.files import open_regular, read_text, write
from headlens.locking import locked
from headlens.printing import reason

P = ParamSpec("P")
Answer = TypeVar("Answer")
ABOUT = "_sweep.json"  # with an underscore, so that readers of Parquet folders pass it by


def alone(question: Callable[P, Answer]) -> Callable[P, Answer]:
    """A question with an argument ``out``, a folder that no other run may use until it is answered.

    Raises:
        RunError: another run has the folder.
    """
    arguments = signature(question)

    @wraps(question)
    def asked(*args: P.args, **kwargs: P.kwargs) -> Answer:
        out = arguments.bind(*args, **kwargs).arguments.get("out")
        with parallel.holding(Path(out) if out else None):
            return question(*args, **kwargs)

    return asked


def discard(*folders: Path) -> None:
    """Removes the parts of questions that have been answered, but not those that another process works with."""
    for folder in folders:
        if folder.is_dir():
            with suppress(RunError), locked(folder):
                shutil.rmtree(folder, ignore_errors=True)


def part_path(folder: Path, number: int) -> Path:
    """Where part ``number`` of a sweep is, or will be."""
    return folder / f"part-{number:05d}.parquet"


class Part(NamedTuple):
    """A finished batch of a sweep: its number, the records of its B images, and arrays [V, B, ...]."""

    number: int
    records: Sequence[Record]
    arrays: dict[str, np.ndarray]


class Store:
    """Arrays of numbered parts, one Parquet file each, in a folder; without a folder nothing is kept.

    Each has a checksum over its numbers, its place and the sweep it is of: what was edited, damaged, or copied from
    elsewhere is refused.

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
                f"results stored in {folder} do not record what the hook at {about['hooks'][0]} does: leave the folder "
                "out, or remove the hook"
            )
        path, now = folder / ABOUT, json.loads(json.dumps(about))
        self._identity = json.dumps(now, sort_keys=True).encode()
        if not path.is_file() or not any(folder.glob("part-*")):
            write(path, (json.dumps(now, indent=1) + "\n").encode())
            return
        try:
            before = json.loads(read_text(path))
            if not isinstance(before, dict):
                raise ValueError("it is not a table")
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{path}: damaged ({reason(error)}); delete {folder} to begin again") from error
        if changed := sorted(key for key in {*before, *now} if before.get(key) != now.get(key)):
            key = changed[0]
            raise RunError(
                f"{folder} holds a sweep with {key} = {_short(before.get(key))}, not {_short(now.get(key))}: continue "
                "with those settings, name another folder, or delete this one"
            )

    def get(self, number: int, records: Sequence[Record]) -> dict[str, np.ndarray] | None:
        """Part ``number`` as it was put, or None; also where it was of other images, for some can be read again.

        Raises:
            RunError: its file is not what this sweep wrote there.
        """
        path = None if self.folder is None else part_path(self.folder, number)
        if path is None or not path.is_file():
            return None
        try:
            names, digest, arrays = _read(path)
            sound = digest == self._digest(number, names, arrays)
        except Exception as error:  # whatever a broken or hostile file provokes in a reader
            raise RunError(f"{path}: damaged ({reason(error)}); delete it, and it is computed again") from error
        if not sound:
            raise RunError(
                f"{path}: damaged, edited, or of another sweep (its checksum differs); delete it, and it is "
                "computed again"
            )
        return arrays if names == [record.name for record in records] else None

    def put(self, number: int, records: Sequence[Record], arrays: Mapping[str, np.ndarray]) -> None:
        """Writes part ``number`` of B images: arrays [V, B, ...], a row for each variant.

        Raises:
            RunError: the file cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.folder is None:
            return
        columns = {}
        for name, array in arrays.items():
            flat, each = pa.array(array.reshape(-1)), int(np.prod(array.shape[2:]))
            columns[name] = flat if array.ndim == 2 else pa.FixedSizeListArray.from_arrays(flat, each)
        names, shapes = [record.name for record in records], {name: array.shape for name, array in arrays.items()}
        about = {b"shapes": shapes, b"names": names, b"sha256": self._digest(number, names, arrays)}
        encoded = {key: json.dumps(value).encode() for key, value in about.items()}
        sink, table = io.BytesIO(), pa.table(columns).replace_schema_metadata(encoded)
        # As they are: such numbers hardly compress, and a small file that unfolds to a large one is not of these.
        pq.write_table(table, sink, compression="none", use_dictionary=False)
        write(part_path(self.folder, number), sink.getvalue())

    def _digest(self, number: int, names: Sequence[str], arrays: Mapping[str, np.ndarray]) -> str:
        digest = sha256(self._identity)
        shapes = [[name, array.dtype.str, array.shape] for name, array in arrays.items()]
        digest.update(json.dumps([number, names, shapes]).encode())
        for array in arrays.values():
            digest.update(array.tobytes())
        return digest.hexdigest()


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]} … ({len(text)} characters)"


def _read(path: Path) -> tuple[list[str], str, dict[str, np.ndarray]]:
    """What ``Store.put`` wrote: names of images, checksum, arrays. Nothing larger than the file is made of it."""
    import pyarrow.parquet as pq

    with open_regular(path) as file:
        source = pq.ParquetFile(file)
        schema, size = source.schema_arrow, os.fstat(file.fileno()).st_size
        about = schema.metadata or {}
        if b"sha256" not in about:
            raise ValueError("it has no checksum: an older headlens wrote it, or another program")
        shapes, names, digest = (json.loads(about[key]) for key in (b"shapes", b"names", b"sha256"))
        if source.metadata.num_rows * sum(_width(field.type) for field in schema) > size:
            raise ValueError(f"it says that it has {source.metadata.num_rows:,} rows, which {size:,} bytes cannot hold")
        table = source.read()
    return names, digest, {name: _array(table[name], shapes[name]) for name in table.column_names}


def _width(kind: Any) -> int:
    """Bytes of a value of that Arrow type; raises ValueError for one of no fixed size."""
    count = getattr(kind, "list_size", 1)
    return max(1, count * (kind.value_type if count != 1 else kind).bit_width // 8)  # truths of one bit, and nulls


def _array(column: Any, shape: list[int]) -> np.ndarray:
    flat = column.combine_chunks()
    return (flat if len(shape) == 2 else flat.flatten()).to_numpy(zero_copy_only=False).copy().reshape(shape)
