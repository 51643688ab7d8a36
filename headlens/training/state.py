"""What an interrupted run goes on from: learned tensors, moments of the optimiser, log and stage, with a checksum."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from headlens.errors import RunError
from headlens.files import read_regular, write
from headlens.printing import reason

STATE = "state.safetensors"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of each parameter


def save_state(
    out: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    log: list[dict[str, Any]],
    same: Mapping[str, Any],
    stage: int,
) -> None:
    """Writes ``out/state.safetensors``: what is trained, and the optimiser, log and number of the present stage.

    Args:
        out: the run folder.
        module, optimizer, log, stage: see above; the log has a row for each step so far.
        same: what a run that goes on from it must have in common.

    Raises:
        RunError: the folder cannot be written.
    """
    tensors = {f"model/{name}": value for name, value in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in state.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    about = {"log": json.dumps(log), "same": json.dumps(same), "stage": str(stage)}
    write(out / STATE, save(tensors, {**about, "sha256": _digest(tensors, about)}))


@dataclass(frozen=True)
class State:
    """How far an unfinished run had come."""

    path: Path
    log: list[dict[str, Any]]  # a row for each step
    stage: int  # the number of that which it was in
    tensors: dict[str, Tensor]  # learned ones and the optimiser's

    def restore(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Puts learned tensors and the optimiser's moments back; raises RunError where they are of other shapes."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        moved = [i for i in range(len(parameters)) if f"optimizer/{i}/step" in self.tensors]  # which had a gradient
        shapes = {f"model/{name}": value.shape for name, value in module.state_dict().items()}
        for i in moved:
            shapes |= {f"optimizer/{i}/{k}": torch.Size() if k == "step" else parameters[i].shape for k in _MOMENTS}
        if shapes != {name: value.shape for name, value in self.tensors.items()}:
            raise RunError(f"{self.path}: damaged (not the tensors of this detector); delete it to begin again")
        learned = {name: value for name, value in self.tensors.items() if name.startswith("model/")}
        module.load_state_dict({name.removeprefix("model/"): value for name, value in learned.items()})
        states = {i: {key: self.tensors[f"optimizer/{i}/{key}"] for key in _MOMENTS} for i in moved}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


def read_state(out: Path, same: Mapping[str, Any], stages: int = 1) -> State | None:
    """What ``save_state`` wrote; None where there is nothing to go on from.

    Args:
        out: the run folder.
        same: what this run must have in common with it.
        stages: how many there are. A state of an older version says none, and is of the first.

    Raises:
        RunError: damaged, or the state of another run.
    """
    path = out / STATE
    if not path.is_file():
        return None
    try:
        tensors, about = _read(path)
        if about.get("sha256") != _digest(tensors, about):
            raise ValueError("its checksum differs")
        log, before, stage = json.loads(about["log"]), json.loads(about["same"]), int(about.get("stage", 0))
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
            f"{out} holds an unfinished run with {name} = {theirs!r}, not {ours!r}: continue with those settings, or "
            "name another "
            "folder"
        )
    if not 0 <= stage < stages:
        raise RunError(f"{path}: damaged (there is no stage {stage}); delete it to begin again")
    return State(path, log, stage, tensors)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata, of the same bytes or of a file that its checksum refuses."""
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
    return load(read_regular(path)), about


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """Over all numbers, their names, and what else the file says."""
    said = [about["log"], about["same"], *([about["stage"]] if "stage" in about else [])]
    digest = sha256(json.dumps(said).encode())
    for name, value in sorted(tensors.items()):
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode() + value.numpy().tobytes())
    return digest.hexdigest()
