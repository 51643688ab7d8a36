"""``headlens eval``: runs on data sets, every metric, and three image scores side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from headlens.cli.common import FullBatchOption, PrecisionOption, shared

if TYPE_CHECKING:
    from headlens.training.run import Run


@shared
def eval_(
    run: Annotated[list[str], typer.Option(help="Run folders, or shipped runs; seeds become mean and interval.")],
    data: Annotated[list[str], typer.Option(help="Data sets: folders, listings, procedural sets.")],
    per_category: Annotated[int, typer.Option(help="Pictures of each category of a procedural set.", min=2)] = 80,
    weights: Annotated[Optional[str], typer.Option(help="The backbone's weight file.")] = None,  # noqa: UP045
    batch: FullBatchOption = None,
    exact: Annotated[bool, typer.Option("--exact", help="Exact pixel metrics; keeps all maps of a category.")] = False,
    precision: PrecisionOption = None,
    device: Annotated[Optional[str], typer.Option(help="cpu, cuda, mps; the best there is.")] = None,  # noqa: UP045
    json_: Annotated[Optional[Path], typer.Option("--json", help="A file for machines.", dir_okay=False)] = None,  # noqa: UP045
) -> None:
    """Print the metrics of trained detectors, and say which backbone made them.

    Runs that differ in their seed alone are one table, of means and 95 % intervals; others have tables of their own.
    """
    import headlens.data
    from headlens import parallel
    from headlens.cli.common import at_once, bar, device_of
    from headlens.data.protocol import canonical
    from headlens.files import write_atomically
    from headlens.heads.results import computed
    from headlens.precision import check_precision, fast_precision
    from headlens.training.evaluation import Evaluation, evaluate
    from headlens.training.run import load_runs, read_config
    from headlens.training.summary import over_seeds

    check_precision(precision)
    sets = [
        headlens.data.open(spec, **({"per_category": per_category} if spec.startswith("procedural:") else {}))  # type: ignore[arg-type]
        for spec in data
    ]
    groups: dict[str, list[tuple[Run, Evaluation]]] = {}  # what differs in its seed alone
    runs = load_runs(*run, weights=weights, device=device_of(device))
    for loaded in runs:
        with bar(sum(map(len, sets)), loaded.folder.name) as done:
            where = loaded.detector.device
            finest, count = precision or fast_precision(where), at_once(batch, where, 32)
            options = {"exact": exact, "cache": len(runs) > 1, "precision": finest, "progress": done.update}
            parts = [evaluate(loaded.detector, one, loaded.size, count, **options) for one in sets]
        trained_on = loaded.card.get("trained_on")
        alike = json.dumps([read_config(loaded.folder)[0], loaded.detector.config.table(), trained_on, loaded.size])
        groups.setdefault(alike, []).append((loaded, Evaluation.joined(parts)))

    if not parallel.current().main:
        return
    rows, skipped, half_width = [], set[str](), 0.0
    for group in groups.values():
        first, results = group[0][0], [result for _, result in group]
        own, summary, trained_on = (
            [str(one.folder) for one, _ in group],
            over_seeds(results),
            str(first.card.get("trained_on")),
        )
        typer.echo(f"{first.detector.backbone}\n{', '.join(own)}, trained on {trained_on}\n\n{summary.markdown()}\n")
        if known := [one.name for one in sets if canonical(one.name) == canonical(trained_on)]:
            typer.echo(f"Not zero-shot: {', '.join(known)} is what these were trained on.\n", err=True)
        made_by = {
            "runs": own,
            **computed(first.detector, precision or fast_precision(first.detector.device)),
            "backbone": vars(first.detector.backbone.provenance),
        }
        rows.append({**made_by, "metrics": json.loads(summary.frame.to_json(orient="records"))})
        skipped |= {name for result in results for name in result.skipped}
        half_width = max(half_width, *(result.half_width for result in results))
    if half_width:
        typer.echo(f"Pixel metrics are within {half_width:.1g} of the exact ones (--exact keeps every map).")
    if skipped:
        few = ", ".join(sorted(skipped)[:5])
        typer.echo(f"{len(skipped)} pictures could not be read and were left out: {few}", err=True)
    if json_ is not None:
        write_atomically(json_, (json.dumps({"results": rows, "skipped": sorted(skipped)}, indent=1) + "\n").encode())
