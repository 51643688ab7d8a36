"""``headlens score``: images through a trained detector; scores, decision, raw map and overlay for each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headlens.cli import completion, options
from headlens.cli.common import device_of, shown_by, with_options
from headlens.cli.output import OUTPUT, Output
from headlens.cli.results import digest
from headlens.cli.score_overlays import Scale
from headlens.progress import bar
from headlens.tables import Table

if TYPE_CHECKING:
    from torch import Tensor

    from headlens.cli.images import Images
    from headlens.cli.score_table import Scored
    from headlens.training.run import Run

_AT_ONCE = 2**25  # pixels of the images that are held together, if these are several
MapFormat = Enum("MapFormat", {"NPY": "npy", "TIFF": "tiff"}, type=str)


@with_options
def score(
    images: options.Images,
    run: Annotated[
        str,
        typer.Option(
            help="A run folder, or the name of a shipped run such as mini-captions-industrial.",
            autocompletion=completion.runs,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for results.", file_okay=False)] = Path("scores"),
    threshold: Annotated[
        float | None, typer.Option(help="Decide at this joint score instead of the run's threshold.")
    ] = None,
    weights: options.Weights = None,
    category: options.Category = None,
    limit: options.Limit = None,
    maps: Annotated[
        MapFormat, typer.Option(help="Format of the raw maps: numpy, or 32-bit float TIFF.")
    ] = MapFormat.NPY,
    scale: Annotated[
        Scale,
        typer.Option(
            help="What the colours of overlays span: absolute, 0 to 1; set, from the lowest to the highest value of "
            "all maps in --out; image, that of each map, where a normal image looks anomalous, too."
        ),
    ] = Scale.ABSOLUTE,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    follow_links: options.FollowLinks = False,
    rows: Annotated[int, typer.Option(help="Rows of the printed table; scores.csv has all.", min=1)] = options.ROWS,
    batch: options.Batch = options.BATCH,
    device: options.Device = None,
    force: Annotated[bool, typer.Option("--force", help="Start again, whatever --out holds.")] = False,
    output: Output = OUTPUT,
) -> None:
    """Score images. Writes scores.csv, and for each image a float map and an overlay (png).

    Scores and maps are probabilities, and by default overlays share the scale 0 to 1, so that images can be compared.
    Where all maps are weak, --scale set shows them; then nothing is computed again. Some methods give logits; their
    overlays are scaled from the lowest to the highest value of each map. The same command resumes where it was
    interrupted, and scores an image again when its file has changed. In a folder, masks, hidden files and results of
    headlens are skipped. An unreadable image is reported and left out, and the exit status is then 1.
    """
    from headlens.cli.images import find_images

    listed = find_images(images, follow_links, limit)  # before torch is imported

    from headlens.cli.score_table import ScoreTable
    from headlens.detectors.scoring import check_map
    from headlens.locking import locked
    from headlens.printing import printable
    from headlens.training.run import load_run
    from headlens.units import PLURAL

    loaded = load_run(run, weights=weights, device=device_of(device))
    check_map(loaded.detector.reads_map, "headlens score, which writes the map of each image,")
    threshold = loaded.threshold if threshold is None else threshold
    unit = PLURAL[loaded.detector.scoring.unit]
    about = f"{printable(str(loaded.folder))}, threshold {threshold}, scores in {unit}"
    output.say(f"{loaded.detector.backbone}\n{about}\n")
    shown = shown_by(loaded, category)
    with locked(out):
        table = ScoreTable(out, question(loaded, threshold, shown, maps), force, scale)
        waiting = table.missing(listed.files)
        again = table.expects(len(waiting))
        with bar(len(waiting)) as done:
            for part in _batches(waiting, batch, max_pixels, listed):
                table.add(_scored(loaded, part, shown))
                done.update(len(part))
        if again:
            with bar(len(table.rows) + table.count, "overlays") as done:
                table.redraw(max_pixels, done.update)
    before = len(listed.files) - len(waiting)
    earlier = f", {before} {'was' if before == 1 else 'were'} scored before" if before else ""
    images_scored = f"{table.count} {'image' if table.count == 1 else 'images'} scored"
    output.show(highest(table.of(listed.files), rows))
    output.say(f"\n{images_scored}{earlier}; {printable(str(table.path))}")
    listed.finish(out / "scores.left_out.txt", output.say)


def highest(scores: list[dict[str, str]], rows: int) -> Table:
    """The first ``rows`` images by their joint score, with the decision where there is a threshold."""
    import pandas as pd

    from headlens.printing import printable

    ranked = sorted(scores, key=lambda row: -float(row["joint_score"]))
    decisions = {"true": "anomalous", "false": "normal"}
    decided = any(row["anomalous"] for row in ranked)
    folder = os.path.commonpath([os.path.dirname(row["file"]) for row in ranked]) if ranked else ""  # noqa: PTH120
    cells = [
        [
            printable(os.path.relpath(row["file"], folder) if folder else row["file"]),
            *([decisions.get(row["anomalous"], "-")] if decided else []),
            *(f"{float(row[name]):.3f}" for name in ("joint_score", "image_score", "map_max")),
        ]
        for row in ranked[:rows]
    ]
    header = ["image", *(["decision"] if decided else []), "joint score", "image score", "map max"]
    note = f"… and {len(ranked) - rows} more in scores.csv" if len(ranked) > rows else ""
    title = f"Images in {printable(folder)}" if folder else ""
    return Table(header, cells, 3, "scores", title, note, frame=pd.DataFrame(ranked))


def question(run: Run, threshold: float | None, category: str, maps: MapFormat) -> dict[str, object]:
    """What decides the results, besides the images."""
    backbone = run.detector.backbone.provenance
    return {
        "run": run.folder.name,
        "model_sha256": run.card.get("model_sha256"),
        "detector_sha256": digest(run.detector.config.table()),
        "backbone": backbone.name,
        "backbone_sha256": backbone.sha256,
        "threshold": threshold,
        "unit": run.detector.scoring.unit,
        "size": run.size,
        "category": category,
        "maps": maps.value,
    }


_Read = tuple[Path, tuple[str, str], "Tensor"]


def _batches(files: list[Path], batch: int, max_pixels: int, listed: Images) -> Iterator[list[_Read]]:
    """Images that can be read, with their paths and the states of their files: few at once where they are large."""
    from headlens.cli.score_table import state_of
    from headlens.data import read_image
    from headlens.errors import DataError

    part: list[_Read] = []
    pixels = 0
    for path in files:
        try:
            state = state_of(path)
            image = read_image(path, max_pixels)
        except (DataError, OSError) as error:
            listed.leave_out(error if isinstance(error, DataError) else f"{path}: cannot be read ({error.strerror})")
            continue
        count = image.shape[1] * image.shape[2]
        if part and (len(part) == batch or pixels + count > _AT_ONCE):
            yield part
            part, pixels = [], 0
        part.append((path, state, image))
        pixels += count
        del image
    if part:
        yield part


def _scored(run: Run, part: list[_Read], category: str) -> Iterator[Scored]:
    """What the detector says of a batch; maps at the size of their image, one at a time."""
    import torch

    from headlens.cli.score_table import Scored
    from headlens.data import Preprocess

    with torch.inference_mode():
        prediction = run.predict([image for *_, image in part], batch=len(part), category=category)
    restore = Preprocess(run.size).restore
    for (path, state, image), one, image_score, joint_score in zip(
        part, prediction.anomaly_map, prediction.image_score, prediction.joint_score, strict=True
    ):
        native = restore(one, (image.shape[1], image.shape[2])).numpy()
        pixels = image.permute(1, 2, 0).numpy()
        yield Scored(path, state, pixels, native, float(image_score), float(one.max()), float(joint_score))
