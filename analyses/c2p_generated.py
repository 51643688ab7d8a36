"""What C2P-CLIP's parts buy on generated images: the head alone, with LoRA, and with captions; generators not seen.

    python analyses/c2p_generated.py --seeds 0 1 2 3 4 --out runs/c2p --device cuda
    python analyses/c2p_generated.py --out runs/c2p --tables

Every run is trained on procedural:generated/aux, painted anew for its seed, and tested on the other generators, whose
photos show other things. Values are means over generators and seeds with 95 % intervals by Student's t, in percent.
Runs that are there already are not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from trained_runs import cell, slug

from headlens import data
from headlens.backbone import load
from headlens.detectors import TrainingConfig, build
from headlens.training.evaluation import evaluate
from headlens.training.trainer import train

CHOICES: Mapping[str, dict[str, Any]] = {
    "C2P-CLIP": {},
    "without captions": {"contrast": 0.0},
    "without LoRA: the head alone": {"rank": 0},
    "head weights in place of LoRA": {"rank": 0, "head_weights": "free"},
}
COLUMNS = {"AUROC": "auroc", "AP": "ap", "accuracy": "accuracy"}


def run(choice: str, seed: int, args: argparse.Namespace) -> None:
    """Trains and tests one detector, where that was not done."""
    folder = args.out / f"{slug(choice)}-{seed}"
    if (folder / "frame.parquet").exists():
        return
    aux = data.open("procedural:generated/aux", per_category=args.per_category // 2, seed=seed)
    unseen = data.open("procedural:generated", per_category=args.per_category)
    detector = build(load(args.model, device=args.device), "c2p-clip", seed, **CHOICES[choice])
    config = TrainingConfig(seed=seed, epochs=args.epochs)
    train(detector, aux, config, folder, cpu=args.device == "cpu")
    evaluate(detector, unseen, batch=40).frame.to_parquet(folder / "frame.parquet")


def collected(out: Path) -> pd.DataFrame:
    """Choice, seed, category, metric and value of the scores of all runs."""
    names, parts = {slug(choice): choice for choice in CHOICES}, []
    for path in sorted(out.glob("*/frame.parquet")):
        name, _, seed = path.parent.name.rpartition("-")
        parts.append(pd.read_parquet(path).assign(choice=names[name], seed=int(seed)))
    frame = pd.concat(parts)
    return frame[frame["score"] == "joint"]


def table(frame: pd.DataFrame) -> str:
    """A row for each choice: means over generators, and the AUROC of each."""
    generators = list(dict.fromkeys(frame["category"]))
    lines = ["| | runs | " + " | ".join([*COLUMNS, *(f"AUROC, {name}" for name in generators)]) + " |"]
    lines.append("|---|---:|" + "---:|" * (len(COLUMNS) + len(generators)))
    for choice in CHOICES:
        own = frame[frame["choice"] == choice]
        if own.empty:
            continue
        means = own.groupby(["metric", "seed"])["value"].mean()
        each = own[own["metric"] == "auroc"].set_index("category")["value"]
        cells = [cell(means[name]) for name in COLUMNS.values()] + [cell(each.loc[[name]]) for name in generators]
        lines.append(f"| {choice} | {own['seed'].nunique()} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/c2p"))
    parser.add_argument("--tables", action="store_true", help="only print what is there")
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--model", default="mini-captions")
    parser.add_argument("--per-category", type=int, default=80, help="of the test set; half as many to train on")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    for seed, choice in [] if args.tables else product(args.seeds, args.choices):
        run(choice, seed, args)
    made = table(collected(args.out))
    print(made)
    (args.out / "tables.md").write_text(made + "\n")


if __name__ == "__main__":
    main()
