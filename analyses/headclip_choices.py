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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from headlens.backbone import load
from headlens.data import Pixels
from headlens.data.opening import ProceduralSet
from headlens.data.procedural import World
from headlens.detectors.config import preset
from headlens.detectors.contrast import SCALES, LocalContrast
from headlens.detectors.headclip import Detector
from headlens.training.config import TrainingConfig
from headlens.training.evaluation import Evaluation, evaluate
from headlens.training.run import CONFIG, load_run
from headlens.training.trainer import train

DOMAINS = ("industrial", "medical")
METHODS = {
    "anomalyclip-published": ("anomalyclip-published", {}),
    "anomalyclip": ("anomalyclip", {}),
    "headclip": ("headclip", {}),
}
CHOICES = {
    "head weights: none": ("headclip", {"head_weights": "none"}),
    "head weights: sigmoid": ("headclip", {"head_weights": "sigmoid"}),
    "head weights: softmax": ("headclip", {"head_weights": "softmax"}),
    "weighted: global stream only": ("headclip", {"streams": ("global",)}),
    "weighted: local stream only": ("headclip", {"streams": ("local",)}),
    "taps: 23": ("headclip", {"taps": (23,)}),
    "taps: 5, 11": ("headclip", {"taps": (5, 11)}),
    "taps: 17, 23": ("headclip", {"taps": (17, 23)}),
    "deep prompts: none": ("headclip", {"deep": 0}),
    "deep prompts: blocks 1 to 4": ("headclip", {"deep": 4}),
    "context: 4 tokens": ("headclip", {"context": 4}),
    "prompts: hand-written": ("headclip", {"prompts": "ensemble"}),
    "prompts: with the category's name": ("headclip", {"class_aware": True}),
}
TOPS = (0.001, 0.01, 0.05)
READ = {"image_auroc": "I", "pixel_auroc": "P", "pixel_aupro": "PRO"}


class Painted(ProceduralSet):
    """A procedural set whose pictures have been painted already: the same bytes, for many runs."""

    def __init__(self, world: World, images: Tensor, masks: Tensor) -> None:
        super().__init__(world)
        self.images, self.masks = images, masks

    def pixels(self, i: int) -> Pixels:
        """From memory."""
        return Pixels(self.images[i], self.masks[i])


@dataclass(frozen=True)
class Task:
    """One run: ``choice`` trained on ``domain`` with ``seed``."""

    choice: str
    domain: str
    seed: int

    @property
    def name(self) -> str:
        """Its folder."""
        slug = "".join(c if c.isalnum() else "-" for c in self.choice)
        return f"{self.domain}/{slug}-{self.seed}"


def paint(task: tuple[str, int, int, int]) -> tuple[Tensor, Tensor]:
    spec, per_category, seed, number = task
    torch.set_num_threads(1)
    sample = World(spec, per_category, seed=seed)[number]
    return sample.image, sample.mask


def painted(pool, spec: str, per_category: int, seed: int) -> Painted:
    """The set, painted by the processes of ``pool``."""
    world = World(spec, per_category, seed=seed)
    made = pool.imap(paint, [(spec, per_category, seed, i) for i in range(len(world))], chunksize=8)
    images, masks = (torch.stack(column) for column in zip(*made, strict=True))
    return Painted(world, images.share_memory_(), masks.share_memory_())


def work(tasks: list[Task], sets: dict[str, Painted], args: argparse.Namespace) -> None:
    """Trains and tests, one after the other, what is not there yet."""
    torch.set_num_threads(1)
    clip = load(args.model, args.weights, device=args.device)
    for task in tasks:
        folder, started = args.out / task.name, time.monotonic()
        if (folder / "frame.parquet").exists():
            continue
        name, changes = (METHODS | CHOICES)[task.choice]
        if not (folder / CONFIG).exists():
            training = TrainingConfig(epochs=args.epochs, batch=args.batch, lr_heads=args.lr_heads, seed=task.seed)
            detector = Detector(clip, preset(name, **changes), task.seed)
            aux = sets[f"procedural:{task.domain}/aux {task.seed}"]
            train(detector, aux, training, folder, cpu=args.device == "cpu")
        detector = load_run(folder, clip).detector
        test(detector, sets, task.choice == "headclip").frame.to_parquet(folder / "frame.parquet")
        print(f"{task.name}: {time.monotonic() - started:.0f} s", flush=True)


