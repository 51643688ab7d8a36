"""Where a loader keeps pictures it has resized: in memory up to a budget, or in a folder that outlives the run."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
import warnings
import zlib
from pathlib import Path

from torch import Tensor

from headlens.data.preprocess import Prepared, Preprocess
from headlens.data.samples import Record

_FORMAT = 1  # part of every key: raise it when entries are written in another way


class MemoryCache:
    """Keeps what comes first until ``budget`` bytes are full.

    Nothing is ever thrown out: in runs that go through a set again and again, the oldest entry is the next one wanted.
    """

    def __init__(self, budget: int) -> None:
        self.budget, self.used = budget, 0
        self._kept: dict[str, Prepared] = {}
        self._lock = threading.Lock()

    def get(self, key: str) -> Prepared | None:
        """What was put there, or None."""
        return self._kept.get(key)

    def put(self, key: str, prepared: Prepared) -> None:
        """Keep it, if it fits."""
        size = sum(tensor.nbytes for tensor in (prepared.image, prepared.mask) if tensor is not None)
        with self._lock:
            if key not in self._kept and self.used + size <= self.budget:
                self._kept[key] = prepared
                self.used += size


class FolderCache:
    """One safetensors file for each picture, in a folder that several runs may use at the same time.

    An entry appears whole or not at all, and is read only if its checksum holds: a damaged one counts as absent. When
    the folder cannot be written any more (a full disk), the run goes on without it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writable = True

    def get(self, key: str) -> Prepared | None:
        """What was put there; None when there is nothing, or nothing whole."""
        from safetensors import SafetensorError, safe_open

        path = self._path(key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                note = json.loads(file.metadata()["headlens"])
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if _checksum(tensors) != note["checksum"]:
                return None
            height, width = note["native"]
            return Prepared(tensors["image"], tensors.get("mask"), (height, width))
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            return None  # cut short, or not written by us

    def put(self, key: str, prepared: Prepared) -> None:
        """Write it next to its place, then move it there."""
        from safetensors.torch import save

        if not self._writable:
            return
        tensors = {"image": prepared.image} | ({} if prepared.mask is None else {"mask": prepared.mask})
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        note = {"checksum": _checksum(tensors), "native": prepared.native}
        path = self._path(key)
        half: str | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
                half = file.name
                file.write(save(tensors, {"headlens": json.dumps(note)}))
            os.replace(half, path)  # noqa: PTH105
        except OSError as error:
            self._writable = False
            if half is not None:
                Path(half).unlink(missing_ok=True)
            warnings.warn(f"{self.folder} takes no more pictures ({error}): the run goes on without", stacklevel=2)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def key_of(record: Record, preprocess: Preprocess) -> str | None:
    """What an entry depends on: the record, its files' paths, sizes and times, and the preprocessing.

    None when there is no file to tell that by: a picture that is made, or one that is missing.
    """
    if record.image is None:
        return None
    facts = [_FORMAT, record.name, record.anomalous, record.crop, repr(preprocess)]
    for path in (record.image, record.mask):
        if path is not None:
            try:
                stat = path.stat()
            except OSError:
                return None
            facts += [str(path.resolve()), stat.st_size, stat.st_mtime_ns]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _checksum(tensors: dict[str, Tensor]) -> int:
    total = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        total = zlib.crc32(tensor.numpy().data, total)
    return total
