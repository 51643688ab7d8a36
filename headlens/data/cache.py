"""Where a loader keeps images it has resized: in memory up to a budget, or in a folder that outlives the run."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from headlens.data.decoding import RULES
from headlens.data.mask_sources import MaskSource
from headlens.data.preprocess import Prepared, Preprocess
from headlens.data.samples import Record, stat_of
from headlens.files import write_atomically

_FORMAT = 4  # part of every key: raise it when entries are written in another way


class MemoryCache:
    """Keeps what comes first until ``budget`` bytes are full.

    Nothing is ever thrown out: in runs that go through a set again and again, the oldest entry is the next one wanted.
    """

    def __init__(self, budget: int) -> None:
        self.budget, self.used = budget, 0
        self._entries: dict[str, Prepared] = {}
        self._lock = threading.Lock()

    def get(self, key: str) -> Prepared | None:
        """What was put there, or None."""
        return self._entries.get(key)

    def put(self, key: str, prepared: Prepared) -> None:
        """Keep it, if it fits."""
        size = sum(tensor.nbytes for tensor in (prepared.image, prepared.mask) if tensor is not None)
        with self._lock:
            if key not in self._entries and self.used + size <= self.budget:
                self._entries[key] = prepared
                self.used += size


class FolderCache:
    """One safetensors file for each image, in a folder that several runs may use at the same time.

    An entry appears whole or not at all, and is read only if its checksum holds: a damaged one, or that of another
    image, counts as absent. When the folder cannot be written any more (a full disk), the run goes on without it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writable = True
        with suppress(OSError):  # no folder yet, or somebody else cleans up at the same time
            for half in folder.glob("*/.*.safetensors.*"):  # left by ``write_atomically`` where a process was killed
                if time.time() - half.stat().st_mtime > 3600:  # seconds: else it may be at work
                    half.unlink()

    def get(self, key: str) -> Prepared | None:
        """What was put there; None when there is nothing, or nothing whole."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path(key), framework="pt") as file:
                note = json.loads(file.metadata()["headlens"])
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            height, width = note["native"]
            prepared = Prepared(tensors["image"], tensors.get("mask"), (height, width), str(note["mask_note"]))
            return prepared if _checksum(key, prepared) == note["checksum"] else None
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            return None  # not there, cut short, or not written by us

    def put(self, key: str, prepared: Prepared) -> None:
        """Write it, unless something that is no entry is in its place."""
        from safetensors.torch import save

        if not self._writable:
            return
        tensors = {"image": prepared.image, "mask": prepared.mask}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
        note = {"checksum": _checksum(key, prepared), "native": prepared.native, "mask_note": prepared.mask_note}
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, save(tensors, {"headlens": json.dumps(note)}))
        except IsADirectoryError:
            return
        except OSError as error:
            self._writable = False
            warnings.warn(
                f"{self.folder} cannot store more images ({error}): the run continues without it", stacklevel=2
            )

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def key_of(record: Record, preprocess: Preprocess) -> str | None:
    """What an entry depends on: the record, its files' paths, sizes and times, and the preprocessing.

    None when there is no file to tell that by: an image that is made, or one that is missing.
    """
    if record.image is None:
        return None
    facts = [_FORMAT, RULES.decode(), record.name, record.anomalous, record.crop, repr(preprocess)]
    if record.frame is not None:
        facts.append(record.frame)
    if isinstance(record.mask, MaskSource):
        facts.append(repr(record.mask))
    for path in record.files:
        stat = stat_of(path)
        if stat is None:
            return None
        facts += [str(path.resolve()), *stat]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _checksum(key: str, prepared: Prepared) -> int:
    total = zlib.crc32(f"{key} {list(prepared.native)} {prepared.mask_note}".encode(errors="surrogatepass"))
    for tensor in (prepared.image, prepared.mask):
        if tensor is not None:
            total = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), total)
            total = zlib.crc32(tensor.contiguous().numpy().data, total)
    return total
