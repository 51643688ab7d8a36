"""The vision tower's forward against open_clip's ``encode_image``: same weights, same images, one run, in turn.

    python analyses/backbone_speed.py --model ViT-B-16 --size 224 --batch 1 8
    python analyses/backbone_speed.py --model ViT-L-14-336-quickgelu --size 518 --device cuda --dtype bfloat16

Ratios below 1 are faster than open_clip. Both run in eval mode without gradients; in half precision both models are
cast whole. The last column is each one's deviation from open_clip in float32. Weights are random: this is about time.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from functools import partial

import torch
from common import environment, paired, ratio

from headlens.backbone import LocalStream, VisionPlan, architecture, assemble
from headlens.backbone.parity import open_clip_model, relative, stirred_state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dtype", nargs="+", default=["float32"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--calls", type=int, default=1, help="forwards in one timing")
    parser.add_argument("--compile", action="store_true", help="also the fast path under torch.compile")
    args = parser.parse_args()
    device, state = torch.device(args.device), stirred_state(args.model)

    print(f"`{args.model}` at {args.size} px; {environment(device)}\n")
    exact = open_clip_model(args.model, state, (args.size, args.size)).to(device)
    print("| precision | batch | what | images/s | time, open_clip = 1 [quartiles] | error |")
    print("|---|---|---|---|---|---|")
    for dtype in (getattr(torch, name) for name in args.dtype):
        theirs = open_clip_model(args.model, state, (args.size, args.size), dtype).to(device)
        vision = assemble(architecture(args.model), state, device=device, dtype=dtype).vision
        for batch in args.batch:
            images = torch.randn(batch, 3, args.size, args.size, device=device, dtype=dtype)
            weights = torch.ones(vision.cfg.n_layers, vision.cfg.n_heads, device=device)
            plan = VisionPlan([tap for tap in (5, 11, 17, 23) if tap < vision.cfg.n_layers], LocalStream())
            weighted = replace(plan, head_weights={"global": weights, "local": weights})
            contenders = {
                "open_clip": partial(theirs.encode_image, images),
                "fast path": partial(vision, images, hooked=False),
                "hooked, nothing captured": partial(vision, images),
                "fast path with a V-V stream from block 5, tapped": partial(vision, images, plan, hooked=False),
                "the same with head weights": partial(vision, images, weighted, hooked=False),
            }
            if args.compile:
                contenders["fast path, torch.compile"] = partial(torch.compile(vision), images, hooked=False)
            with torch.no_grad():
                reference = exact.encode_image(images.float())
                seconds = paired(contenders, args.rounds, device, args.calls)
                for what, call in contenders.items():
                    # Absolute speed only where it means something to others: on a GPU.
                    speed = f"{batch / statistics.median(seconds[what]):.0f}" if device.type != "cpu" else "-"
                    against = ratio(seconds[what], seconds["open_clip"])
                    out = call()
                    error = f"{relative(getattr(out, 'embedding', out).float(), reference):.1e}"
                    print(f"| {str(dtype)[6:]} | {batch} | {what} | {speed} | {against} | {error} |", flush=True)


if __name__ == "__main__":
    main()
