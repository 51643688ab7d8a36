"""``headlens importance``: how fast the score changes as a head is turned down, for all heads at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from headlens.cli.common import (
    OUT,
    SOURCE,
    FullBatchOption,
    OutOption,
    PrecisionOption,
    SeedOption,
    Source,
    at_once,
    bar,
    shared,
    sourced,
)
from headlens.cli.results import data_fact, other_than, run_fact, stem, tell

if TYPE_CHECKING:
    from headlens.heads import Importance, Screen


@shared
@sourced
def importance(
    metric: Annotated[str, typer.Option(help="image_margin, joint_margin, or joint_score.")] = "joint_margin",
    screen: Annotated[int, typer.Option(help="Ablate so many of the first, and as many drawn at random.", min=0)] = 16,
    source: Source = SOURCE,
    rows: Annotated[int, typer.Option(help="Of the table that is printed; the frame has all.", min=1)] = 24,
    batch: FullBatchOption = None,
    seed: SeedOption = 0,
    precision: PrecisionOption = None,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="The same bits every time, on a GPU too; up to a half slower."),
    ] = False,
    out: OutOption = OUT,
) -> None:
    """Rank all heads by the gradient of the score by their gates, and hold the ranking against exact ablation.

    One forward and one backward an image serve all heads. A slope is not an ablation: the first heads, and a random
    sample, are therefore ablated for real (--screen 0 leaves that out). An image that cannot be read is named and left
    out, and the exit status is then 1.
    """
    from headlens import heads, parallel
    from headlens.heads.store import discard
    from headlens.precision import check_precision, default_precision
    from headlens.results import write_figure

    check_precision(precision)
    loaded, images = source.open()
    name = stem(
        "importance",
        loaded.folder.name,
        other_than(metric, "joint_margin"),
        other_than(screen, 16, "screen{}"),
        other_than(source.per_category, 10, "{}-each"),
        other_than(seed, 0, "seed{}"),
        precision or "",
        "deterministic" if deterministic else "",
        images.name,
        run=run_fact(loaded),
        data=data_fact(images),
    )
    count = at_once(batch, loaded.detector.device, 16)
    with bar(len(images), "gradients") as done:
        found = heads.importance(
            loaded,
            images,
            metrics=[metric],
            batch=count,
            precision=precision or default_precision(loaded.detector.device, gradients=True),
            deterministic=deterministic,
            out=out / f"{name}.parts",
            progress=done.update,
        )
    exact = None
    if screen:
        with bar(len(images), "ablations") as done:
            exact = heads.screen(
                loaded,
                images,
                found,
                screen,
                screen,
                seed=seed,
                batch=count,
                precision=precision or default_precision(loaded.detector.device),
                out=out / f"{name}.screen.parts",
                progress=done.update,
            )
    if not parallel.current().main:
        return
    written = [found.save(out / f"{name}.parquet"), write_figure(out / f"{name}.png", found.plot()[0])]
    if exact is not None:
        written += [
            exact.save(out / f"{name}.screen.parquet"),
            write_figure(out / f"{name}.screen.png", exact.plot()[0]),
        ]
    discard(*(out / f"{name}.{parts}" for parts in ("parts", "screen.parts")))
    typer.echo(table(found, exact, rows))
    typer.echo(f"\n{', '.join(map(str, written))}")
    tell(found.provenance, images.name)


def table(found: Importance, exact: Screen | None, rows: int) -> str:
    """The first ``rows`` heads, what their ablation did where it was done, and how far the two agree."""
    import pandas as pd

    from headlens.heads import Head

    ranked = found.summary.sort_values("importance", ascending=False)
    known = {} if exact is None else exact.frame.set_index("variant").to_dict("index")
    lines = []
    for row in ranked.head(rows).itertuples():
        head = str(Head(row.stream, row.layer, row.head))
        ablated = known.get(head)
        cells = {
            "": head,
            "importance": f"{row.importance:.4f}",
            "signed": f"{row.signed:+.4f}",
            "in layer": f"{row.relative:.2f}",
        }
        if exact is not None:
            cells["ablated, moves by"] = f"{ablated['magnitude']:.4f}" if ablated else "-"
            cells["effect"] = "{effect:+.4f} [{low:+.4f}, {high:+.4f}]".format(**ablated) if ablated else "-"
        lines.append(cells)
    left = f"\n… and {len(ranked) - rows} more in the frame" if len(ranked) > rows else ""
    text = (
        f"Importance: mean over {found.frame['image'].nunique()} images of |d {ranked['metric'].iloc[0]} / d gate|;\n"
        f"'in layer': over the layer's L2 norm.\n\n{pd.DataFrame(lines).to_string(index=False)}{left}"
    )
    if exact is None:
        return text
    agree = [
        f"{row.stream}: rank correlation {row.spearman:.2f} [{row.low:.2f}, {row.high:.2f}] over {row.heads} random "
        f"heads;\n    ablation moves the score {row.factor:.2f} times as far as the slope says (median)"
        for row in exact.agreement.itertuples()
    ]
    return text + "\n\nHeld against exact ablation on the same images:\n  " + "\n  ".join(agree)
