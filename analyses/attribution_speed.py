"""What a map costs: every method on one picture of the embedded backbone, in forwards of that picture, and its memory.

    python analyses/attribution_speed.py --threads 2 --rounds 3

In each round all methods run, the first one rotating; medians and quartiles of the round-by-round ratios. Integrated
gradients are timed with their 32 first steps alone and until complete. Memory is the peak above what was there before,
with 4, 8 and 32 steps held together, each in a process of its own.
"""

from __future__ import annotations

import argparse
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from common import environment, memory_now, memory_peak, paired, ratio
from torch import Tensor

import headlens
from headlens.attribution import METHODS, Target, target_of
from headlens.data import Preprocess
from headlens.data.procedural import World


def opened(number: int, device: str) -> tuple[Target, Tensor]:
    """The joint margin of the shipped detector, and one normalised picture."""
    run = headlens.load("mini-industrial", device=device)
    preprocess = Preprocess(run.size)
    image = preprocess.image(World("procedural:industrial")[number].image)
    return target_of(run.detector), preprocess.normalise(image[None].to(device))


def peak(batch: int, number: int, device: str) -> float:
    """MiB that integrated gradients of 32 steps take at most above what is there before."""
    target, image = opened(number, device)
    before = memory_now(image.device)
    METHODS["integrated_gradients"](target, image, most=32, batch=batch)
    return (memory_peak(image.device) - before) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=int, default=43, help="its number in procedural:industrial")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", action="store_true", help="print them too; they are this machine's alone")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    target, image = opened(args.picture, args.device)

    def forward() -> None:
        with torch.no_grad():
            target(image)

    contenders = {name: (lambda own=own: own(target, image)) for name, own in METHODS.items() if own.takes(target)}
    contenders["integrated_gradients, 32 steps"] = lambda: METHODS["integrated_gradients"](target, image, most=32)
    seconds = paired({"forward": forward, **contenders}, args.rounds, image.device)
    print("| method | forwards of the picture |" + (" s |" if args.seconds else ""))
    print("|---|---|" + ("---|" if args.seconds else ""))
    for name, own in seconds.items():
        last = f" {statistics.median(own):.2f} |" if args.seconds else ""
        print(f"| {name} | {ratio(own, seconds['forward'])} |{last}")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for batch in (4, 8, 32):
            found = pool.submit(peak, batch, args.picture, args.device).result()
            print(f"\nintegrated gradients, {batch} steps at once: {found:.0f} MiB")
    print(f"\n{environment(image.device)}")


if __name__ == "__main__":
    main()
