"""The metrics against what others run: same maps, same masks, one process, in turn; values beside times.

    python analyses/metrics_speed.py --maps 100 --size 518 --rounds 5

Baselines, all on the CPU:

- ``scikit-learn x 3``: ``roc_auc_score``, ``average_precision_score`` and the F1 along ``precision_recall_curve``.
- ``200-threshold PRO``: at each of 200 equal steps of the score, the regions of every mask are labelled anew and their
  overlaps averaged, as most published code does.
- ``torchmetrics``: binary AUROC, AP and the F1 along its precision-recall curve, without thresholds.
- ``sorted PRO``: MVTec's method in torch, one argsort of all pixels, cumulative sums in float32, as anomalib 2.7 has it
  (written here from its description; it is not anomalib).

Baselines take a minute or more each: they run ``--baseline-rounds`` times, ours ``--rounds`` times around each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import environment
from scipy import ndimage
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_precision_recall_curve,
)

from headlens.maps import upsample
from headlens.metrics import PerImage, PixelMetrics, Truth, cflow200


def world(count: int, size: int, patches: int = 37, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Patch grids of smooth noise, higher under the defects, in (0, 1); and masks with ellipses on 7 images of 10."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    masks = torch.zeros(count, size, size, dtype=torch.bool)
    for mask in masks:
        if torch.rand((), generator=generator) < 0.7:
            for _ in range(int(torch.randint(1, 4, (), generator=generator))):
                (cy, cx), (ry, rx) = torch.rand(2, 2, generator=generator) * torch.tensor([[size], [0.1 * size]])
                mask |= ((y - cy) / (ry + 0.025 * size)) ** 2 + ((x - cx) / (rx + 0.025 * size)) ** 2 < 1
    noise = F.interpolate(torch.randn(count, 1, 12, 12, generator=generator), (patches, patches), mode="bicubic")[:, 0]
    noise += 0.3 * torch.randn(count, patches, patches, generator=generator)
    signal = F.adaptive_avg_pool2d(masks[:, None].float(), (patches, patches))[:, 0]
    return torch.sigmoid(noise + 1.5 * signal - 1), masks


def enlarged_by_peers(grids: torch.Tensor, size: int) -> torch.Tensor:
    """Interpolation, then scipy's Gaussian, map by map; the border as torch reflects it, so that values compare."""
    large = F.interpolate(grids[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]
    sigma = 4.0 * size / 518
    return torch.from_numpy(np.stack([ndimage.gaussian_filter(one, sigma, mode="mirror") for one in large.numpy()]))


def sklearn_three(maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    scores, labels = maps.ravel(), masks.ravel()
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    return {
        "auroc": float(roc_auc_score(labels, scores)),
        "ap": float(average_precision_score(labels, scores)),
        "f1max": float(f1.max()),
    }


def threshold_pro(maps: np.ndarray, masks: np.ndarray, steps: int = 200, limit: float = 0.3) -> dict[str, float]:
    low, high = maps.min(), maps.max()
    normal = ~masks
    rates, overlaps = [], []
    for threshold in np.arange(low, high, (high - low) / steps):
        found = maps > threshold
        each = []
        for answer, mask in zip(found, masks, strict=True):
            labels, regions = ndimage.label(mask, np.ones((3, 3)))
            for box, region in zip(ndimage.find_objects(labels), range(1, regions + 1), strict=True):
                inside = labels[box] == region
                each.append(answer[box][inside].sum() / inside.sum())
        rates.append(np.logical_and(found, normal).sum() / normal.sum())
        overlaps.append(np.mean(each))
    rates, overlaps = np.array(rates), np.array(overlaps)
    kept = rates < limit
    rates, overlaps = rates[kept], overlaps[kept]
    return {"cflow200": float(auc((rates - rates.min()) / (rates.max() - rates.min()), overlaps))}


def torchmetrics_three(maps: torch.Tensor, masks: torch.Tensor) -> dict[str, float]:
    scores, labels = maps.flatten(), masks.flatten().int()
    precision, recall, _ = binary_precision_recall_curve(scores, labels)
    f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-30)
    found = {"auroc": binary_auroc(scores, labels), "ap": binary_average_precision(scores, labels), "f1max": f1.max()}
    return {name: float(value) for name, value in found.items()}


def sorted_pro(maps: torch.Tensor, masks: torch.Tensor, limit: float = 0.3) -> dict[str, float]:
    truth = Truth.of(masks)
    false, overlap = (~masks).flatten().float(), torch.zeros(masks.numel())
    overlap[truth.index] = 1 / truth.area_at.float()
    scores = maps.flatten()
    order = scores.argsort(descending=True)
    scores, rate, overlap = scores[order], false[order].cumsum(0), overlap[order].cumsum(0)
    rate, overlap = rate / rate[-1], overlap / overlap[-1]
    ends = torch.cat([scores[1:] != scores[:-1], torch.ones(1, dtype=torch.bool)])
    rate, overlap = (np.concatenate([[0.0], side[ends].double().numpy()]) for side in (rate, overlap))
    last = np.searchsorted(rate, limit, side="right")
    middle = np.interp(limit, rate, overlap)
    inside = np.append(rate[:last], limit), np.append(overlap[:last], middle)
    return {"aupro": float(np.trapezoid(inside[1], inside[0]) / limit)}


def ours(maps: torch.Tensor, truth: Truth, **options: object) -> PixelMetrics:
    metric = PixelMetrics(**options)
    metric.update(maps, truth)
    metric.compute()
    return metric


def timed(call: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    out = call()
    return time.perf_counter() - start, out


class Bench:
    """Baselines a few times; around each of their runs, every contender of ours ``rounds`` times."""

    def __init__(self, rounds: int, baseline_rounds: int) -> None:
        self.rounds, self.baseline_rounds = rounds, baseline_rounds
        self.seconds: dict[str, list[float]] = {}
        self.values: dict[str, object] = {}

    def run(self, contenders: dict[str, Callable[[], object]], baselines: dict[str, Callable[[], object]]) -> None:
        """All of them; a first call of each contender is not timed."""
        for call in contenders.values():
            call()
        for _ in range(self.baseline_rounds):
            for name, call in baselines.items():
                for _ in range(self.rounds):
                    for own, quick in contenders.items():
                        self.time(own, quick)
                self.time(name, call)

    def time(self, name: str, call: Callable[[], object]) -> None:
        """One call of one of them."""
        seconds, self.values[name] = timed(call)
        self.seconds.setdefault(name, []).append(seconds)

    def median(self, *names: str) -> float:
        """Seconds of all these together."""
        return sum(statistics.median(self.seconds[name]) for name in names)


def resident(field: str) -> int:
    """Bytes this process holds (``VmRSS``), or held at most (``VmHWM``); Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def peak(count: int, size: int, options: dict[str, object]) -> int:
    """Bytes a metric needs at its peak, beyond the maps and the truth that are there already."""
    grids, masks = world(count, size)
    truth, maps = Truth.of(masks), upsample(grids, (size, size))
    del masks
    truth.weight, truth.starts, truth.area_at  # noqa: B018
    ours(maps[:1], truth.images(0, 1), **options)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    ours(maps, truth, **options)
    return resident("VmHWM") - before


def fresh_peak(*args: object) -> int:
    """``peak`` in a process of its own: what earlier work left in the allocator would hide what is needed."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak, *args).result()


def worst(a: Mapping[str, float], b: Mapping[str, float]) -> str:
    """The largest difference in what both have."""
    return f"{max(abs(float(a[name]) - float(b[name])) for name in a.keys() & b.keys()):.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=100)
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--baseline-rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    count, size = args.maps, args.size

    grids, masks = world(count, size)
    preparing, truth = timed(partial(Truth.of, masks))
    maps = upsample(grids, (size, size))
    ties = (maps * 255).round() / 255
    truth.weight, truth.starts, truth.area_at  # noqa: B018  # belong to the preparation
    per_image = PerImage.of(maps, truth)
    enlarge = partial(upsample, size=(size, size))
    numpy_maps, numpy_masks = maps.numpy(), masks.numpy()

    bench = Bench(args.rounds, args.baseline_rounds)
    stream = {"mode": "streaming"}
    bench.run(
        {
            "exact": partial(ours, maps, truth),
            "exact, ties": partial(ours, ties, truth),
            "streaming": partial(ours, maps, truth, **stream),
            "streaming, ties": partial(ours, ties, truth, **stream),
            "grids": partial(ours, grids, truth, enlarge=enlarge, **stream),
            "upsample": partial(lambda parts: [enlarge(part) for part in parts], grids.split(16)),
            "cflow200": partial(cflow200, maps, truth),
            "bootstrap": per_image.bootstrap,
        },
        {
            "scikit-learn x 3": partial(sklearn_three, numpy_maps, numpy_masks),
            "200-threshold PRO": partial(threshold_pro, numpy_maps, numpy_masks),
            "torchmetrics": partial(torchmetrics_three, maps, masks),
            "sorted PRO": partial(sorted_pro, maps, masks),
            "interpolate + Gaussian": partial(enlarged_by_peers, grids, size),
        },
    )
    seconds, found = bench.median, bench.values
    first = seconds("scikit-learn x 3", "200-threshold PRO")
    second = seconds("torchmetrics", "sorted PRO")
    exact, stream_found = found["exact"].compute(), found["streaming"]
    inside = all(low <= exact[name] <= high for name, (low, high) in stream_found.bounds().items())
    width = max(float(high - low) / 2 for low, high in stream_found.bounds().values())
    tied = max(float(high - low) / 2 for low, high in found["streaming, ties"].bounds().values())
    tied_off = worst(found["streaming, ties"].compute(), found["exact, ties"].compute())
    map_off = float((maps - found["interpolate + Gaussian"]).abs().max())
    peers = first + seconds("interpolate + Gaussian")

    share = len(truth.index) / masks.numel()
    print(f"{count} maps of {size} x {size}; {share:.1%} defect pixels in {truth.regions} regions")
    print(f"{environment(torch.device('cpu'))}; scikit-learn {version('scikit-learn')}\n")
    print("| what | against | times as fast | seconds | agreement |")
    print("|---|---|---:|---:|---|")

    def row(what: str, against: str, base: float, own: float, agreement: str) -> None:
        print(f"| {what} | {against} | {base / own:,.0f} | {own:.4f} of {base:.1f} | {agreement} |")

    baseline = "scikit-learn x 3 + 200-threshold PRO"
    row("four exact pixel metrics", baseline, first, seconds("exact"), worst(exact, found["scikit-learn x 3"]))
    row("the same, scores in steps of 1/255", baseline, first, seconds("exact, ties"), "-")
    row(
        "four exact pixel metrics",
        "torchmetrics + sorted PRO",
        second,
        seconds("exact"),
        f"AUPRO {worst(exact, found['sorted PRO'])}, others {worst(exact, found['torchmetrics'])} (float32)",
    )
    row(
        "streaming, 65,536 bins",
        baseline,
        first,
        seconds("streaming"),
        f"inside: {inside}, half-width {width:.1e}, off by {worst(stream_found.compute(), exact)}",
    )
    row(
        "the same, scores in steps of 1/255",
        baseline,
        first,
        seconds("streaming, ties"),
        f"half-width {tied:.1e}, off by {tied_off}",
    )
    row(
        "patch grids to maps",
        "interpolate + Gaussian",
        seconds("interpolate + Gaussian"),
        seconds("upsample"),
        f"{map_off:.1e}",
    )
    row(
        "patch grids to streaming metrics",
        f"interpolate + Gaussian, {baseline}",
        peers,
        seconds("grids"),
        f"{1000 * seconds('grids') / count:.3f} ms a map",
    )
    row(
        "cflow200",
        "200-threshold PRO",
        seconds("200-threshold PRO"),
        seconds("cflow200"),
        f"{abs(float(found['cflow200']) - found['200-threshold PRO']['cflow200']):.1e}",
    )
    print()
    print(f"Truth of the masks, once: {preparing:.3f} s. 1,000 bootstrap replicates: {seconds('bootstrap'):.3f} s.")
    for name, value in exact.items():
        print(f"{name} {float(value):.7f}", end="; ")
    print(f"cflow200 {float(found['cflow200']):.7f}")
    for mode, share in ((mode, share) for mode in ("exact", "streaming") for share in (count // 2, count)):
        needed = fresh_peak(share, size, {"mode": mode})
        print(f"Memory, {mode}, {share} maps: {needed / 2**20:.1f} MiB, {needed / (share * size**2):.2f} bytes a pixel")


if __name__ == "__main__":
    main()
