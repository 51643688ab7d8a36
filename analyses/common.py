"""What the measuring scripts share: paired timing, and a line that says what was measured where."""

from __future__ import annotations

import ctypes
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

import headlens
from headlens.data import DataSet, Pixels, Record


def environment(device: torch.device) -> str:
    """Commit, versions and device, for under a table."""
    commit = os.environ.get("HEADLENS_COMMIT", "")  # of a tree that travelled without its history
    if not commit:
        git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
        with suppress(OSError):
            commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
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
    contenders: dict[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    calls: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds a call of each contender, round by round; in each round all run, the first one rotating.

    Args:
        contenders: functions without arguments; each is called twice beforehand to warm up.
        rounds: how many timings of each.
        device: what to wait for.
        calls: calls in one timing, for contenders too quick to time alone.
        clock: ``time.process_time`` counts seconds of the processor, to which other work adds little.
    """
    names = list(contenders)
    for name in names:
        contenders[name](), contenders[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            synchronize(device)
            start = clock()
            for _ in range(calls):
                contenders[name]()
            synchronize(device)
            seconds[name].append((clock() - start) / calls)
    return seconds


class Decoded(DataSet):
    """Noise in place of an MVTec-sized set that is decoded already: squares of 700 to 1,024 px, outlined blobs.

    A few pictures are held and given again and again, as views: what is read is never in a cache for long.

    Args:
        pictures: how many.
        categories: how many; every picture of one has the same size.
        each: held for each category.
    """

    def __init__(self, pictures: int = 1725, categories: int = 15, each: int = 4) -> None:
        records = [
            Record(f"c{i * categories // pictures:02d}/{i:04d}", f"c{i * categories // pictures:02d}", i % 4 != 0)
            for i in range(pictures)
        ]
        super().__init__("decoded noise", "industrial", records)
        draw = np.random.default_rng(0)
        self._held = []
        for category in range(categories):
            side = int(np.linspace(700, 1024, categories)[category])
            images = draw.integers(0, 256, (each, 3, side, side), dtype=np.uint8)
            rows, columns = np.mgrid[:side, :side] / side
            centres = draw.uniform(0.2, 0.8, (each, 3, 2))
            blobs = [[np.hypot(rows - y, columns - x) < 0.06 for y, x in own] for own in centres]
            masks = np.stack([np.logical_or.reduce(own) for own in blobs])
            self._held.append((torch.from_numpy(images), torch.from_numpy(masks)))

    @property
    def has_masks(self) -> bool:
        """Of all that are anomalous."""
        return True

    def pixels(self, i: int) -> Pixels:
        """Views of what is held."""
        record = self.records[i]
        images, masks = self._held[int(record.category[1:])]
        mask = masks[i % len(masks)]
        return Pixels(images[i % len(images)], mask if record.anomalous else torch.zeros_like(mask))

    def where(self, keep: Callable[[Record], bool]) -> Decoded:
        """Not needed."""
        raise NotImplementedError("it is scored whole")


def best(work: Callable[[], object], device: torch.device, calls: int = 1, rounds: int = 3) -> float:
    """Seconds of a call, the median of the rounds; one call comes before, and the device's peak is counted from there.

    ``peak`` tells it afterwards.
    """
    work()
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            work()
        synchronize(device)
        seconds.append((time.perf_counter() - start) / calls)
    return statistics.median(seconds)


def peak(device: torch.device) -> float:
    """GiB that the device held at most since the last ``best`` began, weights included; NaN on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else float("nan")


GROUPS = {
    "attention": ("sdpa", "flash", "fmha", "attention"),
    "matrix products": ("gemm", "nvjet", "cutlass", "xmma", "convolve", "cudnn_infer"),
    "metrics and their counters": ("scatter", "index", "sort", "scan", "radix", "amin", "amax", "searchsorted"),
    "copies to and from the device": ("memcpy",),
    "LayerNorm": ("layer_norm",),
}
"""Kernels by what is in their name; what fits none is ``elementwise and other``."""


def profiled(work: Callable[[], object]) -> str:
    """Where a GPU's time goes while ``work`` runs: a Markdown table in shares of the time from begin to end."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as traced:
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        whole = (time.perf_counter() - start) * 1e6
    shares, busy, until = dict.fromkeys((*GROUPS, "elementwise and other"), 0.0), 0.0, 0.0
    kernels = [e for e in traced.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    for event in sorted(kernels, key=lambda e: e.time_range.start):
        begin, end = event.time_range.start, event.time_range.end
        name = event.name.lower()
        group = next((g for g, parts in GROUPS.items() if any(p in name for p in parts)), "elementwise and other")
        shares[group] += end - begin
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    rows = [*shares.items(), ("nothing: the device waits", whole - busy)]
    return "| kernels | share of the time |\n|---|---:|\n" + "\n".join(f"| {n} | {t / whole:.1%} |" for n, t in rows)


def written(text: str, out: Path | None) -> None:
    """Prints, and writes where that was asked for."""
    print(text, flush=True)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")


def memory_now(device: torch.device) -> int:
    """Bytes in use; the high-water mark starts again from here. On a CPU of the whole process (Linux with glibc)."""
    if device.type == "cpu":
        ctypes.CDLL(None).malloc_trim(0)  # memory freed while loading must not count as there already
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    torch.accelerator.reset_peak_memory_stats(device)
    return torch.accelerator.memory_allocated(device)


def memory_peak(device: torch.device) -> int:
    """Most bytes that were in use since ``memory_now``."""
    return _status("VmHWM") if device.type == "cpu" else torch.accelerator.max_memory_allocated(device)


def _status(field: str) -> int:
    """A size from the kernel's page on this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def ratio(ours: list[float], reference: list[float]) -> str:
    """Median of the round-by-round ratios, and their quartiles."""
    ratios = [a / b for a, b in zip(ours, reference, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"
