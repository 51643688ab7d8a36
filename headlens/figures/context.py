"""What figures are made of: the runs and images of each domain, and frames that are computed when first asked for."""

from __future__ import annotations

import json
import re
import shutil
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
from torch import Tensor

from headlens import heads
from headlens.data import DataSet, Pixels, Preprocess, ProceduralSet, Record
from headlens.detectors.detector import Detector
from headlens.errors import ConfigError, DataError, RunError
from headlens.files import read_regular, read_text, write
from headlens.printing import spelled
from headlens.provenance import computed, learned_sha256, provenance
from headlens.results import beside, read_parquet, save_frame
from headlens.training.evaluation import Evaluation, evaluate
from headlens.training.grouping import Group, read_as
from headlens.training.run import Run

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]
NOTES = "notes"
KEYS = ["stream", "layer", "head"]
Frames = dict[str, pd.DataFrame]
RULE = "the first anomalous image of each of the first categories, with an outline where there is one"


class FrameCache:
    """Frames by name in a folder, each with everything that it was asked with: detector, images, settings, versions.

    Without a folder nothing is kept; if ``fresh``, everything is computed again.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for seed in (0, 0, 1):
    ...         kept = FrameCache(Path(folder))
    ...         frame = kept.of("numbers", {"seed": seed}, lambda parts: {"": pd.DataFrame({"seed": [seed]})})[""]
    ...         print(frame["seed"].tolist(), kept.reused)
    [0] []
    [0] ['numbers']
    [1] []
    """

    def __init__(self, folder: Path | None, fresh: bool = False) -> None:
        self.folder, self.fresh = folder, fresh
        self.reused: list[str] = []

    def of(
        self,
        name: str,
        asked: Mapping[str, Any],
        compute: Callable[[Path | None], Frames],
        which: Sequence[str] = ("",),
    ) -> Frames:
        """The frames of that name: as they lie there if they were made of exactly this, else computed and written.

        Args:
            name: of the files.
            asked: all that the frames depend on, as JSON.
            compute: given a folder for unfinished parts (None: there is none), the frames.
            which: keys of the frames; the first is the one without a name of its own, ``""``.

        Raises:
            RunError: the folder cannot be written.
        """
        if self.folder is None or asked.get("hooks"):  # which hook it was, a file cannot say
            return compute(None)
        asked, name = json.loads(json.dumps(asked)), re.sub(r"[/\\:]", "-", name)
        path = self.folder / f"{name}.parquet"
        paths = {key: beside(path, key) if key else path for key in which}
        sums = self.folder / f"{name}.sha256"
        if not self.fresh and (result := _read(paths, sums, asked)) is not None:
            self.reused.append(name)
            return result
        mark = sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
        parts = self.folder / f"{name}.{mark}.parts"
        for old in self.folder.glob(f"{name}.*.parts"):
            if old != parts or self.fresh:
                shutil.rmtree(old)
        frames = compute(parts)
        for key, path in paths.items():
            save_frame(path, frames[key], {"asked": asked})
        write(sums, _sums(paths).encode())  # last: it says that the frames belong together
        shutil.rmtree(parts, ignore_errors=True)
        return frames


def _read(paths: Mapping[str, Path], sums: Path, asked: Mapping[str, Any]) -> Frames | None:
    """What lies there, or None where a file is missing, damaged, edited, or was made of something else."""
    frames = {}
    try:
        if read_text(sums) != _sums(paths):
            return None
        for key, path in paths.items():
            frames[key], about = read_parquet(path)
            if about.get("asked") != asked:
                return None
    except (OSError, ValueError, RunError):
        return None
    return frames


def _sums(paths: Mapping[str, Path]) -> str:
    """Of the files, as ``sha256sum`` prints and checks them."""
    return "".join(f"{sha256(read_regular(path)).hexdigest()}  {path.name}\n" for path in paths.values())


class CachedImages(DataSet):
    """A procedural set that paints each image once: nine detectors look at the same ones."""

    def __init__(self, data: DataSet) -> None:
        super().__init__(data.name, data.domain, data.records)
        self.data = data
        self._painted: dict[int, Pixels] = {}

    has_masks = property(lambda self: self.data.has_masks)
    fingerprint = property(lambda self: self.data.fingerprint)

    def pixels(self, i: int) -> Pixels:
        """As the set underneath."""
        if i not in self._painted:
            self._painted[i] = self.data.pixels(i)
        return self._painted[i]

    def where(self, keep: Callable[[Record], bool]) -> DataSet:
        """As the set underneath."""
        return CachedImages(self.data.where(keep))


