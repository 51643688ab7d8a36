"""``headlens demo``: the main job on what ships: score, evaluate, compare, look into one layer; no network."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Annotated

import typer

from headlens.cli.output import fitted
from headlens.training.shipped import BACKBONE, DOMAINS, default

if TYPE_CHECKING:
    from headlens.data import DataSet
    from headlens.training.evaluation import Evaluation
    from headlens.training.run import Run

LAYER = 18
CONCLUSION = f"""Training pays in maps (P-AUROC, AUPRO); image scores gain nothing.
Few images and one seed: differences of some points mean nothing; docs/comparison.md has more images, seeds and methods.
All this is {BACKBONE}, the embedded backbone that was trained on sentences. On mini, which was trained with masks of \
anomalies, hand-written prompts are as good as all that was trained (docs/embedded-backbone.md, docs/headclip.md)."""


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for images and tables; images generated before are reused.", file_okay=False)
    ] = Path("demo"),
    per_category: Annotated[int, typer.Option(help="Images of each category.", min=4)] = 16,
) -> None:
    """Show what training on one set of objects or scans buys on kinds not seen in it. Two minutes on two cores.

    All images are generated: the numbers compare methods with each other and say nothing about photographs.
    """
    from headlens import data
    from headlens.backbone import load
    from headlens.baselines import LocalContrast
    from headlens.data.procedural import World
    from headlens.data.procedural.worlds import read, write
    from headlens.detectors.methods.registry import build
    from headlens.files import write_atomically
    from headlens.tables import markdown
    from headlens.training.evaluation import Scorer, evaluate
    from headlens.training.run import load_run

    clip = load(BACKBONE)
    typer.echo(f"{clip}\nIt has never seen a photograph.\n")
    header = ["unseen", "method", "I-AUROC of CLS", "I-AUROC", "P-AUROC", "AUPRO"]
    rows = []
    runs: dict[str, tuple[Run, DataSet]] = {}
    for domain in DOMAINS:
        typer.echo(f"generating and scoring {domain} images …")
        folder = out / domain
        world = World(f"procedural:{domain}", per_category)
        if not (folder / "samples.csv").exists() or len(read(folder)) != len(world):
            write(world, folder)
        images = data.open(folder, layout="mvtec", domain=domain)
        runs[domain] = load_run(default(domain), clip), images
        plain = load_run(f"{default(domain)}-anomalyclip", clip).detector
        methods: dict[str, Scorer] = {
            "local contrast": LocalContrast(),
            "CLIP, hand-written prompts": build(clip, "clip"),
            "AnomalyCLIP": plain.with_config(alpha=0.0),  # which reads its image score by CLS alone
            "HeadCLIP": runs[domain][0].detector,
        }
        rows.append([domain, "chance", "50.0", "50.0", "50.0", "15.0"])
        rows += [[domain, name, *_row(evaluate(method, images))] for name, method in methods.items()]
    table = markdown(header, rows, numbers=4)
    typer.echo(f"\n{table}\n\n{fitted(CONCLUSION)}\n")
    write_atomically(out / "methods.md", (table + "\n").encode())

    figures = [_maps(*runs[domain], out / f"maps-{domain}.png") for domain in DOMAINS]
    heads = _layer(*runs["industrial"], out / f"layer-{LAYER}.parquet")
    typer.echo(f"""{heads}

Written: {out / "methods.md"}, {", ".join(map(str, figures))}, {out / f"layer-{LAYER}.parquet"} and its summary;
the images with their masks are in {out / DOMAINS[0]} and {out / DOMAINS[1]}.

{following(out)}""")


def following(out: Path) -> str:
    """Commands to go on with, each on a line of its own that can be pasted, below what it does."""
    activate = Path(sys.prefix, "bin", "activate")
    here = activate.relative_to(Path.cwd()) if activate.is_relative_to(Path.cwd()) else activate
    steps = {
        "Put headlens on the path of this shell:": ["source", str(here)],
        "Score images, these or your own:": [
            *("headlens", "score", str(out / "industrial" / "screw" / "test"), "--run", default("industrial"))
        ],
        "See what is lost without each head of a layer:": ["headlens", "ablate", "--layer", str(LAYER)],
        "Print every metric of ten seeds, with intervals:": [
            *("headlens", "eval", "--run", default("medical"), "--data", "procedural:medical")
        ],
        "Train a detector:": ["headlens", "train", "--data", "procedural:industrial/aux", "--out", "runs/mine"],
    }
    if which("headlens") or not activate.is_file():
        del steps["Put headlens on the path of this shell:"]
    return "\n".join(["Next:", *(f"{what}\n  {shlex.join(words)}" for what, words in steps.items())])


def _row(result: Evaluation) -> list[str]:
    values = result.frame.groupby(["score", "metric"])["value"].mean()
    columns = (("image", "auroc"), ("joint", "auroc"), ("pixel", "auroc"), ("pixel", "aupro"))
    return [f"{100 * values[column]:.1f}" for column in columns]


def _maps(run: Run, images: DataSet, path: Path) -> Path:
    """A normal image and three flawed ones of different categories, each with its outline and its map."""
    from headlens.lab import show

    first: dict[tuple[str, bool | None], int] = {}
    for i, record in enumerate(images.records):
        first.setdefault((record.category, record.anomalous), i)
    chosen = [first[images.categories[0], False], *(first[c, True] for c in images.categories[:3])]
    return show(run, images, which=chosen).save(path, dpi=110)


def _layer(run: Run, images: DataSet, path: Path) -> str:
    from headlens import heads

    some = {record.name for record in images.records[:: max(1, len(images) // 16)]}
    few = images.where(lambda record: record.name in some)
    result = heads.ablate(
        run.detector, few, heads.single_heads(heads.heads_of(run.detector, [LAYER])), metrics=(), replicates=200
    )
    result.save(path)
    summary = result.summary
    effects = summary[(summary["category"] == "mean") & (summary["metric"] == "anomaly_map")]
    lines = [f"Layer {LAYER} on {len(few)} images: how far the anomaly map moves (relative L1) without one head"]
    for row in effects.sort_values("effect", ascending=False).head(5).itertuples():
        name = f"L{LAYER}H{row.head}" + ("/local" if row.stream == "local" else "")
        lines.append(f"  {name:12} {100 * row.effect:5.2f} %  [{100 * row.low:.2f}, {100 * row.high:.2f}]")
    return "\n".join(lines)
