"""Many detectors, trained with several seeds in both domains and tested on categories that none has seen.

What scripts that compare choices or methods share: painted sets, workers that train and test what waits, and means over
seeds. Runs that are there already are not made again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from multiprocessing.context import BaseContext
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from scipy import stats
from torch import Tensor

from headlens.backbone import load
from headlens.baselines import SCALES, LocalContrast
from headlens.data import Pixels, Record
from headlens.data.opening import ProceduralSet
from headlens.data.procedural import World
from headlens.detectors import Detector, build
from headlens.detectors.stages import TrainingConfig
from headlens.training.evaluation import Evaluation, Scorer, evaluate
from headlens.training.run import CONFIG, load_run
from headlens.training.trainer import train

DOMAINS = ("industrial", "medical")
NOTHING = "nothing"  # what an untrained detector was trained on
Choices = Mapping[str, tuple[str, dict[str, Any], dict[str, Any]]]
"""By name: a preset, changes of its settings, and changes of those of training."""
Test = Callable[[Scorer, list["Painted"], str], Evaluation]
"""A detector on sets, and the name of its choice, to what is written down of it."""


class Painted(ProceduralSet):
    """A procedural set whose images have been painted already: the same bytes, for many runs."""

    def __init__(self, world: World, images: Tensor, masks: Tensor, which: Iterable[int] | None = None) -> None:
        super().__init__(world, which=which)
        self.images, self.masks = images, masks

    def pixels(self, i: int) -> Pixels:
        """From memory."""
        return Pixels(self.images[self._which[i]], self.masks[self._which[i]])

    def where(self, keep: Callable[[Record], bool]) -> Painted:
        """The same set with only the records for which ``keep`` is true."""
        which = [i for i, record in zip(self._which, self.records, strict=True) if keep(record)]
        return Painted(self.world, self.images, self.masks, which)


class Task(NamedTuple):
    """One run: ``choice``, trained with ``seed`` on ``domain``."""

    choice: str
    seed: int
    domain: str

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.domain}/{slug(self.choice)}-{self.seed}"


def slug(choice: str) -> str:
    """A choice as the name of a folder."""
    return "".join(c if c.isalnum() else "-" for c in choice)


def paint(job: tuple[str, int, int, int]) -> tuple[Tensor, Tensor]:
    """One image and its mask."""
    spec, per_category, seed, number = job
    torch.set_num_threads(1)
    sample = World(spec, per_category, seed=seed)[number]
    return sample.image, sample.mask


def paint_sets(args: argparse.Namespace, processes: BaseContext) -> None:
    """The test sets and, for each seed, the sets that are trained on, as files."""
    args.out.mkdir(parents=True, exist_ok=True)
    jobs, wanted = [], [(f"procedural:{domain}", args.per_category, 0) for domain in DOMAINS]
    wanted += [(f"procedural:{d}/aux", args.per_category // 2, seed) for d in DOMAINS for seed in args.seeds]
    wanted = [which for which in wanted if not set_file(args.out, *which).exists()]
    for which in wanted:
        jobs += [(*which, number) for number in range(len(World(*which[:2], seed=which[2])))]
    with processes.Pool(max(args.jobs, torch.get_num_threads())) as pool:
        made = pool.imap(paint, jobs, chunksize=8)
        for which in wanted:
            images, masks = zip(*islice(made, len(World(*which[:2], seed=which[2]))), strict=True)
            save_file({"images": torch.stack(images), "masks": torch.stack(masks)}, set_file(args.out, *which))


def set_file(out: Path, spec: str, per_category: int, seed: int) -> Path:
    """Where a painted set is stored."""
    return out / f"{spec.replace(':', '-').replace('/', '-')}-{per_category}-{seed}.safetensors"


def painted(out: Path, spec: str, per_category: int, seed: int) -> Painted:
    """The set from its file."""
    stored = load_file(set_file(out, spec, per_category, seed))
    return Painted(World(spec, per_category, seed=seed), stored["images"], stored["masks"])


def test(detector: Scorer, sets: list[Painted], choice: str = "") -> Evaluation:
    """On the unseen categories of both domains."""
    return Evaluation.joined(evaluate(detector, dataset, batch=40) for dataset in sets)


def settle(number: int, args: argparse.Namespace) -> None:
    """Gives worker ``number`` its share of the CPU, and one of the GPUs."""
    torch.set_num_threads(max(1, args.threads // args.jobs))
    if args.device == "cuda":
        torch.cuda.set_device(number % torch.cuda.device_count())


def work(number: int, waiting: Queue, args: argparse.Namespace, choices: Choices, tested: Test) -> None:
    """Trains and tests what waits, until nothing does."""
    settle(number, args)
    clip = load(args.model, args.weights, device=args.device)
    tests = [painted(args.out, f"procedural:{domain}", args.per_category, 0) for domain in DOMAINS]
    while (task := waiting.get()) is not None:
        folder, started = args.out / task.name, time.monotonic()
        if (folder / "frame.parquet").exists():
            continue
        name, changes, training = choices[task.choice]
        detector: Detector = build(clip, name, task.seed, **changes)
        if task.domain == NOTHING:
            folder.mkdir(parents=True, exist_ok=True)
        else:
            if not (folder / CONFIG).exists():
                aux = painted(args.out, f"procedural:{task.domain}/aux", args.per_category // 2, task.seed)
                config = TrainingConfig.of({"seed": task.seed, **training})
                train(detector, aux, config, folder, cpu=args.device == "cpu")
            detector = load_run(folder, clip).detector
        tested(detector, tests, task.choice).frame.to_parquet(folder / "frame.parquet")
        print(f"{task.name}: {time.monotonic() - started:.0f} s", flush=True)


def floors(args: argparse.Namespace) -> None:
    """Local contrast at each scale, which knows nothing."""
    tests = [painted(args.out, f"procedural:{domain}", args.per_category, 0) for domain in DOMAINS]
    for scale in SCALES:
        folder = args.out / NOTHING / f"local contrast {scale:g}-0"
        if not (folder / "frame.parquet").exists():
            folder.mkdir(parents=True, exist_ok=True)
            test(LocalContrast(scale, device=args.device), tests).frame.to_parquet(folder / "frame.parquet")


def run_all(args: argparse.Namespace, choices: Choices, tasks: Iterable[Task], tested: Test = test) -> None:
    """Every task that is not done, ``args.jobs`` at a time; the first are begun first.

    Raises:
        SystemExit: a worker failed.
    """
    processes, started = torch.multiprocessing.get_context("spawn"), time.monotonic()
    paint_sets(args, processes)
    print(f"painted in {time.monotonic() - started:.0f} s", flush=True)
    waiting = processes.Queue()
    for task in tasks:
        waiting.put(task)
    workers = [processes.Process(target=work, args=(n, waiting, args, choices, tested)) for n in range(args.jobs)]
    for worker in workers:
        waiting.put(None)
        worker.start()
    floors(args)
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a worker failed; what is finished stays, run it again")


def arguments(about: str, choices: Choices, out: str) -> argparse.ArgumentParser:
    """What every such script takes."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--tables", action="store_true", help="only print what is there")
    parser.add_argument("--choices", nargs="+", choices=choices, default=list(choices))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--weights", type=Path, help="other weights for it")
    parser.add_argument("--per-category", type=int, default=80, help="of the test sets; half as many to train on")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.set_defaults(threads=torch.get_num_threads())
    return parser


