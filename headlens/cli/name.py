"""``headlens name``: which phrases span what heads write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headlens.cli import options
from headlens.cli.common import Source, layers_of, measuring, shared, with_options
from headlens.cli.options import Streams
from headlens.cli.output import OUTPUT, Output
from headlens.cli.result_names import other_than
from headlens.cli.results import digest, report_notes, save, stem_of
from headlens.tables import Table

if TYPE_CHECKING:
    from headlens.backbone import Backbone
    from headlens.heads.naming import Naming
    from headlens.knowledge import Knowledge

_SOURCE = Source(per_category=20)


@shared
@with_options
def name(
    layer: Annotated[
        list[str] | None,
        typer.Option(
            help="A layer such as 18, a range such as 3-6, or all; may be repeated.", show_default="the last quarter"
        ),
    ] = None,
    head: options.Heads = None,
    stream: options.Stream = Streams.GLOBAL,
    source: Source = _SOURCE,
    pool: Annotated[
        Path | None,
        typer.Option(
            help="File of phrases, one per line; a knowledge base (.jsonl); or knowledge, the shipped one.",
            show_default="built in",
        ),
    ] = None,
    phrases: Annotated[int, typer.Option(help="Phrases per head, at most.", min=1)] = 5,
    rows: Annotated[
        int, typer.Option(help="Heads in the printed table, each with its phrases; the saved frame has all.", min=1)
    ] = options.ROWS,
    batch: options.Batch = options.BATCH,
    seed: options.Seed = 0,
    precision: options.Precision = None,
    out: options.Out = options.OUT,
    output: Output = OUTPUT,
) -> None:
    """Name heads by the phrases that explain most of what they write into the joint space (TextSpan).

    After an interruption, the same command resumes. An unreadable image is reported and left out, and the exit
    status is then 1.
    """
    from headlens import heads, parallel
    from headlens.heads.naming import last_quarter, name_heads
    from headlens.heads.store import discard

    loaded, images = source.open(precision, output.say)
    given = None if pool is None else pool_of(pool, loaded.detector.backbone)
    layers = last_quarter(loaded.detector) if layer is None else layers_of(layer)
    asked = heads.heads_of(loaded.detector, layers, head or None, options.streams_of(stream))
    where = stem_of(
        "name",
        loaded,
        images,
        "" if layer is None else "L" + "+".join(layer).replace(",", "+"),
        "H" + "+".join(map(str, head)) if head else "",
        other_than(stream.value, Streams.GLOBAL.value),
        pool.stem if pool else "",
        other_than(phrases, 5, "{}-phrases"),
        *source.parts(_SOURCE),
        other_than(seed, 0, "seed{}"),
        precision or "",
        pool=None if given is None else digest(given if isinstance(given, list) else given.fingerprint),
    )
    parts = out / f"{where}.parts"
    with measuring(loaded, images, precision=precision) as settings:
        named = name_heads(
            loaded, images, asked, pool=given, phrases=phrases, seed=seed, batch=batch, out=parts, **settings
        )
    if not parallel.current().main:
        return
    saved, figure = save(named, out / f"{where}.parquet")
    discard(parts)
    output.show(table(named, rows))
    output.say(f"\n{saved} (all heads), {figure}")
    report_notes(named.provenance, images.name)


def pool_of(pool: Path, backbone: Backbone) -> list[str] | Knowledge:
    """Phrases of a file, or a knowledge base: that of a file, or for ``knowledge`` the one that ships."""
    from headlens.detectors.parts.distillation import knowledge_of
    from headlens.heads.phrases import read_phrases
    from headlens.knowledge import load

    if str(pool) == "knowledge":
        return knowledge_of(backbone)
    return load(pool) if pool.suffix == ".jsonl" else read_phrases(pool)


def table(named: Naming, rows: int) -> Table:
    """Phrases and shares of the heads that write most, and what must be known to read them."""
    import pandas as pd

    from headlens.heads.variants import Head
    from headlens.printing import printable

    frame, about = named.frame, named.provenance
    spanned = f"which of {about['phrases']} phrases span what they write into {_rows(named)}"
    title = f"The strongest heads first, and {spanned}."
    if left := named.left_out:
        title += (
            f"\n{len(left)} more were left out: {about['backbone']['name']} has only learnt its captions' words, and "
            f"{printable(left[0])!r} has others."
        )
    title += (
        "\nwrites: the spread of what the head writes into an embedding of length 1; share: of its variance; sum: with "
        "the phrases above; chance: the sum for random mixtures of phrases; beats: how often it is above theirs (50 % "
        "says nothing); flaws: correlation with the label. A head without a phrase writes the same everywhere, or "
        "nothing that the phrases have a part in."
    )
    groups = {Head(*key): group for key, group in frame.groupby(["stream", "layer", "head"], sort=False)}
    order = sorted(groups, key=lambda head: -groups[head]["variance"].iloc[0])
    lines = []
    for head in order[:rows]:
        for row in groups[head].itertuples():
            first = [str(head), "-" if pd.isna(row.phrase) else printable(row.phrase), f"{row.variance**0.5:.3f}"]
            flaws = "-" if pd.isna(row.correlation) else f"{row.correlation:+.2f}"
            shares = [f"{row.share:.1%}", f"{row.cumulative:.1%}", f"{row.chance:.1%}", f"{row.beats:.0%}", flaws]
            lines.append([*first, *(["-"] * 5 if pd.isna(row.phrase) else shares)])
    last = frame.groupby(["stream", "layer", "head"]).tail(1)["beats"]
    note = f"… and {len(order) - rows} heads more in the frame\n" if len(order) > rows else ""
    note += (
        f"\nWith all their phrases {int((last == 1).sum())} of {len(order)} heads beat every draw of chance; "
        f"by luck about {len(order) / (about['draws'] + 1):.1f} would."
    )
    header = ["head", "phrase", "writes", "share", "sum", "chance", "beats", "flaws"]
    return Table(header, lines, 6, "phrases", title, note, frame)


def _rows(named: Naming) -> str:
    tokens = {"CLS": "CLS", "patches": "all patches at the last tap"}
    read = dict.fromkeys(tokens[named.provenance["rows"][one]] for one in named.frame["stream"].unique())
    return " and ".join(read) + f" of {named.provenance['dataset']['images']} images"
