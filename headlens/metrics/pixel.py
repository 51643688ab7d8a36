"""Metrics of anomaly maps against masks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from headlens.devices import one_thread
from headlens.errors import MetricError, ShapeError
from headlens.metrics.binning import Binning
from headlens.metrics.cflow import stepwise_aupro
from headlens.metrics.checks import checked_scores, same_shape
from headlens.metrics.curve import AUPRO_LIMIT, exact_metrics
from headlens.metrics.streaming import AT_ONCE, Counters, tally, values
from headlens.metrics.truth import Truth
from headlens.units import Unit

Mode = Literal["exact", "streaming"]


class PixelMetrics(Metric):
    """AUROC, AP, F1max and AUPRO over the pixels of all images, in one of two modes.

    ``exact`` stores all scores (without a copy: do not overwrite what was passed to ``update`` before ``compute``).
    ``streaming`` stores counters over bins of the score: 2.1 MB for 65,536 bins and any number of images. It merges
    over batches and processes to the same bits, and ``bounds`` limits how far a value may be from the exact one for
    scores in float32.

    Undefined metrics are NaN: all with only one class; AUPRO without a negative pixel or a region.

    Args:
        mode: ``"exact"`` or ``"streaming"``.
        bins: streaming: number of bins over ``score_range``.
        score_range: streaming: the range of scores. Scores outside share one bin on either side: bounds stay valid, but
            get wider.
        unit: streaming: unit of scores of any range, in place of ``score_range``: bins are then fine where a
            ``probability`` is near 0 or 1, or a ``logit`` near 0, and have a constant ratio beyond.
        limit: false positive rate up to which AUPRO integrates.
        cflow200: exact: also compute ``headlens.metrics.cflow200``, to compare with printed tables.
        enlarge: function from the maps given to ``update`` to maps of the masks' size, such as a ``partial`` of
        ``headlens.maps.upsample``. In streaming mode it is called for a few maps at a time, and none is stored.
        **kwargs: options of torchmetrics' ``Metric``.

    Raises:
        MetricError: an unknown mode, no bin, an empty range, or cflow200 in streaming mode.

    >>> metric = PixelMetrics(mode="streaming")
    >>> metric.update(torch.tensor([[[0.1, 0.4], [0.35, 0.8]]]), torch.tensor([[[0, 0], [1, 1]]]))
    >>> {name: round(float(value), 4) for name, value in metric.compute().items()}
    {'auroc': 0.75, 'ap': 0.8333, 'f1max': 0.8, 'aupro': 0.5}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    scores: list[Tensor]
    hits: list[Tensor]
    area_at: list[Tensor]
    regions: Tensor

    def __init__(
        self,
        mode: Mode = "exact",
        bins: int = 2**16,
        score_range: tuple[float, float] = (0.0, 1.0),
        limit: float = AUPRO_LIMIT,
        cflow200: bool = False,
        enlarge: Callable[[Tensor], Tensor] | None = None,
        unit: Unit | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if mode not in get_args(Mode):
            raise MetricError(f"mode is {mode!r}; expected one of {', '.join(get_args(Mode))}")
        if not 0 < limit <= 1:
            raise MetricError(f"limit is {limit}; expected a false positive rate in (0, 1]")
        if cflow200 and mode != "exact":
            raise MetricError("cflow200 needs every score: choose mode='exact'")
        self.mode, self.limit, self.cflow200, self.enlarge = mode, limit, cflow200, enlarge
        self.binning = (Binning(bins, *score_range) if unit is None else Binning.of(unit, bins)).checked()
        if mode == "exact":
            for name in ("scores", "hits", "area_at"):
                self.add_state(name, default=[], dist_reduce_fx="cat")
            self.add_state("regions", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        else:
            for name, value in vars(Counters.empty(self.binning.slots)).items():
                self.add_state(name, default=value, dist_reduce_fx={"low": "min", "high": "max"}.get(name, "sum"))

    def update(self, maps: Tensor, masks: Tensor | Truth) -> None:
        """Adds images.

        Args:
            maps: [B, H, W], higher is more anomalous; or the input of ``enlarge``. Streaming mode reads them in
                float32.
            masks: [B, H, W], 1 where there is a defect; or the ``Truth`` of such masks, which can be reused for other
                variants of the maps.

        Raises:
            MetricError: a NaN or infinite score, or a mask with another value than 0 and 1. Nothing is added then.
            ShapeError: shapes that differ.
        """
        if not isinstance(maps, Tensor):
            raise MetricError(f"maps are {type(maps).__name__}; expected a tensor")
        truth = (masks if isinstance(masks, Truth) else Truth.of(masks)).to(maps.device)
        if self.enlarge is None:
            same_shape(maps, truth.shape, "maps and masks", 3)
        elif len(checked_scores(maps, "maps")) != truth.shape[0]:
            raise ShapeError(f"there are {len(maps)} maps and {truth.shape[0]} masks")
        if maps.is_complex():
            checked_scores(maps, "maps")
        if self.mode == "streaming":
            tally(self._counters(), maps.detach().float(), truth, self.binning, self.enlarge)
            return
        if self.enlarge is not None:
            maps = torch.cat([self.enlarge(part) for part in maps.split(AT_ONCE)]) if len(maps) else self.enlarge(maps)
            same_shape(maps, truth.shape, "enlarged maps and masks", 3)
        scores = checked_scores(maps, "maps").flatten()
        self.scores.append(scores)
        with one_thread():
            self.hits.append(scores[truth.index])
        self.area_at.append(truth.area_at)
        self.regions += truth.regions

    def _counters(self) -> Counters:
        return Counters(*(getattr(self, name) for name in Counters.__dataclass_fields__))

    def bounds(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Lower and upper limit of every value, over all processes (in exact mode both are the value).

        In streaming mode a limit holds for any order of the pixels within a bin; a bin with a single value adds nothing
        to the width.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            if self.mode == "streaming":
                return self._counters().bounds(self.limit)
            return {name: (value, value) for name, value in self._exact().items()}

    def compute(self) -> dict[str, Tensor]:
        """``{"auroc", "ap", "f1max", "aupro"}`` of all images so far, float64 on the CPU.

        In streaming mode a value is the middle of its limits, and F1max the lower one, which a threshold attains. A
        warning is given if scores outside ``score_range`` make it uncertain by more than a point.
        """
        if self.mode == "exact":
            return self._exact()
        counters = self._counters()
        certified = counters.bounds(self.limit)
        outside = int(counters.pixels[0] + counters.pixels[-1])
        width = max((float(high - low) for low, high in certified.values() if not low.isnan()), default=0.0)
        if outside and width > 0.02:
            warnings.warn(
                f"{outside} of {int(counters.pixels.sum())} scores are outside of {self.binning}: metrics are only "
                f"known to within {100 * width / 2:.2g} points; give their range as score_range=, or take "
                "mode='exact'",
                stacklevel=2,
            )
        return values(certified)

    def _exact(self) -> dict[str, Tensor]:
        if not len(self.scores):
            scores, hits, area_at = [], torch.zeros(0), torch.zeros(0)
        else:
            scores = self.scores if isinstance(self.scores, list) else [self.scores]
            hits, area_at = dim_zero_cat(self.hits), dim_zero_cat(self.area_at)
        regions = int(self.regions)
        exact = exact_metrics(scores, hits, area_at, regions, self.limit)
        return {**exact, "cflow200": stepwise_aupro(scores, hits, area_at, regions)} if self.cflow200 else exact


def pixel_metrics(maps: Iterable[Tensor], truth: Truth, **kwargs: Any) -> dict[str, Tensor]:
    """The pixel metrics of every variant of the maps of the same images, such as one for every ablated head.

    Args:
        maps: [V, B, H, W], or an iterable of V tensors [B, H, W]: one variant is held at a time.
        truth: the ``Truth`` of the masks, computed once.
        **kwargs: options of ``PixelMetrics``.

    Returns:
        ``{"auroc", "ap", "f1max", "aupro"}``, [V] each, float64 on the CPU.

    >>> truth = Truth.of(torch.tensor([[[0, 1]]]))
    >>> pixel_metrics(torch.tensor([[[[0.1, 0.9]]], [[[0.9, 0.1]]]]), truth)["auroc"]
    tensor([1., 0.], dtype=torch.float64)
    """
    rows = []
    for variant in maps:
        metric = PixelMetrics(**kwargs)
        metric.update(variant, truth)
        rows.append(metric.compute())
    return {name: torch.stack([row[name] for row in rows]) for name in (rows[0] if rows else ())}
