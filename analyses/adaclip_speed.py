"""What scoring an image costs AdaCLIP's authors' code, one image at a time, and headlens, several at once.

    git clone https://github.com/caoyunkang/AdaCLIP .peers/adaclip
    python analyses/adaclip_speed.py .peers/adaclip                                # random ViT-B-16 at 336 px, CPU
    python analyses/adaclip_speed.py .peers/adaclip --real --device cuda           # random ViT-L-14-336 at 518 px

Weights and images are random, and the same for both. An image goes from normalised pixels on the device to a smoothed
map and a score on the CPU. The two take turns within one process; the ratio is the median of the rounds' ratios. On
CUDA theirs computes in half precision, by the autocast in its code, and ours in float16; on the CPU both in float32.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import environment, paired
from peer_adaclip import built, vocabulary
from peer_code import CATEGORIES, REAL, importable, saved_weights
from scipy.ndimage import gaussian_filter
from torch import Tensor

from headlens.backbone.checkpoint import read_checkpoint
from headlens.backbone.config import architecture_from_config
from headlens.backbone.loading import assemble
from headlens.detectors import Detector
from headlens.detectors.methods.published_adaclip import read_conditioned
from headlens.detectors.precision import at_precision

BASE: dict[str, Any] = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
}


@torch.no_grad()
def theirs(trainer: Any, images: Tensor) -> None:
    """As their ``evaluation`` scores the images, one after the other."""
    for image in images.split(1):
        maps, scores = trainer.clip_model(image, [CATEGORIES[0]], aggregation=True)
        gaussian_filter(maps[0].cpu().numpy(), sigma=4), scores.cpu()


@torch.no_grad()
def ours(detector: Detector, images: Tensor) -> None:
    """All at once."""
    scores = detector(images, [CATEGORIES[0]] * len(images))
    scores.anomaly_map.cpu(), scores.image_score.cpu()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path, help="of AdaCLIP's repository")
    parser.add_argument("--real", action="store_true", help="ViT-L-14-336 at 518 px")
    parser.add_argument("--batch", type=int, default=8, help="of ours")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    (config, side), device = (REAL, 518) if args.real else (BASE, 336), torch.device(args.device)
    with tempfile.TemporaryDirectory() as folder, vocabulary():
        weights, learned = Path(folder) / "weights.pt", Path(folder) / "adaclip.pth"
        saved_weights(config, weights)
        importable(args.clone)
        trainer = built(config, weights, side, args.device)
        trainer.save(learned)
        backbone = assemble(architecture_from_config(config), read_checkpoint(weights).state, device=device)
        detector = read_conditioned(learned).on(backbone).to(device)
    images = torch.randn(args.batch, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    with at_precision(detector, "float16" if device.type == "cuda" else None) as lowered:
        calls: dict[str, Callable[[], object]] = {
            "theirs": lambda: theirs(trainer, images[:1]),
            "ours": lambda: ours(lowered, images),
        }
        seconds = paired(calls, args.rounds, device)
    each = {"theirs": seconds["theirs"], "ours": [time / args.batch for time in seconds["ours"]]}
    ratios = [slow / fast for slow, fast in zip(*each.values(), strict=True)]
    for name, times in each.items():
        print(f"{name}: {statistics.median(times):.3f} s an image")
    print(f"ratio: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f} in {args.rounds} rounds)")
    print(f"{'ViT-L-14-336' if args.real else 'ViT-B-16'} at {side} px, batch {args.batch}. {environment(device)}")


if __name__ == "__main__":
    main()
