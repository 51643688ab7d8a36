"""What an interrupted run goes on from: learned tensors, Adam's moments and the log, in one file with a checksum."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from headlens.errors import RunError
from headlens.files import read_regular, write_atomically
from headlens.printing import reason

STATE = "state.safetensors"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of each parameter


def save_state(
    out: Path, module: nn.Module, optimizer: torch.optim.Optimizer, log: list[dict[str, float]], same: Mapping[str, Any]
) -> None:
    """Writes ``out/state.safetensors``; ``same`` is what a run that goes on from it must have in common.

    Raises:
        RunError: the folder cannot be written.
    """
    tensors = {f"model/{name}": value for name, value in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in state.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    about = {"log": json.dumps(log), "same": json.dumps(same)}
    content = save(tensors, {**about, "sha256": _digest(tensors, about)})
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / STATE, content)
    except OSError as error:
        raise RunError(f"{out}: cannot be written ({error}); name another folder, or make room") from error


def load_state(
    out: Path, module: nn.Module, optimizer: torch.optim.Optimizer, same: Mapping[str, Any]
) -> list[dict[str, float]]:
    """Puts back what ``save_state`` wrote; the log, empty when there is nothing to go on from.

    Raises:
        RunError: damaged, or the state of another run.
    """
    path = out / STATE
    if not path.is_file():
        return []
    try:
        tensors, about = _read(path)
        if about.get("sha256") != _digest(tensors, about):
            raise ValueError("its checksum is another")
        log, before = json.loads(about["log"]), json.loads(about["same"])
        if not isinstance(log, list) or not isinstance(before, dict):
            raise ValueError("there is no log in it")
    except Exception as error:  # whatever a broken or hostile file provokes in a reader
        raise RunError(f"{path}: damaged ({reason(error)}); delete it to begin again") from error
    now = json.loads(json.dumps(same))
    if changed := sorted(key for key in {*before, *now} if before.get(key) != now.get(key)):
        name, theirs, ours = changed[0], before.get(changed[0]), now.get(changed[0])
        if isinstance(theirs, dict) and isinstance(ours, dict):  # of a table, the field
            field = min(key for key in {*theirs, *ours} if theirs.get(key) != ours.get(key))
            name, theirs, ours = f"{name} {field}", theirs.get(field), ours.get(field)
        raise RunError(
            f"{out} holds an unfinished run with {name} = {theirs!r}, not {ours!r}: go on as it began, or name another "
            "folder"
        )
    parameters = [own for group in optimizer.param_groups for own in group["params"]]
    moved = [i for i in range(len(parameters)) if f"optimizer/{i}/step" in tensors]  # those that had a gradient
    shapes = {f"model/{name}": value.shape for name, value in module.state_dict().items()}
    for i in moved:
        shapes |= {f"optimizer/{i}/{key}": torch.Size() if key == "step" else parameters[i].shape for key in _MOMENTS}
    if shapes != {name: value.shape for name, value in tensors.items()}:
        raise RunError(f"{path}: damaged (not the tensors of this detector); delete it to begin again")
    module.load_state_dict({name.removeprefix("model/"): v for name, v in tensors.items() if name.startswith("model/")})
    states = {i: {key: tensors[f"optimizer/{i}/{key}"] for key in _MOMENTS} for i in moved}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    return log


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata, of the same bytes or of a file that its checksum refuses."""
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
    return load(read_regular(path)), about


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """Over all numbers, their names, and what else the file says."""
    digest = sha256(json.dumps([about["log"], about["same"]]).encode())
    for name, value in sorted(tensors.items()):
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode() + value.numpy().tobytes())
    return digest.hexdigest()
