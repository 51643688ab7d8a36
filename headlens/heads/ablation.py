"""``ablate``: total effects of heads on a detector's scores, measured by ablating them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import pandas as pd
from torch import Tensor

from headlens import html, plots
from headlens.backbone.plan import STREAMS
from headlens.data import Batch, DataSet, as_set
from headlens.detectors.detector import Detector, HasDetector, detector_of
from headlens.errors import ConfigError
from headlens.heads.clean import Targets, clean_forward
from headlens.heads.effects import images_frame, keys_of, summarised
from headlens.heads.exactness import check_follows, check_unhooked
from headlens.heads.measuring import PROBES, measure
from headlens.heads.replacement import Replacements
from headlens.heads.response import Kind
from headlens.heads.scored import Scored, scored
from headlens.heads.store import alone
from headlens.heads.sweep import categories
from headlens.heads.variants import Variant, check_variants, heads_of, single_heads
from headlens.metrics.table import MEAN
from headlens.printing import unknown_name
from headlens.progress import Progress
from headlens.results import Result, save_frame

KINDS = ("zero", "mean", "resample", "paired", "revert")
Text = Literal["held", "follows"]
DEFAULT_METRICS = ("image_auroc", "pixel_auroc", "pixel_aupro")
"""Of the joint score, and of the anomaly map."""


@dataclass(frozen=True)
class Ablation(Result):
    """Effects of ablations.

    Args:
        frame: a row for each image, variant and continuous quantity; ``value`` with the ablation, ``baseline`` without,
            ``effect`` their difference. Rows of kind ``none`` are probes: computed in the same way, but without an
            ablation.
        summary: a row for each variant and quantity, metrics included: means over categories (category ``mean``), and
            each category by itself. ``magnitude`` is the mean absolute effect over images, and orders the variants of
            each quantity, the largest first; ``low`` and ``high`` are the 95 % bootstrap interval of the effect,
            ``noise`` the probe's magnitude. A mean is over the ``n`` categories of ``of`` where the metric is defined.
    """

    TABLES: ClassVar = ("summary",)
    summary: pd.DataFrame

    def means(self, metric: str) -> pd.DataFrame:
        """Rows of ``summary`` for one quantity, means over categories, largest ``magnitude`` first.

        Raises:
            ConfigError: a quantity that was not measured.
        """
        rows = self.summary[(self.summary["metric"] == metric) & (self.summary["category"] == MEAN)]
        if rows.empty:
            measured = ", ".join(dict.fromkeys(self.summary["metric"]))
            raise ConfigError(f"{metric!r} was not measured; available: {measured}")
        return rows

    def _parts(self) -> list[str]:
        columns = ["variant", "magnitude", "effect", "low", "high", "noise"]
        rows = self.means("joint_margin")[columns].rename(columns={"magnitude": "moves by"})
        also = ""
        if "anomaly_map" in set(self.summary["metric"]):
            map_change = self.means("anomaly_map").set_index("variant")["effect"]
            rows = rows.assign(**{"anomaly map": map_change.reindex(rows["variant"]).to_numpy()})
            also = " and of the anomaly map (relative L1)"
        about = (
            f"Change of the joint margin (logits){also} without these heads; ordered by 'moves by', the mean absolute "
            "change of the joint margin over images"
        )
        return [html.table(rows, about)]

    def plot(self, ax: Any = None, metric: str | None = None, stream: str | None = None) -> plots.Figure:
        """Effects as a figure; see ``headlens.plots.ablation``."""
        means = self.summary[self.summary["category"] == MEAN]
        return plots.signed(plots.ablation(means, ax, metric, stream), self.made_by, ax)

    def save(self, path: str | Path) -> Path:
        """Writes the frame and, next to it, the summary (Parquet, CSV); or only the summary (Markdown, LaTeX)."""
        if Path(path).suffix in (".md", ".tex"):
            return save_frame(Path(path), self.summary, self.provenance)
        return super().save(path)


@alone
def ablate(
    detector: Detector | HasDetector,
    data: DataSet | str | Path,
    variants: Sequence[Variant] | None = None,
    *,
    kind: Kind = "zero",
    reference: DataSet | None = None,
    text: Text = "held",
    seed: int = 0,
    metrics: Sequence[str] = DEFAULT_METRICS,
    replicates: int = 200,
    size: int | None = None,
    batch: int = 8,
    budget: int | None = None,
    precision: str | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Ablation:
    """Total effects: heads are ablated, and everything downstream is recomputed. Exact.

    Args:
        detector: a detector, or a run.
        data: the images; a data set, or its name for ``headlens.data.open``.
        variants: which heads are ablated together (``single_heads``, ``whole_layers``, ``cumulative``); by default
            every head of both streams alone, or with ``revert`` every head with a learned weight.
        kind: the output of an ablated head: zero (``zero``), its ``mean`` over a reference set, its output for another
            normal image of the category (``resample``), for the image of the same name in a reference set (``paired``),
            or its output with weight 1 (``revert``).
        reference: data set for ``mean`` (all its images) and ``resample`` (its normal ones), by default the normal
            images of ``data``; for ``paired`` the twin of ``data``, such as the clean images where ``data`` is
            ``headlens.data.triggered``.
        text: for methods whose text depends on the images: ``held`` fixed at the clean run, or recomputed so that it
            ``follows`` the features that the ablation leaves.
        seed: for donors and the bootstrap.
        metrics: names from ``headlens.metrics.table``; ``()`` for none.
        replicates: number of bootstrap replicates.
        size: images are resized to this square; the detector's size when None.
        batch: images per batch.
        progress: called with the number of images after every batch; a bar when None.
        budget: bytes for the variants of a block; chosen by the device when None.
        precision: ``float32``, ``tf32``, ``float16`` or ``bfloat16``; that of the loaded backbone when None. Effects
            close to the noise floor need a higher precision.
        out: folder for finished batches; an interrupted call resumes from it and ends with the same bits. For pixel
            metrics, patch maps are stored in it, else in memory: float32, V variants x N images x rows x columns (for
            each tap, if taps are fused at pixels).

    Raises:
        ShapeError: heads that do not exist.
        ConfigError: an unknown kind, metric or precision; ``revert`` without learned weights, ``paired`` without a
            reference, ``follows`` for a text that does not depend on the image.
        DataError: no image could be read; no donor; no twin.
        RunError: ``out`` holds another sweep, or cannot be written.
    """
    detector, data = detector_of(detector), as_set(data)
    learned = tuple(detector.head_weights())
    if variants is None:
        variants = single_heads(heads_of(detector, streams=learned if kind == "revert" and learned else STREAMS))
    variants = list(variants)
    check_variants(detector, variants)
    restarted = {"local" if v.stream == "local" and v.head is not None else "global" for v in variants}
    every = [PROBES[way] for way in sorted(restarted)] + variants
    options: dict[str, Any] = {"size": size, "batch": batch, "precision": precision, "out": out, "progress": progress}
    options |= {"kind": kind, "reference": reference, "text": text, "budget": budget, "seed": seed}
    done = ablated(detector, data, every, metrics=metrics, replicates=replicates, **options)
    keys = keys_of(every, kind)
    frame = images_frame(data, done.records, keys, done.scores)
    return Ablation(frame, done.provenance, summarised(data, keys, done.effects))


def ablated(
    detector: Detector,
    data: DataSet,
    variants: Sequence[Variant],
    *,
    kind: Kind,
    reference: DataSet | None,
    text: Text,
    seed: int,
    size: int | None,
    batch: int,
    budget: int | None,
    **options: Any,
) -> Scored:
    """What ``ablate`` computes; arguments are its own.

    Args:
        detector: which.
        data: the images.
        variants: of heads that the detector has; ``PROBES`` among them.
        kind, reference, text, seed, size, batch, budget: as in ``ablate``.
        options: of ``scored``.

    Raises:
        ConfigError, DataError, RunError: as ``ablate`` does.
    """
    check_unhooked(detector, "an ablation")
    if kind not in KINDS:
        raise ConfigError(unknown_name("kind", kind, KINDS))
    if kind == "revert" and not detector.head_weights():
        raise ConfigError("kind 'revert' sets learned head weights back to 1, but this detector has none")
    if text not in get_args(Text):
        raise ConfigError(f"unknown text {text!r}; available: {', '.join(get_args(Text))}")
    if text == "follows":
        check_follows(detector)
    replacements = Replacements(detector, data, kind, reference, seed, size or detector.image_size, batch)

    def changed(lowered: Detector, part: Batch, images: Tensor) -> tuple[Targets, Targets]:
        clean = clean_forward(lowered, images, categories(part))
        instead = replacements.of(lowered, part)
        return clean.targets, measure(clean, variants, kind, instead, budget, text == "follows")

    settings: dict[str, Any] = {"kind": kind, "text": text, "reference": replacements.about, "budget": budget}
    settings |= {"variants": [[variant.name, *map(str, variant.heads)] for variant in variants]}
    settings |= {"seed": seed, "size": size, "batch": batch, "what": "ablation"}
    done = scored(detector, data, changed, **(settings | options))
    return replace(done, provenance=done.provenance | {"reference_skipped": replacements.unread()})
