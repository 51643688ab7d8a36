"""What a second GPU buys: the same pictures by one process and then by several, verb by verb, and whether frames agree.

    python analyses/ranks_speed.py --model ViT-L-14-336-quickgelu --size 518 --device cuda --images 160 --batch 8
    python analyses/ranks_speed.py --size 56 --images 8 --processes 2

Each round starts its processes anew, by ``torch.distributed.run``; the time is that of the slowest, from a common start
to the finished frame, after a warm-up, without start-up and without loading weights. Weights are random, pictures are
noise with squares, made in memory: this is about time. A CPU gains only what one process leaves idle.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from common import environment, synchronize

from headlens import heads, parallel
from headlens.backbone import load
from headlens.data.samples import DataSet, Pixels, Record
from headlens.detectors import build
from headlens.detectors.stages import TrainingConfig
from headlens.training.evaluation import evaluate
from headlens.training.trainer import train

VERBS = ("eval", "importance", "importance --deterministic", "ablate", "train")


Job = tuple[int, Callable[[int], object]]


class Noise(DataSet):
    """``count`` pictures of two categories, every other one with a bright square."""

    def __init__(self, count: int, size: int, records: list[Record] | None = None) -> None:
        where = Path("made in memory")  # tells that there are masks
        every = [Record(f"{i}", "ab"[i // 2 % 2], bool(i % 2), mask=where if i % 2 else None) for i in range(count)]
        super().__init__("noise", "industrial", every if records is None else records)
        self.size = size
        self.base = torch.randint(256, (3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def pixels(self, i: int) -> Pixels:
        """The same noise, moved."""
        number = int(self.records[i].name)
        image, mask = self.base.roll((number * 17, number * 29), (1, 2)), torch.zeros(self.size, self.size, dtype=bool)
        if self.records[i].anomalous:
            first = number * 5 % (self.size // 2)
            mask[first : first + self.size // 8, first : first + self.size // 5] = True
            image = torch.where(mask, 250, image).to(torch.uint8)
        return Pixels(image, mask)

    def where(self, keep: Callable[[Record], bool]) -> DataSet:
        """Those with their numbers."""
        return Noise(0, self.size, list(filter(keep, self.records)))


def jobs(args: argparse.Namespace, device: torch.device, folder: Path) -> dict[str, Job]:
    """For every verb how many pictures, and what makes its frame of so many."""
    clip = load(args.model, image_size=args.size, device=device)
    detector = build(clip).requires_grad_(False)
    variants = heads.single_heads(heads.heads_of(detector, [args.layer]))
    training = "bfloat16" if args.precision == "bfloat16" else "float32"
    settings = TrainingConfig(epochs=1, batch=args.batch, precision=training, save_every=10**6)

    runs: list[Path] = []

    def trained(count: int) -> None:
        runs.append(folder / f"run-{len(runs)}")
        train(build(clip), Noise(count, args.size), settings, runs[-1], cpu=device.type == "cpu")

    def ranked(count: int, deterministic: bool) -> pd.DataFrame:
        return heads.importance(detector, Noise(count, args.size), deterministic=deterministic, **own).frame

    own = {"batch": args.batch, "size": args.size, "precision": args.precision}
    return {
        "eval": (12 * args.images, lambda n: evaluate(detector, Noise(n, args.size), **own).scores),
        "importance": (2 * args.images, lambda n: ranked(n, False)),
        "importance --deterministic": (2 * args.images, lambda n: ranked(n, True)),
        "ablate": (2 * args.images, lambda n: heads.ablate(detector, Noise(n, args.size), variants, **own).frame),
        "train": (args.images, trained),
    }


def work(args: argparse.Namespace, folder: Path) -> None:
    """One process of a round: leaves seconds and frames in ``folder``."""
    torch.set_num_threads(args.threads)
    with parallel.ranks() as own:
        device = torch.device(args.device)
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(device)
        for verb, (count, made) in jobs(args, device, folder).items():
            if verb not in args.verbs:
                continue
            made(2 * own.size * args.batch)
            own.each({})  # all begin together
            start = time.perf_counter()
            frame = made(count)
            synchronize(device)
            own.each({})
            seconds = time.perf_counter() - start
            if own.main:
                print(f"  {verb}: {count} pictures in {seconds:.1f} s", flush=True)
                if isinstance(frame, pd.DataFrame):
                    frame.to_parquet(folder / f"{verb}.parquet")
                (folder / f"{verb}.json").write_text(json.dumps({"count": count, "seconds": seconds}))


def launch(processes: int, threads: int, folder: Path, limit: float) -> None:
    """One round; what is there after ``limit`` seconds is what there is."""
    folder.mkdir()
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    print(f"{processes} process{'es' * (processes > 1)}, {limit:.0f} s left", flush=True)
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}  # threads that torch starts in others' threads count, too
    round_ = subprocess.Popen([*start, __file__, *sys.argv[1:], "--worker", str(folder)], env=env)
    try:
        if code := round_.wait(limit):
            print(f"  ended with {code}", flush=True)
    except subprocess.TimeoutExpired:
        print("  out of time", flush=True)
    finally:
        round_.terminate()  # torchrun ends its own
        round_.wait()


def apart(a: pd.DataFrame, b: pd.DataFrame) -> float:
    """The largest difference of two numbers; NaN where frames are not of the same rows."""
    numbers = [own.select_dtypes("number").to_numpy(float, na_value=-1.0) for own in (a, b)]
    return float(abs(numbers[0] - numbers[1]).max()) if numbers[0].shape == numbers[1].shape else float("nan")


def rows(one: Path, several: Path) -> list[str]:
    """Of the table."""
    found = []
    for verb in VERBS:
        paths = [folder / f"{verb}.json" for folder in (one, several)]
        if not all(path.is_file() for path in paths):
            continue
        first, second = (json.loads(path.read_text()) for path in paths)
        speeds = [own["count"] / own["seconds"] for own in (first, second)]
        frames = [path.with_suffix(".parquet") for path in paths]
        alike = "-"
        if all(path.is_file() for path in frames):
            a, b = map(pd.read_parquet, frames)
            alike = "equal" if a.equals(b) else f"differ by {apart(a, b):.1e}"
        ratio = f"{speeds[1] / speeds[0]:.2f}"
        cells = [verb, str(first["count"]), *(f"{speed:.2f}" for speed in speeds), ratio, alike]
        found.append("| " + " | ".join(cells) + " |")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument(
        "--images", type=int, default=32, help="of train; eval has 12 times, importance and ablate twice"
    )
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--layer", type=int, default=18, help="that is ablated, all heads of both streams")
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=VERBS)
    parser.add_argument("--precision", default="bfloat16", help="training in another than this is in float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, help="of the second round; all visible GPUs, or 2")
    parser.add_argument("--threads", type=int, default=1, help="of torch in every process, as torchrun has it")
    parser.add_argument("--limit", type=float, default=300, help="seconds for both rounds")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args, args.worker)
        return
    processes = args.processes or (torch.cuda.device_count() if args.device == "cuda" else 2)
    torch.set_num_threads(args.threads)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        one, several = Path(place, "one"), Path(place, "several")
        launch(1, args.threads, one, args.limit * 0.6)
        launch(processes, args.threads, several, max(1.0, args.limit - (time.monotonic() - began)))
        table = rows(one, several)
    how = f"batches of {args.batch}, {args.precision}"
    print(f"\n`{args.model}` at {args.size} px, {how}; {environment(torch.device(args.device))}\n")
    print(f"| | pictures | images/s, 1 process | images/s, {processes} processes | ratio | frames |")
    print("|---|---:|---:|---:|---:|---|", *table, sep="\n")


if __name__ == "__main__":
    main()
