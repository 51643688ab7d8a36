"""``ablate``: what every head is worth to a detector on a data set, by really taking it away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from headlens import html, parallel, plots
from headlens.backbone.plan import STREAMS
from headlens.data import DataSet
from headlens.detectors.detector import Detector
from headlens.detectors.precision import at_precision
from headlens.errors import ConfigError
from headlens.heads.clean import Clean, clean_forward
from headlens.heads.effects import check_metrics
from headlens.heads.measures import Targets, check_linear, check_unhooked, logit
from headlens.heads.measuring import PROBES, measure
from headlens.heads.pictures import Pictures, categories
from headlens.heads.replacement import StandIns
from headlens.heads.response import Kind
from headlens.heads.store import PatchMaps, Store, alone
from headlens.heads.summary import category_effects, images_frame, keys_of, known_of, packed, summarised, unpacked
from headlens.heads.variants import Variant, check_variants, heads_of, single_heads
from headlens.metrics.table import MEAN, PIXEL
from headlens.precision import check_precision
from headlens.provenance import computed, provenance
from headlens.results import Result, beside, read_parquet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("zero", "mean", "resample", "revert")
DEFAULT_METRICS = ("image_auroc", "pixel_auroc", "pixel_aupro")
"""Of the joint score, and of the anomaly map."""


@dataclass(frozen=True)
class Ablation(Result):
    """Effects of ablations.

    Args:
        frame: a row for each image, variant and continuous quantity; ``value`` under the ablation, ``baseline``
            without, ``effect`` their difference. Rows of kind ``none`` are probes: nothing ablated, all computed.
        summary: a row for each variant and quantity, metrics included: means over categories (category ``mean``), and
            each category by itself. ``magnitude`` is the mean absolute effect over images, and orders the variants of
            each quantity, the largest first; ``low`` and ``high`` are the 95 % bootstrap interval of the effect,
            ``noise`` the probe's magnitude. A mean is over the ``n`` categories of ``of`` where the metric is defined.
    """

    summary: pd.DataFrame

    def means(self, metric: str) -> pd.DataFrame:
        """Rows of ``summary`` of one quantity, means over categories: those of the largest ``magnitude`` in it first.

        Raises:
            ConfigError: a quantity that was not measured.
        """
        found = self.summary[(self.summary["metric"] == metric) & (self.summary["category"] == MEAN)]
        if found.empty:
            there = ", ".join(dict.fromkeys(self.summary["metric"]))
            raise ConfigError(f"{metric!r} was not measured; there are {there}")
        return found

    def _parts(self) -> list[str]:
        columns = ["variant", "magnitude", "effect", "low", "high", "noise"]
        rows = self.means("joint_margin")[columns].rename(columns={"magnitude": "moves by"})
        map_change = self.means("anomaly_map").set_index("variant")["effect"]
        rows = rows.assign(**{"anomaly map": map_change.reindex(rows["variant"]).to_numpy()})
        about = (
            "Change of the joint margin (logits) and of the anomaly map (relative L1) without them; in the order of "
            "'moves by', the mean absolute change of the joint margin over pictures"
        )
        return [html.table(rows, about)]

    def plot(self, ax: Any = None, metric: str | None = None, stream: str | None = None) -> tuple[Figure, Any]:
        """Effects as a picture; see ``headlens.plots.ablation.ablation``."""
        means = self.summary[self.summary["category"] == MEAN]
        fig, axes = plots.ablation(means, ax, metric, stream)
        return (plots.signed(fig, self.made_by) if ax is None else fig), axes

    def save(self, path: str | Path) -> Path:
        """As ``Result.save``. Parquet and CSV have the summary in a second file, Markdown and LaTeX are the summary."""
        path = Path(path)
        if path.suffix in (".md", ".tex"):
            return Result(self.summary, self.provenance).save(path)
        Result(self.summary, self.provenance).save(beside(path, "summary"))
        return super().save(path)

    @classmethod
    def load(cls, path: str | Path) -> Ablation:
        """What ``save`` wrote as Parquet."""
        path = Path(path)
        return cls(*read_parquet(path), read_parquet(beside(path, "summary"))[0])


@alone
def ablate(
    detector: Detector,
    data: DataSet,
    variants: Sequence[Variant] | None = None,
    *,
    kind: Kind = "zero",
    reference: DataSet | None = None,
    seed: int = 0,
    metrics: Sequence[str] = DEFAULT_METRICS,
    replicates: int = 200,
    size: int | None = None,
    batch: int = 8,
    budget: int | None = None,
    precision: str | None = None,
    out: Path | None = None,
    progress: Callable[[int], object] = lambda n: None,
) -> Ablation:
    """Total effects: heads are ablated for real, and everything downstream responds. Exact.

    Args:
        detector: whose heads.
        data: which pictures.
        variants: which heads together (``single_heads``, ``whole_layers``, ``cumulative``); by default every head of
            both streams by itself, with ``revert`` of those whose weights are learned.
        kind: what an ablated head writes: nothing (``zero``), its ``mean`` over a reference set, what it writes for
            another normal picture of the category (``resample``), or what it wrote before its weight was learned
            (``revert``).
        reference: of ``mean`` (all its pictures) and ``resample`` (its normal ones); the normal pictures of ``data`` by
            default.
        seed: of donors and of the bootstrap.
        metrics: names of ``headlens.metrics.table``.
        replicates: of the bootstrap.
        size: pictures are resized to this square; the detector's own size when None.
        batch: pictures at once.
        budget: bytes that ablated variants may take while a block is run; None chooses by the device.
        precision: see ``headlens.precision``; as the backbone was loaded when None. The noise floor is that of the
            precision: where effects come near it, choose a finer one.
        out: a folder for finished batches: a sweep that was killed goes on from there, and ends with the same bits.
            Patch maps then wait there; else in memory, V N rows columns float32 of them, if pixel metrics are asked.
        progress: called with the number of pictures after every batch (of every rank's).

    Raises:
        ShapeError: heads that do not exist.
        ConfigError: an unknown kind, metric or precision; ``revert`` where no weights are learned.
        DataError: no picture could be read; no donor.
        RunError: ``out`` holds another sweep, or cannot be written.
    """
    check_linear(detector)
    check_unhooked(detector, "an ablation")
    if variants is None:
        weighed = kind == "revert" and detector.weights is not None
        variants = single_heads(heads_of(detector, streams=detector.config.streams if weighed else STREAMS))
    variants = list(variants)
    check_variants(detector, variants)
    check_metrics(metrics)
    check_precision(precision)
    if kind not in KINDS:
        raise ConfigError(f"unknown kind {kind!r}: there are {', '.join(KINDS)}")
    if kind == "revert" and detector.weights is None:
        raise ConfigError("kind 'revert' sets learned head weights back to 1, but this detector has none")
    if replicates < 1:
        raise ConfigError(f"replicates is {replicates}; an interval needs 1 at least, and is coarse below 100")
    restarted = {"local" if v.stream == "local" and v.head is not None else "global" for v in variants}
    every = [PROBES[way] for way in sorted(restarted)] + variants
    pictures = Pictures(detector, data, size, batch)
    names = ["image_margin", "joint_score", "map_change"]
    names += ["patch_map"] if set(metrics) & set(PIXEL) else []  # the largest by far
    ranks, parts = parallel.current(), {}
    with at_precision(detector, precision) as own:
        stand_ins = StandIns(own, data, kind, reference, seed, pictures.size, batch)
        settings = {
            "what": "ablation",
            "kind": kind,
            "variants": [[variant.name, *map(str, variant.heads)] for variant in every],
            "reference": stand_ins.about,
            "size": pictures.size,
            "batch": batch,
            "budget": budget,
            "pixel_metrics": bool(set(metrics) & set(PIXEL)),
        }
        about = provenance(detector, data, seed=seed, **settings, **computed(detector, precision))
        store = Store(out, about)
        for number, part, images in pictures.shared():
            arrays = store.get(number, part.records)
            if arrays is None:
                clean = clean_forward(own, images, categories(part))
                arrays = _measured(clean, measure(clean, every, kind, stand_ins.of(part), budget), names)
                store.put(number, part.records, arrays)
            if store.folder is not None:
                arrays.pop("patch_map", None)  # it waits there, for all ranks
            parts[number] = {"index": part.index.numpy(), **packed(known_of(part)), **arrays}
            progress(ranks.behind(number, batch, len(data)))
    found, known, maps = [], [], PatchMaps(store)
    for arrays in ranks.merged(parts, len(pictures)):
        records = [data.records[i] for i in arrays["index"]]
        known += unpacked(records, arrays)
        maps.take(int(arrays["index"][0]) // batch, records, arrays)
        found.append(arrays)
    notes = pictures.notes()
    alone = [name for name in names if name != "patch_map"]
    scores = {name: torch.from_numpy(np.concatenate([arrays[name] for arrays in found], 1)) for name in alone}
    scores["joint_margin"] = logit(scores["joint_score"])
    keys = keys_of(every, kind)
    about |= {**notes, "reference_skipped": stand_ins.unread(), "replicates": replicates}
    frame = images_frame(data, known, keys, scores)
    grids = maps.of if "patch_map" in names else None
    by_category = category_effects(detector, known, scores, metrics, replicates, seed, pictures.size, grids)
    return Ablation(frame, about, summarised(data, keys, by_category))


def _measured(clean: Clean, found: Targets, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Scores [V + 1, B], patch maps [V + 1, B, rows, columns] where asked for; the first row is the whole detector."""
    own = {name: torch.cat([getattr(clean.targets, name)[None], getattr(found, name)]).cpu().numpy() for name in names}
    if bad := [name for name, values in own.items() if not np.isfinite(values).all()]:
        raise ConfigError(
            f"{bad[0].replace('_', ' ')}: not a number, or infinite; where the backbone overflows in float16, "
            "take precision bfloat16 or float32"
        )
    return own
