"""Ablation of every head and its metrics at full size, against the plain loop of hooks on a sample.

    python analyses/full_sweep.py --out figures/full-sweep.md

ViT-L-14-336-quickgelu at 518 px with the local stream, random weights, noise for pictures: this is about time, memory
and rounding. The plain loop is what one writes first: float32, a hook that zeroes one head at ``hook_z``, a whole
forward for every head. It is timed on a sample of heads on the same pictures in the same run.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from common import Decoded, best, environment, peak, profiled, synchronize, written
from torch import Tensor

from headlens.backbone import load
from headlens.data import Loader, Preprocess
from headlens.detectors import Detector, build
from headlens.detectors.precision import at_precision
from headlens.detectors.scoring import Prediction, logit
from headlens.heads import clean_forward, heads_of, single_heads
from headlens.heads.effects import draws, of_pixels
from headlens.heads.measuring import PROBES, measure
from headlens.heads.variants import Head, Variant
from headlens.metrics import Truth
from headlens.metrics.table import PIXEL

LAYER = 18
MVTEC = 1725


def without(detector: Detector, images: Tensor, head: Head | None) -> Prediction:
    """The plain loop's step: a forward with one head's output set to zero by a hook."""

    def zero(z: Tensor, hook: object) -> Tensor:
        assert head is not None
        z[:, :, head.head] = 0
        return z

    vision, hooks = detector.backbone.vision, []
    if head is not None:
        name = "hook_z" if head.stream == "global" else "hook_local_z"
        hooks = [(f"blocks.{head.layer}.attn.{name}", zero)]
    with vision.hooks(fwd_hooks=hooks):
        return detector(images)


def quantities(found: object) -> Tensor:
    """Joint margin and image margin, [2, ...]."""
    score = found.joint_score  # type: ignore[attr-defined]
    return torch.stack([logit(score), found.image_margin]).double()  # type: ignore[attr-defined]


def errors(effects: Tensor, exact: Tensor) -> str:
    """Of effects on the joint margin [heads, images]: size, mean and largest error."""
    off = (effects - exact).abs()
    return f"{exact.abs().mean():.1e} | {off.mean():.1e} | {off.max():.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-L-14-336-quickgelu")
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--category", type=int, default=115, help="pictures whose pixel metrics are timed")
    parser.add_argument("--precisions", nargs="*", default=["float16", "bfloat16", "tf32", "float32"])
    parser.add_argument(
        "--whole", nargs="*", default=["float16", "bfloat16"], help="the whole grid, not layer 18 alone"
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device, side, batch = torch.device(args.device), args.size, args.batch
    torch.set_grad_enabled(False)
    detector = build(load(args.model, image_size=side, device=device)).requires_grad_(False)
    data = Decoded(4 * batch, 2)
    loader = Loader(data, Preprocess(side), batch)
    images = next(iter(loader)).images.to(device)
    depth = detector.backbone.vision.cfg.n_layers
    every = {stream: single_heads(heads_of(detector, streams=(stream,))) for stream in ("global", "local")}
    at_layer = {stream: single_heads(heads_of(detector, [LAYER], streams=(stream,))) for stream in every}
    sample = {s: [v.heads[0] for v in every[s][:: len(every[s]) // 8]] for s in every}

    with at_precision(detector, "float32"):
        naive = {
            "1 picture at a time": best(partial(without, detector, images[:1], sample["global"][0]), device, 3),
            f"{batch} pictures at a time": best(partial(without, detector, images, sample["global"][0]), device)
            / batch,
        }
        clean = quantities(without(detector, images, None))
        exact = {
            s: torch.stack([quantities(without(detector, images, h)) - clean for h in sample[s]], 1) for s in sample
        }
    reference = min(naive.values())
    lines = ["| plain loop of hooks, float32 | ms a head and picture |", "|---|---:|"]
    lines += [f"| {name} | {1e3 * seconds:.1f} |" for name, seconds in naive.items()]
    print("\n".join(lines), flush=True)

    lines += ["", "| effects, against the plain loop | mean size | mean error | largest error | noise floor |"]
    lines.append("|---|---:|---:|---:|---:|")
    costs = ["", "| | variants | ms a picture | ms a head and picture | plain loop over this | peak GiB | MVTec |"]
    costs.append("|---|---:|---:|---:|---:|---:|---:|")
    sweep: dict[tuple[str, str], float] = {}
    for precision in args.precisions:
        with at_precision(detector, precision) as own:
            now = clean_forward(own, images)
            before = quantities(now.targets)
            for stream, heads in sample.items():
                variants = [PROBES[stream], *single_heads(heads)]
                effects = quantities(measure(now, variants)) - before[:, None]
                row = errors(effects[0, 1:], exact[stream][0])
                lines.append(
                    f"| {precision}, {stream} heads, joint margin | {row} | {effects[0, 0].abs().mean():.1e} |"
                )
            print("\n".join(lines[-2:]), flush=True)
            del now
            cases = {
                "clean forward": [],
                f"layer {LAYER}, global heads": at_layer["global"],
                f"layer {LAYER}, both streams": [*at_layer["global"], *at_layer["local"]],
                "all local heads": every["local"],
            }
            if precision in args.whole:
                cases |= {"all global heads": every["global"], "all of both": [*every["global"], *every["local"]]}
            for name, variants in cases.items():

                def work(variants: list[Variant] = variants) -> None:
                    now = clean_forward(own, images)
                    if variants:
                        measure(now, variants)

                large = name in ("all global heads", "all of both")
                seconds = best(work, device, rounds=1 if large else 3) / batch
                each = " | "
                if variants:
                    per_head = seconds / len(variants)
                    each = f"{1e3 * per_head:.3f} | {reference / per_head:.0f}x"
                costs.append(
                    f"| {precision}: {name} | {len(variants)} | {1e3 * seconds:.1f} | {each} | {peak(device):.1f} | "
                    f"{MVTEC * seconds / 60:.1f} min |"
                )
                print(costs[-1], flush=True)
                sweep[precision, name] = seconds

    others = ["", "| besides | | |", "|---|---:|---:|"]
    with at_precision(detector, args.precisions[0]) as own:
        now = clean_forward(own, images)
        some = [*every["global"][::16], *every["local"][::4]]
        small = torch.cat([now.targets.patch_map[None], measure(now, some).patch_map]).cpu()
        del now
    one = Loader(Decoded(args.category, 1), Preprocess(side), 16, normalise=False)
    truth = Truth.of(torch.cat([part.masks for part in one])).to(device)
    grids = small.repeat(1, -(-args.category // batch), 1, 1)[:, : args.category]
    times = draws(args.category, 200, 0, "noise")
    enlarged = partial(detector.scoring.enlarge, size=(side, side))
    counted = best(lambda: of_pixels(grids, enlarged, truth, times, PIXEL), device, rounds=3) / grids[..., 0, 0].numel()
    what = f"pixel metrics with 200 replicates, {len(grids)} variants of {args.category} pictures"
    others.append(f"| {what}, µs a map | {1e6 * counted:.1f} | |")
    for precision in args.whole:
        for name in ("all global heads", "all of both"):
            share = (
                counted
                * sum(len(every[s]) for s in every if name in (f"all {s} heads", "all of both"))
                / sweep[precision, name]
            )
            others.append(f"| pixel metrics over the sweep of {name}, {precision} | {share:.1%} | |")
    about = f"`{args.model}` at {side} px, {depth} layers, batches of {batch}. {environment(device)}."
    text_ = "\n".join([*lines, *costs, *others, "", about])
    if device.type == "cuda":
        with at_precision(detector, args.precisions[0]) as own:
            traced = profiled(lambda: measure(clean_forward(own, images), every["global"][::8]))
        text_ += f"\n\n{traced}\n\nThe profile is of {len(every['global'][::8])} global heads in {args.precisions[0]}."
    synchronize(device)
    written(text_, args.out)


if __name__ == "__main__":
    main()
