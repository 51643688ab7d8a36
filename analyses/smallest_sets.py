"""With how few heads does a method keep 95 % of its AUPRO, and are they the same heads in domains, methods and seeds?

    python analyses/smallest_sets.py --out runs/smallest --jobs 2
    python analyses/smallest_sets.py --out runs/smallest --tables

Two disjoint sets of seeds of every shipped run. Heads are ranked by importance, averaged over the seeds of one set, on
images of the training categories; the ranking is measured on a run of the *other* set, on the test categories, together
with the same set's ranking from the other domain and with random rankings. So nothing is ranked and measured on the
same run or on the same images.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from trained_runs import DOMAINS, paint_sets, painted

from headlens import heads
from headlens.backbone import Backbone, load
from headlens.heads import Head, Transfer
from headlens.results import write
from headlens.training.run import Run, load_run
from headlens.training.shipped import BACKBONE

METHODS = {"HeadCLIP": "", "AA-CLIP": "-aa-clip", "AnomalyCLIP": "-anomalyclip", "KAnoCLIP": "-kanoclip"}
KEEP = {"local": (0, 16, 32, 64, 128, 256), "global": (0, 48, 96, 192, 288)}
"""Numbers of best heads; those of the other stream work. There are 304 local and 384 global heads."""
SETS = ((0, 1), (2, 3))
"""Seeds; the first of each set is measured with the ranking of the other."""
TOP = 32
RANKING, OTHER = "its domain's ranking", "the other domain's ranking"


class Task(NamedTuple):
    """One measurement: a method, a domain, the stream whose heads are ranked, and which set of seeds ranks them."""

    method: str
    domain: str
    stream: str
    ranked_by: int

    @property
    def file(self) -> str:
        """Where its result is."""
        return f"{self.method}-{self.domain}-{self.stream}-{self.ranked_by}.parquet"


@cache
def backbone() -> Backbone:
    """The one that all runs share."""
    return load(BACKBONE)


def run_of(method: str, domain: str, seed: int) -> Run:
    """A shipped run."""
    return load_run(f"{BACKBONE}-{domain}{METHODS[method]}-{seed}", backbone())


def importance_of(args: argparse.Namespace, method: str, domain: str, seed: int) -> pd.DataFrame:
    """The importance of a run's heads on images of the training categories, in units of the mean head."""
    path = args.out / f"importance-{method}-{domain}-{seed}.parquet"
    if not path.exists():
        images = painted(args.out, f"procedural:{domain}/aux", args.per_category // 2, 0)
        heads.importance(run_of(method, domain, seed), images).save(path)
    return heads.head_values(heads.Importance.load(path))


def ranking(args: argparse.Namespace, method: str, domain: str, number: int) -> pd.DataFrame:
    """Importance, the mean over the seeds of a set."""
    frames = [importance_of(args, method, domain, seed) for seed in SETS[number]]
    return pd.concat(frames).groupby(["stream", "layer", "head"], as_index=False)["value"].mean()


def other(domain: str) -> str:
    """The other one of two domains."""
    return next(one for one in DOMAINS if one != domain)


def work(job: tuple[argparse.Namespace, Task]) -> str:
    """Measures one task, and writes its result."""
    args, task = job
    torch.set_num_threads(1)
    if not (args.out / task.file).exists():
        rankings = {RANKING: ranking(args, task.method, task.domain, task.ranked_by)}
        rankings[OTHER] = ranking(args, task.method, other(task.domain), task.ranked_by)
        images = painted(args.out, f"procedural:{task.domain}", args.per_category, 0)
        measured = run_of(task.method, task.domain, SETS[1 - task.ranked_by][0])
        options = {"streams": [task.stream], "keep": KEEP[task.stream], "kind": args.kind, "random": args.random}
        options |= {"metrics": ("pixel_aupro",), "budget": 2**27, "seed": task.ranked_by}
        heads.transfer(measured, images, rankings, **options).save(args.out / task.file)
    return task.file


def tasks() -> Iterator[Task]:
    """Local heads first, which are quick; AA-CLIP has none: it reads the global stream alone."""
    for stream, number in product(KEEP, range(len(SETS))):
        methods = [name for name in METHODS if stream == "global" or name != "AA-CLIP"]
        yield from (Task(method, domain, stream, number) for method, domain in product(methods, DOMAINS))


def sizes_table(results: dict[Task, Transfer]) -> str:
    """The smallest sets of every measurement, with intervals over images, and those of random rankings."""
    lines = [
        "| heads | method | domain | ranked by seeds | clean AUPRO | smallest set | by the other domain | random |"
    ]
    lines.append("|---|---|---|---|---:|---:|---:|---:|")
    for task, result in results.items():
        rows, total = result.smallest.set_index("ranking"), max(result.provenance["keep"])
        drawn = rows.loc[[name for name in rows.index if name.startswith("random ")], "heads"]
        cells = [f"{r.heads:.0f} [{r.low:.0f}, {r.high:.0f}]" for r in rows.loc[[RANKING, OTHER]].itertuples()]
        cells.append(" to ".join(dict.fromkeys(f"{count:.0f}" for count in (drawn.min(), drawn.max()))))
        seeds = ", ".join(map(str, SETS[task.ranked_by]))
        clean = 100 * result.frame["baseline"].iloc[0]
        first = f"{total} {task.stream} | {task.method} | {task.domain} | {seeds} | {clean:.1f}"
        lines.append(f"| {first} | {' | '.join(cells)} |")
    return "\n".join(lines)


def overlap_table(results: dict[Task, Transfer]) -> str:
    """How far smallest sets, and the best heads, agree between sets of seeds, domains and methods."""
    lines = [f"| heads | between | | common of smallest | Jaccard | by chance | p | common of the best {TOP} | p |"]
    lines.append("|---|---|---|---:|---:|---:|---:|---:|---:|")
    for first, second in combinations(results, 2):
        differs = [name for name, a, b in zip(Task._fields, first, second, strict=True) if a != b]
        if len(differs) != 1 or differs == ["stream"] or (differs != ["ranked_by"] and first.ranked_by):
            continue
        total = max(results[first].provenance["keep"])
        sets: list[list[Head]] = [results[task].best(RANKING) for task in (first, second)]
        best: list[list[Head]] = [results[task].best(RANKING, TOP) for task in (first, second)]
        a, b = heads.overlap_of(sets[0], sets[1], total), heads.overlap_of(best[0], best[1], total)
        between = {
            "ranked_by": f"sets of seeds | {first.method}, {first.domain}",
            "domain": f"domains | {first.method}",
            "method": f"methods | {first.method}, {second.method}, {first.domain}",
        }[differs[0]]
        numbers = f"{a.common} of {len(sets[0])} and {len(sets[1])} | {a.jaccard:.2f} | {a.chance:.2f} | {a.p:.2g}"
        lines.append(f"| {total} {first.stream} | {between} | {numbers} | {b.common} | {b.p:.2g} |")
    return "\n".join(lines)


def figure(results: dict[Task, Transfer], path: Path) -> None:
    """AUPRO of HeadCLIP over the number of its best heads: a row for each stream measured, a column for each domain."""
    from matplotlib.figure import Figure

    from headlens import plots

    streams = [s for s in KEEP if all(Task("HeadCLIP", domain, s, 0) in results for domain in DOMAINS)]
    if not streams:
        return
    fig = Figure(figsize=(8.6, 2.8 * len(streams)), layout="constrained")
    axes = fig.subplots(len(streams), len(DOMAINS), squeeze=False)
    for (stream, domain), ax in zip(product(streams, DOMAINS), axes.flat, strict=True):
        result = results[Task("HeadCLIP", domain, stream, 0)]
        result.plot(ax)
        ax.set_title(f"{domain}, {stream} heads", fontsize="medium")
        if domain != DOMAINS[-1] or stream != streams[0]:
            ax.get_legend().remove()
    plots.signed(plots.Figure(fig, axes), result.made_by.partition(" · ")[0]).save(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/smallest"))
    parser.add_argument("--per-category", type=int, default=4, help="test images of a category; half of it to rank")
    parser.add_argument("--random", type=int, default=1, help="random rankings")
    parser.add_argument("--kind", default="zero", help="what replaces other heads")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--tables", action="store_true", help="measure nothing, and print what is there")
    args = parser.parse_args()
    args.seeds = [0]  # of the images that rank
    processes = torch.multiprocessing.get_context("spawn")
    every = list(tasks())
    if not args.tables:
        paint_sets(args, processes)
        with processes.Pool(args.jobs) as pool:
            for name in pool.imap_unordered(work, [(args, task) for task in every], chunksize=1):
                print(name, flush=True)
    results = {task: Transfer.load(args.out / task.file) for task in every if (args.out / task.file).exists()}
    text = f"{sizes_table(results)}\n\n{overlap_table(results)}"
    print(text)
    write(args.out / "smallest.md", f"{text}\n".encode())
    figure(results, args.out / "smallest.png")


if __name__ == "__main__":
    main()
