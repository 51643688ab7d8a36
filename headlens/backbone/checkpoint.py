"""Reading weight files without ever running what is in them.

Three formats, told apart by content: safetensors, through its library; PyTorch's own (open_clip's .pt and .bin) and the
TorchScript archive in which OpenAI published CLIP, through ``headlens.backbone.archive``.
"""

from __future__ import annotations

import errno
import json
import zipfile
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Literal

from torch import Tensor

from headlens.backbone.archive import Inert, RefusedError, TensorRecord, read_legacy, read_zip
from headlens.backbone.layouts import Names, open_clip_names
from headlens.errors import CheckpointError
from headlens.files import open_regular, read_text, sha256_of
from headlens.printing import brief

Format = Literal["safetensors", "pytorch", "torchscript"]

OPENAI_SCALARS = {"input_resolution", "context_length", "vocab_size"}
"""What OpenAI's archives, and state dicts taken from them, hold next to the weights."""
_STATE_DICTS = ("state_dict", "prompt_learner", "trainable_linearlayer", "image_adapter", "text_adapter")
"""What files call theirs: models; prompts of AnomalyCLIP and Crane; linear maps of APRIL-GAN; adapters of AA-CLIP."""
NOT_WEIGHTS = {"attn_mask", *OPENAI_SCALARS}


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by open_clip's names, and the file they came from."""

    state: dict[str, Tensor]
    sha256: str
    """Of the file; of several, of their names and hashes."""
    format: Format
    openai: bool
    """Whether it has the marks of OpenAI's own weights."""
    names: Names
    """What the file calls its weights."""
    others: tuple[str, ...] = ()
    """What else is in the file, and was not read: an epoch, the state of an optimizer."""
    inside: str = ""
    """What the file calls its state dict; empty where there is nothing else."""


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a weight file of any of the three formats, onto the CPU, in the precision it is stored in.

    Args:
        path: a file, or the index (``….index.json``) of one that was split into several.

    Raises:
        CheckpointError: missing, no regular file, damaged, of another format, or holding anything but tensors.
    """
    path = Path(path)
    if path.name.endswith(".index.json"):
        files = _shards(path)
        parts = [_read(file) for file in files]
        state = {name: value for part, *_ in parts for name, value in part.items()}
        if len(state) < sum(len(part) for part, *_ in parts):
            raise CheckpointError(f"{path}: a weight is in two of its files")
        lines = "".join(f"{file.name} {sha256_of(file)}\n" for file in files)
        return _named(path, state, sha256(lines.encode()).hexdigest(), parts[0][1])
    state, kind, inside, others = _read(path)
    return replace(_named(path, state, sha256_of(path), kind), inside=inside, others=others)


def _named(path: Path, state: dict[str, Tensor], sha256: str, kind: Format) -> Checkpoint:
    try:
        named, names = open_clip_names(state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    weights = {name: value for name, value in named.items() if name not in NOT_WEIGHTS}
    return Checkpoint(weights, sha256, kind, named.keys() >= OPENAI_SCALARS, names)


def _read(path: Path) -> tuple[dict[str, Tensor], Format, str, tuple[str, ...]]:
    """Tensors of one file by its names, the state dict's name, and those of what is next to it: no more than it has."""
    kind: Format | None = None
    try:
        with open_regular(path) as file:
            size = path.stat().st_size
            kind = _format(path, file)
            if kind == "safetensors":
                from safetensors.torch import load_file

                loaded: Any = load_file(path)
            else:
                zipped = file.read(1) == b"P"
                file.seek(0)
                loaded = read_zip(file, size) if zipped else read_legacy(file)
        state, inside, others = _tensors(_walked(loaded) if kind == "torchscript" else loaded, path)
    except CheckpointError:
        raise
    except MemoryError as error:
        raise CheckpointError(f"{path} does not fit into memory ({path.stat().st_size / 2**30:.2f} GiB)") from error
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise CheckpointError(f"no weight file at {path}") from error
    except Exception as error:  # whatever a broken or hostile file provokes in a reader
        if isinstance(error, OSError) and error.errno == errno.EINVAL:
            raise CheckpointError(f"no weight file at {path}: it {error.strerror}") from error
        why = "damaged (fetch it again)"
        if isinstance(error, RefusedError):
            why = "more than tensors in it, or damaged (ask its maker for safetensors of its state dict)"
        raise CheckpointError(f"{path} cannot be read as {kind or 'a weight file'}: {why}. {brief(error)}") from error
    claimed = sum(value.numel() * value.element_size() for name, value in state.items() if name not in NOT_WEIGHTS)
    if claimed > size:
        raise CheckpointError(f"{path} has {size:,} bytes, and its tensors claim {claimed:,}: nothing was loaded")
    return state, kind, inside, others


