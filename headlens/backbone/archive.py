"""PyTorch's own files, read without running them: torch.save's, old and new, and TorchScript's archives.

A pickle calls what ``find_class`` returns, and nothing else (https://docs.python.org/3/library/pickle.html,
"Restricting Globals"); here that can make records of tensors. ``torch.load`` would do for some of these files, but it
allocates what a file claims before it looks, checks no checksum, and its errors advise to run the file.

A file of some hundred bytes can nest tuples so that to hash or to print one takes for ever: what is hashed or printed
has been checked to be plain.
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, ClassVar

import torch
from torch import Tensor

_LEGACY = (0x1950A86A20F9469CFC6C, 1001)  # how torch began files before 1.6: a mark, and the version of the format
_DTYPES = {"CharStorage": torch.int8, "ByteStorage": torch.uint8} | {
    f"{name}Storage": getattr(torch, name.lower())
    for name in ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Bool")
}
_PLAIN = (str, bytes, int, float, type(None))


class RefusedError(ValueError):
    """What a file asks for that no weight file needs."""


class _Sealed:
    """What the unpickler hands out: nothing in a file can change it."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise RefusedError("it asks to change more than its own records; nothing was loaded")


class _Function(_Sealed):
    """A callable for the unpickler; a bare function would take attributes."""

    __slots__ = ("call",)

    def __init__(self, call: Callable) -> None:
        self.call = call

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)


class Storage(_Sealed):
    """``count`` numbers out of one record of the file; of an old file they come last."""

    __slots__ = ("count", "dtype", "numbers")

    def __init__(self, dtype: torch.dtype, count: int) -> None:
        self.dtype, self.count = dtype, count
        self.numbers = torch.empty(0, dtype=dtype)

    def fill(self, raw: bytes, key: object) -> None:
        """The numbers, which must be as many as was claimed."""
        if len(raw) != self.count * self.dtype.itemsize:
            raise RefusedError(f"storage {key} does not have the {self.count} numbers of {self.dtype} that it claims")
        if raw:
            self.numbers = torch.frombuffer(bytearray(raw), dtype=self.dtype)


