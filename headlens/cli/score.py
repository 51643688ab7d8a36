"""``headlens score``: pictures through a trained detector; scores, decision, raw map and overlay for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from headlens.detectors.headclip import Prediction
    from headlens.training.run import Run


class MapFormat(str, Enum):
    """What raw maps are written as."""

    NPY = "npy"
    TIFF = "tiff"


COLUMNS = ("file", "image_score", "map_max", "joint_score", "anomalous", "map", "overlay")


def score(
    pictures: Annotated[list[str], typer.Argument(help="Files, folders or patterns such as 'parts/*.png'.")],
    run: Annotated[str, typer.Option(help="A run folder, or a shipped run such as mini-industrial.")],
    out: Annotated[Path, typer.Option(help="Where results go.", file_okay=False)] = Path("scores"),
    threshold: Annotated[Optional[float], typer.Option(help="Of the joint score; the run's own.")] = None,  # noqa: UP045
    weights: Annotated[Optional[str], typer.Option(help="The backbone's weight file.")] = None,  # noqa: UP045
    category: Annotated[str, typer.Option(help="What they show; only class-aware runs care.")] = "object",
    maps: Annotated[MapFormat, typer.Option(help="Of the raw maps: numpy, or 32-bit float TIFF.")] = MapFormat.NPY,
    batch: Annotated[int, typer.Option(help="Pictures at once.", min=1)] = 8,
    device: Annotated[Optional[str], typer.Option(help="cpu, cuda, mps; the best there is.")] = None,  # noqa: UP045
) -> None:
    """Score pictures. Writes scores.csv, and for each picture its float map and an overlay (png).

    Maps are 0 to 1 and overlays share that scale: two pictures can be compared. What cannot be read is named and left
    out, and the exit status is then 1.
    """
    from headlens.cli.pictures import found, unique_names

    files = found(pictures, out)

    from itertools import islice

    import torch
    from tqdm import tqdm

    from headlens.cli.common import device_of
    from headlens.data import read_image
    from headlens.errors import DataError
    from headlens.training.run import load_run

    loaded = load_run(run, weights=weights, device=device_of(device))
    limit = loaded.threshold if threshold is None else threshold
    table = Results(out, limit, maps)
    typer.echo(f"{loaded.detector.backbone}; {loaded.folder}, threshold {limit}")
    bad = []
    names = unique_names(files)
    waiting = iter(zip(files, names, strict=True))
    with tqdm(total=len(files), unit="image", disable=None) as bar:
        while part := list(islice(waiting, batch)):
            readable: list[tuple[Path, str, Tensor]] = []
            for path, name in part:
                try:
                    readable.append((path, name, read_image(path)))
                except DataError as error:
                    bad.append(str(error))
            if readable:
                with torch.inference_mode():
                    prediction = loaded.predict([image for *_, image in readable], batch, category)
                table.add(loaded, readable, prediction)
            bar.update(len(part))
    typer.echo(f"{table.count} pictures scored; {table.path}")
    for reason in bad:
        typer.echo(f"left out: {reason}", err=True)
    if bad:
        raise typer.Exit(1)


class Results:
    """``scores.csv`` with maps and overlays beside it; every batch is on disk before the next one is computed.

    Raises:
        RunError: the folder cannot be written, what was finished stays; or it holds scores already.
    """

    def __init__(self, out: Path, threshold: float | None, maps: MapFormat = MapFormat.NPY) -> None:
        from headlens.errors import RunError

        self.out, self.threshold, self.maps, self.count = out, threshold, maps, 0
        self.path = out / "scores.csv"
        if self.path.exists():
            raise RunError(f"{self.path} is there already; name another --out, or take it away")
        with self._writing():
            out.mkdir(parents=True, exist_ok=True)
            with self.path.open("w", newline="", encoding="utf-8") as file:
                file.write(",".join(COLUMNS) + "\n")

    def add(self, run: Run, pictures: list[tuple[Path, str, Tensor]], prediction: Prediction) -> None:
        """One batch: (path, name, image [3, H, W]) and what was predicted."""
        import csv

        from headlens.data import Preprocess
        from headlens.plots.overlay import overlay

        restore = Preprocess(run.size).restore
        rows = []
        for row, (path, name, image) in enumerate(pictures):
            native = restore(prediction.anomaly_map[row], (image.shape[1], image.shape[2])).numpy()
            joint = float(prediction.joint_score[row])
            decision = "" if self.threshold is None else str(joint > self.threshold).lower()
            note = "" if self.threshold is None else f", {'anomalous' if joint > self.threshold else 'normal'}"
            figure, _ = overlay(image.permute(1, 2, 0).numpy(), native, f"{name}: joint score {joint:.3f}{note}")
            with self._writing():
                _write_map(self.out / f"{name}.{self.maps.value}", native)
                figure.savefig(self.out / f"{name}.overlay.png", dpi=120)
            scores = (prediction.image_score[row], prediction.anomaly_map[row].max(), prediction.joint_score[row])
            rows.append(
                [
                    path,
                    *(f"{float(s):.6f}" for s in scores),
                    decision,
                    f"{name}.{self.maps.value}",
                    f"{name}.overlay.png",
                ]
            )
        with self._writing(), self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        self.count += len(rows)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        from headlens.errors import RunError

        try:
            yield
        except OSError as error:
            done = f"; {self.count} pictures are done and stay" if self.count else ""
            raise RunError(f"{self.out}: cannot be written ({error}){done}") from error


def _write_map(path: Path, native: np.ndarray) -> None:
    import numpy as np
    from PIL import Image

    if path.suffix == ".npy":
        np.save(path, native)
    else:
        Image.fromarray(native).save(path)  # float32 is PIL's mode F
