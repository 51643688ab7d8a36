"""``headlens compare``: what do two domains make of the same heads?"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from headlens.cli.common import (
    OUT,
    BatchOption,
    DataOption,
    DeviceOption,
    OutOption,
    PerCategory,
    WeightsOption,
    pictures_of,
    slug,
)
from headlens.errors import ConfigError

if TYPE_CHECKING:
    from headlens.heads import Comparison, Importance
    from headlens.training.run import Run

OF = ("weights", "importance")
_RUNS = "Run folders, or shipped runs; a shipped name without a seed means all its seeds."


def compare(
    industrial: Annotated[
        Optional[list[str]],  # noqa: UP045 typer reads this at run time on Python 3.10
        typer.Option(help=_RUNS, show_default="mini-industrial"),
    ] = None,
    medical: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help=_RUNS, show_default="mini-medical"),
    ] = None,
    of: Annotated[str, typer.Option(help="What is compared: learned head weights, or importance on pictures.")] = OF[0],
    data: DataOption = None,
    per_category: PerCategory = 4,
    k: Annotated[int, typer.Option(help="Of how many top heads the overlap is taken.", min=1)] = 20,
    level: Annotated[float, typer.Option(help="The false discovery rate up to which heads differ.")] = 0.05,
    rows: Annotated[int, typer.Option(help="Heads that are printed; the frame has all.", min=1)] = 10,
    batch: BatchOption = 8,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    out: OutOption = OUT,
) -> None:
    """Compare what the industrial and the medical domain make of the same heads, with seeds as the unit of uncertainty.

    Importance is measured on pictures of each run's own domain, which mixes what detectors and what pictures differ in;
    with --data all runs see the same ones, and only detectors differ.
    """
    from headlens import heads
    from headlens.cli.common import device_of
    from headlens.heads.results import write_figure
    from headlens.training.run import load_runs

    if of not in OF:
        raise ConfigError(f"--of {of!r}: there are {', '.join(OF)}")
    if data is not None and of == "weights":
        raise ConfigError("--data: weights need no pictures; leave it out, or compare --of importance")
    asked = {"industrial": industrial or ["mini-industrial"], "medical": medical or ["mini-medical"]}
    device = device_of(device)
    runs = {domain: load_runs(*names, weights=weights, device=device) for domain, names in asked.items()}
    first = next(run for own in runs.values() for run in own)
    typer.echo(
        f"{first.detector.backbone}\n" + "\n".join(f"{d}: {', '.join(map(_named, own))}" for d, own in runs.items())
    )
    name = slug("compare", of, *(industrial or []), *(medical or []), data or "")
    parts = out / f"{name}.parts"
    of_runs = runs if of == "weights" else measured(runs, data, per_category, batch, parts)
    result = heads.compare(k=k, level=level, **of_runs)
    typer.echo(f"\n{agreement(result)}\n\n{differing(result, rows)}\n\n{result.paragraph}")
    saved = result.save(out / f"{name}.parquet")
    figure = write_figure(out / f"{name}.png", result.plot()[0])
    shutil.rmtree(parts, ignore_errors=True)
    typer.echo(f"\n{saved} (each head), {saved.with_suffix('.agreement.parquet')} (the first table), {figure}")


def measured(
    runs: dict[str, list[Run]], data: str | None, per_category: int, batch: int, parts: Path
) -> dict[str, list[Importance]]:
    """Importance of every head for the joint margin of every run, on its domain's pictures or on those of ``data``."""
    from tqdm import tqdm

    from headlens.heads import importance

    found: dict[str, list[Importance]] = {}
    for domain, own in runs.items():
        pictures = pictures_of(data or f"procedural:{domain}", per_category)
        typer.echo(f"{domain} runs on {pictures}")
        with tqdm(total=len(pictures) * len(own), unit="image", disable=None, desc=domain) as bar:
            found[domain] = [
                importance(
                    run.detector,
                    pictures,
                    size=run.size,
                    batch=batch,
                    out=parts / domain / run.folder.name,
                    progress=bar.update,
                )
                for run in own
            ]
    return found


def agreement(result: Comparison) -> str:
    """How alike runs are, with 95 % intervals over runs."""
    import pandas as pd

    table = result.agreement
    shown = pd.DataFrame(
        {
            "": table["statistic"],
            "pairs of runs": table["pairs"],
            "number": table["count"],
            "value": [
                ("-" if value != value else f"{value:.2f}") + ("" if low != low else f" [{low:.2f}, {high:.2f}]")
                for value, low, high in table[["value", "low", "high"]].itertuples(index=False)
            ],
            "by chance": table["chance"].map("{:.2f}".format),
            "p": table["p"].map(lambda p: "" if p != p else f"{p:.2g}"),
        }
    )
    about = result.provenance
    return (
        f"How alike two runs order {len(result.frame)} heads, and how many of their top {about['k']} they share "
        "[95 % jackknife interval over runs]\n\n" + shown.to_string(index=False)
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


def _named(run: Run) -> str:
    return run.folder.name
