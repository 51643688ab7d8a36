"""``headlens compare``: what do two domains make of the same heads?"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headlens.cli import options
from headlens.cli.common import bar, data_of, device_of
from headlens.cli.results import data_fact, other_than, report_notes, run_fact, save, stem
from headlens.errors import ConfigError
from headlens.training.shipped import default

if TYPE_CHECKING:
    from headlens.data import DataSet
    from headlens.heads import Comparison, Importance
    from headlens.training.run import Run

OF = ("weights", "importance")
FIRST = 3
"""Seeds of a shipped run whose importance is measured where no run is named: it takes a pass over images for each."""
_RUNS = "Run folders, or shipped runs; a shipped name without a seed means all its seeds."


def _shown(domain: str) -> str:
    return f"{default(domain)}; for importance its first {FIRST} seeds"


def compare(
    industrial: Annotated[list[str] | None, typer.Option(help=_RUNS, show_default=_shown("industrial"))] = None,
    medical: Annotated[list[str] | None, typer.Option(help=_RUNS, show_default=_shown("medical"))] = None,
    of: Annotated[str, typer.Option(help="weights (learned head weights) or importance (on images).")] = OF[0],
    data: options.Data = None,
    domain: options.DataDomain = None,
    per_category: options.PerCategory = 4,
    k: Annotated[int, typer.Option(help="Number of top heads whose overlap is measured.", min=1)] = 20,
    level: Annotated[float, typer.Option(help="False discovery rate below which heads are said to differ.")] = 0.05,
    rows: Annotated[int, typer.Option(help="Heads in the printed table; the saved frame has all.", min=1)] = 10,
    batch: options.Batch = 8,
    weights: options.Weights = None,
    device: options.Device = None,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    follow_links: options.FollowLinks = False,
    out: options.Out = options.OUT,
) -> None:
    """Compare the same heads in two domains, industrial and medical, with training seeds as the unit of uncertainty.

    By default importance is measured on images of each run's domain, so that both detectors and images differ; with
    --data all runs see the same images, and only the detectors differ. An unreadable image is reported and left out,
    and the exit status is then 1.
    """
    from headlens import heads
    from headlens.data.notes import KINDS
    from headlens.heads.store import discard
    from headlens.training.run import load_runs

    if of not in OF:
        raise ConfigError(f"--of {of!r}; available: {', '.join(OF)}")
    if data is not None and of == "weights":
        raise ConfigError("--data: weights need no images; leave it out, or compare --of importance")
    if domain is not None and data is None:
        raise ConfigError("--domain says what the images of --data are; leave it out, or name --data")
    asked = {"industrial": industrial or _runs("industrial", of), "medical": medical or _runs("medical", of)}
    device = device_of(device)
    runs = {domain: load_runs(*names, weights=weights, device=device) for domain, names in asked.items()}
    first = next(run for several in runs.values() for run in several)
    names = {domain: [run.folder.name for run in several] for domain, several in runs.items()}
    typer.echo("\n".join([str(first.detector.backbone), *(f"{d}: {', '.join(each)}" for d, each in names.items())]))
    sets: dict[str, DataSet] = {}
    if of == "importance":
        named = {name: data or f"procedural:{name}" for name in runs}
        opened = {spec: data_of(spec, per_category, max_pixels, domain, follow_links) for spec in named.values()}
        sets = {name: opened[spec] for name, spec in named.items()}
        typer.echo("\n".join(f"{name} runs on {images}" for name, images in sets.items()))
    facts = {side: [[run.folder.name, run_fact(run)] for run in several] for side, several in runs.items()}
    name = stem(
        "compare",
        of,
        *(Path(given).name for given in [*(industrial or []), *(medical or [])]),
        other_than(k, 20, "top{}"),
        other_than(level, 0.05, "level{}"),
        other_than(per_category if sets else 4, 4, "{}-each"),
        next(iter(sets.values())).name if data else "",
        runs=facts if industrial or medical else None,
        data=data_fact(next(iter(sets.values()))) if data else None,
    )
    parts = out / f"{name}.parts"
    steep = measured(runs, sets, batch, parts) if sets else {}
    result = heads.compare(steep or runs, k=k, level=level)
    saved, figure = save(result, out / f"{name}.parquet")
    discard(*parts.glob("*/*"))
    if not any(parts.glob("*/*")):
        shutil.rmtree(parts, ignore_errors=True)
    typer.echo(f"\n{agreement(result)}\n\n{differing(result, rows)}\n\n{result.paragraph}")
    typer.echo(f"\n{saved} (each head), {saved.with_suffix('.agreement.parquet')} (the first table), {figure}")
    every = [one.provenance for results in steep.values() for one in results]
    notes = {kind: {name: why for about in every for name, why in about[kind].items()} for kind in KINDS}
    report_notes(notes, " and ".join(dict.fromkeys(images.name for images in sets.values())))


def _runs(domain: str, of: str) -> list[str]:
    """What is compared where no run is named."""
    name = default(domain)
    return [f"{name}-{seed}" for seed in range(FIRST)] if of == "importance" else [name]


def measured(
    runs: dict[str, list[Run]], sets: dict[str, DataSet], batch: int, parts: Path
) -> dict[str, list[Importance]]:
    """Importance of every head for the joint margin of every run, on the images of its side."""
    from headlens.heads import importance

    results: dict[str, list[Importance]] = {domain: [] for domain in runs}
    for domain, several in runs.items():
        with bar(len(sets[domain]) * len(several), domain) as done:
            for number, run in enumerate(several):
                out = parts / domain / f"{number}-{run.folder.name}"
                results[domain].append(importance(run, sets[domain], batch=batch, out=out, progress=done.update))
    return results


def agreement(result: Comparison) -> str:
    """Agreement of runs, with 95 % intervals over runs."""
    import pandas as pd

    table = result.agreement
    columns = {"": table["statistic"], "pairs of runs": table["pairs"], "number": table["count"]}
    columns["value"] = [
        ("-" if value != value else f"{value:.2f}") + ("" if low != low else f" [{low:.2f}, {high:.2f}]")
        for value, low, high in table[["value", "low", "high"]].itertuples(index=False)
    ]
    columns["by chance"] = table["chance"].map("{:.2f}".format)
    columns["p"] = table["p"].map(lambda p: "" if p != p else f"{p:.2g}")
    top = result.provenance["k"]
    return (
        f"Agreement of two runs on the order of {len(result.frame)} heads, and how many of their top {top} they share "
        "[95 % jackknife interval over runs]\n\n" + pd.DataFrame(columns).to_string(index=False)
    )


def differing(result: Comparison, rows: int) -> str:
    """The first heads by false discovery rate and difference."""
    (first, second), tests = result.domains, result.provenance["tests"]
    numbers = [first, second, "difference", "error", "p", "q_own", "q"]
    shown = result.strongest.head(rows)[["name", *numbers]]
    shown = shown.rename(columns={"name": "head", "q_own": "q of p"})
    text = shown.to_string(index=False, na_rep="-", float_format="{:.3f}".format)
    about = (
        f"p: permutation of runs, {tests['splits']} splits, so at least {tests['smallest_p']:.2g}; q of p: its false "
        f"discovery rate;\nq: by the pooled null of all heads, significant up to {result.provenance['level']:.3g}"
        if tests["splits"] > 1
        else "Not tested: that takes two runs in each domain, or better three"
    )
    return f"Heads that differ most, {second} minus {first}.\n{about}\n\n{text}"
