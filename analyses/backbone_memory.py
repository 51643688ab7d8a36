"""Memory of capturing head outputs: every layer's ``hook_z`` for one image, above the forward alone.

    python analyses/backbone_memory.py --model ViT-L-14-336-quickgelu --size 518
    python analyses/backbone_memory.py --model ViT-L-14-336-quickgelu --size 518 --device cuda

Each variant runs in a process of its own. On an accelerator the allocator is asked for its peak; on a CPU the kernel is
asked for the process's resident size and, after its high-water mark was reset, for the peak (Linux with glibc).
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import torch
from common import environment, memory_now, memory_peak

from headlens.backbone import LocalStream, VisionPlan, load

# What is run, and the forward it is held against.
VARIANTS = {
    "forward": None,
    "every hook_z": "forward",
    "forward with a V-V stream": None,
    "every hook_z and hook_local_z": "forward with a V-V stream",
}


def peak(variant: str, model: str, size: int, device: torch.device) -> float:
    """Peak memory of one forward of one image above what stood there before it, in GiB."""
    vision = load(model, device=device).vision
    images = torch.randn(1, 3, size, size, device=device)
    plan = VisionPlan(local=LocalStream() if "V-V" in (variant + str(VARIANTS[variant])) else None)
    before = memory_now(device)
    with torch.no_grad():
        if VARIANTS[variant] is None:
            vision(images, plan)
        else:
            _, cache = vision.run_with_cache(images, plan, names_filter=lambda name: name.endswith("_z"))
            assert len(cache) == vision.cfg.n_layers + (vision.cfg.n_layers - plan.local.start if plan.local else 0)
    return (memory_peak(device) - before) / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-L-14-336-quickgelu")
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--variant", choices=VARIANTS, help="print the figure of one variant and nothing else")
    args = parser.parse_args()
    device = torch.device(args.device)
    if args.variant:
        print(peak(args.variant, args.model, args.size, device))
        return

    print(f"`{args.model}`, one image at {args.size} px, float32; {environment(device)}\n")
    print("| what | above weights and image, GiB | above its forward, GiB |")
    print("|---|---|---|")
    found: dict[str, float] = {}
    for variant, forward in VARIANTS.items():
        own = [sys.executable, __file__, "--variant", variant, "--model", args.model]
        run = subprocess.run(
            [*own, "--size", str(args.size), "--device", args.device], capture_output=True, text=True, check=True
        )
        found[variant] = float(run.stdout.split()[-1])
        above = f"{found[variant] - found[forward]:.3f}" if forward else ""
        print(f"| {variant} | {found[variant]:.3f} | {above} |", flush=True)


if __name__ == "__main__":
    main()
