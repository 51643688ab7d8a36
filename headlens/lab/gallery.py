"""``sheet`` and ``show``: images side by side, with the maps and scores of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headlens import plots
from headlens.data import DataSet, Pixels, Record
from headlens.detectors.detector import Detector, detector_of
from headlens.detectors.scoring import check_map
from headlens.errors import ShapeError
from headlens.predict import Image, as_bytes, predict, set_of
from headlens.printing import spelled
from headlens.training.run import Run
from headlens.units import with_unit


class Gallery:
    """A data set or the folder of one, one image or a list of them (see ``headlens.predict``), asked by number.

    Raises:
        ShapeError: there is none.
    """

    def __init__(self, images: DataSet | Image | Sequence[Image]) -> None:
        images = set_of(images) or images
        single = not isinstance(images, DataSet | Sequence) or isinstance(images, str)
        self._source: DataSet | Sequence[Image] = [images] if single else images  # type: ignore[list-item,assignment]
        if not len(self._source):
            raise ShapeError("no image to look at; give at least one")

    def __len__(self) -> int:
        return len(self._source)

    def check(self, number: int) -> int:
        """The number, where there is such an image; raises ShapeError."""
        if number not in range(len(self)):
            raise ShapeError(f"image {number} does not exist; there are {len(self)}, counted from 0")
        return number

    def pixels(self, number: int) -> Pixels:
        """The image as it is, and its mask, where there is one."""
        given = self._source[number]
        return given if isinstance(given, Pixels) else Pixels(as_bytes(given), None)

    def record(self, number: int) -> Record | None:
        """What a data set knows of it, without reading it."""
        if isinstance(self._source, DataSet):
            return self._source.records[number]
        given = self._source[number]
        return given.record if isinstance(given, Pixels) else None

    def anomalous(self, number: int) -> bool:
        """Whether it is known to have an anomaly, without reading it."""
        if record := self.record(number):
            return bool(record.anomalous)
        given = self._source[number]
        return isinstance(given, Pixels) and given.mask is not None and bool(given.mask.any())

    def category(self, number: int) -> str:
        """What it shows, for class-aware prompts."""
        return record.category if (record := self.record(number)) else "object"

    def name(self, number: int) -> str:
        """Without the folders around it: a figure need not tell where images lie."""
        if record := self.record(number):
            return record.name
        given = self._source[number]
        return Path(given).name if isinstance(given, str | Path) else f"image {number}"

    def chosen(self, which: Sequence[int] | None, most: int) -> list[int]:
        """The numbers ``which``, where there are such images; at most so many, evenly spread, when None."""
        if which is not None and not len(which):
            raise ShapeError("no image to show: which names none")
        if which is None:
            return np.linspace(0, len(self) - 1, min(most, len(self))).round().astype(int).tolist()
        return [self.check(number) for number in which]

    def panels(self, numbers: Sequence[int]) -> dict[str, Any]:
        """What ``plots.sheet`` draws of these: images, masks and titles."""
        shown = [self.pixels(number) for number in numbers]
        return {
            "images": [pixels.image.permute(1, 2, 0).numpy() for pixels in shown],
            "masks": [None if pixels.mask is None else pixels.mask.numpy() for pixels in shown],
            "titles": [self.title(number) for number in numbers],
        }

    def title(self, number: int) -> str:
        """What it shows and the kind of anomaly, where that is known; its name otherwise."""
        if (record := self.record(number)) and record.family:
            return f"{spelled(record.category)}: {spelled(record.family)}"
        return self.name(number)


def sheet(
    images: DataSet | Image | Sequence[Image], *, which: Sequence[int] | None = None, most: int = 5
) -> plots.Figure:
    """Images side by side, their anomalies outlined where there are masks.

    Args:
        images: a data set or the folder of one, one image, or a list.
        which: indices of the images to show; evenly spread over all when None.
        most: maximal number of images when ``which`` is None.

    Returns:
        The figure, and its axes [1, images].

    Raises:
        DataError, ShapeError: no image, or one that cannot be read.

    >>> from headlens import data
    >>> fig, axes = sheet(data.open("procedural:industrial", per_category=2, size=56), which=[0, 1, 3])
    >>> [ax.get_title() for ax in axes[0]]
    ['terrazzo: good', 'terrazzo: scratch', 'mesh: scratch']
    """
    gallery = Gallery(images)
    return plots.sheet(**gallery.panels(gallery.chosen(which, most)))


def show(
    run: Run | Detector,
    images: DataSet | Image | Sequence[Image],
    *,
    which: Sequence[int] | None = None,
    most: int = 5,
) -> plots.Figure:
    """Images side by side, their anomalies outlined; below them their anomaly maps, with scores and decisions.

    Args:
        run: the run that scores them; a plain detector has no threshold, so no decisions are shown.
        images, which, most: as for ``sheet``.

    Returns:
        The figure, and its axes [2, images].

    Raises:
        DataError, ShapeError: no image, or one that cannot be read.
        ConfigError: neither a run nor a detector.
    """
    detector, gallery = detector_of(run), Gallery(images)
    check_map(detector.reads_map, "a picture of maps")
    threshold, name = (run.threshold, run.folder.name) if isinstance(run, Run) else (None, "a detector")
    chosen = gallery.chosen(which, most)
    maps, decisions = [], []
    for number in chosen:
        prediction = predict(detector, gallery.pixels(number), category=gallery.category(number))
        score = float(prediction.joint_score)
        maps.append(prediction.anomaly_map[0].numpy())  # drawn stretched over the image
        decision = "" if threshold is None else ": anomalous" if score > threshold else ": normal"
        decisions.append(f"joint score {with_unit(f'{score:.2f}', prediction.unit)}{decision}")
    about = detector.backbone.provenance
    at = "" if threshold is None else f", threshold {threshold:.2f}"
    made_by = f"{name}{at} · backbone {about.name} ({about.weights})"
    return plots.sheet(
        **gallery.panels(chosen), maps=maps, map_titles=decisions, unit=detector.scoring.unit, made_by=made_by
    )
