"""Numbers that must not change while the code does: predictions of every shipped run, and one frame of each lens verb.

All in float64, on eight images a domain that lie in ``tests/golden.npz`` beside the numbers: the first of the
procedural worlds, at half their size, for what a world paints differs in single pixels from one model of CPU to
another. The numbers of this tree are compared with the file's, and the largest differences printed, each relative to
the largest value of its array. ``--write`` writes them instead; the images stay.

    python analyses/golden_numbers.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import headlens
from headlens import attribution, heads
from headlens.data import DataSet, Pixels, Preprocess, Record
from headlens.detectors import Detector, build
from headlens.heads.phrases import BUILT_IN
from headlens.training.run import load_run
from headlens.training.shipped import NAMES

FILE = Path(__file__).parents[1] / "tests/golden.npz"
TOLERANCE = 1e-12
"""Of the largest value: what another order of the same sums may change."""
COUNTED = "pixel metrics"
"""Pixels are counted in bins: one at the edge of a bin is in the next one on another model of CPU."""
SIZE = 112
UNTRAINED = ("clip", "crane", "anomalyclip-published")
"""Presets that no shipped run has, with hand-written prompts."""
LENS = ("mini-industrial-0", "mini-medical-1")
"""Runs that the lens looks into."""


class Stored(DataSet):
    """The images of a domain that lie in ``tests/golden.npz``, and their masks."""

    def __init__(self, domain: str, names: Sequence[str] | None = None) -> None:
        with np.load(FILE) as file:
            every = dict(zip(file[f"names/{domain}"].tolist(), range(len(file[f"names/{domain}"])), strict=True))
            which = [every[name] for name in (names or every)]
            self.images = torch.from_numpy(file[f"images/{domain}"][which])  # [n, 3, S, S]
            self.masks = torch.from_numpy(file[f"masks/{domain}"][which])  # [n, S, S]
        super().__init__(f"stored:{domain}", domain, map(self._record, names or every))

    @staticmethod
    def _record(name: str) -> Record:
        category, _, family, _ = name.split("/")
        return Record(name, category, family != "good", family)

    @property
    def has_masks(self) -> bool:
        """They are in memory, in no file."""
        return True

    def pixels(self, i: int) -> Pixels:
        """Image and mask of record ``i``."""
        return Pixels(self.images[i], self.masks[i])

    def where(self, keep: Callable[[Record], bool]) -> Stored:
        """The same set with only the records for which ``keep`` is true."""
        return Stored(self.domain, [record.name for record in self.records if keep(record)])


def domain_of(name: str) -> str:
    """What a shipped run is tested on."""
    return "industrial" if "industrial" in name else "medical"


@torch.no_grad()
def predictions(name: str, detector: Detector) -> Iterator[tuple[str, np.ndarray]]:
    """What a detector says of the images of its domain."""
    dataset = Stored(domain_of(name))
    images = Preprocess(SIZE).normalise(dataset.images)
    prediction = detector(images, [record.category for record in dataset.records])
    yield f"{name}/image_margin", prediction.image_margin.numpy()
    yield f"{name}/joint_score", prediction.joint_score.numpy()
    yield f"{name}/map_mean", prediction.anomaly_map.flatten(1).mean(1).numpy()
    yield f"{name}/map_max", prediction.anomaly_map.flatten(1).amax(1).numpy()
    for tap, margins in prediction.tap_margins.items():
        yield f"{name}/tap_margins_{tap}", margins[:, ::2, ::2].numpy()


def frames(name: str, detector: Detector) -> Iterator[tuple[str, np.ndarray]]:
    """One frame of each lens verb, of some heads in three layers."""
    dataset = Stored(domain_of(name))
    chosen = heads.heads_of(detector, [11, 22, 23], [0, 7])
    single = heads.single_heads(chosen)
    metrics = ("image_auroc", "pixel_auroc", "pixel_aupro")
    for kind in ("zero", "mean"):
        ablated = heads.ablate(detector, dataset, single, kind=kind, metrics=metrics, size=SIZE)
        yield f"{name}/ablate {kind}", _numbers(ablated.frame, "value", "effect")
        counted = ablated.summary["metric"].isin(metrics[1:])
        for what, rows in (("summary", ablated.summary[~counted]), (COUNTED, ablated.summary[counted])):
            yield f"{name}/ablate {kind}, {what}", _numbers(rows, "effect", "low", "high")
    some = ("image_margin", "joint_margin")
    yield f"{name}/importance", _numbers(heads.importance(detector, dataset, metrics=some, size=SIZE).frame, "value")
    yield f"{name}/contributions", _numbers(heads.contributions(detector, dataset, size=SIZE).frame, "value")
    late = [head for head in chosen if head.stream == "global" and head.layer > 20]
    named = heads.name_heads(detector, dataset, late, pool=heads.read_phrases(BUILT_IN)[::10], size=SIZE)
    yield f"{name}/name_heads", named.frame.select_dtypes("number").to_numpy(float)
    for method in ("legrad", "relevance", "contributions"):
        maps = attribution.attribute(detector, list(dataset.images[:2]), method, "image_margin", size=SIZE).map
        yield f"{name}/attribute {method}", np.asarray(maps)[:, ::8, ::8]


def _numbers(frame: pd.DataFrame, *columns: str) -> np.ndarray:
    """Columns of a frame, in the order of whatever says what a row is of; a sixteenth of long ones."""
    said = ("image", "category", "variant", "stream", "layer", "head", "kind", "metric")
    keys = [name for name in said if name in frame.columns]
    rows = frame.sort_values(keys, kind="stable")[list(columns)].to_numpy(float)
    return rows[:: 16 if len(rows) > 4096 else 1]


def every_number() -> Iterator[tuple[str, np.ndarray]]:
    """All of them."""
    for name in NAMES:
        detector = load_run(name, dtype=torch.float64).detector
        yield from predictions(name, detector)
        if name in LENS:
            yield from frames(name, detector)
    for domain in ("industrial", "medical"):
        backbone = load_run(f"mini-{domain}-0", dtype=torch.float64).detector.backbone
        for preset in UNTRAINED:
            yield from predictions(f"{preset} on mini-{domain}", build(backbone, preset, prompts="ensemble"))


def tolerance(name: str) -> float:
    """What may change of the array of that name, relative to its largest value."""
    return 1e-4 if name.endswith(COUNTED) else TOLERANCE


def difference(before: np.ndarray, now: np.ndarray) -> float:
    """The largest difference, relative to the largest value; infinite where shapes or undefined values differ."""
    if before.shape != now.shape or (np.isnan(before) != np.isnan(now)).any():
        return float("inf")
    scale = np.nanmax(np.abs(before), initial=0.0) or 1.0
    return float(np.nanmax(np.abs(before - now), initial=0.0) / scale)


def main() -> int:
    """Writes the numbers, or compares them; 1 if some changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    numbers = dict(every_number())
    with np.load(FILE) as file:
        before = {name: file[name] for name in file.files}
    stored = {name: before.pop(name) for name in tuple(before) if name.startswith(("images/", "masks/", "names/"))}
    if given.write:
        np.savez_compressed(FILE, **stored, **numbers)
        print(f"{FILE}: {len(numbers)} arrays of headlens {headlens.__version__}")
        return 0
    changed = {name: difference(before[name], numbers[name]) for name in before if name in numbers}
    absent = sorted(set(before) - set(numbers))
    for name, most in sorted(changed.items(), key=lambda item: -item[1])[:20]:
        print(f"{most:.1e} {name}")
    wrong = sum(most > tolerance(name) for name, most in changed.items())
    bounds = f"{TOLERANCE:g}, {COUNTED} within {tolerance(COUNTED):g}"
    print(f"{len(changed) - wrong} of {len(changed)} arrays within {bounds}")
    print(*(f"not made any more: {name}" for name in absent), sep="\n")
    return int(bool(absent or wrong))


if __name__ == "__main__":
    raise SystemExit(main())
