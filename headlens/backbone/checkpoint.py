"""Reading weight files without ever running what is in them.

Three formats, told apart by content: safetensors, PyTorch's own (open_clip's .pt and .bin), and the TorchScript archive
in which OpenAI published CLIP. The first two go through their libraries, PyTorch's with ``weights_only``. The archive
is read here: ``torch.jit.load`` would compile and run code from the file, and only its tensors are wanted.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from headlens.errors import CheckpointError

Format = Literal["safetensors", "pytorch", "torchscript"]

OPENAI_SCALARS = {"input_resolution", "context_length", "vocab_size"}
"""What OpenAI's archives, and state dicts taken from them, hold beside the weights."""
NOT_WEIGHTS = {"attn_mask", *OPENAI_SCALARS}


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by open_clip's names, and the file they came from."""

    state: dict[str, Tensor]
    sha256: str
    format: Format
    openai: bool
    """Whether it has the marks of OpenAI's own weights."""


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a weight file of any of the three formats, onto the CPU, in the precision it is stored in.

    Raises:
        CheckpointError: missing, truncated, of another format, or holding anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no weight file at {path}")
    kind: Format | None = None
    try:
        kind = _format(path)
        read = {"safetensors": _read_safetensors, "pytorch": _read_pytorch, "torchscript": _read_torchscript}[kind]
        state, sha256 = _plain_names(read(path), path), sha256_of(path)
    except CheckpointError:
        raise
    except MemoryError as error:
        raise CheckpointError(f"{path} does not fit into memory ({path.stat().st_size / 2**30:.2f} GiB)") from error
    except Exception as error:  # whatever a broken or hostile file provokes in a reader
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "if you trust it, save its state dict as safetensors" if kind == "pytorch" else "fetch it again"
        raise CheckpointError(
            f"{path} cannot be read as {kind or 'a weight file'}: truncated, or more than tensors in it ({hint}). "
            f"{reason[:200]}"
        ) from error
    weights = {name: value for name, value in state.items() if name not in NOT_WEIGHTS}
    return Checkpoint(weights, sha256, kind, openai=state.keys() >= OPENAI_SCALARS)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def _format(path: Path) -> Format:
    """Told by content: names end in .pt whatever is in them."""
    with path.open("rb") as file:
        head = file.read(9)
    if head[:4] == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
        except zipfile.BadZipFile as error:
            raise CheckpointError(f"{path} is truncated: a zip archive without its end ({error})") from error
        if any(member.filename.endswith("/constants.pkl") for member in members):
            return "torchscript"
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise CheckpointError(f"{path} is a compressed zip archive, which torch never writes; it could hold a bomb")
        return "pytorch"
    if len(head) == 9 and head[8:] == b"{":
        return "safetensors"
    if head[:1] == b"\x80":
        return "pytorch"  # before torch 1.6: a bare pickle
    raise CheckpointError(
        f"{path} is no weight file headlens knows: expected safetensors, PyTorch's .pt/.bin, or OpenAI's archive; "
        f"it has {path.stat().st_size:,} bytes and begins with {head!r}"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def _read_pytorch(path: Path) -> Any:
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    wrapped = [name for name in ("state_dict", "prompt_learner") if isinstance(loaded, dict) and name in loaded]
    return loaded[wrapped[0]] if wrapped else loaded


def _plain_names(state: Any, path: Path) -> dict[str, Tensor]:
    """The state dict with open_clip's usual names, whatever wrapped it when it was saved."""
    entries = state.items() if isinstance(state, dict) else ()
    if not entries or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in entries):
        inside = type(state).__name__ + (
            f" of {', '.join(map(str, list(state)[:4]))}" if isinstance(state, dict) else ""
        )
        raise CheckpointError(f"{path} holds no state dict of tensors, but {inside}")
    if odd := [name for name, value in entries if value.layout != torch.strided or value.is_meta]:
        raise CheckpointError(f"{path}: {odd[0]} is sparse or has no numbers")
    while wrapped := next((w for w in ("module.", "_orig_mod.") if all(name.startswith(w) for name in state)), None):
        state = {name.removeprefix(wrapped): value for name, value in state.items()}
    # open_clip's CustomTextCLIP keeps the text tower under "text."
    plain = {name.removeprefix("text."): value for name, value in state.items()}
    if len(plain) < len(state):
        raise CheckpointError(f"{path} holds weights under two names, with and without 'text.'")
    return plain


class _Sealed:
    """What the unpickler hands out: nothing in a file can change it."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise CheckpointError("the archive asks to change more than its own records; nothing was loaded")


class _Function(_Sealed):
    """A callable for the unpickler; a bare function would take attributes."""

    __slots__ = ("call",)

    def __init__(self, call: Callable) -> None:
        self.call = call

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)


class _Storage(_Sealed):
    """Numbers out of one member of the archive."""

    __slots__ = ("numbers",)

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers


class _TensorRecord(_Sealed):
    """A tensor to be made once the file has had its say."""

    __slots__ = ("offset", "size", "storage", "stride")

    def __init__(self, storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> None:
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def tensor(self) -> Tensor:
        """A view, never a copy, which strides of 0 could make huge; torch refuses to reach past the storage's end."""
        return torch.as_strided(self.storage.numbers, self.size, self.stride, self.offset)


class _Inert:
    """Stands in for a TorchScript module: takes attributes, does nothing."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


_ITSELF = _Function(lambda value, *_: value)
_CALLABLE: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_TensorRecord),
    ("collections", "OrderedDict"): OrderedDict,
    ("torch.jit._pickle", "restore_type_tag"): _ITSELF,
    **{("torch.jit._pickle", f"build_{kind}list"): _ITSELF for kind in ("int", "double", "bool", "tensor")},
}


class _ArchiveReader(pickle.Unpickler):
    """The unpickler of a TorchScript archive's ``data.pkl``, which can make tensor and module records only.

    A pickle calls what ``find_class`` returns, and nothing else: https://docs.python.org/3/library/pickle.html,
    "Restricting Globals".
    """

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self.archive, self.root = archive, root
        self.storages: dict[str, _Storage] = {}
        super().__init__(io.BytesIO(self._stored("data.pkl")))

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Inert
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) not in _CALLABLE:
            raise CheckpointError(f"the archive asks to call {module}.{name}; nothing was run and nothing was loaded")
        return _CALLABLE[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, _, count = pid
        if key not in self.storages:
            raw = bytearray(self._stored(f"data/{key}"))
            if len(raw) != count * dtype.itemsize:
                raise CheckpointError(f"storage {key} does not have the {count} numbers of {dtype} it claims")
            self.storages[key] = _Storage(torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype))
        return self.storages[key]

    def _stored(self, member: str) -> bytes:
        """A member's bytes, checked against their CRC; a compressed one could grow without bound."""
        info = self.archive.getinfo(f"{self.root}/{member}")
        if info.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"{member} of the archive is compressed, which torch never does")
        return self.archive.read(info)


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).rsplit("/", 1)[0]
        model = _ArchiveReader(archive, root).load()
    state: dict[str, Tensor] = {}
    seen: set[int] = set()

    def walk(node: _Inert, prefix: str) -> None:
        if id(node) in seen:  # a tree of shared modules has exponentially many names
            raise CheckpointError(f"{path}: one module stands under several names, at {prefix or 'the root'}")
        seen.add(id(node))
        for name, value in vars(node).items():
            if isinstance(value, _TensorRecord):
                state[prefix + name] = value.tensor()
            elif isinstance(value, _Inert):
                walk(value, f"{prefix}{name}.")

    walk(model, "")
    return state