@dataclass(frozen=True)
class Domain:
    """One domain.

    Args:
        runs: what was trained for it.
        images: what metrics are measured on.
        subset: those of them that heads are ablated and differentiated on.
    """

    name: str
    runs: Group
    images: DataSet
    subset: DataSet

    @classmethod
    def of(cls, name: str, runs: Group, images: DataSet, per_category: int) -> Domain:
        """``subset`` is the first ``per_category`` images of each category, half of them normal where there are any."""
        images = CachedImages(images) if isinstance(images, ProceduralSet) else images
        return cls(name, runs, images, first_of_each(images, per_category))

    @property
    def run(self) -> Run:
        """The first one: what is shown of a single run is shown of this."""
        return self.runs.whole[0]

    @property
    def weighed(self) -> list[Run]:
        """The runs whose head weights are shown; raises ConfigError where they have learned none."""
        if not self.run.detector.head_weights():
            raise ConfigError(f"{self.run.folder.name} has learned no head weights: name runs that have")
        return self.runs.whole


def first_of_each(data: DataSet, per_category: int) -> DataSet:
    """The first images of each category, as many normal as anomalous ones where there are enough of both.

    >>> from headlens import data
    >>> found = first_of_each(data.open("procedural:medical", per_category=8, size=28), 4)
    >>> len(found), sum(bool(record.anomalous) for record in found.records)
    (20, 10)
    """
    counts = Counter((record.category, record.anomalous is True) for record in data.records)
    left: dict[tuple[str, bool], int] = {}
    for category, anomalous in counts:
        other = counts[category, not anomalous]
        left[category, anomalous] = max(per_category - other, (per_category + (not anomalous)) // 2)

    def keep(record: Record) -> bool:
        key = (record.category, record.anomalous is True)
        left[key] -= 1
        return left[key] >= 0

    return data.where(keep)


@contextmanager
def _silent(what: str, total: int) -> Iterator[Callable[[int], object]]:
    yield lambda n: None


class FigureContext:
    """Everything that a figure may ask for.

    Args:
        domains: the domains, in the order in which they are shown.
        folder: where frames are kept that took long; None keeps nothing.
        seed: of random orders and of bootstraps.
        batch: images at once.
        fresh: read nothing that lies in ``folder``.
        progress: what is being done and how many images it takes, to a context whose value is called with numbers
            of finished ones.

    Attributes:
        left_out: of each data set, names of images that could not be read so far, and why.
    """

    def __init__(
        self,
        domains: Sequence[Domain],
        folder: Path | None = None,
        *,
        seed: int = 0,
        batch: int = 8,
        fresh: bool = False,
        progress: Progress = _silent,
    ) -> None:
        self.domains = {domain.name: domain for domain in domains}
        self.seed, self.batch, self.progress = seed, batch, progress
        self.cache = FrameCache(folder, fresh)
        self.left_out: dict[str, dict[str, str]] = {}
        self._few: dict[tuple[str, int], DataSet] = {}

    def __iter__(self) -> Iterator[Domain]:
        return iter(self.domains.values())

    @property
    def question(self) -> str:
        """A digest of all that any figure of it depends on, versions aside."""
        runs = [[run.folder.name, learned_sha256(run.detector)] for domain in self for run in domain.runs.placed]
        sets = [[domain.name, domain.images.fingerprint, domain.subset.fingerprint] for domain in self]
        return sha256(json.dumps([runs, sets, self.seed]).encode()).hexdigest()

    def weights(self, domain: Domain) -> pd.DataFrame:
        """Learned head weights: run, stream, layer, head, value."""
        frames = [heads.weights(run.detector).frame.assign(run=run.folder.name) for run in domain.weighed]
        return pd.concat(frames, ignore_index=True)[["run", *KEYS, "value"]]

    def few(self, domain: Domain, per_category: int) -> DataSet:
        """The first images of each category of a domain's subset, as ``first_of_each`` takes them, painted once."""
        return self._few.setdefault((domain.name, per_category), first_of_each(domain.subset, per_category))

    def importance(self, domain: Domain, run: Run, per_category: int | None = None) -> pd.DataFrame:
        """Of every head of a run, for the joint margin: ``headlens.heads.Importance.summary``.

        On the domain's subset, or on the first ``per_category`` images of each category of it.
        """
        images = domain.subset if per_category is None else self.few(domain, per_category)
        asked = self.asked(run.detector, images, what="importance", target="joint_margin")

        def compute(parts: Path | None) -> Frames:
            with self.progress(f"{domain.name}: gradients of {run.folder.name}", len(images)) as update:
                result = heads.importance(run.detector, images, batch=self.batch, out=parts, progress=update)
            return {"": result.summary, NOTES: _notes(images, result.provenance)}

        few = "" if per_category is None else f"-{per_category}-each"
        return self._of(f"importance-{domain.name}-{run.folder.name}{few}", asked, compute)[""]

    def ablation(
        self, domain: Domain, what: str, variants: Sequence[heads.Variant], metrics: Sequence[str]
    ) -> pd.DataFrame:
        """Of the domain's first run, over categories: the rows ``mean`` of ``headlens.heads.Ablation.summary``."""
        run = domain.run
        named = [[variant.name, *map(str, variant.heads)] for variant in variants]
        asked_for = {"variants": named, "metrics": list(metrics), "seed": self.seed}
        asked = self.asked(run.detector, domain.subset, what=what, **asked_for)

        def compute(parts: Path | None) -> Frames:
            how: dict[str, Any] = {"metrics": metrics, "seed": self.seed, "batch": self.batch, "out": parts}
            with self.progress(f"{domain.name}: {len(variants)} ablations ({what})", len(domain.subset)) as update:
                result = heads.ablate(run.detector, domain.subset, variants, **how, progress=update)
            means = result.summary[result.summary["category"] == "mean"]
            return {"": means, NOTES: _notes(domain.subset, result.provenance)}

        return self._of(f"{what}-{domain.name}-{run.folder.name}", asked, compute)[""]

    def evaluation(self, domain: Domain, run: Run) -> Evaluation:
        """A run on the domain's images, its scores read as the domain's first run reads them."""
        detector = read_as(run, domain.run)
        asked = self.asked(detector, domain.images, what="evaluation")

        def compute(parts: Path | None) -> Frames:
            with self.progress(f"{domain.name}: scores of {run.folder.name}", len(domain.images)) as update:
                result = evaluate(detector, domain.images, batch=self.batch, progress=update)
            frame = result.frame.assign(half_width=result.half_width)
            return {"": frame, "scores": result.scores, NOTES: result.notes}

        frames = self._of(f"evaluation-{domain.name}-{run.folder.name}", asked, compute, "scores")
        frame, half_width = frames[""].drop(columns="half_width"), float(frames[""]["half_width"].max())
        about = {**asked, "unit": detector.scoring.unit, "half_width": half_width}
        return Evaluation(frame, about, frames["scores"], frames[NOTES])

    def _of(self, name: str, asked: dict[str, Any], compute: Callable[[Path | None], Frames], *more: str) -> Frames:
        """Cached frames, or those that are computed now; remembers which images they are without."""
        frames = self.cache.of(name, asked, compute, ("", NOTES, *more))
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


@dataclass(frozen=True)
class Example:
    """An image and what is known of it.

    Args:
        record: which.
        image: as it is on disk, [3, H, W] uint8.
        seen: as the detector sees it, [S, S, 3] uint8.
        mask: the same of its outline, [S, S] bool; None where there is none.
    """

    record: Record
    image: Tensor
    seen: np.ndarray
    mask: np.ndarray | None

    @property
    def title(self) -> str:
        """Its category."""
        return spelled(self.record.category)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width on disk."""
        return self.image.shape[1], self.image.shape[2]


def examples(data: DataSet, count: int, size: int) -> list[Example]:
    """At most ``count`` examples of a set, as ``RULE`` says, as a detector sees them that resizes images to ``size``.

    Raises:
        DataError: a set without any anomalous image.
    """
    first: dict[str, int] = {}
    for number, record in enumerate(data.records):
        if record.anomalous:
            first.setdefault(record.category, number)
    if not first:
        raise DataError(f"{data.name}: no image is known to be anomalous, so there is none to show")
    chosen = []
    for number in list(first.values())[:count]:
        pixels = data.pixels(number)
        seen = Preprocess(size)(pixels)
        mask = None if seen.mask is None else seen.mask.numpy()
        chosen.append(Example(data.records[number], pixels.image, seen.image.permute(1, 2, 0).numpy(), mask))
    return chosen
