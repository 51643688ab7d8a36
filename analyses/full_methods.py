"""Every method at full size on one device: a training step of each of its stages, scoring, and what it learns.

    python analyses/full_methods.py --out full-methods.md

ViT-L-14-336 at 518 px; weights and images are random and made on the device, so this is about time and memory alone.
Everything runs in bfloat16 (learned tensors stay float32). Rates are 0, so that every round is the same step.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from common import environment, written
from full_rows import Rows, our_scores, our_step
from peer_code import REAL, TINY

from headlens.backbone.config import architecture_from_config
from headlens.backbone.loading import assemble
from headlens.detectors import TrainingConfig, build
from headlens.detectors.methods.registry import PRESETS
from headlens.detectors.precision import at_precision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="narrow, at 84 px: whether it runs")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device, (config, side) = torch.device(args.device), (TINY, 84) if args.tiny else (REAL, 518)
    sized = config | {"vision_cfg": config["vision_cfg"] | {"image_size": side}}
    backbone = assemble(architecture_from_config(sized), None, device=device)
    rows, batch, learned = Rows(device, side), Rows(device, side).batch(args.batch), {}
    for preset in args.presets:
        detector = build(backbone, preset)
        learned[preset] = sum(parameter.numel() for parameter in detector.parameters())
        for number, stage in enumerate(detector.requires_grad_(True).stages(TrainingConfig())):
            what = f"training step{f', {stage.name}' if stage.name else ''}"
            rows.add(what, preset, args.batch, our_step(detector, number, torch.bfloat16, batch))
        with at_precision(detector.requires_grad_(False), "bfloat16") as lowered:
            rows.add("scoring", preset, args.batch, partial(our_scores, lowered, batch))
        del detector, lowered
    counts = "\n".join(
        ["| method | learned numbers |", "|---|---:|", *(f"| {k} | {v:,} |" for k, v in learned.items())]
    )
    about = f"ViT-L-14-336 at {side} px{', narrow' if args.tiny else ''}, bfloat16. {environment(device)}."
    written(f"{rows.table()}\n\n{counts}\n\n{about}", args.out)


if __name__ == "__main__":
    main()
