"""Pictures from wherever they come, and ``show``: some of them side by side, with what a run says of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headlens import plots
from headlens.data import DataSet, Pixels
from headlens.errors import ConfigError, ShapeError
from headlens.predict import Picture, as_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from headlens.training.run import Run


class Gallery:
    """A data set, one picture or a list of them, asked by number.

    Args:
        pictures: see ``headlens.predict`` for what a picture can be.

    Raises:
        ShapeError: there is none.
    """

    def __init__(self, pictures: DataSet | Picture | Sequence[Picture]) -> None:
        single = not isinstance(pictures, DataSet | Sequence) or isinstance(pictures, str)
        self._source: DataSet | Sequence[Picture] = [pictures] if single else pictures  # type: ignore[list-item,assignment]
        if not len(self._source):
            raise ShapeError("no picture to look at; give at least one")

    def __len__(self) -> int:
        return len(self._source)

    def check(self, number: int) -> int:
        """The number, where there is such a picture; raises ShapeError."""
        if number not in range(len(self)):
            raise ShapeError(f"picture {number} does not exist; there are {len(self)}, counted from 0")
        return number

    def pixels(self, number: int) -> Pixels:
        """The picture as it is, and its mask, where there is one."""
        if isinstance(self._source, DataSet):
            return self._source.pixels(number)
        own = self._source[number]
        return Pixels(as_bytes(own), own.mask if isinstance(own, Pixels) else None)

    def thing(self, number: int) -> str:
        """What it shows, for class-aware prompts."""
        return self._source.records[number].category if isinstance(self._source, DataSet) else "object"

    def name(self, number: int) -> str:
        """Without the folders around it: a figure need not tell where pictures lie."""
        if isinstance(self._source, DataSet):
            return self._source.records[number].name
        own = self._source[number]
        return Path(own).name if isinstance(own, str | Path) else f"picture {number}"

    def title(self, number: int) -> str:
        """What it shows and the kind of flaw, where that is known; its name otherwise."""
        if isinstance(self._source, DataSet) and (record := self._source.records[number]).family:
            return f"{record.category}: {record.family}".replace("_", " ")
        return self.name(number)


def show(
    pictures: DataSet | Picture | Sequence[Picture],
    run: Run | None = None,
    which: Sequence[int] | None = None,
    most: int = 5,
) -> tuple[Figure, np.ndarray]:
    """Pictures side by side, their flaws outlined; with a run, its anomaly maps below, with scores and decisions.

    Args:
        pictures: a data set, one picture, or a list.
        run: what scores them.
        which: numbers of those that are shown; evenly spread over all when None.
        most: how many, at most, when ``which`` is None.

    Returns:
        The figure, and its axes [rows, pictures].

    Raises:
        DataError, ShapeError: no picture, or one that cannot be read.
        ConfigError: something else than a run.

    >>> from headlens import data
    >>> fig, axes = show(data.open("procedural:industrial", per_category=2, size=56), which=[0, 1, 3])
    >>> [ax.get_title() for ax in axes[0]]
    ['terrazzo: good', 'terrazzo: scratch', 'mesh: scratch']
    """
    if run is not None and not hasattr(run, "predict"):
        raise ConfigError(
            f"{type(run).__name__} is no run, which knows its size and threshold; headlens.load gives one"
        )
    gallery = Gallery(pictures)
    if which is not None and not len(which):
        raise ShapeError("no picture to show: which names none")
    if which is None:
        which = np.linspace(0, len(gallery) - 1, min(most, len(gallery))).round().astype(int).tolist()
    shown = [gallery.pixels(gallery.check(number)) for number in which]
    images = [pixels.image.permute(1, 2, 0).numpy() for pixels in shown]
    masks = [None if pixels.mask is None else pixels.mask.numpy() for pixels in shown]
    titles = [gallery.title(number) for number in which]
    if run is None:
        return plots.sheet(images, masks, titles=titles)
    maps, decisions = [], []
    for number, pixels in zip(which, shown, strict=True):
        found = run.predict(pixels.image, category=gallery.thing(number))
        score = float(found.joint_score)
        maps.append(found.anomaly_map[0].numpy())  # drawn stretched over the picture
        decision = "" if run.threshold is None else ": anomalous" if score > run.threshold else ": normal"
        decisions.append(f"joint score {score:.2f}{decision}")
    about = run.detector.backbone.provenance
    threshold = "" if run.threshold is None else f", threshold {run.threshold:.2f}"
    made_by = f"{run.folder.name} on backbone {about.name} ({about.weights}){threshold}"
    return plots.sheet(images, masks, maps, titles=titles, map_titles=decisions, made_by=made_by)