def collected(out: Path, names: Iterable[str]) -> pd.DataFrame:
    """Means over categories: choice, trained, seed, tested, score, metric, value."""
    parts, choices = [], {slug(choice): choice for choice in names}
    for path in out.glob("*/*/frame.parquet"):
        name, _, seed = path.parent.name.rpartition("-")
        about = {"choice": choices.get(name, name), "trained": path.parent.parent.name, "seed": int(seed)}
        parts.append(pd.read_parquet(path).assign(**about))
    frame = pd.concat(parts).rename(columns={"domain": "tested"})
    keys = ["choice", "trained", "seed", "tested", "score", "metric"]
    return frame.groupby(keys, sort=False)["value"].mean().reset_index()


def floor(values: pd.Series, tested: str, columns: Iterable[tuple[str, str]]) -> list[float]:
    """Of each column (score, metric) the best of the scales of local contrast.

    Args:
        values: by choice, tested, trained, score, metric.
    """
    each = [values.loc[[f"local contrast {scale:g}"]].xs((tested, NOTHING), level=(1, 2)) for scale in SCALES]
    best = pd.concat(each).groupby(["score", "metric"]).max()
    return [best[column] for column in columns]


def spread(values: Iterable[float]) -> tuple[float, float]:
    """In percent: the mean, and half of the 95 % interval over seeds; NaN where there are too few for it."""
    values = 100 * np.asarray(list(values))
    if len(values) < 2:
        return (float(values[0]) if len(values) else float("nan")), float("nan")
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5 * stats.t.ppf(0.975, len(values) - 1))


def cell(values: Iterable[float], sign: str = "") -> str:
    """The same as a table shows it."""
    mean, half = spread(values)
    if np.isnan(half):
        return "-" if np.isnan(mean) else f"{mean:{sign}.1f}"
    return f"{mean:{sign}.1f} ±{half:.1f}"
