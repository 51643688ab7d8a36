"""``faithfulness``: measures attribution methods per domain, with intervals over images, and sanity checks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import scipy  # its parts are imported when they are used
import torch
from torch import Tensor

from headlens import html, plots
from headlens.attribution.measures import (
    CHECKS,
    UNCHANGED,
    deletion,
    infidelity,
    insertion,
    pointing,
    random_head_weights,
    rank_correlation,
    sensitivity,
    with_random_blocks,
)
from headlens.attribution.methods import METHODS, method_of
from headlens.attribution.targets import Target, target_of
from headlens.data import DataSet, as_set
from headlens.detectors.detector import detector_of
from headlens.detectors.precision import at_precision
from headlens.errors import ConfigError, DataError, ShapeError
from headlens.heads.exactness import check_gradients
from headlens.heads.sweep import Images
from headlens.metrics import PerImage, Truth
from headlens.printing import unknown_name
from headlens.progress import Progress, followed
from headlens.provenance import computed, provenance
from headlens.results import Result, ordered

MEASURES = ("deletion", "insertion", "pointing", "aupro", "infidelity", "sensitivity", *CHECKS)
"""All that can be measured; the last two are rank correlations, see ``headlens.attribution.measures``."""

_COLUMNS = ["domain", "kind", "metric", "value", "low", "high", "n"]


@dataclass(frozen=True)
class Faithfulness(Result):
    """``frame``: a row for each domain, method (``kind``) and measure (``metric``).

    ``value`` is the mean over images, or AUPRO over all of them; ``low`` and ``high`` are its 95 % bootstrap interval
    over images, ``n`` how many there are.

    Args:
        images: the rows of single images that ``frame`` sums up.
    """

    TABLES: ClassVar = ("images",)

    images: pd.DataFrame = field(repr=False)

    def _parts(self) -> list[str]:
        table = self.frame.pivot(index=["domain", "kind"], columns="metric", values="value")
        order = pd.MultiIndex.from_frame(self.frame[["domain", "kind"]].drop_duplicates())
        metrics = [metric for metric in MEASURES if metric in table]
        about = "Means over images; lower is better, except for insertion, pointing and aupro"
        return [html.table(table.reindex(order)[metrics].reset_index(), about, most=len(METHODS))]

    def plot(self, ax: Any = None, metric: str | None = None) -> plots.Figure:
        """One measure of every method, with its interval; each domain has a colour.

        Args:
            ax: axes to draw on; a new figure when None.
            metric: one of ``MEASURES``; the first that was measured when None.

        Raises:
            ConfigError: a measure that was not computed.
        """
        measured = [name for name in MEASURES if name in set(self.frame["metric"])]
        metric = metric or measured[0]
        if metric not in measured:
            raise ConfigError(f"{metric!r} was not measured; available: {', '.join(measured)}")
        rows = self.frame[self.frame["metric"] == metric].rename(columns={"kind": "row", "domain": "group"})
        drawn = plots.intervals(rows, ax, label=metric.replace("_", " "))
        if ax is None:
            drawn.axes.legend(fontsize="small", frameon=False)
        return plots.signed(drawn, self.made_by, ax)

    def save(self, path: str | Path) -> Path:
        """As ``Result.save``; Markdown and LaTeX contain only ``frame``."""
        if Path(path).suffix in (".md", ".tex"):
            return Result(self.frame, self.provenance).save(path)
        return super().save(path)

    @property
    def verdicts(self) -> pd.DataFrame:
        """A row for each domain and method: its rank correlations, and ``passes``: all are below ``UNCHANGED``.

        Raises:
            ConfigError: no randomisation was measured.
        """
        rows = self.frame[self.frame["metric"].isin(CHECKS)]
        if rows.empty:
            raise ConfigError(f"no sanity check was run; measure {' and '.join(CHECKS)}")
        table = rows.pivot(index=["domain", "kind"], columns="metric", values="value")
        below = (table < UNCHANGED) | table.isna()  # a check that was not asked for is not failed
        order = rows[["domain", "kind"]].drop_duplicates()
        return table.assign(passes=below.all(axis=1)).reindex(pd.MultiIndex.from_frame(order)).reset_index()


def faithfulness(
    detector: Any,
    data: DataSet | str | Path | Sequence[DataSet],
    *,
    methods: Sequence[str] | None = None,
    target: str = "joint_margin",
    measures: Sequence[str] = MEASURES,
    options: Mapping[str, Mapping[str, object]] | None = None,
    size: int | None = None,
    precision: str | None = None,
    seed: int = 0,
    replicates: int = 1000,
    progress: Progress | None = None,
) -> Faithfulness:
    """Measures how faithful the maps of several methods are, on one or several data sets.

    An image is attributed once for each method, twice more for the sanity checks, and four times for sensitivity.

    Args:
        detector: a detector, or a run.
        data: the images; sets of one domain are combined.
        methods: names; all that take the target when None, including the control.
        target: see ``headlens.attribution.targets``.
        measures: any of ``MEASURES``; those that need a mask use the images that have one.
        options: ``{method: {option: value}}``.
        size: images are resized to this square; the detector's size when None.
        precision: ``float32``, ``tf32``, ``float16`` or ``bfloat16``; that of the loaded backbone when None.
        seed: seed of all random draws.
        replicates: number of bootstrap replicates.
        progress: called with 1 after every image; a bar when None.

    Raises:
        ConfigError: an unknown method, measure, target, option or precision, or a method that does not take the target.
        DataError: no image could be read.

    >>> import headlens
    >>> run = headlens.load("mini-industrial")
    >>> images = headlens.data.open("procedural:industrial/aux", per_category=2, size=28).where(
    ...     lambda record: record.category == "wood")
    >>> result = faithfulness(run, images, methods=["legrad", "edges"], measures=["upper_blocks"], size=28)
    >>> result.verdicts["passes"].tolist()
    [True, False]
    """
    if unknown := [name for name in measures if name not in MEASURES]:
        raise ConfigError(unknown_name("measure", unknown[0], MEASURES))
    if not measures:
        raise ShapeError(f"no measure; give some of {', '.join(MEASURES)}")
    detector = detector_of(detector)
    sets = list(map(as_set, data if isinstance(data, list | tuple) else [data]))
    settings = _settings(target_of(detector, target), methods, options or {})
    if any(METHODS[name].gradients for name in settings):
        check_gradients(detector, precision)
    rows: list[dict[str, Any]] = []
    maps: dict[tuple[str, str], list[Tensor]] = defaultdict(list)  # by domain and method, of images with a mask
    masks: dict[str, list[Tensor]] = defaultdict(list)
    skipped: dict[str, str] = {}
    count = sum(map(len, sets))
    with at_precision(detector, precision) as lowered, followed(progress, count, "faithfulness") as done:
        models = {"": target_of(lowered, target)}
        if "head_weights" in measures:
            models["head_weights"] = replace(models[""], head_weights=random_head_weights(lowered, seed))
        if "upper_blocks" in measures:
            models["upper_blocks"] = replace(models[""], detector=with_random_blocks(lowered, seed=seed))
        for one in sets:
            loader = Images(lowered, one, size, 1)
            for part, image in loader:
                record = part.records[0]
                mask = part.masks[0] if part.masks is not None and bool(part.has_mask[0]) else None
                if mask is not None:
                    masks[one.domain].append(mask)
                about: dict[str, Any] = {"domain": one.domain, "dataset": one.name, "category": record.category}
                about |= {"image": record.name, "anomalous": record.anomalous}
                targets = {
                    name: replace(model, category=record.category).holding(image) for name, model in models.items()
                }
                for name, chosen in settings.items():
                    attribute = partial(METHODS[name], **chosen)
                    attribution, values = _measured(measures, attribute, targets, image, mask, seed)
                    if mask is not None:
                        maps[one.domain, name].append(attribution.cpu())
                    rows += [{**about, "kind": name, "metric": key, "value": value} for key, value in values.items()]
                done(1)
            skipped |= {f"{one.name}: {name}": reason for name, reason in loader.notes()["skipped"].items()}
    if not rows and not maps:
        raise DataError(f"{', '.join(one.name for one in sets) or 'no set'}: no image could be measured")
    images = pd.DataFrame(rows).dropna(subset=["value"], ignore_index=True) if rows else pd.DataFrame()
    frames = [_means(images, replicates, seed)] if len(images) else []
    if "aupro" in measures:
        for (domain, name), attributions in maps.items():
            truth = Truth.of(torch.stack(masks[domain]))
            frames.append(_aupro(domain, name, torch.stack(attributions), truth, replicates, seed))
    made: dict[str, Any] = {"what": "faithfulness", "target": target, "measures": list(measures), "methods": settings}
    made |= {"datasets": [one.name for one in sets], "skipped": skipped, "seed": seed, "replicates": replicates}
    made |= computed(detector, precision)
    frame = ordered(pd.concat(frames, ignore_index=True))
    return Faithfulness(frame, provenance(detector, sets[0], **made), images)


def _settings(
    target: Target, methods: Sequence[str] | None, options: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Every method's options; raises ConfigError where one does not exist, or does not fit the target."""
    if methods is None:
        methods = [name for name, method in METHODS.items() if method.takes(target)]
    chosen = {name: method_of(name).settings(**options.get(name, {})) for name in methods}
    if unfit := [name for name in chosen if not METHODS[name].takes(target)]:
        raise ConfigError(f"{unfit[0]} does not take {target.name} as a target; leave it out, or take another target")
    if stray := set(options) - set(chosen):
        raise ConfigError(f"options are given for {min(stray)!r}, which is not among the methods")
    return chosen


