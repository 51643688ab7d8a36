"""What a cold start costs: imports by package, and commands against an interpreter that does nothing.

    python analyses/import_time.py --rounds 9

Each start is a process of its own. Seconds are of the processor, not of the clock, so that other work on the machine
counts little; what is compared takes turns in every round. Parts are what ``python -X importtime`` says of each
package's own modules, without those that they import.
"""

from __future__ import annotations

import argparse
import re
import resource
import statistics
import subprocess
import sys
from collections import Counter

NOTHING = ["-c", "pass"]
STARTS = {
    "nothing": NOTHING,
    "import typer": ["-c", "import typer"],
    "headlens --version": ["-m", "headlens", "--version"],
    "headlens ablate --help": ["-m", "headlens", "ablate", "--help"],
    "import headlens.heads": ["-c", "import headlens.heads"],
    "import torch": ["-c", "import torch"],
    "import transformer_lens": ["-c", "import transformer_lens"],
    "from headlens.heads import *": ["-c", "from headlens.heads import *"],
}
_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")


def parts(arguments: list[str]) -> Counter[str]:
    """Seconds of each package's own modules in one start."""
    said = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True).stderr
    found: Counter[str] = Counter()
    for micros, module in _LINE.findall(said):
        found[module.split(".")[0]] += int(micros) / 1e6  # type: ignore[assignment]
    return found


def cpu_seconds(arguments: list[str]) -> float:
    """Seconds of the processor, user and system, of one start."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--of", default="from headlens.heads import *", choices=STARTS, help="whose parts are shown")
    parser.add_argument("--rows", type=int, default=16)
    args = parser.parse_args()

    seconds: dict[str, list[float]] = {name: [] for name in STARTS}
    for _ in range(args.rounds + 1):  # the first warms the file system's cache
        for name, arguments in STARTS.items():
            seconds[name].append(cpu_seconds(arguments))
    print("| start | CPU seconds | against nothing [quartiles] |\n|---|---:|---:|")
    for name, own in seconds.items():
        ratios = [one / nothing for one, nothing in zip(own[1:], seconds["nothing"][1:], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        print(f"| `{name}` | {statistics.median(own[1:]):.3f} | {middle:.1f} [{low:.1f}, {high:.1f}] |")

    found = parts(STARTS[args.of])
    total = sum(found.values())
    print(f"\n`{args.of}`, by package\n\n| package | share | seconds |\n|---|---:|---:|")
    for name, own_seconds in found.most_common(args.rows):
        print(f"| {name} | {100 * own_seconds / total:.1f} % | {own_seconds:.2f} |")


if __name__ == "__main__":
    main()
