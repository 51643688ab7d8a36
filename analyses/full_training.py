"""A training step of HeadCLIP at full size: images/s and peak memory, against plain autograd over the same losses.

    python analyses/full_training.py --out figures/full-training.md

ViT-L-14-336-quickgelu at 518 px, random weights, noise for pictures. What is learned are prompts and head weights.
Plain autograd is what one writes first: the hooked tower with all its gradients on, the text tower, the losses,
backward; with ``requires_grad`` off for the backbone, it is the same without gradients that nobody reads.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from common import Decoded, best, environment, peak, profiled, written
from torch import Tensor

from headlens.backbone import load
from headlens.data import Batch, Loader, Preprocess
from headlens.detectors import Detector, build
from headlens.detectors.losses import focal
from headlens.detectors.stages import TrainingConfig
from headlens.training.trainer import Objective

STREAMS = {"local": ("local",), "both": ("global", "local")}
WAYS = {
    "plain, float32, all gradients on": ("plain", None),
    "plain, float32": ("plain", None),
    "plain, bfloat16": ("plain", torch.bfloat16),
    "ours, float32": ("ours", None),
    "ours, bfloat16": ("ours", torch.bfloat16),
}


def dice(probability: Tensor, mask: Tensor) -> Tensor:
    """One minus the Dice coefficient of each image, [B, H, W] against masks, smoothed by 1; the mean over images."""
    common, both = (probability * mask).sum((1, 2)), probability.sum((1, 2)) + mask.sum((1, 2))
    return 1 - ((2 * common + 1) / (both + 1)).mean()


def plain(detector: Detector, batch: Batch, images: Tensor) -> Tensor:
    """The losses as they are defined, of a forward with everything that hooks may see."""
    reading = detector.reading(images, [record.category for record in batch.records])
    features = reading.features(detector.see(images, reading, hooked=True))
    prediction = detector.score(reading.margins(features), (images.shape[2], images.shape[3]))
    loss = F.binary_cross_entropy_with_logits(prediction.image_margin, batch.labels.float())
    for logits in prediction.tap_margins.values():
        p = F.interpolate(logits.sigmoid()[:, None], batch.masks.shape[1:], mode="bilinear")[:, 0]
        loss = loss + 4 * (focal(p, batch.masks) + dice(p, batch.masks) + dice(1 - p, ~batch.masks))
    return loss


class Step:
    """Forward, backward and a step of Adam on one batch, in one of ``WAYS``; ``loss`` is that of the last."""

    def __init__(self, detector: Detector, batch: Batch, images: Tensor, way: str) -> None:
        self.detector, self.batch, self.images = detector, batch, images
        self.which, self.precision = WAYS[way]
        (stage,) = detector.stages(TrainingConfig())
        self.objective = Objective(detector, stage, 10**6)  # too many for their features to be kept
        self.optimizer = torch.optim.Adam(detector.parameters(), lr=0.0)  # so that losses stay comparable
        self.loss = torch.zeros(())

    def __call__(self) -> None:
        """One step."""
        with torch.autocast(self.images.device.type, self.precision) if self.precision else nullcontext():
            if self.which == "plain":
                loss = plain(self.detector, self.batch.to(self.images.device), self.images)
            else:
                terms = self.objective(self.batch, self.images)
                loss = terms["image"] + 4 * terms["pixel"]
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.loss = loss.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-L-14-336-quickgelu")
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--batches", type=int, nargs="*", default=[8, 32])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device, side = torch.device(args.device), args.size
    clip = load(args.model, image_size=side, device=device)
    lines = ["| learned: prompts, head weights of | batch | step | images/s | peak GiB | loss |"]
    lines.append("|---|---:|---|---:|---:|---:|")
    traced = ""
    for size, streams, way in product(args.batches, STREAMS, WAYS):
        loader = Loader(Decoded(size, 1), Preprocess(side), size, normalise=False)
        batch = next(iter(loader))
        detector = build(clip, "headclip", streams=STREAMS[streams])
        step = Step(detector, batch, loader.preprocess.normalise(batch.images.to(device)), way)
        clip.requires_grad_("all gradients" in way)
        try:
            seconds = best(step, device)
            cells = f"{size / seconds:.1f} | {peak(device):.1f} | {float(step.loss):.4f}"
            if device.type == "cuda" and (size, streams, way) == (args.batches[-1], "local", "ours, bfloat16"):
                traced = f"\n\n{profiled(step)}\n\nThe profile is of one step: local heads, batch {size}, bfloat16."
        except torch.OutOfMemoryError:
            cells = "- | out of memory | -"
        lines.append(f"| {streams} | {size} | {way} | {cells} |")
        print(lines[-1], flush=True)
        del step, detector
        clip.requires_grad_(False).zero_grad()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    about = f"`{args.model}` at {side} px. {environment(device)}."
    written("\n".join([*lines, "", about]) + traced, args.out)


if __name__ == "__main__":
    main()
