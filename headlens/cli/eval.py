"""``headlens eval``: runs on data sets, every metric, and three image scores side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer


def eval_(
    run: Annotated[list[str], typer.Option(help="Run folders, or shipped runs; seeds become mean and interval.")],
    data: Annotated[list[str], typer.Option(help="Data sets: folders, listings, procedural sets.")],
    per_category: Annotated[int, typer.Option(help="Pictures of each category of a procedural set.", min=2)] = 80,
    weights: Annotated[Optional[str], typer.Option(help="The backbone's weight file.")] = None,  # noqa: UP045
    batch: Annotated[int, typer.Option(help="Pictures at once.", min=1)] = 8,
    exact: Annotated[bool, typer.Option("--exact", help="Exact pixel metrics; keeps all maps of a category.")] = False,
    device: Annotated[Optional[str], typer.Option(help="cpu, cuda, mps; the best there is.")] = None,  # noqa: UP045
    json_: Annotated[Optional[Path], typer.Option("--json", help="A file for machines.", dir_okay=False)] = None,  # noqa: UP045
) -> None:
    """Print the metrics of trained detectors, and say which backbone made them."""
    from tqdm import tqdm

    import headlens.data
    from headlens.cli.common import best_device
    from headlens.data.protocol import canonical
    from headlens.files import write_atomically
    from headlens.training.evaluation import Evaluation, evaluate
    from headlens.training.run import load_run
    from headlens.training.shipped import folders
    from headlens.training.summary import over_seeds

    sets = [
        headlens.data.open(spec, **({"per_category": per_category} if spec.startswith("procedural:") else {}))  # type: ignore[arg-type]
        for spec in data
    ]
    clip, results, trained_on = None, [], set()
    runs = [folder for name in run for folder in ([] if Path(name).exists() else folders(name)) or [Path(name)]]
    for folder in runs:
        loaded = load_run(folder, clip, weights=weights, device=device or best_device())
        clip = loaded.detector.backbone
        trained_on.add(canonical(loaded.card.get("trained_on", "")))
        with tqdm(total=sum(map(len, sets)), unit="image", disable=None, desc=folder.name) as bar:
            options = {"exact": exact, "cache": len(runs) > 1, "progress": bar.update}
            parts = [evaluate(loaded.detector, one, loaded.size, batch, **options) for one in sets]
        results.append(Evaluation.joined(parts))
    summary = over_seeds(results)
    typer.echo(f"{clip}\n{', '.join(map(str, runs))}\n")
    typer.echo(summary.markdown())
    half_width = max(result.half_width for result in results)
    if half_width:
        typer.echo(f"\nPixel metrics are within {half_width:.1g} of the exact ones (--exact keeps every map).")
    if known := [one.name for one in sets if canonical(one.name) in trained_on]:
        typer.echo(f"\nNot zero-shot: {', '.join(known)} is what these runs were trained on.", err=True)
    skipped = sorted({name for result in results for name in result.skipped})
    if skipped:
        typer.echo(f"\n{len(skipped)} pictures could not be read and were left out: {', '.join(skipped[:5])}", err=True)
    if json_ is not None:
        about = {"backbone": vars(clip.provenance) if clip else {}, "runs": [str(folder) for folder in runs]}
        rows = json.loads(summary.frame.to_json(orient="records"))
        write_atomically(json_, (json.dumps({**about, "metrics": rows, "skipped": skipped}, indent=1) + "\n").encode())
