"""``headlens contributions``: what every head writes straight into the margins, of a data set or of single images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headlens.cli import options
from headlens.cli.common import SOURCE, Source, measuring, note_category, refuse_options, shared, sourced
from headlens.cli.results import free_name, of_image, other_than, report_notes, save, stem_of
from headlens.errors import DataError

if TYPE_CHECKING:
    from headlens.cli.images import Images
    from headlens.heads import Contributions, MapParts
    from headlens.training.run import Run

_ADD_UP = "Checked: at every patch the parts add up to its margin."
_IMAGES = "Files, folders, listings or patterns: for each image a figure of the heads behind its map."


_OF_SETS = ("data", "per_category", "rows", "batch", "precision")
_OF_IMAGES = ("top", "tap", "category")


@shared
@sourced
def contributions(
    context: typer.Context,
    images: Annotated[list[str] | None, typer.Argument(help=_IMAGES, metavar="[IMAGES]...")] = None,
    top: Annotated[int, typer.Option(help="Heads of each sign in that figure.", min=1)] = 4,
    tap: Annotated[int | None, typer.Option(help="Look at this tap only.", show_default="mean over taps")] = None,
    source: Source = SOURCE,
    rows: Annotated[int, typer.Option(help="Rows of each printed table; the saved frame has all.", min=1)] = 12,
    category: options.Category = "object",
    check: Annotated[bool, typer.Option("--check", help="Verify at every patch that the parts add up.")] = False,
    batch: options.Batch = 8,
    precision: options.Precision = None,
    out: options.Out = options.OUT,
) -> None:
    """Split the margins into the direct effects of all heads; the parts add up exactly.

    A direct effect leaves out what later blocks do with a head's output; `headlens ablate` includes it. After an
    interruption, the same command resumes (with a data set). An unreadable image is reported and left out, and the exit
    status is then 1.
    """
    from headlens import heads, parallel
    from headlens.cli.images import find_images
    from headlens.heads.store import discard
    from headlens.precision import check_precision

    check_precision(precision)
    if images:
        refuse_options(context, _OF_SETS, "is an option for data sets; leave it out, or give --data without IMAGES")
        if parallel.current().main:  # a few images are no work to share
            asked: dict[str, Any] = {"tap": tap, "category": category, "check_sums": check}
            _of_images(find_images(images, source.follow_links), source.load(), top, source.max_pixels, out, asked)
        return

    refuse_options(context, _OF_IMAGES, "is an option for single images; leave it out, or name IMAGES")
    loaded, opened_set = source.open(precision)
    each = other_than(source.per_category, 10, "{}-each")
    name = stem_of("contributions", loaded, opened_set, each, precision or "")
    parts = out / f"{name}{'.checked' if check else ''}.parts"
    with measuring(loaded, opened_set, "contributions", precision=precision) as settings:
        result = heads.contributions(loaded, opened_set, check_sums=check, batch=batch, out=parts, **settings)
    if not parallel.current().main:
        return
    last = f"tap_margin_{max(loaded.detector.plan.taps)}"
    written = [result.save(out / f"{name}.parquet")]
    written += [result.plot(metric=metric).save(out / f"{name}-{metric}.png") for metric in ("image_margin", last)]
    discard(parts)
    checked = f"{_ADD_UP}\n\n" if check else ""
    typer.echo(f"{table(result, rows)}\n\n{checked}{result.held}\n\n{', '.join(map(str, written))}")
    report_notes(result.provenance, opened_set.name)


def _of_images(listed: Images, run: Run, top: int, max_pixels: int, out: Path, asked: dict[str, Any]) -> None:
    from headlens import heads
    from headlens.cli.result_names import name_slug, result_names, slug
    from headlens.data import read_image
    from headlens.printing import printable

    typer.echo(f"{run.detector.backbone}\n{printable(run.folder.name)}\n")
    note_category(run, asked["category"])
    tap = asked["tap"]
    for path, name in zip(listed.files, result_names(listed.files, spell=name_slug), strict=True):
        try:
            image = read_image(path, max_pixels)
        except DataError as error:
            listed.leave_out(error)
            continue
        parts = heads.map_parts(run.detector, image, size=run.size, **asked)
        parts = of_image(parts, path, parts.image)
        base = slug("contributions", run.folder.name, name, "" if tap is None else f"tap{tap}")
        base = free_name(out, base, {".parquet": parts.provenance})
        written = save(parts, out / f"{base}.parquet", top=top)
        typer.echo(f"{printable(str(path))}\n{shares(parts, top)}\n  {', '.join(map(str, written))}\n")
    if asked["check_sums"]:
        typer.echo(_ADD_UP)
    listed.finish(out / "contributions-left_out.txt")


def shares(parts: MapParts, top: int) -> str:
    """The heads of each sign that make the peak of a margin map stand out, or flatten it."""
    from headlens.heads import Head

    ranked = parts.shares.sort_values("peak", ascending=False)
    each = [f"{Head(row.stream, row.layer, row.head)} {row.peak:+.2f}" for row in ranked.itertuples()]
    return (
        f"  margin {parts.margin.min():.2f} to {parts.margin.max():.2f} logits; what heads add to its peak:\n"
        f"  {', '.join(each[:top])}\n  {', '.join(each[::-1][:top])}"
    )


def table(result: Contributions, rows: int) -> str:
    """For each margin, the heads that hold anomalous and normal images apart, and those that bring them together."""
    import pandas as pd

    from headlens.heads import Head

    blocks = []
    for metric, effects in result.summary.groupby("metric", sort=False):
        by = "separation" if effects["separation"].notna().any() else "value"
        ranked = effects.loc[effects[by].abs().sort_values(ascending=False).index].head(rows)
        lines = [
            {
                "": str(Head(row.stream, row.layer, row.head)),
                **{name: f"{getattr(row, name):+.3f}" for name in ("value", "normal", "anomalous", "separation")},
            }
            for row in ranked.itertuples()
        ]
        blocks.append(f"{metric} (logits)\n{pd.DataFrame(lines).to_string(index=False)}")
    n, of = result.summary[["n", "of"]].iloc[0]
    both = f"\nNormal, anomalous and separation are over {n} of {of} categories, which have both."
    paired = both if 0 < n < of else ""
    return (
        "Mean direct effects over categories; 'separation': anomalous minus normal, largest first."
        f"{paired}\n\n" + "\n\n".join(blocks)
    )
