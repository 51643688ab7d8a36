"""Importance of every head at full size, in forwards: the gradient by all gates of both streams of a batch.

    python analyses/full_importance.py --out figures/full-importance.md

ViT-L-14-336-quickgelu at 518 px with the local stream, random weights, noise for pictures: this is about time and
memory. A forward is the same detector's, without gradients, to the scores of the same batch.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from common import best, environment, peak, written

from headlens.backbone import load
from headlens.detectors import build
from headlens.detectors.precision import at_precision
from headlens.heads import gate_gradients

MVTEC = 1725


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-L-14-336-quickgelu")
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 16])
    parser.add_argument("--precisions", nargs="*", default=["bfloat16", "tf32", "float32"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device, side = torch.device(args.device), args.size
    torch.set_grad_enabled(False)
    detector = build(load(args.model, image_size=side, device=device)).requires_grad_(False)
    lines = [f"| | batch | ms a forward | gradients, in forwards | {MVTEC} pictures | peak GiB |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for precision in args.precisions:
        with at_precision(detector, precision) as own:
            for batch in args.batches:
                images = torch.randn(batch, 3, side, side, device=device)
                forward = best(partial(own, images), device, calls=3)
                gates = best(partial(gate_gradients, own, images), device, calls=3)
                each = f"{1e3 * forward:.1f} | {gates / forward:.2f} | {gates / batch * MVTEC:.0f} s"
                lines.append(f"| {precision} | {batch} | {each} | {peak(device):.1f} |")
                print(lines[-1], flush=True)
    about = f"`{args.model}` at {side} px. {environment(device)}."
    written("\n".join([*lines, "", about]), args.out)


if __name__ == "__main__":
    main()
