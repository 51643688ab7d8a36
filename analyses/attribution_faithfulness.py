"""Are attribution maps right? Every method by every measure, in both domains, with intervals over pictures.

    python analyses/attribution_faithfulness.py --per-category 10 --jobs 2
    python analyses/attribution_faithfulness.py --per-category 10 --jobs 12 --device cuda --batch 64

Every method is measured in a process of its own. Low is better but for insertion, pointing and AUPRO; 'like random
heads' and 'like random blocks' are rank correlations with the map of a model that knows less, and from 0.9 on a method
is said to fail (``headlens.attribution.measures``).
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch
from common import environment

import headlens.data
from headlens.attribution import MEASURES, METHODS, Faithfulness, faithfulness
from headlens.attribution.targets import SCORES
from headlens.results import save_frame

DOMAINS = ("industrial", "medical")
NAMES = {"head_weights": "like random heads", "upper_blocks": "like random blocks"}


def measured(domain: str, method: str, args: argparse.Namespace) -> Path:
    """One method in one domain, written to a file of its own: an interrupted run goes on from there."""
    path = args.out / f"{domain}-{method}-{args.target}-{args.per_category}.parquet".replace("/", "-")
    if not path.exists():
        torch.set_num_threads(1)
        run = headlens.load(f"mini-{domain}", device=args.device)
        pictures = headlens.data.open(f"procedural:{domain}", per_category=args.per_category)
        options = {method: {"batch": args.batch}} if "batch" in METHODS[method].options else {}
        what = {"methods": [method], "target": args.target, "measures": args.measure, "options": options}
        found = faithfulness(run, pictures, **what)
        found.save(path)
    return path


def table(found: Faithfulness, domain: str) -> pd.DataFrame:
    """Methods by measures."""
    rows = found.frame[found.frame["domain"] == domain]
    wide = pd.DataFrame(
        {
            NAMES.get(str(metric), str(metric)): {
                row.kind: f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in own.itertuples()
            }
            for metric, own in rows.groupby("metric", sort=False)
        }
    ).reindex(list(METHODS))
    verdicts = found.verdicts[found.verdicts["domain"] == domain].set_index("kind")["passes"]
    wide["depends on the model"] = ["yes" if verdicts.get(kind) else "NO" for kind in wide.index]
    return wide.dropna(how="all", subset=wide.columns[:-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-category", type=int, default=10)
    parser.add_argument("--target", default="joint_margin")
    parser.add_argument("--method", nargs="*", default=None, help="all that take the target by default")
    parser.add_argument("--measure", nargs="*", default=MEASURES, choices=MEASURES)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8, help="steps or squares of one picture that are held together")
    parser.add_argument("--out", type=Path, default=Path("faithfulness"))
    args = parser.parse_args()

    kind = args.target if args.target in SCORES else "head"
    methods = args.method or [name for name, own in METHODS.items() if not own.targets or kind in own.targets]
    args.out.mkdir(parents=True, exist_ok=True)
    start, parts = time.perf_counter(), {}
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        jobs = {
            pool.submit(measured, domain, method, args): (domain, method) for method in methods for domain in DOMAINS
        }
        for done in as_completed(jobs):
            parts[jobs[done]] = done.result()
            print(f"{time.perf_counter() - start:6.0f} s  {' '.join(jobs[done])}", flush=True)
    paths = [parts[domain, method] for domain in DOMAINS for method in methods]
    each = [Faithfulness.load(path) for path in paths]
    frames, images = ([getattr(one, name) for one in each] for name in ("frame", "images"))
    found = Faithfulness(pd.concat(frames, ignore_index=True), {}, pd.concat(images, ignore_index=True))
    for domain in DOMAINS:
        path = save_frame(args.out / f"{domain}.md", table(found, domain).reset_index(names=""), {})
        print(f"\n{domain}\n\n{path.read_text(encoding='utf-8')}")
    print(f"{args.target}, mini-DOMAIN on procedural:DOMAIN, {args.per_category} pictures a category; ", end="")
    print(environment(torch.device(args.device)))


if __name__ == "__main__":
    main()
