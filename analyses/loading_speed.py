"""What the loader's threads and caches bring over a plain loop, on pictures made for it.

    python analyses/loading_speed.py --images 32 --side 1024 --rounds 5

The plain loop reads, resizes and normalises the same pictures one by one, in the same preprocessing, without threads or
a cache. In each round all contenders run, in turn; the table has the median ratio of a round, and quartiles.
``processes`` is torch's ``DataLoader``, whose workers start anew each epoch, as they do unless told otherwise.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from common import environment, paired, ratio
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from headlens.data import DataSet, Loader, Preprocess, open

BATCH = 8


def write(folder: Path, count: int, side: int) -> None:
    """PNG pictures of blurred noise with some grain, half of them with a square as a flaw, in MVTec's layout."""
    numbers = np.random.default_rng(0)
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : side // 2, side // 4 : side // 2] = 255
    for i in range(count):
        family = ("good", "square")[i % 2]
        path = folder / "noise" / "test" / family / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(numbers.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        picture = np.array(coarse.resize((side, side)), np.float32) + numbers.normal(0, 6, (side, side, 3))
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path)
        if family != "good":
            truth = folder / "noise" / "ground_truth" / family / f"{i:03d}_mask.png"
            truth.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(truth)


class Pictures(torch.utils.data.Dataset):
    """What torch's own loader asks for."""

    def __init__(self, dataset: DataSet, preprocess: Preprocess) -> None:
        self.dataset, self.preprocess = dataset, preprocess

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        prepared = self.preprocess(self.dataset.pixels(i))
        return prepared.image, prepared.mask


def processes(pictures: Pictures, workers: int) -> None:
    for images, _ in DataLoader(pictures, BATCH, num_workers=workers):
        pictures.preprocess.normalise(images)


def plain(pictures: Pictures) -> None:
    for start in range(0, len(pictures), BATCH):
        batch = [pictures[i] for i in range(start, min(start + BATCH, len(pictures)))]
        pictures.preprocess.normalise(torch.stack([image for image, _ in batch]))
        torch.stack([mask for _, mask in batch])


def exhaust(batches: Iterable[object]) -> None:
    for _ in batches:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--side", type=int, default=1024, help="pixels of the files")
    parser.add_argument("--size", type=int, default=518, help="pixels for the model")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)  # of torch's own, which would help the plain loop in one step of three
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "set", args.images, args.side)
        dataset, preprocess = open(Path(folder) / "set"), Preprocess(args.size)
        pictures = Pictures(dataset, preprocess)

        def loader(**options: object) -> Callable[[], None]:
            own = Loader(dataset, preprocess, BATCH, **options)
            return lambda: exhaust(own)

        contenders = {"plain loop": lambda: plain(pictures)}
        contenders |= {f"threads, {n}": loader(workers=n) for n in (1, 2, 4)}
        contenders |= {f"processes, {n}": lambda n=n: processes(pictures, n) for n in (1, 2)}
        for name, cache in (("memory", "memory"), ("a folder", Path(folder) / "cache")):
            contenders |= {
                f"second epoch from {name}, float32": loader(cache=cache),
                f"second epoch from {name}, uint8": loader(cache=cache, normalise=False),
            }
        seconds = paired(contenders, args.rounds, torch.device("cpu"))  # its warm-up is the first epoch
    print(environment(torch.device("cpu")))
    print(f"{args.images} pictures of {args.side} x {args.side} at {args.size}, {args.rounds} rounds\n")
    print("| | times as fast as the plain loop | pictures per second |\n|---|---|---|")
    for name, own in seconds.items():
        print(f"| {name} | {ratio(seconds['plain loop'], own)} | {args.images / statistics.median(own):.0f} |")


if __name__ == "__main__":
    main()