def _shards(index: Path) -> list[Path]:
    """The files that an index names, next to it."""
    try:
        names = sorted({str(name) for name in json.loads(read_text(index))["weight_map"].values()})
        "".join(names).encode()  # refuses halves of letters, which no name has and nothing can print
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is not an index of a split weight file: {brief(error)}") from error
    if odd := [name for name in names if not name or Path(name).name != name or name.endswith(".index.json")]:
        raise CheckpointError(f"{index} names {odd[0]!r}, which is not a file in its folder")
    if not names:
        raise CheckpointError(f"{index} names no file")
    return [index.with_name(name) for name in names]


def _format(path: Path, file: BinaryIO) -> Format:
    """By content: names end in .pt whatever is in them. The file is left at its start."""
    head = file.read(9)
    if head[:4] == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
        except zipfile.BadZipFile as error:
            raise CheckpointError(f"{path} is truncated: a zip archive without its end ({error})") from error
        file.seek(0)
        if any(member.filename.endswith("/constants.pkl") for member in members):
            return "torchscript"
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise CheckpointError(f"{path} is a compressed zip archive, which torch never writes; it could hold a bomb")
        return "pytorch"
    file.seek(0)
    if len(head) == 9 and head[8:] == b"{":
        return "safetensors"
    if head[:1] == b"\x80":
        return "pytorch"  # before torch 1.6: a bare pickle
    expected = "expected safetensors, PyTorch's .pt/.bin, or OpenAI's archive"
    has = f"it has {path.stat().st_size:,} bytes and begins with {head!r}"
    raise CheckpointError(f"{path} is not a weight file that headlens knows: {expected}; {has}")


def _tensors(loaded: Any, path: Path) -> tuple[dict[str, Tensor], str, tuple[str, ...]]:
    """The state dict in what a file holds, by the file's own names, its name, and names of what is next to it."""
    wrapped = [name for name in _STATE_DICTS if isinstance(loaded, dict) and name in loaded]
    state = loaded[wrapped[0]] if wrapped else loaded
    entries = list(state.items()) if isinstance(state, dict) else []
    if not entries or not all(isinstance(n, str) and isinstance(v, Tensor | TensorRecord) for n, v in entries):
        inside = "a tensor" if isinstance(state, Tensor | TensorRecord) else type(state).__name__
        inside += f" of {', '.join(map(str, list(state)[:4]))}" if isinstance(state, dict) else ""
        raise CheckpointError(f"{path} holds no state dict of tensors, but {inside}")
    inside = wrapped[0] if wrapped else ""
    others = tuple(str(name) for name in loaded if name != inside) if wrapped else ()
    tensors = {name: value.tensor() if isinstance(value, TensorRecord) else value for name, value in entries}
    return tensors, inside, others


def _walked(model: Any) -> dict[str, Any]:
    """Records in a TorchScript module and those that it holds."""
    state: dict[str, Any] = {}
    seen: set[int] = set()

    def walk(node: Inert, prefix: str) -> None:
        if id(node) in seen:  # a tree of shared modules has exponentially many names
            raise RefusedError(f"one module has several names, at {prefix or 'the root'}")
        seen.add(id(node))
        for name, value in vars(node).items():
            if isinstance(value, TensorRecord):
                state[prefix + name] = value
            elif isinstance(value, Inert):
                walk(value, f"{prefix}{name}.")

    walk(model, "")
    return state