def _measured(
    measures: Sequence[str],
    attribute: Callable[[Target, Tensor], Tensor],
    targets: Mapping[str, Target],
    image: Tensor,
    mask: Tensor | None,
    seed: int,
) -> tuple[Tensor, dict[str, float]]:
    """The map [h, w] of ``image`` [1, 3, h, w], and all of it but AUPRO; pointing is NaN where nothing is marked."""
    target, of = targets[""], attribute(targets[""], image)[0]
    how: dict[str, Callable[[], float]] = {
        "deletion": lambda: deletion(target, image, of),
        "insertion": lambda: insertion(target, image, of),
        "pointing": lambda: float("nan") if mask is None else pointing(of.cpu(), mask),
        "infidelity": lambda: infidelity(target, image, of, seed),
        "sensitivity": lambda: sensitivity(partial(attribute, target), image, seed=seed),
        "head_weights": lambda: rank_correlation(of, attribute(targets["head_weights"], image)[0]),
        "upper_blocks": lambda: rank_correlation(of, attribute(targets["upper_blocks"], image)[0]),
    }
    return of, {name: how[name]() for name in measures if name in how}


def _means(images: pd.DataFrame, replicates: int, seed: int) -> pd.DataFrame:
    """Means over the images of a domain."""
    rows = []
    for (domain, kind, metric), rows_of in images.groupby(["domain", "kind", "metric"], sort=False):
        values = rows_of["value"].to_numpy()
        drawn = np.random.default_rng(seed).integers(len(values), size=(replicates, len(values)))
        rows.append((domain, kind, metric, values.mean(), *_ends(values[drawn].mean(1)), len(values)))
    return pd.DataFrame(rows, columns=_COLUMNS)


def _aupro(domain: str, kind: str, maps: Tensor, truth: Truth, replicates: int, seed: int) -> pd.DataFrame:
    """Over all pixels of a domain; by their ranks, which change no order and fill the counters' bins evenly."""
    ranks = torch.from_numpy(scipy.stats.rankdata(maps.flatten().numpy()) / maps.numel()).view(maps.shape)
    each = PerImage.of(ranks.float(), truth)
    value = float(each.metrics(torch.ones(1, len(maps)))["aupro"])
    ends = _ends(each.bootstrap(replicates, seed)["aupro"].numpy())
    return pd.DataFrame([(domain, kind, "aupro", value, *ends, len(maps))], columns=_COLUMNS)


def _ends(replicates: np.ndarray) -> tuple[float, float]:
    """The 95 % interval; NaN where no replicate is defined."""
    known = replicates[~np.isnan(replicates)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
    return float(low), float(high)
