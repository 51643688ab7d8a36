"""Numbers that must not change while the code does: predictions of every shipped run, and one frame of each lens verb.

All in float64, on eight painted images. ``--write`` makes ``tests/golden.npz``; without it the numbers of this tree are
compared with that file, and the largest difference of each is printed, relative to its largest value.

    python analyses/golden_numbers.py
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import headlens
from headlens import attribution, data, heads
from headlens.training.run import load_run, load_runs
from headlens.training.shipped import NAMES

FILE = Path(__file__).parents[1] / "tests/golden.npz"
TOLERANCE = 1e-12
"""Of the largest value: what another order of the same sums may change."""
_IMAGES = 8
_LAYERS = [11, 22, 23]


def images(domain: str) -> tuple[data.DataSet, list[torch.Tensor], list[str]]:
    """Eight images of a domain, their pixels and what they show."""
    dataset = data.open(f"procedural:{domain}", per_category=2)
    names = {record.name for record in dataset.records[:_IMAGES]}
    dataset = dataset.where(lambda record: record.name in names)
    pixels = [dataset.pixels(i).image for i in range(_IMAGES)]
    return dataset, pixels, [record.category for record in dataset.records]


def predictions(names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """What shipped runs say of the images of their domain."""
    for name in names:
        domain = "industrial" if "industrial" in name else "medical"
        run = load_run(name, dtype=torch.float64)
        _, pixels, _ = images(domain)
        prediction = run.predict(pixels)
        yield f"{name}/image_margin", prediction.image_margin.numpy()
        yield f"{name}/joint_score", prediction.joint_score.numpy()
        yield f"{name}/map_mean", prediction.anomaly_map.flatten(1).mean(1).numpy()
        yield f"{name}/map_max", prediction.anomaly_map.flatten(1).amax(1).numpy()
        for tap, margins in prediction.tap_margins.items():
            yield f"{name}/tap_margins_{tap}", margins[:, ::4, ::4].numpy()


def frames() -> Iterator[tuple[str, np.ndarray]]:
    """One frame of each lens verb, on a run of either domain."""
    for name, domain in (("mini-industrial-0", "industrial"), ("mini-medical-1", "medical")):
        detector = load_run(name, dtype=torch.float64).detector
        dataset, pixels, _ = images(domain)
        chosen = heads.heads_of(detector, _LAYERS, [0, 7])
        ablated = heads.ablate(detector, dataset, heads.single_heads(chosen), metrics=("image_auroc", "pixel_auroc"))
        keys = ["image", "variant", "metric"]
        yield f"{name}/ablate", ablated.frame.sort_values(keys)[["value", "effect"]].to_numpy(float)
        summary = ablated.summary.sort_values(["category", "variant", "metric"])
        yield f"{name}/ablate summary", summary[["effect", "low", "high"]].to_numpy(float)
        yield f"{name}/importance", _values(heads.importance(detector, dataset).frame)
        yield f"{name}/contributions", _values(heads.contributions(detector, dataset).frame)
        some = [head for head in chosen if head.stream == "global" and head.layer > 20]
        yield f"{name}/name", heads.name_heads(detector, dataset, some).frame.select_dtypes("number").to_numpy(float)
        for method in ("legrad", "relevance", "gradient_input"):
            if method in attribution.METHODS:
                found = attribution.attribute(detector, pixels[:2], method)
                yield f"{name}/attribute {method}", found.map[:, ::16, ::16]


def _values(frame: object) -> np.ndarray:
    keys = [name for name in ("image", "stream", "layer", "head", "kind", "metric") if name in frame]
    return frame.sort_values(keys, kind="stable")["value"].to_numpy(float)


def shipped() -> list[str]:
    """Every run that ships."""
    return [run.folder.name for name in NAMES for run in load_runs(name)]


def difference(before: np.ndarray, now: np.ndarray) -> float:
    """The largest difference, relative to the largest value; infinite where shapes or undefined values differ."""
    if before.shape != now.shape or (np.isnan(before) != np.isnan(now)).any():
        return float("inf")
    scale = np.nanmax(np.abs(before), initial=0.0) or 1.0
    return float(np.nanmax(np.abs(before - now), initial=0.0) / scale)


def main() -> int:
    """Writes the numbers, or compares them; 1 if some changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    numbers = {**dict(predictions(shipped())), **dict(frames())}
    if given.write:
        np.savez_compressed(FILE, **numbers)
        print(f"{FILE}: {len(numbers)} arrays of headlens {headlens.__version__}")
        return 0
    with np.load(FILE) as before:
        changed = {name: difference(before[name], numbers[name]) for name in before.files if name in numbers}
        absent = sorted(set(before.files) - set(numbers))
    for name, most in sorted(changed.items(), key=lambda item: -item[1])[:20]:
        print(f"{most:.1e} {name}")
    print(f"{sum(most <= TOLERANCE for most in changed.values())} of {len(changed)} arrays within {TOLERANCE:g}")
    print(*(f"not made any more: {name}" for name in absent), sep="\n")
    return int(bool(absent) or any(most > TOLERANCE for most in changed.values()))


if __name__ == "__main__":
    raise SystemExit(main())
