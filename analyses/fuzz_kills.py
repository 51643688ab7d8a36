"""Kills ``train``, ``ablate`` and ``score`` inside their writes; the same command again must end as if it never was.

A process is killed by the kernel at a chosen byte of a file (a limit on the size of files, whose signal ends it there),
or kills itself with SIGKILL where it is about to create, rename or remove a file for the n-th time.

    python analyses/fuzz_kills.py --each 10
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import fuzzing

_ENDED = (-signal.SIGKILL, -signal.SIGXFSZ)


def at_byte(limit: int) -> Callable[[], None]:
    """The process dies where a file would grow beyond ``limit`` bytes."""

    def prepare() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it, and would see an error instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return prepare


def at_event(number: int, out: Path) -> Callable[[], None]:
    """The process kills itself where it is about to create, rename or remove a file below ``out`` for that time."""

    def prepare() -> None:
        count = 0

        def heed(event: str, args: tuple[object, ...]) -> None:
            nonlocal count
            writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
            if (writes or event in ("os.rename", "os.remove")) and str(args[0]).startswith(str(out)):
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(heed)

    return prepare


def contents(out: Path, names: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 of the files below ``out`` that match one of ``names``."""
    files = sorted({file for name in names for file in out.rglob(name) if file.is_file()})
    return {str(file.relative_to(out)): sha256(file.read_bytes()).hexdigest() for file in files}


def rounds(verb: str, args: list[object], names: tuple[str, ...], each: int, seed: int, work: Path) -> list[str]:
    """Kills ``verb`` ``each`` times, and lets it end; what differs from a run that was left alone."""
    sound = work / f"{verb}-sound"
    done = fuzzing.call(verb, *args, "--out", sound, most_seconds=300)
    expected, faults, ends = contents(sound, names), [], Counter[str]()
    if done.status or not expected:
        return [f"{verb}: {done.status} {done.said[-300:]}"]
    sizes = sorted(file.stat().st_size for file in sound.rglob("*") if file.is_file())
    for number in range(each):
        rng = random.Random(f"{seed}/{verb}/{number}")
        out = work / f"{verb}-{number}"
        limit, event = rng.randrange(rng.choice(sizes)), rng.randrange(1, 13)
        how = "byte" if number % 2 else "event"
        kill = at_byte(limit) if how == "byte" else at_event(event, out)
        killed = fuzzing.call(verb, *args, "--out", out, most_seconds=300, prepare=kill)
        ends[f"{how}: {'killed' if killed.status in _ENDED else killed.status}"] += 1
        again = fuzzing.call(verb, *args, "--out", out, most_seconds=300)
        what = f"{verb}, killed at {how} {limit if how == 'byte' else event}"
        if again.status or again.faults:
            faults.append(f"{what}: then {again.status}: {again.said[-400:]}")
        elif contents(out, names) != expected:
            faults.append(f"{what}: another result")
        left = [str(f.relative_to(out)) for f in out.rglob(".*") if f.is_file()]
        if left:
            ends["temporary files left"] += len(left)
    print(f"{verb}: {dict(ends)}", flush=True)
    return faults


def main() -> int:
    """Runs all three verbs; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    fuzzing.warm_up()
    with tempfile.TemporaryDirectory(prefix="headlens-kills-") as folder:
        work = Path(folder)
        fuzzing.call("data", "make", "procedural:industrial/novel", "--per-category", 2, "--out", work / "set")
        category = min(path for path in (work / "set").iterdir() if path.is_dir())
        often = work / "often.toml"
        often.write_text("[training]\nsave_every = 1\n")
        train = ["--data", category, "--epochs", 3, "--batch", 1, "--size", 70, "--config", often, "--cpu"]
        ablate = ["--data", category, "--layer", 23, "--head", 0, "--batch", 1, "--metric", "image_auroc"]
        score = [category / "test", "--run", "mini-industrial", "--batch", 1]
        faults = [
            *rounds("train", train, ("model.safetensors", "config.toml"), given.each, given.seed, work),
            *rounds("ablate", ablate, ("*.parquet",), given.each, given.seed, work),
            *rounds("score", score, ("*.npy", "scores.csv"), given.each, given.seed, work),
        ]
    for fault in faults:
        print(fault)
    print(f"{3 * given.each} kills, {len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    raise SystemExit(main())
