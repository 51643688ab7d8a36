"""``headlens contributions``: what every head writes straight into the margins, of a data set or of single images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headlens.cli import options
from headlens.cli.common import SOURCE, Source, measuring, refuse_options, shared, shown_by, with_options
from headlens.cli.output import OUTPUT, Output
from headlens.cli.results import free_name, of_image, report_notes, save, stem_of
from headlens.errors import DataError
from headlens.tables import Table, number

if TYPE_CHECKING:
    from headlens.cli.images import Images
    from headlens.heads import Contributions, MapParts

_ADD_UP = "Checked: at every patch the parts add up to its margin."
_IMAGES = "Files, folders, listings or patterns: for each image a figure of the heads behind its map."


_OF_SETS = ("data", "per_category", "rows", "batch", "precision")
_OF_IMAGES = ("top", "tap")


@shared
@with_options
def contributions(
    context: typer.Context,
    images: Annotated[list[str] | None, typer.Argument(help=_IMAGES, metavar="[IMAGES]...")] = None,
    top: Annotated[int, typer.Option(help="Heads of each sign in that figure.", min=1)] = 4,
    tap: Annotated[int | None, typer.Option(help="Look at this tap only.", show_default="mean over taps")] = None,
    source: Source = SOURCE,
    rows: options.Rows = options.ROWS,
    check: Annotated[bool, typer.Option("--check", help="Verify at every patch that the parts add up.")] = False,
    batch: options.Batch = options.BATCH,
    precision: options.Precision = None,
    out: options.Out = options.OUT,
    output: Output = OUTPUT,
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
            listed = find_images(images, source.follow_links, source.limit)
            _of_images(listed, source, top, out, {"tap": tap, "check_sums": check}, output)
        return

    refuse_options(context, _OF_IMAGES, "is an option for single images; leave it out, or name IMAGES")
    loaded, opened_set = source.open(precision, output.say)
    name = stem_of("contributions", loaded, opened_set, *source.parts(SOURCE), precision or "")
    parts = out / f"{name}{'.checked' if check else ''}.parts"
    with measuring(loaded, opened_set, "contributions", precision=precision) as settings:
        result = heads.contributions(loaded, opened_set, check_sums=check, batch=batch, out=parts, **settings)
    if not parallel.current().main:
        return
    taps = loaded.detector.plan.taps
    margins = ["image_margin", *([f"tap_margin_{max(taps)}"] if taps else [])]
    written = [result.save(out / f"{name}.parquet")]
    written += [result.plot(metric=metric).save(out / f"{name}-{metric}.png") for metric in margins]
    discard(parts)
    output.show(*tables(result, rows))
    checked = f"{_ADD_UP}\n\n" if check else ""
    output.say(f"\n{checked}{result.held}\n\n{', '.join(map(str, written))}")
    report_notes(result.provenance, opened_set.name)


def _of_images(listed: Images, source: Source, top: int, out: Path, asked: dict[str, Any], output: Output) -> None:
    from headlens import heads
    from headlens.cli.result_names import name_slug, result_names, slug
    from headlens.data import read_image
    from headlens.printing import printable

    run = source.load()
    output.say(f"{run.detector.backbone}\n{printable(run.folder.name)}\n")
    category, tap = shown_by(run, source.category), asked["tap"]
    tables = []
    for path, name in zip(listed.files, result_names(listed.files, spell=name_slug), strict=True):
        try:
            image = read_image(path, source.max_pixels)
        except DataError as error:
            listed.leave_out(error)
            continue
        parts = heads.map_parts(run.detector, image, size=run.size, category=category, **asked)
        parts = of_image(parts, path, parts.image)
        base = slug("contributions", run.folder.name, name, "" if tap is None else f"tap{tap}")
        base = free_name(out, base, {".parquet": parts.provenance})
        written = save(parts, out / f"{base}.parquet", top=top)
        tables.append(replace(shares(parts, printable(str(path)), top), note=f"\n{', '.join(map(str, written))}\n"))
    if tables:
        output.show(*tables)
    if asked["check_sums"]:
        output.say(_ADD_UP)
    listed.finish(out / "contributions-left_out.txt", output.say)


def shares(parts: MapParts, image: str, top: int) -> Table:
    """The heads of each sign that make the peak of an image's margin map stand out, or flatten it."""
    from headlens.heads import Head

    ranked = parts.shares.sort_values("peak", ascending=False)
    rows = [(str(Head(row.stream, row.layer, row.head)), f"{row.peak:+.2f}") for row in ranked.itertuples()]
    pairs = zip(rows[:top], rows[::-1][:top], strict=True)
    title = f"{image}\nmargin {parts.margin.min():.2f} to {parts.margin.max():.2f} logits; what heads add to its peak:"
    header = ["most", "least", "adds most", "adds least"]
    lines = [(best[0], worst[0], best[1], worst[1]) for best, worst in pairs]
    return Table(header, lines, 2, "heads", title, frame=ranked.assign(image=image))


def tables(result: Contributions, rows: int) -> list[Table]:
    """For each margin, the heads that hold anomalous and normal images apart, and those that bring them together."""
    from headlens.heads import Head

    n, of = result.summary[["n", "of"]].iloc[0]
    both = f" Normal, anomalous and separation are over {n} of {of} categories, which have both."
    title = (
        "Mean direct effects over categories; 'separation': anomalous minus normal, largest first."
        f"{both if 0 < n < of else ''}\n\n"
    )
    made = []
    for metric, effects in result.summary.groupby("metric", sort=False):
        by = "separation" if effects["separation"].notna().any() else "value"
        ranked = effects.loc[effects[by].abs().sort_values(ascending=False).index]
        numbers = ("value", "normal", "anomalous", "separation")
        lines = [
            [str(Head(row.stream, row.layer, row.head)), *(number(getattr(row, name), "+.3f") for name in numbers)]
            for row in ranked.head(rows).itertuples()
        ]
        about = f"{title}{metric} (logits)"
        made.append(Table(["head", *numbers], lines, len(numbers), "contributions", about, frame=ranked))
        title = ""
    return made
