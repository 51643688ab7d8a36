"""What figures are made of: the runs and pictures of each domain, and frames that are computed when first asked for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from headlens import heads
from headlens.data import DataSet, Pixels, ProceduralSet, Record
from headlens.detectors.detector import Detector
from headlens.errors import ConfigError
from headlens.figures.frames import Frames, Kept
from headlens.provenance import computed, learned_sha256, provenance
from headlens.training.evaluation import Evaluation, evaluate
from headlens.training.grouping import Group, read_as
from headlens.training.run import Run

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]
NOTES = "notes"
KEYS = ["stream", "layer", "head"]


class Painted(DataSet):
    """A procedural set that paints each picture once: nine detectors look at the same ones."""

    def __init__(self, data: DataSet) -> None:
        super().__init__(data.name, data.domain, data.records)
        self.data = data
        self._kept: dict[int, Pixels] = {}

    has_masks = property(lambda self: self.data.has_masks)
    fingerprint = property(lambda self: self.data.fingerprint)

    def pixels(self, i: int) -> Pixels:
        """As the set underneath."""
        if i not in self._kept:
            self._kept[i] = self.data.pixels(i)
        return self._kept[i]

    def where(self, keep: Callable[[Record], bool]) -> DataSet:
        """As the set underneath."""
        return Painted(self.data.where(keep))


@dataclass(frozen=True)
class Subject:
    """One domain.

    Args:
        domain: its name.
        runs: what was trained for it.
        pictures: what metrics are measured on.
        few: those of them that heads are ablated and differentiated on.
    """

    domain: str
    runs: Group
    pictures: DataSet
    few: DataSet

    @classmethod
    def of(cls, domain: str, runs: Group, pictures: DataSet, per_category: int) -> Subject:
        """``few`` is the first ``per_category`` pictures of each category, half of them normal where there are any."""
        pictures = Painted(pictures) if isinstance(pictures, ProceduralSet) else pictures
        return cls(domain, runs, pictures, first_of_each(pictures, per_category))

    @property
    def run(self) -> Run:
        """The first one: what is shown of a single run is shown of this."""
        return self.runs.whole[0]

    @property
    def weighed(self) -> list[Run]:
        """The runs whose head weights are shown.

        Raises:
            ConfigError: they have learned none.
        """
        if not self.run.detector.head_weights():
            raise ConfigError(f"{self.run.folder.name} has learned no head weights: name runs that have")
        return self.runs.whole


def first_of_each(data: DataSet, per_category: int) -> DataSet:
    """The first pictures of each category, as many normal as anomalous ones where there are enough of both.

    >>> from headlens import data
    >>> found = first_of_each(data.open("procedural:medical", per_category=8, size=28), 4)
    >>> len(found), sum(bool(record.anomalous) for record in found.records)
    (20, 10)
    """
    there = Counter((record.category, record.anomalous is True) for record in data.records)
    left: dict[tuple[str, bool], int] = {}
    for category, flawed in there:
        other = there[category, not flawed]
        left[category, flawed] = max(per_category - other, (per_category + (not flawed)) // 2)

    def keep(record: Record) -> bool:
        key = (record.category, record.anomalous is True)
        left[key] -= 1
        return left[key] >= 0

    return data.where(keep)


@contextmanager
def _silent(what: str, total: int) -> Iterator[Callable[[int], object]]:
    yield lambda n: None


class Material:
    """Everything that a figure may ask for.

    Args:
        subjects: the domains, in the order in which they are shown.
        folder: where frames are kept that took long; None keeps nothing.
        seed: of random orders and of bootstraps.
        batch: pictures at once.
        fresh: read nothing that lies in ``folder``.
        progress: what is being done and how many pictures it takes, to a context whose value is called with numbers
            of finished ones.

    Attributes:
        left_out: of each data set, names of images that could not be read so far, and why.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        folder: Path | None = None,
        *,
        seed: int = 0,
        batch: int = 8,
        fresh: bool = False,
        progress: Progress = _silent,
    ) -> None:
        self.subjects = {subject.domain: subject for subject in subjects}
        self.seed, self.batch, self.progress = seed, batch, progress
        self.kept = Kept(folder, fresh)
        self.left_out: dict[str, dict[str, str]] = {}

    def __iter__(self) -> Iterator[Subject]:
        return iter(self.subjects.values())

    @property
    def question(self) -> str:
        """A digest of all that any figure of it depends on, versions aside."""
        runs = [[run.folder.name, learned_sha256(run.detector)] for own in self for run in own.runs.every]
        sets = [[own.domain, own.pictures.fingerprint, own.few.fingerprint] for own in self]
        return sha256(json.dumps([runs, sets, self.seed]).encode()).hexdigest()

    def weights(self, subject: Subject) -> pd.DataFrame:
        """Learned head weights: run, stream, layer, head, value."""
        frames = [heads.weights(run.detector).frame.assign(run=run.folder.name) for run in subject.weighed]
        return pd.concat(frames, ignore_index=True)[["run", *KEYS, "value"]]

    def importance(self, subject: Subject, run: Run) -> pd.DataFrame:
        """Of every head of a run, for the joint margin: ``headlens.heads.Importance.summary``."""
        asked = self.asked(run.detector, subject.few, what="importance", target="joint_margin")

        def compute(parts: Path | None) -> Frames:
            what = f"{subject.domain}: gradients of {run.folder.name}"
            with self.progress(what, len(subject.few)) as update:
                found = heads.importance(run.detector, subject.few, batch=self.batch, out=parts, progress=update)
            return {"": found.summary, NOTES: _notes(subject.few, found.provenance)}

        return self._of(f"importance-{subject.domain}-{run.folder.name}", asked, compute)[""]

    def ablation(
        self, subject: Subject, what: str, variants: Sequence[heads.Variant], metrics: Sequence[str]
    ) -> pd.DataFrame:
        """Of the domain's first run, over categories: the rows ``mean`` of ``headlens.heads.Ablation.summary``."""
        run = subject.run
        named = [[variant.name, *map(str, variant.heads)] for variant in variants]
        asked = self.asked(run.detector, subject.few, what=what, variants=named, metrics=list(metrics), seed=self.seed)

        def compute(parts: Path | None) -> Frames:
            with self.progress(f"{subject.domain}: {len(variants)} ablations ({what})", len(subject.few)) as update:
                found = heads.ablate(
                    run.detector,
                    subject.few,
                    variants,
                    metrics=metrics,
                    seed=self.seed,
                    batch=self.batch,
                    out=parts,
                    progress=update,
                )
            means = found.summary[found.summary["category"] == "mean"]
            return {"": means, NOTES: _notes(subject.few, found.provenance)}

        return self._of(f"{what}-{subject.domain}-{run.folder.name}", asked, compute)[""]

    def evaluation(self, subject: Subject, run: Run) -> Evaluation:
        """A run on the domain's pictures, its scores read as the domain's first run reads them."""
        detector = read_as(run, subject.run)
        asked = self.asked(detector, subject.pictures, what="evaluation")

        def compute(parts: Path | None) -> Frames:
            with self.progress(f"{subject.domain}: scores of {run.folder.name}", len(subject.pictures)) as update:
                found = evaluate(detector, subject.pictures, batch=self.batch, progress=update)
            frame = found.frame.assign(half_width=found.half_width)
            return {"": frame, "scores": found.scores, NOTES: found.notes}

        frames = self._of(f"evaluation-{subject.domain}-{run.folder.name}", asked, compute, "scores")
        frame, half_width = frames[""].drop(columns="half_width"), float(frames[""]["half_width"].max())
        return Evaluation(frame, frames["scores"], frames[NOTES], half_width)

    def _of(self, name: str, asked: dict[str, Any], compute: Callable[[Path | None], Frames], *more: str) -> Frames:
        """Kept frames, or those that are computed now; remembers which images they are without."""
        frames = self.kept.of(name, asked, compute, ("", NOTES, *more))
        for row in frames[NOTES].itertuples():
            if row.kind == "skipped":
                self.left_out.setdefault(row.dataset, {})[row.name] = row.reason
        return frames

    def asked(self, detector: Detector, data: DataSet, **settings: Any) -> dict[str, Any]:
        """All that a frame of that detector and those images depends on."""
        how = {"size": detector.image_size, "batch": self.batch, **computed(detector)}
        return provenance(detector, data, **how, **settings)


def _notes(data: DataSet, about: Mapping[str, Any]) -> pd.DataFrame:
    """Which images a result with that provenance is without, as ``Evaluation.notes``."""
    rows = [(data.name, name, "skipped", reason) for name, reason in about.get("skipped", {}).items()]
    return pd.DataFrame(rows, columns=["dataset", "name", "kind", "reason"])


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half of its 95 % interval by Student's t; NaN where there are fewer than two values.

    >>> mean, half = mean_and_interval([1.0, 2.0, 3.0])
    >>> round(mean, 2), round(half, 2)
    (2.0, 2.48)
    """
    known = np.asarray(values, dtype=float)
    if known.size == 0:
        return np.nan, np.nan
    half = np.nan
    if known.size > 1:
        half = float(stats.t.ppf(0.975, known.size - 1) * known.std(ddof=1) / known.size**0.5)
    return float(known.mean()), half
