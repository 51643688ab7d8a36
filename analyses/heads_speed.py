"""What questions about heads cost, in forwards of the whole detector: same weights and images, one run, in turn.

    python analyses/heads_speed.py --images 2 --rounds 5
    python analyses/heads_speed.py --model ViT-L-14-336-quickgelu --size 518 --device cuda

The global sweep ablates one head of every layer, which costs what any head of that layer costs; the local sweep all
heads; the plain loop runs a whole forward for each head. On the CPU one thread is the steadiest. Prompts and head
weights are untrained: this is about time.
"""

from __future__ import annotations

import argparse
import time

import torch
from common import environment, paired, ratio
from torch import Tensor

from headlens import data
from headlens.backbone import load
from headlens.detectors import Detector, build
from headlens.heads import clean_forward, gate_gradients, heads_of, single_heads
from headlens.heads.ablation import DEFAULT_METRICS
from headlens.heads.direct import image_parts, tap_parts
from headlens.heads.effects import category_effects, truths_of
from headlens.heads.measuring import measure
from headlens.heads.variants import Variant


def plain(detector: Detector, images: Tensor, variants: list[Variant]) -> None:
    """A whole forward, with a gate shut, for every variant."""
    vision = detector.backbone.vision
    for variant in variants:
        gate = vision.proj.new_ones(1, vision.cfg.n_layers, vision.cfg.n_heads)
        gate[:, variant.layer, variant.head] = 0
        margins = detector.margins(images, gates={variant.stream: gate})
        detector.score(margins, (images.shape[2], images.shape[3]))


def direct(detector: Detector, images: Tensor) -> None:
    """Direct effects of all heads on the image margin and on every tap."""
    clean = clean_forward(detector, images)
    image_parts(clean)
    for tap in detector.plan.taps:
        tap_parts(clean, tap)


def share(detector: Detector, args: argparse.Namespace) -> str:
    """Seconds of all metrics with their bootstraps over those of the exact sweep of all heads of both streams."""
    world = data.open("procedural:industrial", category="screw", per_category=args.metrics, size=args.size)
    variants = single_heads(heads_of(detector))
    (part,) = data.Loader(world, data.Preprocess(args.size), args.metrics)
    images = part.images.to(detector.device)
    start = time.perf_counter()
    batches = [clean_forward(detector, some) for some in images.split(8)]
    found = [(clean, measure(clean, variants)) for clean in batches]
    swept = time.perf_counter() - start
    scores = {
        name: torch.cat([torch.cat([getattr(c.targets, name)[None], getattr(f, name)]) for c, f in found], 1).cpu()
        for name in ("image_margin", "joint_score", "joint_margin", "map_change", "patch_map")
    }
    grids = scores.pop("patch_map")
    start = time.perf_counter()
    category_effects(
        detector,
        part.records,
        truths_of(part),
        scores,
        DEFAULT_METRICS,
        200,
        0,
        args.size,
        lambda at: grids[:, list(at)],
    )
    return f"{(time.perf_counter() - start) / swept:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--metrics", type=int, default=0, metavar="N", help="time metrics too, of N pictures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    detector = build(load(args.model, image_size=args.size, device=device)).requires_grad_(False)
    images = torch.randn(args.images, 3, args.size, args.size, generator=torch.Generator().manual_seed(0)).to(device)
    one = single_heads(heads_of(detector, heads=[3], streams=("global",)))
    local = single_heads(heads_of(detector, streams=("local",)))
    with torch.no_grad():
        clean = clean_forward(detector, images)
        clean.maps, clean.targets  # noqa: B018  # computed once, as for a sweep
        seconds = paired(
            {
                "forward and scores": lambda: detector(images),
                "plain loop": lambda: plain(detector, images, one),
                "global": lambda: measure(clean, one),
                "local": lambda: measure(clean, local),
                "direct": lambda: direct(detector, images),
                "gates": lambda: gate_gradients(detector, images),
            },
            args.rounds,
            device,
        )
    each = {name: [s / len(one) for s in seconds[name]] for name in ("plain loop", "global")}
    each["local"] = [s / len(local) for s in seconds["local"]]
    print(f"`{args.model}` at {args.size} px, {args.images} images, {args.rounds} rounds; {environment(device)}\n")
    print("| | median of the rounds [quartiles] |\n|---|---|")
    print(f"| a global head, times as fast as a plain forward | {ratio(each['plain loop'], each['global'])} |")
    print(f"| a local head, times as fast as a plain forward | {ratio(each['plain loop'], each['local'])} |")
    forward = seconds["forward and scores"]
    if args.metrics:
        print(f"| metrics of all heads, {args.metrics} pictures, as a share of their sweep | {share(detector, args)} |")
    print(f"| gate gradients of all heads, in forwards | {ratio(seconds['gates'], forward)} |")
    print(f"| direct effects of all heads, in forwards | {ratio(seconds['direct'], forward)} |")


if __name__ == "__main__":
    main()
