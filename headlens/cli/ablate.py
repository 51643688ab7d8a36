"""``headlens ablate``: what is lost without a head, a group, a layer, or more and more of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from headlens.cli import options
from headlens.cli.common import SOURCE, Source, layers_of, measuring, shared, with_options
from headlens.cli.options import Streams
from headlens.cli.output import OUTPUT, Output
from headlens.cli.result_names import other_than
from headlens.cli.results import data_fact, report_notes, save, stem_of
from headlens.errors import ConfigError
from headlens.printing import unknown_name
from headlens.tables import Table, interval, number

if TYPE_CHECKING:
    import pandas as pd

    from headlens.heads import Ablation, Variant

WHAT = ("heads", "layers", "cumulative")
_METRICS = ("image_auroc", "pixel_auroc", "pixel_aupro")
_STEPS = 16


@shared
@with_options
def ablate(
    layer: options.Layers = None,
    head: options.Heads = None,
    stream: options.Stream = Streams.BOTH,
    what: Annotated[
        str, typer.Option(help="heads (one at a time), layers, or cumulative (more and more heads, strongest first).")
    ] = "heads",
    group: Annotated[
        list[str] | None,
        typer.Option(help="Heads to ablate together, such as L18H7+L20H1/local, instead of the above."),
    ] = None,
    kind: Annotated[
        str, typer.Option(help="What replaces a head's output: zero, mean, resample, paired or revert.")
    ] = "zero",
    reference: Annotated[
        str | None,
        typer.Option(help="Data set for mean, resample and paired.", show_default="normal images of the data"),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Metrics to measure.", show_default=", ".join(_METRICS))
    ] = None,
    source: Source = SOURCE,
    rows: options.Rows = options.ROWS,
    batch: options.Batch = options.BATCH,
    memory: Annotated[int | None, typer.Option(help="Memory for ablated variants, in MiB.", min=1)] = None,
    seed: options.Seed = 0,
    precision: options.Precision = None,
    out: options.Out = options.OUT,
    output: Output = OUTPUT,
) -> None:
    """Remove heads, and measure what changes. Effects are exact.

    Look at the joint margin and the anomaly map first: metrics only see ranks, and may not move where these do.
    After an interruption, the same command resumes. An unreadable image is reported and left out, and the exit
    status is then 1.
    """
    from headlens import heads, parallel
    from headlens.heads.ablation import KINDS
    from headlens.heads.effects import check_metrics
    from headlens.heads.store import discard

    if group and (layer or head or what != "heads"):
        raise ConfigError("--group says which heads go together; leave out --layer, --head and --what")
    if kind not in KINDS:
        raise ConfigError(unknown_name("kind", kind, KINDS))
    check_metrics(metric or _METRICS)
    layers = layers_of(layer)
    if what not in WHAT:
        raise ConfigError(unknown_name("--what", what, WHAT))
    loaded, images = source.open(precision, output.say)
    detector = loaded.detector
    streams = options.streams_of(stream)
    if stream is Streams.BOTH and kind == "revert":
        streams = tuple(detector.head_weights()) or streams  # others have nothing to go back to
    asked = heads.heads_of(detector, layers, head, streams)
    stand_ins = source.data_set(reference) if reference else None
    name = stem_of(
        "ablate",
        loaded,
        images,
        "" if layer is None else "L" + "+".join(layer).replace(",", "+"),
        "H" + "+".join(map(str, head)) if head else "",
        other_than(stream.value, "both"),
        "+".join(group) if group else other_than(what, "heads"),
        other_than(kind, "zero"),
        f"from {stand_ins.name}" if stand_ins else "",
        "+".join(metric or []),
        *source.parts(SOURCE),
        other_than(seed, 0, "seed{}"),
        precision or "",
        group=group or None,
        reference=stand_ins and data_fact(stand_ins),
    )

    def swept(variants: list[Variant], metrics: tuple[str, ...], parts: str) -> Ablation:
        with measuring(loaded, images, f"{len(variants)} ablations", precision=precision) as settings:
            settings |= {"kind": kind, "reference": stand_ins, "seed": seed, "metrics": metrics, "batch": batch}
            settings |= {"budget": memory and memory * 2**20, "out": out / f"{name}.{parts}"}
            return heads.ablate(loaded, images, variants, **settings)

    if group:
        variants = [heads.Variant(text, tuple(heads.Head.of(one) for one in text.split("+"))) for text in group]
    elif what == "layers":
        variants = heads.whole_layers(asked)
    else:
        variants = heads.single_heads(asked)
    if what == "cumulative":
        first = swept(variants, (), "order")
        order = [heads.Head.of(name) for name in first.means("joint_margin")["variant"]]
        steps = sorted({round(len(order) * step / _STEPS) or 1 for step in range(1, _STEPS + 1)})
        variants = heads.growing(order, steps, seed=seed)
    result = swept(variants, tuple(metric or _METRICS), "parts")

    if not parallel.current().main:
        return
    saved, figure = save(result, out / f"{name}.parquet")
    discard(*(out / f"{name}.{parts}" for parts in ("order", "parts")))
    summary = saved.with_suffix(".summary.parquet")
    output.show(table(result, rows))
    output.say(f"\n{saved} (each image), {summary} (this table), {figure}")
    report_notes(result.provenance, images.name)


def table(result: Ablation, rows: int) -> Table:
    """The first ``rows`` variants: effects with their 95 % intervals; the whole detector and the noise floor on top."""
    from headlens.metrics.table import fewer
    from headlens.training.summary import COLUMNS

    metrics = [name for name in result.summary["metric"].unique() if name not in ("image_margin", "joint_score")]
    margin = result.means("joint_margin").set_index("variant")
    grown = bool((margin["order"] != "").all())
    if grown:
        margin = margin.sort_values(["order", "heads"])
    shown = margin.index[: None if grown else rows]
    columns = {"": ["all heads", "noise floor", *shown]}
    columns["moves by"] = ["", f"{margin['noise'].max():.0e}", *margin.loc[shown, "magnitude"].map("{:.3f}".format)]
    for name in metrics:
        effects, as_percent = result.means(name).set_index("variant"), name != "joint_margin"
        factor, form = (100, ".1f") if as_percent else (1, ".3f")
        whole = "" if name == "anomaly_map" else number(effects["baseline"].iloc[0] * factor, form)
        noise = number(effects["noise"].max() * factor, ".0e")
        title = COLUMNS.get(name, name.replace("_", " ")) + fewer(*effects[["n", "of"]].iloc[0])
        columns[title] = [whole, noise, *(_effect(effects.loc[one], as_percent) for one in shown)]
    left, order = len(margin) - len(shown), "" if grown else ", in the order of 'moves by'"
    images, categories = len(result.frame["image"].unique()), len(result.summary["category"].unique()) - 1
    return Table(
        list(columns),
        list(zip(*columns.values(), strict=True)),
        numbers=len(columns) - 1,
        name="effects",
        title=f"Without these heads (kind {result.provenance['kind']}){order}: change of the joint margin in logits, "
        "of the anomaly map in % of its L1 norm, of metrics in points. [95 % bootstrap interval]; means over "
        f"{categories} categories, {images} images. 'moves by': mean absolute change of the joint margin.",
        note=f"… and {left} more in the frame" if left else "",
        frame=result.summary[result.summary["category"] == "mean"],
    )


def _effect(row: pd.Series, as_percent: bool) -> str:
    effect, low, high = (float(row[name]) * (100 if as_percent else 1) for name in ("effect", "low", "high"))
    return interval(effect, low, high, "+.2f" if as_percent else "+.3f")
