"""What a training step costs, by what is learned in the image tower, against weighing the heads of both streams.

    python analyses/training_speed.py

The objective, forward and backward, of one batch of painted pictures. Without head weights, features are kept; with
local ones alone, what their heads read; with global ones, every step goes through the tower. Two steps come before the
clock.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from common import environment, paired, ratio

from headlens import data
from headlens.backbone import load
from headlens.detectors import Detector, build
from headlens.detectors.stages import TrainingConfig
from headlens.training.trainer import Objective

BOTH = "both streams weighted"
CASES = {
    BOTH: {"streams": ("global", "local")},
    "global stream weighted": {"streams": ("global",)},
    "local stream weighted": {"streams": ("local",)},
    "no head weights": {"head_weights": "none"},
}


def objective(detector: Detector, images: int) -> Objective:
    """Of its only stage."""
    (stage,) = detector.stages(TrainingConfig())
    return Objective(detector, stage, images)


def step(loss: Objective, batch: data.Batch, images: torch.Tensor) -> None:
    """Forward and backward; gradients are not kept."""
    terms = loss(batch, images)
    (terms["image"] + 4 * terms["pixel"]).backward()
    loss.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini", help="random weights do for the time")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, help="the model's own")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    clip = load(args.model, device=device)
    pictures = data.open("procedural:industrial/aux", category="wood", per_category=args.batch)
    side = args.size or clip.provenance.image_size[0]
    loader = data.Loader(pictures, data.Preprocess(side), args.batch, normalise=False)
    batch = next(iter(loader)).to(device)
    images = loader.preprocess.normalise(batch.images)
    losses = {name: objective(build(clip, "headclip", **changes), len(pictures)) for name, changes in CASES.items()}
    seconds = paired({name: partial(step, loss, batch, images) for name, loss in losses.items()}, args.rounds, device)
    print("| a step with | time against weighing both streams |\n|---|---:|")
    for name in CASES:
        print(f"| {name} | {'1' if name == BOTH else ratio(seconds[name], seconds[BOTH])} |")
    print(
        f"\nBatch {args.batch}, {side} px, float32, median [quartiles] of {args.rounds} rounds. {environment(device)}."
    )


if __name__ == "__main__":
    main()
