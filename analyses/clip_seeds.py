"""VadCLIP on the procedural clips, several seeds, against what needs no training: how far a frame is from its clip's.

    python analyses/clip_seeds.py --per-category 100 --seeds 0 1 2 3 4
    python analyses/clip_seeds.py --preset vadclip-xd --backbone ViT-B-16 --weights openai --data ours/ --train ours/

Prints ``clip_table`` of both, in percent, means over seeds. Nothing was chosen by the clips that are tested.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import pandas as pd
import torch
from common import environment

from headlens import data
from headlens.backbone import load
from headlens.data import DataSet, Loader, Preprocess
from headlens.detectors import TrainingConfig, build
from headlens.devices import best_device
from headlens.training import evaluate, train
from headlens.training.clip_metrics import clip_metrics, clip_table


@torch.no_grad()
def untrained(backbone: torch.nn.Module, images: DataSet, size: int) -> pd.DataFrame:
    """Scores of frames: the distance of a frame's embedding from the median of its clip."""
    rows = []
    device = backbone.logit_scale.device
    for batch in Loader(images, Preprocess(size), 1):  # which goes on to the end of a clip
        embedded = backbone.encode_image(batch.images.to(device)).float().cpu()
        far = (embedded - embedded.median(0).values).norm(dim=-1)
        about = [(images.name, r.clip, r.anomalous, r.family) for r in batch.records]
        rows += [(*known, float(score)) for known, score in zip(about, far, strict=True)]
    return pd.DataFrame(rows, columns=["dataset", "clip", "anomalous", "family", "joint"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="vadclip")
    parser.add_argument("--backbone", default="mini-captions")
    parser.add_argument("--weights")
    parser.add_argument("--train", default="procedural:clips/aux")
    parser.add_argument("--data", default="procedural:clips")
    parser.add_argument("--per-category", type=int, default=40)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    world = {"per_category": args.per_category} if args.train.startswith("procedural") else {}
    learned, tested = (data.open(name, every=args.every, **world) for name in (args.train, args.data))
    device = torch.device(best_device())
    backbone = load(args.backbone, args.weights, device=device)
    runs: dict[str, list[pd.DataFrame]] = {"untrained": [clip_metrics(untrained(backbone, tested, args.size))]}
    for seed in args.seeds:
        detector = build(backbone, args.preset, seed)
        with tempfile.TemporaryDirectory() as folder:
            train(detector, learned, TrainingConfig(seed=seed, size=args.size), Path(folder, "run"))
        detector.requires_grad_(False).size = args.size
        for branch in ("classifier", "alignment"):
            result = evaluate(detector.with_config(branch=branch), tested)
            runs.setdefault(f"{args.preset}, {branch}", []).append(result.of_clips)
    print(f"{learned}\n{tested}\n\n{clip_table(runs).markdown()}\n\n{environment(device)}")


if __name__ == "__main__":
    main()
