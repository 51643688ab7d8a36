"""What an interrupted run goes on from: learned tensors, Adam's moments and the log, in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from headlens.errors import RunError
from headlens.files import write_atomically

STATE = "state.safetensors"


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
    content = save(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
        {"log": json.dumps(log), "same": json.dumps(same)},
    )
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
        with safe_open(path, "pt") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        log, before = json.loads(about["log"]), json.loads(about["same"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: damaged ({error}); delete it to begin again") from error
    now = json.loads(json.dumps(same))
    if changed := sorted(key for key in {*before, *now} if before.get(key) != now.get(key)):
        key = changed[0]
        raise RunError(
            f"{out} holds an unfinished run with {key} = {before.get(key)!r}, not {now.get(key)!r}: "
            "go on as it began, or name another folder"
        )
    module.load_state_dict({name.removeprefix("model/"): v for name, v in tensors.items() if name.startswith("model/")})
    states: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            index, key = name.split("/")[1:]
            states.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    return log
