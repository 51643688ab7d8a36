"""``headlens importance``: how fast the score changes as a head is turned down, for all heads at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from headlens.cli import options
from headlens.cli.common import SOURCE, Source, at_once, measuring, shared, sourced
from headlens.cli.results import other_than, report_notes, save, stem_of

if TYPE_CHECKING:
    from headlens.heads import Importance, Screen


@shared
@sourced
def importance(
    metric: Annotated[str, typer.Option(help="image_margin, joint_margin, or joint_score.")] = "joint_margin",
    screen: Annotated[
        int, typer.Option(help="Ablate this many of the top heads, and as many drawn at random.", min=0)
    ] = 16,
    source: Source = SOURCE,
    rows: options.Rows = 24,
    batch: options.FullBatch = None,
    seed: options.Seed = 0,
    precision: options.Precision = None,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="Identical bits in every run, on a GPU too; up to 50 % slower."),
    ] = False,
    out: options.Out = options.OUT,
) -> None:
    """Rank all heads by the gradient of the score with respect to their gates, and check the ranking by ablation.

    One forward and one backward pass per image serve all heads. A slope is not an ablation, so the top heads and a
    random sample are ablated too (--screen 0 skips that). An unreadable image is reported and left out, and the exit
    status is then 1.
    """
    from headlens import heads, parallel
    from headlens.heads.store import discard

    loaded, images = source.open(precision)
    name = stem_of(
        "importance",
        loaded,
        images,
        other_than(metric, "joint_margin"),
        other_than(screen, 16, "screen{}"),
        other_than(source.per_category, 10, "{}-each"),
        other_than(seed, 0, "seed{}"),
        precision or "",
        "deterministic" if deterministic else "",
    )
    count = at_once(batch, loaded.detector.device, 16)
    parts = [out / f"{name}.parts", out / f"{name}.screen.parts"]
    with measuring(loaded, images, "gradients", precision=precision, gradients=True) as settings:
        slopes = heads.importance(
            loaded, images, metrics=[metric], batch=count, deterministic=deterministic, out=parts[0], **settings
        )
    exact = None
    if screen:
        with measuring(loaded, images, "ablations", precision=precision) as settings:
            exact = heads.screen(
                loaded, images, slopes, screen, screen, seed=seed, batch=count, out=parts[1], **settings
            )
    if not parallel.current().main:
        return
    written = save(slopes, out / f"{name}.parquet")
    if exact is not None:
        written += save(exact, out / f"{name}.screen.parquet")
    discard(*parts)
    typer.echo(f"{table(slopes, exact, rows)}\n\n{', '.join(map(str, written))}")
    report_notes(slopes.provenance, images.name)


def table(slopes: Importance, exact: Screen | None, rows: int) -> str:
    """The first ``rows`` heads, what their ablation did where it was done, and how far the two agree."""
    import pandas as pd

    from headlens.heads import Head

    ranked = slopes.summary.sort_values("importance", ascending=False)
    known = {} if exact is None else exact.frame.set_index("variant").to_dict("index")
    lines = []
    for row in ranked.head(rows).itertuples():
        head = str(Head(row.stream, row.layer, row.head))
        ablated = known.get(head)
        cells = {"": head, "importance": f"{row.importance:.4f}", "signed": f"{row.signed:+.4f}"}
        cells["in layer"] = f"{row.relative:.2f}"
        if exact is not None:
            cells["ablated, moves by"] = f"{ablated['magnitude']:.4f}" if ablated else "-"
            cells["effect"] = "{effect:+.4f} [{low:+.4f}, {high:+.4f}]".format(**ablated) if ablated else "-"
        lines.append(cells)
    left = f"\n… and {len(ranked) - rows} more in the frame" if len(ranked) > rows else ""
    text = (
        f"Importance: mean over {slopes.frame['image'].nunique()} images of |d {ranked['metric'].iloc[0]} / d gate|;\n"
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
