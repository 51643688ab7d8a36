"""Every method at full size on one device: a training step of each of its stages, scoring, and what it learns.

    python analyses/full_methods.py --out full-methods.md --csv headlens/training/shipped/costs.csv

ViT-L-14-336 at 518 px; weights and images are random and made on the device, so this is about time and memory alone.
Everything runs in bfloat16 (learned tensors stay float32). Rates are 0, so that every round is the same step.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from common import environment, written
from full_rows import Rows, our_scores, our_step
from peer_code import REAL, TINY

from headlens.backbone.config import architecture_from_config
from headlens.backbone.loading import assemble
from headlens.detectors import TrainingConfig, build
from headlens.detectors.methods.registry import PRESETS
from headlens.detectors.precision import at_precision


def frame(rows: list[dict[str, Any]], learned: dict[str, int], setting: str, device: str) -> pd.DataFrame:
    """Measured rows as ``headlens.training.costs`` has them; what did not fit into memory is left out."""
    fits = [row for row in rows if row["images/s"] is not None]
    made = pd.DataFrame({"preset": [row["way"] for row in fits]})
    made["learned"] = made["preset"].map(learned)
    for column, name in (("what", "what"), ("images_per_s", "images/s"), ("peak_gib", "peak GiB")):
        made[column] = [row[name] for row in fits]
    return made.assign(setting=setting, device=device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="narrow, at 84 px: whether it runs")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--csv", type=Path, help="also write every row into this file")
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
    setting = f"ViT-L-14-336 at {side} px{', narrow' if args.tiny else ''}, bfloat16, batches of {args.batch}"
    written(f"{rows.table()}\n\n{counts}\n\n{setting}. {environment(device)}.", args.out)
    if args.csv:
        frame(rows.rows, learned, setting, environment(device)).to_csv(args.csv, index=False, float_format="%.1f")


if __name__ == "__main__":
    main()
