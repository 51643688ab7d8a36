"""Scoring an MVTec-sized set end to end, from decoded pictures to metrics, against the bare forward on the same inputs.

    python analyses/full_scoring.py --out figures/full-scoring.md

ViT-L-14-336-quickgelu at 518 px with the local stream, random weights, noise for pictures: this is about time alone.
The bare forward is the image tower with the local stream and its taps, on batches that lie on the device already: in
the precision that is evaluated in, and with everything in bfloat16, residual streams too.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from common import Decoded, best, environment, profiled, synchronize, written

from headlens.backbone import load
from headlens.data import Loader, Preprocess
from headlens.detectors import Detector, build
from headlens.detectors.precision import at_precision
from headlens.training.evaluation import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-L-14-336-quickgelu")
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--pictures", type=int, default=1725)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precisions", nargs="*", default=["bfloat16", "float16", "tf32"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device, side = torch.device(args.device), args.size
    torch.set_grad_enabled(False)
    detector = build(load(args.model, image_size=side, device=device)).requires_grad_(False)
    data = Decoded(args.pictures)
    images = torch.randn(args.batch, 3, side, side, device=device)

    def bare(own: Detector) -> float:
        calls = max(1, len(data) // args.batch)  # as long as the other: a GPU that has worked for a while is slower
        reading = own.reading(images)
        return args.batch / best(lambda: reading.features(own.see(images, reading)), device, calls, rounds=1)

    def scored(pictures: Decoded, precision: str) -> float:
        synchronize(device)
        start = time.perf_counter()
        evaluate(detector, pictures, size=side, batch=args.batch, precision=precision)
        synchronize(device)
        return len(pictures) / (time.perf_counter() - start)

    lines = ["| | images/s | of the bare forward |", "|---|---:|---:|"]

    def row(what: str, rate: float, share: str = "") -> None:
        lines.append(f"| {what} | {rate:.0f} | {share} |")
        print(lines[-1], flush=True)

    half = build(load(args.model, image_size=side, device=device, dtype=torch.bfloat16)).requires_grad_(False)
    rough = bare(half)
    row("bare forward, everything in bfloat16", rough)
    del half
    few = Decoded(8 * args.batch, 2)
    for precision in args.precisions:
        with at_precision(detector, precision) as own:
            forward = bare(own)
        scored(few, precision)
        whole = scored(data, precision)
        row(f"bare forward, {precision}", forward)
        row(f"`evaluate`, {precision}", whole, f"{whole / forward:.1%}; of all-bfloat16 {whole / rough:.1%}")
    first = []
    for where in (device, None):
        loader = Loader(data, Preprocess(side), args.batch, normalise=False, device=where)
        what = f"by PIL, {loader.workers} threads" if where is None else "on the device"
        first.append(next(iter(loader)))
        start = time.perf_counter()
        read = sum(len(part) for part, _ in zip(loader, range(20), strict=False))
        row(f"reading and resizing alone, {what}", read / (time.perf_counter() - start))
    a, b = first
    differ = int((a.images.cpu() != b.images).sum()), int((a.masks != b.masks).sum())
    lines.append(f"| bytes of images, and pixels of masks, in a batch where the two differ: {differ} | | |")
    about = f"`{args.model}` at {side} px, {len(data)} pictures, batches of {args.batch}. {environment(device)}."
    text = "\n".join([*lines, "", about])
    if device.type == "cuda":
        text += "\n\n" + profiled(
            lambda: evaluate(detector, few, size=side, batch=args.batch, precision=args.precisions[0])
        )
        text += f"\n\nThe profile is of {len(few)} pictures in {args.precisions[0]}, start and end included."
    written(text, args.out)


if __name__ == "__main__":
    main()