def test(detector, sets: dict[str, Painted], pools: bool = False) -> Evaluation:
    """On the unseen categories of both domains; with ``pools`` also other readings of the joint score."""
    parts = []
    for domain in DOMAINS:
        dataset = sets[f"procedural:{domain}"]
        found = evaluate(detector, dataset, batch=40)
        if pools:
            scores = found.scores.assign(top0=found.scores["map"])
            for top in TOPS:
                other = detector.with_config(alpha=1.0, pool="top", top=top)
                scores[f"top{top:g}"] = evaluate(other, dataset, batch=40).scores["joint"]
            found = Evaluation(pd.concat([found.frame, readings(scores)]), scores)
        parts.append(found)
    return Evaluation.joined(parts)


def readings(scores: pd.DataFrame) -> pd.DataFrame:
    """Image AUROC of ``(1 - alpha) image + alpha pooled map``, for each alpha and pooling, per category."""
    from headlens.metrics.image import image_metrics

    rows = []
    for keys, own in scores.groupby(["domain", "dataset", "category"], sort=False):
        labels = torch.tensor(own["anomalous"].astype(int).to_numpy())
        for top in (0, *TOPS):
            for alpha in (0.0, 0.25, 0.5, 0.75, 1.0):
                joint = torch.tensor(((1 - alpha) * own["image"] + alpha * own[f"top{top:g}"]).to_numpy())
                value = float(image_metrics(joint, labels)["auroc"])
                rows.append((*keys, f"alpha {alpha:g}, top {top:g}", "auroc", value))
    return pd.DataFrame(rows, columns=["domain", "dataset", "category", "score", "metric", "value"])


def baselines(sets: dict[str, Painted], args: argparse.Namespace) -> None:
    """Local contrast at each scale, and CLIP with hand-written prompts: nothing is trained."""
    clip = load(args.model, args.weights, device=args.device)
    scorers = {f"local contrast {scale:g}": LocalContrast(scale, device=args.device) for scale in SCALES}
    scorers["clip"] = Detector(clip, preset("clip"))
    for name, scorer in scorers.items():
        folder = args.out / "baselines"
        folder.mkdir(parents=True, exist_ok=True)
        test(scorer, sets).frame.assign(choice=name).to_parquet(folder / f"{name}.parquet")


def collected(out: Path) -> pd.DataFrame:
    """Means over categories: choice, trained, seed, tested, score, metric, value."""
    parts = []
    for path in out.glob("*/*/frame.parquet"):
        slug, _, seed = path.parent.name.rpartition("-")
        tasks = {Task(choice, "x", 0).name[2:-2]: choice for choice in METHODS | CHOICES}
        parts.append(pd.read_parquet(path).assign(choice=tasks[slug], trained=path.parent.parent.name, seed=int(seed)))
    for path in out.glob("baselines/*.parquet"):
        parts.append(pd.read_parquet(path).assign(trained="nothing", seed=0))
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
    columns = [("image", "auroc"), ("map", "auroc"), ("joint", "auroc"), ("pixel", "auroc"), ("pixel", "aupro")]
    heads = ["I of CLS", "I of the map", "I joint", "P", "PRO"]
    lines = ["| tested on | trained on | method | " + " | ".join(heads) + " |", "|---|---|---|" + "---:|" * len(heads)]
    floor = frame[frame["choice"].str.startswith("local contrast")]
    for tested in DOMAINS:
        lines.append(f"| {tested} | - | chance | 50.0 | 50.0 | 50.0 | 50.0 | 15.0 |")
        best = floor[floor["tested"] == tested].groupby(["score", "metric"])["value"].max()
        lines.append(f"| {tested} | - | local contrast | " + " | ".join(cell([best[c]]) for c in columns) + " |")
        for trained in ("nothing", *DOMAINS):
            for method in ("clip", *METHODS):
                own = frame[(frame["choice"] == method) & (frame["trained"] == trained) & (frame["tested"] == tested)]
                if len(own):
                    cells = [own[(own["score"] == s) & (own["metric"] == m)]["value"] for s, m in columns]
                    words = "-" if trained == "nothing" else trained
                    lines.append(f"| {tested} | {words} | {method} | " + " | ".join(map(cell, cells)) + " |")
    return "\n".join(lines)


