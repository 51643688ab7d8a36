"""What the measuring scripts share: paired timing, and a line that says what was measured where."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

import headlens


def environment(device: torch.device) -> str:
    """Commit, versions and device, for under a table."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run(
            [*git, "describe", "--always", "--dirty"], capture_output=True, text=True
        ).stdout.strip()
    except OSError:
        commit = ""
    if device.type == "cpu":
        name = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    else:
        name = torch.get_device_module(device).get_device_name(device)
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "open_clip_torch", "transformer-lens"))
    return f"{name}; {packages}; headlens {headlens.__version__} at {commit or 'no commit'}"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def paired(
    contenders: dict[str, Callable[[], object]], rounds: int, device: torch.device, calls: int = 1
) -> dict[str, list[float]]:
    """Seconds a call of each contender, round by round; in each round all run, the first one rotating.

    Args:
        contenders: functions without arguments; each is called twice beforehand to warm up.
        rounds: how many timings of each.
        device: what to wait for.
        calls: calls in one timing, for contenders too quick to time alone.
    """
    names = list(contenders)
    for name in names:
        contenders[name](), contenders[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            synchronize(device)
            start = time.perf_counter()
            for _ in range(calls):
                contenders[name]()
            synchronize(device)
            seconds[name].append((time.perf_counter() - start) / calls)
    return seconds


def ratio(ours: list[float], reference: list[float]) -> str:
    """Median of the round-by-round ratios, and their quartiles."""
    ratios = [a / b for a, b in zip(ours, reference, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"