class TensorRecord(_Sealed):
    """A tensor to be made once the file has had its say."""

    __slots__ = ("offset", "size", "storage", "stride")

    def __init__(self, storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> None:
        plain = isinstance(size, tuple) and isinstance(stride, tuple)
        if not (plain and all(type(number) is int for number in (offset, *size, *stride))):
            raise RefusedError("a tensor's shape, stride or offset is not made of whole numbers")
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def tensor(self) -> Tensor:
        """A view, never a copy. Torch refuses to reach past the storage's end, and strides of 0 are refused here."""
        if math.prod(self.size) > self.storage.count:
            raise RefusedError(f"a tensor claims the shape {tuple(self.size)}; stored are {self.storage.count} numbers")
        return torch.as_strided(self.storage.numbers, self.size, self.stride, self.offset)


class Inert:
    """Stands in for a TorchScript module: takes attributes, does nothing."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def _check_keys(keys: Iterable[Any]) -> None:
    """Raises RefusedError for keys of a dictionary that could take for ever to hash."""
    for key in keys:
        if not all(isinstance(part, _PLAIN) for part in (key if isinstance(key, tuple) else (key,))):
            raise RefusedError("it has keys that are neither names nor numbers")


def _ordered(pairs: Iterable[Any] = ()) -> OrderedDict:
    pairs = [(key, value) for key, value in pairs]
    _check_keys(key for key, _ in pairs)
    return OrderedDict(pairs)


ITSELF = _Function(lambda value, *_: value)
_CALLABLE: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _Function(TensorRecord),
    ("torch._utils", "_rebuild_tensor"): _Function(TensorRecord),
    ("torch._utils", "_rebuild_parameter"): ITSELF,
    ("torch._utils", "_rebuild_parameter_with_state"): ITSELF,
    ("collections", "OrderedDict"): _Function(_ordered),
    ("torch", "Size"): _Function(tuple),
    ("_codecs", "encode"): _Function(lambda text, *_: str(text).encode("latin-1")),  # how protocol 2 writes bytes
    ("torch.jit._pickle", "restore_type_tag"): ITSELF,
    **{("torch.jit._pickle", f"build_{kind}list"): ITSELF for kind in ("int", "double", "bool", "tensor")},
}
_STEPS: dict[int, Callable[[Any], None]] = pickle._Unpickler.dispatch  # by their code


def _checked(code: bytes, keys: slice) -> dict[int, Callable[[Any], None]]:
    """The step that fills a dictionary, once the keys at these places of the stack have been checked."""

    def step(reader: Any) -> None:
        _check_keys(reader.stack[keys])
        _STEPS[code[0]](reader)

    return {code[0]: step}


def _refuse(reader: Any) -> None:
    raise RefusedError("it holds sets or byte arrays, which no weight file needs")


class _Reader(pickle._Unpickler):
    """An unpickler that can make records of tensors and modules only.

    It is the one that is written in Python: it reads no more than there is, whatever a length claims.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **_STEPS,
        **_checked(pickle.SETITEM, slice(-2, -1)),
        **_checked(pickle.SETITEMS, slice(None, None, 2)),  # since the mark
        **_checked(pickle.DICT, slice(None, None, 2)),
        **dict.fromkeys((code[0] for code in (pickle.ADDITEMS, pickle.FROZENSET, pickle.BYTEARRAY8)), _refuse),
    }

    def __init__(self, file: Any, storage: Callable[[Any, torch.dtype, int], Storage]) -> None:
        super().__init__(file)
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return Inert
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) not in _CALLABLE:
            raise RefusedError(f"it asks to call {module}.{name}; nothing was run and nothing was loaded")
        return _CALLABLE[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or any(part is not None for part in view):
            what = repr(kind[:40]) if isinstance(kind, str) else "more than tensors"
            raise RefusedError(f"it refers to {what}")
        if not isinstance(key, str | int) or type(count) is not int:
            raise RefusedError("a storage has no name, or no number of elements")
        return self.storage(key, dtype, count)


def _no_storage(key: Any, dtype: torch.dtype, count: int) -> Storage:
    raise RefusedError("it has numbers where none belong")


def read_zip(file: BinaryIO, size: int) -> Any:
    """What ``data.pkl`` of a zip archive of ``size`` bytes describes, as records; every byte read fits its checksum.

    Raises:
        RefusedError: a file that asks for more than tensors.
        Exception: whatever a damaged file provokes.
    """
    storages: dict[Any, Storage] = {}
    read = 0

    with zipfile.ZipFile(file) as archive:
        root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")

        def stored(member: str) -> bytes:
            """A member's bytes; a compressed one could grow without bound, and overlapping ones as well."""
            nonlocal read
            info = archive.getinfo(root + member)
            read += info.file_size
            if info.compress_type != zipfile.ZIP_STORED:
                raise RefusedError(f"{member} of the archive is compressed, which torch never does")
            if read > size:
                raise RefusedError(f"its members have more than the {size:,} bytes of the archive")
            if not info.CRC and info.file_size:  # torch can be told to write none
                info.CRC = None  # type: ignore[assignment]  # what zipfile then does not check
            return archive.read(info)

        def storage(key: Any, dtype: torch.dtype, count: int) -> Storage:
            if key not in storages:
                storages[key] = Storage(dtype, count)
                storages[key].fill(stored(f"data/{key}"), key)
            return storages[key]

        if root + "byteorder" in archive.namelist() and stored("byteorder") != b"little":
            raise RefusedError("its numbers have the byte order of another machine; save it again on this one")
        return _Reader(io.BytesIO(stored("data.pkl")), storage).load()


def read_legacy(file: BinaryIO) -> Any:
    """What a file of torch before 1.6 describes, as records: a row of pickles, then the numbers.

    Raises:
        RefusedError: a file that asks for more than tensors.
        Exception: whatever a damaged file provokes.
    """
    storages: dict[Any, Storage] = {}
    # Mapped, a file gives no more bytes than it has, however many are asked for.
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        if tuple(_Reader(mapped, _no_storage).load() for _ in _LEGACY) != _LEGACY:
            raise RefusedError("it is a pickle, and not of torch's making")
        if not _Reader(mapped, _no_storage).load().get("little_endian", True):
            raise RefusedError("its numbers have the byte order of another machine; save it again on this one")
        loaded = _Reader(mapped, lambda key, *claimed: storages.setdefault(key, Storage(*claimed))).load()
        keys = _Reader(mapped, _no_storage).load()
        _check_keys(keys)
        for key in keys:
            stored, count = storages[key], int.from_bytes(mapped.read(8), "little")
            stored.fill(mapped.read(count * stored.dtype.itemsize), key)
    if empty := [key for key, stored in storages.items() if len(stored.numbers) != stored.count]:
        raise RefusedError(f"storage {empty[0]} is missing")
    return loaded
