"""Whether a machine repeats itself to the bit: one batch twice in a process, in two processes, on every GPU.

    python analyses/repeats.py --model ViT-L-14-336-quickgelu --size 518 --device cuda --precision bfloat16
    python analyses/repeats.py --size 56

``--without cudnn`` takes another attention than cuDNN's, which torch prefers on some GPUs.
Every process loads the same random weights and sends the same noise through them, hook-free. What is compared are
weights, the streams after every block, heads, and joint scores; named is the first that differs, and by how much.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common import environment
from safetensors.torch import load_file, save_file
from torch import Tensor

from headlens.backbone import load
from headlens.detectors.headclip import Detector
from headlens.heads import clean_forward
from headlens.precision import computing


def stages(detector: Detector, images: Tensor) -> dict[str, Tensor]:
    """What a forward goes through, numbered: files keep no order."""
    clean = clean_forward(detector, images)
    found = {"weights": torch.cat([p.flatten()[:64].float() for p in detector.backbone.parameters()])}
    found |= {"text": clean.text, "embedding": clean.x[0]}
    for layer, mid in enumerate(clean.mid):
        named = {"z": clean.z["global"][layer], "mid": mid, "stream": clean.x[layer + 1], "local": clean.y[layer]}
        found |= {f"{name} {layer}": own for name, own in named.items() if own is not None}
    found["joint score"] = clean.targets.joint_score
    return {f"{i:03} {name}": own.cpu().clone() for i, (name, own) in enumerate(found.items())}


def work(args: argparse.Namespace, folder: Path) -> None:
    """One process: two forwards, and what they went through, in a file each."""
    device = torch.device(args.device)
    torch.set_grad_enabled(False)
    torch.backends.cuda.enable_cudnn_sdp(args.without != "cudnn")
    detector = Detector(load(args.model, image_size=args.size, device=device))
    images = torch.randn(args.batch, 3, args.size, args.size, generator=torch.Generator().manual_seed(0)).to(device)
    with computing(detector, args.precision) as own:
        for number in range(2):
            save_file(stages(own, images), folder / f"{number}.safetensors")


def difference(a: Path, b: Path) -> str:
    """In words: the first tensor of two files that is not the same to the bit."""
    one, other = load_file(a), load_file(b)
    for name in sorted(one):
        if not torch.equal(one[name], other[name]):
            off = (one[name].double() - other[name].double()).abs().max()
            share = float((one[name] != other[name]).double().mean())
            return f"first at {name[4:]}: {share:.1%} of its numbers, by {off:.1e} at most"
    return "nowhere"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--without", choices=["cudnn"])
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args, args.worker)
        return
    count = torch.cuda.device_count() if args.device == "cuda" else 0
    devices = [*(f"cuda:{i}" for i in range(count)), "cuda:0"] if count else [args.device] * 2
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place, str(number)) for number in range(len(devices))]
        for device, folder in zip(devices, folders, strict=True):
            folder.mkdir()
            run = [sys.executable, __file__, *sys.argv[1:], "--device", device, "--worker", str(folder)]
            subprocess.run(run, check=True)
        first = folders[0] / "0.safetensors"
        print(f"| compared with one process on {devices[0]} | differs |\n|---|---|")
        print(f"| itself, the same again | {difference(first, folders[0] / '1.safetensors')} |")
        for device, folder in zip(devices[1:], folders[1:], strict=True):
            print(f"| another process, {device} | {difference(first, folder / '0.safetensors')} |")
    how = f"batch of {args.batch}, {args.precision or 'float32'}{', no attention of cuDNN' if args.without else ''}"
    print(f"\n`{args.model}` at {args.size} px, {how}. {environment(torch.device(args.device))}.")


if __name__ == "__main__":
    main()
