"""``headlens importance``: how fast the score changes as a head is turned down, for all heads at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from headlens.cli import options
from headlens.cli.common import SOURCE, Source, at_once, measuring, shared, with_options
from headlens.cli.output import OUTPUT, Output
from headlens.cli.result_names import other_than
from headlens.cli.results import report_notes, save, stem_of
from headlens.tables import Table, interval, number

if TYPE_CHECKING:
    from headlens.heads import Importance, Screen


@shared
@with_options
def importance(
    metric: Annotated[str, typer.Option(help="image_margin, joint_margin, or joint_score.")] = "joint_margin",
    screen: Annotated[
        int, typer.Option(help="Ablate this many of the top heads, and as many drawn at random.", min=0)
    ] = 16,
    source: Source = SOURCE,
    rows: options.Rows = options.ROWS,
    batch: options.FullBatch = None,
    seed: options.Seed = 0,
    precision: options.Precision = None,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="Identical bits in every run, on a GPU too; up to 50 % slower."),
    ] = False,
    out: options.Out = options.OUT,
    output: Output = OUTPUT,
) -> None:
    """Rank all heads by the gradient of the score with respect to their gates, and check the ranking by ablation.

    One forward and one backward pass per image serve all heads. A slope is not an ablation, so the top heads and a
    random sample are ablated too (--screen 0 skips that). An unreadable image is reported and left out, and the exit
    status is then 1.
    """
    from headlens import heads, parallel
    from headlens.heads.store import discard

    loaded, images = source.open(precision, output.say)
    name = stem_of(
        "importance",
        loaded,
        images,
        other_than(metric, "joint_margin"),
        other_than(screen, 16, "screen{}"),
        *source.parts(SOURCE),
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
    output.show(*tables(slopes, exact, rows))
    output.say(f"\n{', '.join(map(str, written))}")
    report_notes(slopes.provenance, images.name)


def tables(slopes: Importance, exact: Screen | None, rows: int) -> list[Table]:
    """The first ``rows`` heads, what their ablation did where it was done, and how far the two agree."""
    from headlens.heads import Head

    ranked = slopes.summary.sort_values("importance", ascending=False)
    known = {} if exact is None else exact.frame.set_index("variant").to_dict("index")
    header = ["head", "importance", "signed", "in layer", *(() if exact is None else ("ablated, moves by", "effect"))]
    lines = []
    for row in ranked.head(rows).itertuples():
        head = str(Head(row.stream, row.layer, row.head))
        cells = [head, f"{row.importance:.4f}", f"{row.signed:+.4f}", f"{row.relative:.2f}"]
        if ablated := known.get(head):
            effect = interval(ablated["effect"], ablated["low"], ablated["high"], "+.4f")
            cells += [f"{ablated['magnitude']:.4f}", effect]
        lines.append([*cells, *["-"] * (len(header) - len(cells))])
    title = (
        f"Importance: mean over {slopes.frame['image'].nunique()} images of |d {ranked['metric'].iloc[0]} / d gate|; "
        "'in layer': over the layer's L2 norm."
    )
    note = f"… and {len(ranked) - rows} more in the frame" if len(ranked) > rows else ""
    first = Table(header, lines, len(header) - 1, "importance", title, note, ranked)
    if exact is None:
        return [first]
    agree = [
        [
            row.stream,
            str(row.heads),
            interval(row.spearman, row.low, row.high, ".2f"),
            number(row.factor, ".2f"),
        ]
        for row in exact.agreement.itertuples()
    ]
    header = ["heads", "number", "rank correlation", "factor"]
    title = (
        "Held against exact ablation of random heads on the same images. Factor: how many times as far as the slope "
        "says ablation moves the score (median)."
    )
    return [first, Table(header, agree, 3, "agreement", title, frame=exact.agreement)]
