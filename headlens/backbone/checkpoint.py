"""Reading weight files without ever running what is in them.

Three formats, told apart by content: safetensors, PyTorch's own (open_clip's .pt and .bin), and the TorchScript archive
in which OpenAI published CLIP. The first two go through their libraries, PyTorch's with ``weights_only``. The archive
is read here: ``torch.jit.load`` would compile and run code from the file, and only its tensors are wanted.
"""

from __future__ import annotations

import hashlib
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
    kind = _format(path)
    try:
        state = {"safetensors": _read_safetensors, "pytorch": _read_pytorch, "torchscript": _read_torchscript}[kind](
            path
        )
    except CheckpointError:
        raise
    except MemoryError as error:
        raise CheckpointError(f"{path} does not fit into memory ({path.stat().st_size / 2**30:.2f} GiB)") from error
    except Exception as error:  # whatever a broken or hostile file provokes in a reader
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "if you trust it, save its state dict as safetensors" if kind == "pytorch" else "fetch it again"
        raise CheckpointError(
            f"{path} cannot be read as {kind} weights: truncated, or more than tensors in it ({hint}). {reason[:200]}"
        ) from error
    state = _plain_names(state, path)
    weights = {name: value for name, value in state.items() if name not in NOT_WEIGHTS}
    return Checkpoint(weights, sha256_of(path), kind, openai=state.keys() >= OPENAI_SCALARS)


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
        # torch compresses nothing but an archive's source code, which is not read; the rest could grow without bound.
        if any(m.compress_type != zipfile.ZIP_STORED and "/code/" not in m.filename for m in members):
            raise CheckpointError(f"{path} is a compressed zip archive, which no weight file is")
        return "torchscript" if any(member.filename.endswith("/constants.pkl") for member in members) else "pytorch"
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
    return loaded["state_dict"] if isinstance(loaded, dict) and "state_dict" in loaded else loaded


def _plain_names(state: Any, path: Path) -> dict[str, Tensor]:
    """The state dict with open_clip's usual names, whatever wrapped it when it was saved."""
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        inside = (
            f"a dict of {', '.join(map(str, list(state)[:4]))}" if isinstance(state, dict) else type(state).__name__
        )
        raise CheckpointError(f"{path} holds no state dict of tensors, but {inside}")
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in state):
            state = {name[len(prefix) :]: value for name, value in state.items()}
    # open_clip's CustomTextCLIP keeps the text tower under "text."
    return {name[5:] if name.startswith("text.") else name: value for name, value in state.items()}


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


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """A view of a storage, never a copy, which strides of 0 could make huge; torch refuses to reach past its end."""
    return torch.as_strided(storage, size, stride, offset)


def _itself(value: Any, *_: Any) -> Any:
    return value


class _ArchiveReader(pickle.Unpickler):
    """The unpickler of a TorchScript archive's ``data.pkl``, which can make tensors and inert records only.

    A pickle calls what ``find_class`` returns, and nothing else: https://docs.python.org/3/library/pickle.html,
    "Restricting Globals".
    """

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f"{root}/data.pkl"))
        self.archive, self.root = archive, root
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Inert
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        allowed: dict[tuple[str, str], Callable] = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("collections", "OrderedDict"): OrderedDict,
            **{("torch.jit._pickle", f"build_{kind}list"): _itself for kind in ("int", "double", "bool", "tensor")},
            ("torch.jit._pickle", "restore_type_tag"): _itself,
        }
        if (module, name) not in allowed:
            raise CheckpointError(f"the archive asks to call {module}.{name}; nothing was run and nothing was loaded")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, count = pid
        if key not in self.storages:
            info = self.archive.getinfo(f"{self.root}/data/{key}")
            if info.file_size != count * dtype.itemsize:
                raise CheckpointError(f"storage {key} does not have the {count} numbers of {dtype} it claims")
            raw = bytearray(self.archive.read(info))  # checks the CRC
            self.storages[key] = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        return self.storages[key]


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).rsplit("/", 1)[0]
        model = _ArchiveReader(archive, root).load()
    state: dict[str, Tensor] = {}

    def walk(node: _Inert, prefix: str) -> None:
        for name, value in vars(node).items():
            if isinstance(value, Tensor):
                state[prefix + name] = value
            elif isinstance(value, _Inert):
                walk(value, f"{prefix}{name}.")

    walk(model, "")
    return state
