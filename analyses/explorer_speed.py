"""What a redraw of ``lab.explore`` costs in Python, against saving the same view as a figure of matplotlib's.

    OMP_NUM_THREADS=1 python analyses/explorer_speed.py --rounds 20

Two runs, and in turn another query patch, another head, another image. Both ways ask one ``HeadView``; what that has
computed for an image before costs neither. The explorer's time ends with the message to its page, whose arrays are
counted. Times are of the processor: with one thread, what passes on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import io
import itertools
import statistics
import time
from functools import partial

import torch
from common import environment, paired, ratio

import headlens
from headlens import data, lab
from headlens.heads import Head

RUNS = {"industrial": "mini-captions-industrial", "medical": "mini-captions-medical"}


def message(explorer: lab.Explorer, *names: str) -> int:
    """Bytes of the arrays that go to the page when these have changed."""

    def size(part: object) -> int:
        if isinstance(part, dict | list):
            return sum(map(size, part.values() if isinstance(part, dict) else part))
        return len(part) if isinstance(part, bytes) else 0

    return size(explorer.widget.get_state(names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--size", type=int, default=224, help="of the images, in pixels")
    args = parser.parse_args()

    world = data.open("procedural:industrial", category="screw", per_category=4, size=args.size)
    images = [world[number] for number in range(len(world))]  # painting is no part of this
    explorer = lab.explore({name: headlens.load(run) for name, run in RUNS.items()}, images, size=args.size)
    view, (rows, columns) = explorer.view, explorer.view.grid
    changes = {
        "patch": itertools.cycle((row, column) for row in range(rows) for column in range(columns)),
        "head": itertools.cycle(Head("local", layer, head) for layer in view.layers("local") for head in view.heads),
        "image": itertools.cycle(range(len(images))),
    }
    sent = {change: ["scene", "picture"] if change == "image" else ["scene"] for change in changes}

    def page(change: str) -> None:
        setattr(explorer, change, next(changes[change]))
        message(explorer, *sent[change])

    def figure(change: str) -> None:
        shown = {"image": explorer.image, "head": explorer.head, "patch": explorer.patch}
        view.plot(**shown | {change: next(changes[change])}).figure.savefig(io.BytesIO(), format="png", dpi=80)

    contenders = {(change, way): partial(way, change) for change in changes for way in (page, figure)}
    seconds = paired(contenders, args.rounds, torch.device("cpu"), clock=time.process_time)
    print(f"{'another':8} {'page, ms':>9} {'figure, ms':>11} {'page / figure':>21} {'arrays, kB':>11}")
    for change, names in sent.items():
        times = [seconds[change, way] for way in (page, figure)]
        middle = [f"{1000 * statistics.median(each):.0f}" for each in times]
        size = f"{message(explorer, *names) / 1000:.0f}"
        print(f"{change:8} {middle[0]:>9} {middle[1]:>11} {ratio(*times):>21} {size:>11}")
    print(environment(torch.device("cpu")))


if __name__ == "__main__":
    main()