def choices_table(frame: pd.DataFrame) -> str:
    """Differences to the default, tested in the domain of training."""
    columns = [("joint", "auroc"), ("pixel", "auroc"), ("pixel", "aupro")]
    heads = [f"{domain} {name}" for domain in DOMAINS for name in READ.values()]
    lines = ["| choice | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    own = frame[frame["trained"] == frame["tested"]]
    wide = own.set_index(["choice", "tested", "score", "metric", "seed"])["value"].sort_index()
    for choice in ("headclip", *CHOICES):
        cells = []
        for domain in DOMAINS:
            for score, metric in columns:
                try:
                    values, base = (wide[c, domain, score, metric] for c in (choice, "headclip"))
                except KeyError:
                    cells.append("-")
                    continue
                cells.append(cell(values) if choice == "headclip" else cell((values - base).dropna(), "+"))
        lines.append(f"| {'the default' if choice == 'headclip' else choice} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def readings_table(frame: pd.DataFrame) -> str:
    """Image AUROC of the default's joint score, read in other ways; differences to CLS alone."""
    own = frame[(frame["choice"] == "headclip") & (frame["metric"] == "auroc")]
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
    parser.add_argument("--choices", nargs="+", choices=[*METHODS, *CHOICES], default=[*METHODS, *CHOICES])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--weights", type=Path, help="other weights for it")
    parser.add_argument("--epochs", type=int, default=TrainingConfig.epochs)
    parser.add_argument("--batch", type=int, default=TrainingConfig.batch)
    parser.add_argument("--lr-heads", type=float, default=TrainingConfig.lr_heads)
    parser.add_argument("--per-category", type=int, default=80, help="of the test sets; half as many to train on")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if not args.tables:
        processes, started = torch.multiprocessing.get_context("spawn"), time.monotonic()
        with processes.Pool(max(args.jobs, torch.get_num_threads())) as pool:
            sets = {f"procedural:{d}": painted(pool, f"procedural:{d}", args.per_category, 0) for d in DOMAINS}
            for domain in DOMAINS:
                for seed in args.seeds:
                    spec = f"procedural:{domain}/aux"
                    sets[f"{spec} {seed}"] = painted(pool, spec, args.per_category // 2, seed)
        print(f"painted in {time.monotonic() - started:.0f} s", flush=True)
        tasks = [Task(choice, domain, seed) for choice in args.choices for seed in args.seeds for domain in DOMAINS]
        workers = [
            processes.Process(target=work, args=(tasks[job :: args.jobs], sets, args)) for job in range(args.jobs)
        ]
        for worker in workers:
            worker.start()
        baselines(sets, args)
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            raise SystemExit("a worker failed; what is finished stays, run it again")
    frame = collected(args.out)
    tables = [methods_table(frame), choices_table(frame)]
    if (frame["choice"] == "headclip").any():
        tables.append(readings_table(frame))
    print("\n\n".join(tables))
    (args.out / "tables.md").write_text("\n\n".join(tables) + "\n")


if __name__ == "__main__":
    main()
