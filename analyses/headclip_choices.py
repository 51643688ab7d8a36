"""Which of HeadCLIP's open choices matter: every alternative, trained with three seeds in both domains.

    python analyses/headclip_choices.py --out runs/choices --jobs 8
    python analyses/headclip_choices.py --out runs/choices --tables

Every run is trained on a procedural ``aux`` set, painted anew for its seed, and tested on categories of both domains
that nobody has seen. Runs that are there already are not made again. Tables are means over seeds with 95 % intervals
by Student's t, of a value or of the difference to the default with the same seed and pictures.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice, product
from multiprocessing.context import BaseContext
from multiprocessing.queues import Queue
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from scipy import stats
from torch import Tensor

from headlens.backbone import load
from headlens.baselines import SCALES, LocalContrast
from headlens.data import Pixels
from headlens.data.opening import ProceduralSet
from headlens.data.procedural import World
from headlens.detectors import build
from headlens.detectors.stages import TrainingConfig
from headlens.metrics.image import image_metrics
from headlens.training.evaluation import Evaluation, Scorer, evaluate
from headlens.training.run import CONFIG, load_run
from headlens.training.trainer import train

DOMAINS = ("industrial", "medical")
HEADCLIP = "headclip"
UNWEIGHTED = "head weights: none"  # and read by CLS alone, this is AnomalyCLIP with several taps
CHOICES: dict[str, tuple[str, dict[str, object], dict[str, object]]] = {
    HEADCLIP: ("headclip", {}, {}),
    UNWEIGHTED: ("headclip", {"head_weights": "none"}, {}),
    "epochs: 15": ("headclip", {}, {"epochs": 15}),
    "head weights: sigmoid": ("headclip", {"head_weights": "sigmoid"}, {}),
    "head weights: softmax": ("headclip", {"head_weights": "softmax"}, {}),
    "head weights: a fifth of the learning rate": ("headclip", {}, {"lr_heads": 1e-3}),
    "weighted: global stream": ("headclip", {"streams": ("global",)}, {}),
    "weighted: both streams": ("headclip", {"streams": ("global", "local")}, {}),
    "anomalyclip-published": ("anomalyclip-published", {}, {}),
    "prompts: hand-written": ("headclip", {"prompts": "ensemble"}, {}),
    "prompts: with the category's name": ("headclip", {"class_aware": True}, {}),
    "deep prompts: none": ("headclip", {"deep": 0}, {}),
    "deep prompts: blocks 1 to 4": ("headclip", {"deep": 4}, {}),
    "taps: 23": ("headclip", {"taps": (23,)}, {}),
    "taps: 5, 11": ("headclip", {"taps": (5, 11)}, {}),
    "taps: 17, 23": ("headclip", {"taps": (17, 23)}, {}),
}
ROWS = {
    "clip": ("clip", "joint"),
    "anomalyclip-published": ("anomalyclip-published", "joint"),
    "anomalyclip": (UNWEIGHTED, "image"),
    "headclip without head weights": (UNWEIGHTED, "joint"),
    "headclip without joint score": (HEADCLIP, "image"),
    "headclip": (HEADCLIP, "joint"),
}
"""Of the table of methods: which runs, and which of their scores decides about the image."""
TOPS = (0.001, 0.01, 0.05)
COLUMNS = {("joint", "auroc"): "I", ("pixel", "auroc"): "P", ("pixel", "aupro"): "PRO"}


class Painted(ProceduralSet):
    """A procedural set whose pictures have been painted already: the same bytes, for many runs."""

    def __init__(self, world: World, images: Tensor, masks: Tensor) -> None:
        super().__init__(world)
        self.images, self.masks = images, masks

    def pixels(self, i: int) -> Pixels:
        """From memory."""
        return Pixels(self.images[i], self.masks[i])


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
    """One picture and its mask."""
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
    """Where a painted set is kept."""
    return out / f"{spec.replace(':', '-').replace('/', '-')}-{per_category}-{seed}.safetensors"


def painted(out: Path, spec: str, per_category: int, seed: int) -> Painted:
    """The set from its file."""
    kept = load_file(set_file(out, spec, per_category, seed))
    return Painted(World(spec, per_category, seed=seed), kept["images"], kept["masks"])


def work(waiting: Queue, args: argparse.Namespace) -> None:
    """Trains and tests what waits, until nothing does."""
    torch.set_num_threads(max(1, args.threads // args.jobs))
    clip = load(args.model, args.weights, device=args.device)
    tests = [painted(args.out, f"procedural:{domain}", args.per_category, 0) for domain in DOMAINS]
    while (task := waiting.get()) is not None:
        folder, started = args.out / task.name, time.monotonic()
        if (folder / "frame.parquet").exists():
            continue
        name, changes, training = CHOICES[task.choice]
        if not (folder / CONFIG).exists():
            aux = painted(args.out, f"procedural:{task.domain}/aux", args.per_category // 2, task.seed)
            config = TrainingConfig.of({"seed": task.seed, **training})
            train(build(clip, name, task.seed, **changes), aux, config, folder, cpu=args.device == "cpu")
        detector = load_run(folder, clip).detector
        test(detector, tests, task.choice == HEADCLIP).frame.to_parquet(folder / "frame.parquet")
        print(f"{task.name}: {time.monotonic() - started:.0f} s", flush=True)


def test(detector: Scorer, sets: list[Painted], pools: bool = False) -> Evaluation:
    """On the unseen categories of both domains; with ``pools`` also other readings of a joint score."""
    parts = []
    for dataset in sets:
        found = evaluate(detector, dataset, batch=40)
        if pools:
            scores = found.scores.assign(top0=found.scores["map"])
            for top in TOPS:
                other = detector.with_config(alpha=1.0, pool="top", top=top)
                scores[f"top{top:g}"] = evaluate(other, dataset, batch=40).scores["joint"]
            found = replace(found, frame=pd.concat([found.frame, readings(scores)]), scores=scores)
        parts.append(found)
    return Evaluation.joined(parts)


def readings(scores: pd.DataFrame) -> pd.DataFrame:
    """Image AUROC of ``(1 - alpha) image + alpha pooled map``, for each alpha and pooling, per category."""
    rows = []
    for keys, own in scores.groupby(["domain", "dataset", "category"], sort=False):
        labels = torch.tensor(own["anomalous"].astype(int).to_numpy())
        for top in (0, *TOPS):
            for alpha in (0.0, 0.25, 0.5, 0.75, 1.0):
                joint = torch.tensor(((1 - alpha) * own["image"] + alpha * own[f"top{top:g}"]).to_numpy())
                value = float(image_metrics(joint, labels)["auroc"])
                rows.append((*keys, f"alpha {alpha:g}, top {top:g}", "auroc", value))
    return pd.DataFrame(rows, columns=["domain", "dataset", "category", "score", "metric", "value"])


def baselines(args: argparse.Namespace) -> None:
    """Local contrast at each scale, and CLIP with hand-written prompts: nothing is trained."""
    tests = [painted(args.out, f"procedural:{domain}", args.per_category, 0) for domain in DOMAINS]
    scorers: dict[str, Scorer] = {
        f"local contrast {scale:g}": LocalContrast(scale, device=args.device) for scale in SCALES
    }
    scorers["clip"] = build(load(args.model, args.weights, device=args.device), "clip")
    for name, scorer in scorers.items():
        folder = args.out / "nothing" / f"{name}-0"
        if (folder / "frame.parquet").exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        test(scorer, tests).frame.assign(choice=name).to_parquet(folder / "frame.parquet")


def collected(out: Path) -> pd.DataFrame:
    """Means over categories: choice, trained, seed, tested, score, metric, value."""
    parts, choices = [], {slug(choice): choice for choice in CHOICES}
    for path in out.glob("*/*/frame.parquet"):
        name, _, seed = path.parent.name.rpartition("-")
        about = {"choice": choices.get(name, name), "trained": path.parent.parent.name, "seed": int(seed)}
        parts.append(pd.read_parquet(path).assign(**about))
    frame = pd.concat(parts).rename(columns={"domain": "tested"})
    keys = ["choice", "trained", "seed", "tested", "score", "metric"]
    return frame.groupby(keys, sort=False)["value"].mean().reset_index()


def cell(values: Iterable[float], sign: str = "") -> str:
    """In percent: mean and half of the 95 % interval over seeds."""
    values = 100 * np.asarray(list(values))
    if len(values) < 2:
        return f"{values.mean():{sign}.1f}" if len(values) else "-"
    half = values.std(ddof=1) / len(values) ** 0.5 * stats.t.ppf(0.975, len(values) - 1)
    return f"{values.mean():{sign}.1f} ±{half:.1f}"


def methods_table(frame: pd.DataFrame) -> str:
    """Absolute values, trained and tested in either domain."""
    heads = ["I", "I of the map", "P", "PRO"]
    pixel = list(COLUMNS)[1:]
    lines = ["| tested on | trained on | method | " + " | ".join(heads) + " |", "|---|---|---|" + "---:|" * len(heads)]
    values = frame.set_index(["choice", "tested", "trained", "score", "metric"])["value"].sort_index()
    for tested in DOMAINS:
        lines.append(f"| {tested} | - | chance | 50.0 | 50.0 | 50.0 | 15.0 |")
        floor = [values.loc[[f"local contrast {scale:g}"]].xs((tested, "nothing"), level=(1, 2)) for scale in SCALES]
        best = pd.concat(floor).groupby(["score", "metric"]).max()
        cells = [
            cell([best[c]]) for c in (("joint", "auroc"), ("map", "auroc"), ("pixel", "auroc"), ("pixel", "aupro"))
        ]
        lines.append(f"| {tested} | - | local contrast | " + " | ".join(cells) + " |")
        for trained in ("nothing", *DOMAINS):
            for row, (choice, score) in ROWS.items():
                if (choice, tested, trained) not in values.index.droplevel([3, 4]):
                    continue
                own = values.loc[choice, tested, trained]
                cells = [cell(own.loc[[c]]) for c in ((score, "auroc"), ("map", "auroc"), *pixel)]
                words = "-" if trained == "nothing" else trained
                lines.append(f"| {tested} | {words} | {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def choices_table(frame: pd.DataFrame) -> str:
    """Differences to the default, tested in the domain of training."""
    heads = [f"{domain} {name}" for domain in DOMAINS for name in COLUMNS.values()]
    lines = ["| choice | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    own = frame[frame["trained"] == frame["tested"]]
    values = own.set_index(["tested", "score", "metric", "choice", "seed"])["value"].sort_index()
    for choice in CHOICES:
        if choice not in set(own["choice"]):
            continue
        cells = []
        for domain in DOMAINS:
            for column in COLUMNS:
                default = choice == HEADCLIP
                if (domain, *column, choice) not in values.index.droplevel(4):  # not finished
                    cells.append("-")
                    continue
                found = values.loc[(domain, *column, choice)]
                change = found if default else (found - values.loc[(domain, *column, HEADCLIP)]).dropna()
                cells.append(cell(change, "" if default else "+"))
        lines.append(f"| {'the default' if choice == HEADCLIP else choice} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def readings_table(frame: pd.DataFrame) -> str:
    """Image AUROC of the default's joint score, read in other ways; differences to CLS alone."""
    own = frame[(frame["choice"] == HEADCLIP) & (frame["metric"] == "auroc")]
    alphas = (0.25, 0.5, 0.75, 1.0)
    lines = ["| tested on | trained on | pooling | " + " | ".join(f"α = {a:g}" for a in alphas) + " |"]
    lines.append("|---|---|---|" + "---:|" * len(alphas))
    for tested in DOMAINS:
        for trained in DOMAINS:
            part = own[(own["tested"] == tested) & (own["trained"] == trained)].set_index(["score", "seed"])["value"]
            for top in (0, *TOPS):
                cells = [cell(part[f"alpha {a:g}, top {top:g}"] - part["image"], "+") for a in alphas]
                words = "max" if not top else f"top {100 * top:g} %"
                lines.append(f"| {tested} | {trained} | {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/choices"))
    parser.add_argument("--tables", action="store_true", help="only print what is there")
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--weights", type=Path, help="other weights for it")
    parser.add_argument("--per-category", type=int, default=80, help="of the test sets; half as many to train on")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.threads = torch.get_num_threads()
    if not args.tables:
        processes, started = torch.multiprocessing.get_context("spawn"), time.monotonic()
        paint_sets(args, processes)
        print(f"painted in {time.monotonic() - started:.0f} s", flush=True)
        waiting = processes.Queue()
        for task in product(args.choices, args.seeds, DOMAINS):
            waiting.put(Task(*task))
        workers = [processes.Process(target=work, args=(waiting, args)) for _ in range(args.jobs)]
        for worker in workers:
            waiting.put(None)
            worker.start()
        baselines(args)
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            raise SystemExit("a worker failed; what is finished stays, run it again")
    frame = collected(args.out)
    tables = [methods_table(frame), choices_table(frame), readings_table(frame)]
    print("\n\n".join(tables))
    (args.out / "tables.md").write_text("\n\n".join(tables) + "\n")


if __name__ == "__main__":
    main()
