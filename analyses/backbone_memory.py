"""Memory of capturing head outputs: every layer's ``hook_z`` for one image, above the forward alone.

    python analyses/backbone_memory.py --model ViT-L-14-336-quickgelu --size 518
    python analyses/backbone_memory.py --model ViT-L-14-336-quickgelu --size 518 --device cuda

On an accelerator the allocator is asked for its peak; on a CPU each variant runs in a process of its own, whose peak
resident size the operating system keeps.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

import torch
from common import environment

from headlens.backbone import LocalStream, load

VARIANTS = {
    "forward": None,
    "every hook_z": lambda name: name.endswith("attn.hook_z"),
    "every hook_z and hook_local_z": lambda name: name.endswith(("attn.hook_z", "attn.hook_local_z")),
}


def peak(variant: str, model: str, size: int, device: torch.device) -> float:
    """Peak memory of one forward of one image, in GiB."""
    vision = load(model, device=device).vision
    images = torch.randn(1, 3, size, size, device=device)
    local = LocalStream() if "local" in variant else None
    with torch.no_grad():
        if VARIANTS[variant] is None:
            vision(images, local=local)
        else:
            _, cache = vision.run_with_cache(images, names_filter=VARIANTS[variant], local=local)
            assert len(cache) >= vision.cfg.n_layers
    if device.type == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return torch.accelerator.max_memory_allocated(device) / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-L-14-336-quickgelu")
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--variant", choices=VARIANTS, help="print the peak of one variant, in GiB, and nothing else")
    args = parser.parse_args()
    device = torch.device(args.device)
    if args.variant:
        print(peak(args.variant, args.model, args.size, device))
        return

    print(f"`{args.model}`, one image at {args.size} px, float32; {environment(device)}\n")
    print("| what | peak, GiB | above the forward, GiB |")
    print("|---|---|---|")
    forward = 0.0
    for variant in VARIANTS:
        own = [sys.executable, __file__, "--variant", variant, "--model", args.model]
        run = subprocess.run(
            [*own, "--size", str(args.size), "--device", args.device], capture_output=True, text=True, check=True
        )
        gib = float(run.stdout.split()[-1])
        forward = forward or gib
        print(f"| {variant} | {gib:.3f} | {gib - forward:.3f} |", flush=True)


if __name__ == "__main__":
    main()
