"""Whether a machine repeats itself to the bit: in a process, in another one, on every GPU.

    python analyses/repeats.py --model ViT-L-14-336-quickgelu --size 518 --device cuda --precision bfloat16 --batch 16
    python analyses/repeats.py --size 56

Every process loads the same random weights and asks the same of the same noise: scores, a sweep of one layer, gradients
by all gates. On a GPU it also asks torch's kernels of attention about single queries, which the last block has.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from common import environment
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from headlens import heads
from headlens.backbone import load
from headlens.detectors import Detector, build
from headlens.detectors.precision import at_precision
from headlens.heads.measuring import PROBES, measure
from headlens.precision import repeatable


def jobs(detector: Detector, images: Tensor, layer: int) -> dict[str, Callable[[], Tensor]]:
    """By name what must be the same every time."""
    variants = [PROBES["global"], *heads.single_heads(heads.heads_of(detector, [layer]))]

    def scores() -> Tensor:
        found = detector(images)
        return torch.cat([found.joint_score, found.image_margin, found.anomaly_map.flatten()])

    def sweep() -> Tensor:
        found = measure(heads.clean_forward(detector, images), variants)
        return torch.stack([found.joint_margin, found.image_margin, found.map_change])

    def gates(wanted: bool) -> Tensor:
        with repeatable(images.device, wanted):
            return torch.cat([own.flatten() for own in heads.gate_gradients(detector, images)[1].values()])

    found = {"scores": scores, f"ablations of layer {layer}": sweep, "gate gradients": lambda: gates(False)}
    return found | {"gate gradients, deterministic": lambda: gates(True)}


def single_queries(detector: Detector, rows: int, tokens: int) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Attention of one query in each of ``rows``, by each of torch's fused kernels."""
    cfg, dtype = detector.backbone.vision.cfg, detector.backbone.vision.proj.dtype
    shape = (rows, cfg.n_heads, tokens, cfg.d_model // cfg.n_heads)
    k, v = (torch.randn(shape, device=detector.device, dtype=dtype) for _ in range(2))
    for kernel in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):

        def attend(kernel: SDPBackend = kernel) -> Tensor:
            with sdpa_kernel(kernel):
                return F.scaled_dot_product_attention(k[:, :, :1], k, v)

        yield f"{kernel.name.lower().replace('_', ' ')}, {rows} single queries", attend


def work(args: argparse.Namespace, file: Path) -> None:
    """One process: leaves what it found the first time, and tells how often it found something else."""
    device = torch.device(args.device)
    torch.set_grad_enabled(False)
    detector = build(load(args.model, image_size=args.size, device=device))
    shape = (args.batch, 3, args.size, args.size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    first = {}
    with at_precision(detector, args.precision) as own:
        for name, job in jobs(own, images, args.layer).items():
            first[name] = told(name, job, args.times).cpu().contiguous()
        if device.type == "cuda" and args.precision in ("float16", "bfloat16"):
            for name, job in single_queries(own, 18 * args.batch, 1 + (args.size // 14) ** 2):
                told(name, job, 5 * args.times)
    save_file(first, file)


def told(name: str, job: Callable[[], Tensor], times: int) -> Tensor:
    """What ``job`` makes; prints how often it makes something else."""
    first = job()
    off = [float((job() - first).abs().max()) for _ in range(times)]
    away = f", by up to {max(off):.1e} of {float(first.abs().max()):.1e}" if any(off) else ""
    print(f"| {name} | {sum(map(bool, off))} of {times} times{away} |", flush=True)
    return first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--layer", type=int, default=18)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--precision", help="as loaded by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args, args.worker)
        return
    count = torch.cuda.device_count() if args.device == "cuda" else 0
    devices = [*(f"cuda:{i}" for i in range(count)), "cuda:0"] if count else [args.device] * 2
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place, str(number)) for number in range(len(devices))]
        for device, file in zip(devices, files, strict=True):
            print(f"\n| a process on {device} | differs in itself |\n|---|---|", flush=True)
            run = [sys.executable, __file__, *sys.argv[1:], "--device", device, "--worker", str(file)]
            subprocess.run(run, check=True)
        found = [load_file(file) for file in files]
    print(f"\n| the first process on {devices[0]} | " + " | ".join(f"one on {device}" for device in devices[1:]) + " |")
    print("|---|" + "---|" * (len(devices) - 1))
    for name, own in found[0].items():
        off = [float((other[name] - own).abs().max()) for other in found[1:]]
        print(f"| {name} | " + " | ".join(f"differs by {away:.1e}" if away else "equal" for away in off) + " |")
    print(f"\n`{args.model}` at {args.size} px, batch of {args.batch}, {args.precision or 'as loaded'}. ", end="")
    print(f"{environment(torch.device(args.device))}.")


if __name__ == "__main__":
    main()
