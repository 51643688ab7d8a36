"""The exact sweep against the plain way, one hooked forward for every head: the whole grid, both streams, one run.

    python analyses/heads_parity.py --per-category 10
    python analyses/heads_parity.py --per-category 2 --layers 17 18 --device cpu

Everything in float64. The plain way silences a head by a hook at its output, goes through the whole tower again and
through the detector's own ``score``; its metrics are exact, and computed for every sixteenth head.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from common import environment, synchronize
from torch import Tensor
from trained_runs import Painted, paint

from headlens.data import Loader, Preprocess
from headlens.data.procedural import World
from headlens.detectors.detector import Detector
from headlens.detectors.scoring import Prediction, logit
from headlens.heads import Variant, ablate, heads_of, single_heads
from headlens.metrics import PixelMetrics, image_metrics
from headlens.training.run import load_run

HOOKS = {"global": "blocks.{}.attn.hook_z", "local": "blocks.{}.attn.hook_local_z"}
METRICS = ("image_auroc", "pixel_auroc", "pixel_aupro")
EVERY = 16


def plain(detector: Detector, images: Tensor, variant: Variant | None) -> Prediction:
    """A whole hooked forward without the variant's heads."""

    def silence(z: Tensor, hook: object, head: int) -> Tensor:
        z = z.clone()
        z[:, :, head] = 0
        return z

    hooks = [
        (HOOKS[head.stream].format(head.layer), lambda z, hook, number=head.head: silence(z, hook, number))
        for head in (variant.heads if variant else ())
    ]
    with detector.backbone.vision.hooks(hooks):
        return detector(images)


def metrics(scores: Tensor, maps: Tensor, masks: Tensor, categories: list[str]) -> dict[str, float]:
    """Exact, means over categories."""
    found: dict[str, list[float]] = {name: [] for name in METRICS}
    for category in dict.fromkeys(categories):
        here = torch.tensor([own == category for own in categories])
        labels = masks[here].flatten(1).any(1)
        found["image_auroc"].append(float(image_metrics(scores[here], labels)["auroc"]))
        pixels = PixelMetrics(mode="exact")
        pixels.update(maps[here], masks[here])
        values = pixels.compute()
        for name in METRICS[1:]:
            found[name].append(float(values[name.removeprefix("pixel_")]))
    return {name: float(np.mean(values)) for name, values in found.items()}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="mini-industrial")
    parser.add_argument("--data", default="procedural:industrial")
    parser.add_argument("--per-category", type=int, default=10)
    parser.add_argument("--layers", type=int, nargs="+", help="all by default")
    parser.add_argument("--batch", type=int, default=16, help="pictures of the sweep at once")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    detector = load_run(args.run, device=device, dtype=torch.float64).detector.requires_grad_(False)
    world = World(args.data, args.per_category)
    with torch.multiprocessing.get_context("spawn").Pool() as pool:
        made = pool.map(paint, [(args.data, args.per_category, 0, i) for i in range(len(world))], chunksize=4)
    data = Painted(world, *(torch.stack(part) for part in zip(*made, strict=True)))
    variants = single_heads(heads_of(detector, args.layers))

    preprocess = Preprocess(detector.image_size)
    (part,) = Loader(data, preprocess, len(data), normalise=False)
    images = preprocess.normalise(part.images.to(device)).double()
    categories = [record.category for record in part.records]

    def clocked(work):  # type: ignore[no-untyped-def]
        synchronize(device)
        start = time.perf_counter()
        result = work()
        synchronize(device)
        return result, time.perf_counter() - start

    some = variants[::EVERY]
    ablate(detector, data.where(lambda r: r.name == data.records[0].name), variants[:2], metrics=())  # warm
    swept, quick = clocked(lambda: ablate(detector, data, variants, metrics=(), batch=args.batch))
    print(f"swept in {quick:.0f} s", flush=True)
    counted, _ = clocked(lambda: ablate(detector, data, some, metrics=METRICS, batch=args.batch))
    whole, _ = clocked(lambda: plain(detector, images, None))
    effects = {
        name: swept.frame[swept.frame["metric"] == name].pivot(index="image", columns="variant", values="effect")
        for name in ("image_margin", "joint_score", "joint_margin", "anomaly_map")
    }
    names = [record.name for record in part.records]
    off, moved, slow = dict.fromkeys([*effects, *METRICS], 0.0), dict.fromkeys(effects, 0.0), 0.0
    for variant in variants:
        found, seconds = clocked(lambda variant=variant: plain(detector, images, variant))
        slow += seconds
        larger = torch.maximum(*(own.anomaly_map.flatten(1).sum(1) for own in (found, whole)))
        change = (found.anomaly_map - whole.anomaly_map).abs().flatten(1).sum(1) / larger
        expected = {
            "image_margin": found.image_margin - whole.image_margin,
            "joint_score": found.joint_score - whole.joint_score,
            "joint_margin": logit(found.joint_score) - logit(whole.joint_score),
            "anomaly_map": change,
        }
        for name, own in expected.items():
            ours = torch.tensor(effects[name][variant.name].loc[names].to_numpy())
            off[name] = max(off[name], float((ours - own.cpu()).abs().max()))
            moved[name] = max(moved[name], float(own.abs().max()))
        if variant in some:
            exact = metrics(found.joint_score.cpu(), found.anomaly_map.cpu(), part.masks, categories)
            for name, value in exact.items():
                ours = counted.means(name).set_index("variant").at[variant.name, "value"]
                off[name] = max(off[name], abs(float(ours) - value))
    print(f"{args.run}, {len(data)} pictures of {args.data}, {len(variants)} heads; {environment(device)}\n")
    print("| | largest difference | largest effect |\n|---|---:|---:|")
    for name, value in off.items():
        print(f"| {name} | {value:.1e} | {f'{moved[name]:.2f}' if name in moved else '-'} |")
    print(f"\nThe plain loop took {slow / quick:.1f} times as long as the sweep, both without metrics.")


if __name__ == "__main__":
    main()
