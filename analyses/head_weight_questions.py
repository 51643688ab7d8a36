"""What learned head weights do: where runs of two domains differ, and what is lost without the changed heads.

    python analyses/family_comparison.py --model mini-captions --seeds 0 1 2 3 4 --out runs/family --jobs 12
    python analyses/head_weight_questions.py --model mini-captions --out runs/family --jobs 12
    python analyses/head_weight_questions.py --out runs/family --tables

Reads the runs of ``family_comparison.py``. Every run with head weights is tested on the unseen categories of its domain
with the weights of some heads set back to 1: those that changed most (``|w - 1|``), or as many others, drawn at random.
It is also tested with the head weights of the other domain's run of the same seed. The gradient importance of its heads
(joint margin) is compared with how far their weights have moved. Intervals are 95 % over seeds, by Student's t.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from functools import cache
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from family_comparison import METHODS
from torch import Tensor
from trained_runs import DOMAINS, Painted, Task, arguments, cell, paint_sets, painted, settle, test

from headlens import heads
from headlens.backbone import Backbone, load
from headlens.data import DataSet
from headlens.detectors import Detector
from headlens.detectors.parts.head_weights import HeadWeights
from headlens.training.run import CONFIG, load_run

CHOICES = ("HeadCLIP", *(f"head weights alone, {streams}" for streams in ("local", "global", "both")))
COUNTS = (10, 30, 100)  # heads that are set back; and all of them
COLUMNS = {"I": ("joint", "auroc"), "P": ("pixel", "auroc"), "PRO": ("pixel", "aupro")}
ANSWERS = "answers.json"


def order_of_change(weights: dict[str, Tensor]) -> list[tuple[str, int, int]]:
    """Heads (stream, layer, head), the furthest from 1 first; those whose weight is 1 to the bit had no effect.

    >>> order_of_change({"local": torch.tensor([[1.0, 0.5], [1.1, 1.0]])})
    [('local', 0, 1), ('local', 1, 0)]
    """
    moved = {
        (stream, layer, head): abs(value - 1)
        for stream, grid in weights.items()
        for layer, row in enumerate(grid.tolist())
        for head, value in enumerate(row)
        if value != 1
    }
    return sorted(moved, key=lambda head: -moved[head])


def reverted(weights: dict[str, Tensor], which: list[tuple[str, int, int]]) -> dict[str, Tensor]:
    """A copy in which those heads weigh 1.

    >>> reverted({"local": torch.tensor([[0.5, 2.0]])}, [("local", 0, 1)])
    {'local': tensor([[0.5000, 1.0000]])}
    """
    copies = {stream: grid.clone() for stream, grid in weights.items()}
    for stream, layer, head in which:
        copies[stream][layer, head] = 1.0
    return copies


def changes(
    weights: dict[str, Tensor], other: dict[str, Tensor] | None, seed: int
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """What is asked of one run: a name, and the head weights that it is tested with."""
    order = order_of_change(weights)
    shuffled = [order[i] for i in torch.randperm(len(order), generator=torch.Generator().manual_seed(seed))]
    yield "as trained", weights
    for count in COUNTS:
        if count < len(order):
            yield f"{count} most changed set back", reverted(weights, order[:count])
            yield f"{count} drawn at random set back", reverted(weights, shuffled[:count])
            yield f"all but the {count} most changed set back", reverted(weights, order[count:])
    yield "all set back", reverted(weights, order)
    if other is not None:
        yield "the other domain's head weights", other


def set_weights(detector: Detector, weights: dict[str, Tensor]) -> None:
    """Writes weights [L, H] of each stream into a detector whose parametrisation is ``free``."""
    part = detector.weights
    assert isinstance(part, HeadWeights) and part.kind == "free"
    with torch.no_grad():
        for stream, grid in weights.items():
            part.raw[stream].copy_(grid)


def weights_of(folder: Path, clip: Backbone) -> dict[str, Tensor]:
    """Of a run, [L, H] for each stream."""
    learned = load_run(folder, clip).detector.head_weights()
    return {stream: grid.detach().clone() for stream, grid in learned.items()}


def answers(folder: Path, other: Path, seed: int, clip: Backbone, images: Painted, few: DataSet) -> dict[str, Any]:
    """Metrics under every change, and the rank correlation of change and importance."""
    detector = load_run(folder, clip).detector
    weights = weights_of(folder, clip)
    other_weights = weights_of(other, clip) if (other / CONFIG).exists() else None
    metrics = {}
    for name, changed in changes(weights, other_weights, seed):
        set_weights(detector, changed)
        means = test(detector, [images]).frame.groupby(["score", "metric"])["value"].mean()
        metrics[name] = {column: float(means[key]) for column, key in COLUMNS.items()}
    set_weights(detector, weights)
    steep = heads.importance(detector, few, batch=8).summary.set_index(["stream", "layer", "head"])["importance"]
    moved = heads.weights(detector).frame.set_index(["stream", "layer", "head"])["effect"]
    both = pd.concat({"moved": moved.abs(), "signed": moved, "importance": steep}, axis=1).dropna()
    return {
        "metrics": metrics,
        "correlation": {
            stream: {name: float(rows[name].corr(rows["importance"], "spearman")) for name in ("moved", "signed")}
            for stream, rows in both.groupby("stream")
        },
    }


def begin(numbers: Queue, args: argparse.Namespace) -> None:
    """Of every worker."""
    settle(numbers.get(), args)


@cache
def _shared(model: str, weights: Path | None, device: str) -> Backbone:
    return load(model, weights, device=device)


def work(job: tuple[argparse.Namespace, Task]) -> str:
    """Answers for one run, written into its folder."""
    args, task = job
    folder, clip = args.out / task.name, _shared(args.model, args.weights, args.device)
    if not (folder / ANSWERS).exists():
        images = painted(args.out, f"procedural:{task.domain}", args.per_category, 0)
        some = {r.name for i, r in enumerate(images.records) if i % args.per_category in (0, 1, args.per_category - 1)}
        few = images.where(lambda record: record.name in some)
        other = args.out / task._replace(domain=next(d for d in DOMAINS if d != task.domain)).name
        result = answers(folder, other, task.seed, clip, images, few)
        (folder / ANSWERS).write_text(json.dumps(result, indent=1) + "\n")
    return task.name


def tasks(out: Path, seeds: list[int]) -> list[Task]:
    """The runs with head weights that are there."""
    every = [Task(choice, seed, domain) for choice in CHOICES for domain in DOMAINS for seed in seeds]
    return [task for task in every if (out / task.name / CONFIG).exists()]


def answered(out: Path, every: list[Task]) -> dict[Task, dict[str, Any]]:
    """What ``work`` has written for each run."""
    return {task: json.loads((out / task.name / ANSWERS).read_text()) for task in every}


def changes_table(results: dict[Task, dict[str, Any]]) -> str:
    """Differences to the same run as it was trained, in points, the mean over seeds; ``as trained`` in percent."""
    columns = [f"{domain} {name}" for domain in DOMAINS for name in COLUMNS]
    lines = ["| method | head weights | runs | " + " | ".join(columns) + " |", "|---|---|---|" + "---:|" * len(columns)]
    asked = dict.fromkeys((task.choice, name) for task, result in results.items() for name in result["metrics"])
    for choice, name in asked:
        cells, counts = [], []
        for domain in DOMAINS:
            runs = [result["metrics"] for task, result in results.items() if task[::2] == (choice, domain)]
            runs = [metrics for metrics in runs if name in metrics]
            counts.append(str(len(runs)))
            for column in COLUMNS:
                start = 0.0 if name == "as trained" else 1.0
                values = [metrics[name][column] - start * metrics["as trained"][column] for metrics in runs]
                cells.append(cell(values, "+" if start else ""))
        lines.append(f"| {choice} | {name} | {' + '.join(counts)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def correlation_table(results: dict[Task, dict[str, Any]]) -> str:
    """Rank correlation over heads, in percent: of importance with a weight's distance from 1, and with the weight."""
    lines = ["| method | domain | stream | runs | distance from 1 | weight |", "|---|---|---|---:|---:|---:|"]
    for choice, domain in dict.fromkeys(task[::2] for task in results):
        runs = [result["correlation"] for task, result in results.items() if task[::2] == (choice, domain)]
        for stream in runs[0]:
            cells = [cell([run[stream][name] for run in runs]) for name in ("moved", "signed")]
            lines.append(f"| {choice} | {domain} | {stream} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def comparisons(out: Path, every: list[Task], model: str, weights: Path | None) -> Iterator[str]:
    """What ``compare`` says of the runs of both domains."""
    clip = load(model, weights)
    for choice in dict.fromkeys(task.choice for task in every):
        sides = {d: [load_run(out / t.name, clip) for t in every if t[::2] == (choice, d)] for d in DOMAINS}
        if min(map(len, sides.values())) < 2:
            continue
        result = heads.compare(sides)
        yield f"### {choice}\n\n{result.paragraph}\n\n{result.agreement.round(3).to_string(index=False)}\n"
        columns = ["name", *DOMAINS, "difference", "p", "q_own", "q"]
        yield result.strongest.head(10)[columns].round(4).to_string(index=False) + "\n"


def main() -> None:
    parser = arguments(__doc__ or "", {name: METHODS[name] for name in CHOICES}, "runs/family")
    parser.set_defaults(seeds=list(range(10)))
    args = parser.parse_args()
    every = [task for task in tasks(args.out, args.seeds) if task.choice in args.choices]
    if not args.tables:
        processes = torch.multiprocessing.get_context("spawn")
        paint_sets(argparse.Namespace(**{**vars(args), "seeds": []}), processes)  # nothing is trained
        numbers = processes.Queue()
        for number in range(args.jobs):
            numbers.put(number)
        with processes.Pool(args.jobs, begin, (numbers, args)) as pool:
            for name in pool.imap_unordered(work, [(args, task) for task in every]):
                print(name, flush=True)
    results = answered(args.out, every)
    parts = [changes_table(results), correlation_table(results)]
    parts += comparisons(args.out, every, args.model, args.weights)
    print("\n\n".join(parts))
    (args.out / "questions.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
