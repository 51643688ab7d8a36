"""The largest deviation of the hooked towers from open_clip's own models, architecture by architecture.

python analyses/backbone_parity.py
python analyses/backbone_parity.py --model ViT-B-32 --size 224x224
"""

from __future__ import annotations

import argparse

import torch
from common import environment

from headlens.backbone.parity import SIZES, parity

FAMILY = ("ViT-B-32", "ViT-B-16", "ViT-B-16-plus-240", "ViT-L-14", "ViT-L-14-336")
MODELS = [name + form for name in FAMILY for form in ("", "-quickgelu") if name != "ViT-B-16-plus-240" or not form]
CHECKS = ("image", "image_fast", "text", "heads", "residual")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=MODELS)
    parser.add_argument("--size", nargs="+", help="images of these sizes, as 336x518, instead of the usual three")
    args = parser.parse_args()
    sizes = [tuple(int(s) for s in size.split("x")) for size in args.size] if args.size else SIZES

    print("# Parity of the backbone\n")
    print(f"Random weights; deviation / largest value of the reference. {environment(torch.device('cpu'))}\n")
    print("| architecture | image size | precision | " + " | ".join(CHECKS) + " | limit |")
    print("|---" * (len(CHECKS) + 4) + "|")
    ratios = []
    for model in args.model:
        for row in parity(model, sizes=sizes):
            ratios += [row[check] / row["limit"] for check in CHECKS]
            figures = " | ".join(f"{row[check]:.1e}" for check in CHECKS)
            print(f"| {model} | {row['size']} | {row['dtype']} | {figures} | {row['limit']:.0e} |", flush=True)
    print(f"\nLargest deviation: {torch.tensor(ratios).max():.2g} of its limit.")


if __name__ == "__main__":
    main()
