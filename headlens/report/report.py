"""``report``: from a run and images to one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from headlens.data import DataSet, as_set
from headlens.detectors.scoring import check_map
from headlens.errors import ConfigError, RunError
from headlens.files import write
from headlens.report import head_sections, image_section, page, sections
from headlens.report.cases import WORST, Cases, cases, check
from headlens.report.measuring import Measured, measured
from headlens.training.run import Run

SUFFIXES = (".html", ".htm")


@dataclass(frozen=True)
class Report:
    """A page, and what is in it.

    Args:
        html: the whole file.
        measured: of the run.
        cases: the images that are shown.
        against: of the run that it was compared with; None without one.
        left_out: why a part is missing, by its name.
    """

    html: str
    measured: Measured
    cases: Cases
    against: Measured | None
    left_out: dict[str, str]

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Writes the file; never a partial one.

        Args:
            path: ending with ``.html``.
            force: overwrite what is there.

        Raises:
            ConfigError: another suffix.
            RunError: a file that is there already, without ``force``; or it cannot be written.
        """
        path = check_path(path, force)
        write(path, self.html.encode("utf-8"))
        return path

    def __repr__(self) -> str:
        count, size = len(self.measured.evaluation.scores), len(self.html) / 2**20
        return f"Report({self.measured.name}, {count} images, {size:.1f} MiB)"


def check_path(path: str | Path, force: bool = False) -> Path:
    """The path, where a report can be written to it; what is raised is that of ``Report.save``."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: a report is an HTML file; name it {path.stem or 'report'}.html")
    if path.exists() and not force:
        raise RunError(f"{path} exists already; name another file, or overwrite it with --force, in Python force=True")
    return path


def report(
    run: Run,
    images: DataSet | str | Path,
    *,
    against: Run | None = None,
    layers: Sequence[int] | None = None,
    method: str = "legrad",
    worst: int = WORST,
    size: int | None = None,
    batch: int = 8,
    precision: str | None = None,
    seed: int = 0,
    command: str = "",
) -> Report:
    """One HTML file about a run, which opens in any browser without a network.

    It has what the run is, metrics with intervals, the images it gets most wrong under their maps, head weights,
    importance of all heads, a few layers ablated, and where all of it came from. A part that images or method do not
    allow is left out, and the file says why.

    Args:
        run: which.
        images: a data set, or what ``headlens.data.open`` takes: a folder, a listing, one image.
        against: a second run, measured on the same images.
        layers: which are ablated; the four most important ones when None, none when empty.
        method: of the attribution; one of ``headlens.attribution.METHODS``.
        worst: images of each kind that are shown, 20 at most.
        size: images are resized to this square; the run's size when None.
        batch: images per batch.
        precision: as in ``headlens.evaluate``.
        seed: of the bootstrap.
        command: what made it, for its last section.

    Raises:
        ConfigError: a detector without a run; a method that does not exist or does not explain scores.
        ShapeError: a layer that does not exist; no image.
        DataError: no image could be read.

    >>> import headlens
    >>> few = headlens.data.open("procedural:industrial", category="screw", per_category=2, size=56)
    >>> report(headlens.load("mini-captions-industrial"), few, worst=1, layers=[], size=56).cases.every[0].name
    'screw/test/scratch/001'
    """
    for one in (run, against):
        if not isinstance(one, Run) and not (one is against and one is None):
            raise ConfigError(f"{type(one).__name__} is not a run; a report needs one, such as headlens.load(...)")
        if one is not None:
            check_map(one.detector.reads_map, f"a report about {one.folder.name}")
    check(method, worst)
    chosen = as_set(images)
    how: dict[str, Any] = {"size": size or run.size, "batch": batch, "precision": precision, "seed": seed}
    found = measured(run, chosen, layers, **how)
    other = None if against is None else measured(against, chosen, [], **{**how, "size": size or against.size})
    scores = found.evaluation.scores
    shown = cases(run, chosen, scores, worst=worst, method=method, size=size or run.size, precision=precision)
    missing = _left_out(found, chosen, shown, other)
    name = f"{run.folder.name} on {chosen.name}"
    parts = [
        sections.warnings(found, chosen),
        sections.short(found, other),
        sections.left_out(missing),
        sections.the_run(found, other, chosen),
        sections.metrics(found, other),
        image_section.images(found, shown, other),
        head_sections.head_weights(found, other),
        head_sections.importance(found, other),
        head_sections.layers(found),
        sections.provenance(found, other, command, date.today().isoformat()),
    ]
    return Report(page.document(name, [part for part in parts if part]), found, shown, other, missing)


def _left_out(found: Measured, images: DataSet, shown: Cases, other: Measured | None) -> dict[str, str]:
    """Which parts are missing, and why."""
    reasons = dict(found.left_out)
    labels = {record.anomalous for record in images.records}
    if labels == {None}:
        reasons["Image metrics and decisions"] = (
            "no image has a label; the images shown are those with the highest scores"
        )
    elif None in labels:
        reasons["Metrics of some images"] = "they have no label, and count in no metric"
    if not images.has_masks:
        reasons["Pixel metrics and outlines"] = "no anomalous image has a mask"
    if found.weights is None:
        reasons["Head weights"] = f"{found.name} has none"
    if found.run.threshold is None:
        reasons["Decisions"] = f"{found.name} has no threshold, so no image counts as anomalous or normal"
    if shown.refused:
        reasons["Attribution"] = shown.refused
    if other is not None:
        reasons |= {f"{part} of {other.name}": why for part, why in other.left_out.items()}
    return reasons
