"""``headlens name``: which phrases span what heads write."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headlens.cli import options
from headlens.cli.common import Source, layers_of, measuring, shared, sourced
from headlens.cli.results import digest, other_than, report_notes, save, stem_of

if TYPE_CHECKING:
    from headlens.backbone import Backbone
    from headlens.heads.naming import Naming
    from headlens.knowledge import Knowledge

_SOURCE = Source(per_category=20)
SHOWN = 16  # blocks that are printed; the table has all heads


Streams = Enum("Streams", {"GLOBAL": "global", "LOCAL": "local", "BOTH": "both"}, type=str)


@shared
@sourced
def name(
    layer: Annotated[
        list[str] | None,
        typer.Option(
            help="A layer such as 22, or a range such as 20-23; may be repeated.", show_default="the last quarter"
        ),
    ] = None,
    head: options.Heads = None,
    stream: Annotated[Streams, typer.Option(help="Which stream's heads.")] = Streams.GLOBAL,
    source: Source = _SOURCE,
    pool: Annotated[
        Path | None,
        typer.Option(
            help="File of phrases, one per line; a knowledge base (.jsonl); or knowledge, the shipped one.",
            show_default="built in",
        ),
    ] = None,
    phrases: Annotated[int, typer.Option(help="Phrases per head, at most.", min=1)] = 5,
    batch: options.Batch = 8,
    seed: options.Seed = 0,
    precision: options.Precision = None,
    out: options.Out = options.OUT,
) -> None:
    """Name heads by the phrases that explain most of what they write into the joint space (TextSpan).

    After an interruption, the same command resumes. An unreadable image is reported and left out, and the exit
    status is then 1.
    """
    from headlens import heads, parallel
    from headlens.backbone.plan import STREAMS
    from headlens.heads.naming import last_quarter, name_heads
    from headlens.heads.store import discard

    loaded, images = source.open(precision)
    given = None if pool is None else pool_of(pool, loaded.detector.backbone)
    streams = STREAMS if stream is Streams.BOTH else (stream.value,)
    asked = heads.heads_of(
        loaded.detector, last_quarter(loaded.detector) if layer is None else layers_of(layer), head or None, streams
    )
    where = stem_of(
        "name",
        loaded,
        images,
        "" if layer is None else "L" + "+".join(layer).replace(",", "+"),
        "H" + "+".join(map(str, head)) if head else "",
        other_than(stream.value, Streams.GLOBAL.value),
        pool.stem if pool else "",
        other_than(phrases, 5, "{}-phrases"),
        other_than(source.per_category, 20, "{}-each"),
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
    typer.echo(f"{blocks(named)}\n\n{saved} (all heads), {figure}")
    report_notes(named.provenance, images.name)


def pool_of(pool: Path, backbone: Backbone) -> list[str] | Knowledge:
    """Phrases of a file, or a knowledge base: that of a file, or for ``knowledge`` the one that ships."""
    from headlens.detectors.parts.distillation import knowledge_of
    from headlens.heads.phrases import read_phrases
    from headlens.knowledge import load

    if str(pool) == "knowledge":
        return knowledge_of(backbone)
    return load(pool) if pool.suffix == ".jsonl" else read_phrases(pool)


def blocks(named: Naming, most: int = SHOWN) -> str:
    """Phrases and shares of the heads that write most, a block each, and what must be known to read them."""
    import pandas as pd

    from headlens.heads.variants import Head
    from headlens.printing import printable

    frame, about = named.frame, named.provenance
    spanned = f"which of {about['phrases']} phrases span what they write into {_rows(named)}"
    text = [f"The strongest heads first, and {spanned}."]
    if left := named.left_out:
        text.append(
            f"{len(left)} more were left out: {about['backbone']['name']} has only learnt its captions' words, and "
            f"{printable(left[0])!r} has others."
        )
    text.append(
        "share: of the head's variance; sum: with the phrases above; chance: the sum for random mixtures of phrases;\n"
        "beats: how often it is above theirs (50 % says nothing); flaws: correlation with the label."
    )
    groups = {Head(*key): rows for key, rows in frame.groupby(["stream", "layer", "head"], sort=False)}
    order = sorted(groups, key=lambda head: -groups[head]["variance"].iloc[0])
    for head in order[:most]:
        first = groups[head].iloc[0]
        text.append(f"\n{head}  writes ±{first['variance'] ** 0.5:.3f} into an embedding of length 1")
        if pd.isna(first["phrase"]):
            text.append("  no phrase: it writes the same everywhere, or nothing that the phrases have a part in")
            continue
        text.append(f"  {'share':>6} {'sum':>6} {'chance':>7} {'beats':>6} {'flaws':>6}")
        for row in groups[head].itertuples():
            flaws = "-" if pd.isna(row.correlation) else f"{row.correlation:+.2f}"
            shares = f"{row.share:6.1%} {row.cumulative:6.1%} {row.chance:7.1%} {row.beats:6.0%} {flaws:>6}"
            text.append(f"  {shares}  {printable(row.phrase)}")
    if len(order) > most:
        text.append(f"\n… and {len(order) - most} heads more in the table")
    last = frame.groupby(["stream", "layer", "head"]).tail(1)["beats"]
    text.append(
        f"\nWith all their phrases {int((last == 1).sum())} of {len(order)} heads beat every draw of chance; "
        f"by luck about {len(order) / (about['draws'] + 1):.1f} would."
    )
    return "\n".join(text)


def _rows(named: Naming) -> str:
    tokens = {"CLS": "CLS", "patches": "all patches at the last tap"}
    read = dict.fromkeys(tokens[named.provenance["rows"][one]] for one in named.frame["stream"].unique())
    return " and ".join(read) + f" of {named.provenance['dataset']['images']} images"
