"""Pixel metrics of every category, counted while batches are scored; maps are checked to be of their unit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from headlens import parallel
from headlens.data import Batch, DataSet
from headlens.detectors.scoring import Prediction
from headlens.errors import MetricError
from headlens.metrics import PixelMetrics, Truth
from headlens.units import Unit, check_unit

Bounds = dict[str, tuple[Tensor, Tensor]]
Truths = dict[str, tuple[Tensor, Truth]]
"""By category: which rows of a batch are of it and have a mask, and the truth of their masks."""


def truths(batch: Batch) -> Truths:
    """Of each category whose masks are known."""
    if not isinstance(batch.masks, Tensor):
        return {}
    known = {}
    for category in dict.fromkeys(record.category for record in batch.records):
        rows = torch.tensor([record.category == category for record in batch.records]) & batch.has_mask
        if rows.any():
            known[category] = rows.nonzero().flatten(), Truth.of(batch.masks[rows])
    return known


class PixelCounts:
    """Counts maps by the unit that their scorer gives them; on a CUDA device beside the next forward.

    Args:
        data, size: the images' set, and height and width of their maps.
        device: where maps are.
        exact: keep every map instead of counting.
        who: whose maps, for messages.
    """

    def __init__(self, data: DataSet, size: int, device: torch.device, exact: bool, who: str) -> None:
        self.unit: Unit | None = None  # none yet
        self._categories, self._size, self._device, self._who = data.categories, size, device, who
        self._mode = "exact" if exact else "streaming"
        self._metrics: dict[str, PixelMetrics] = {}
        self._ends: Tensor | None = None  # of all maps so far: the lowest value, negated, and the highest
        self._overlap = _Overlap(device)

    def add(self, prediction: Prediction, known: Truths) -> None:
        """Counts the maps of a batch, whose masks' ``truths`` are known.

        Raises:
            MetricError: another unit than before; values that are not of the unit, or not finite.
        """
        if self.unit not in (None, prediction.unit):
            raise MetricError(f"{self._who} gives maps in two units, {self.unit} and then {prediction.unit}")
        if self.unit is None:
            self._begin(prediction.unit)
        self._overlap(partial(self._count, prediction.anomaly_map, known), prediction.anomaly_map)

    def bounds(self) -> dict[str, Bounds]:
        """Lower and upper limit of every metric, by category, over all ranks.

        Raises:
            MetricError: values that are not of the unit, or not finite.
        """
        self._overlap.done()
        self._check()
        ranks = parallel.current()
        units = {unit for unit in ranks.gathered(self.unit) if unit}
        if len(units) > 1:
            raise MetricError(f"{self._who} gives maps in two units, {' and '.join(sorted(units))}")
        if self.unit is None:  # this rank has scored nothing
            self._begin(*units or ("probability",))
        several = ranks.size > 1  # whose states add up on the CPU
        each = {category: metric.cpu() if several else metric for category, metric in self._metrics.items()}
        return {category: metric.bounds() for category, metric in each.items()}

    def _begin(self, unit: Unit) -> None:
        self.unit, ranks = unit, parallel.current()
        options = {"mode": self._mode, "unit": unit, **ranks.of_metrics}
        self._metrics = {category: PixelMetrics(**options).to(self._device) for category in self._categories}
        if ranks.size > 1:  # a rank without an image of some category has empty states, and of the same types
            nothing = torch.zeros(0, self._size, self._size, device=self._device)
            for metric in self._metrics.values():
                metric.update(nothing, nothing.bool())

    def _count(self, maps: Tensor, known: Truths) -> None:
        for category, (rows, truth) in known.items():
            chosen = maps[rows.to(self._device, non_blocking=True)]
            low, high = torch.aminmax(chosen)
            ends = torch.stack([-low, high])
            first = self._ends is None
            self._ends = ends if self._ends is None else torch.maximum(self._ends, ends)
            if first:  # a mistake shows at once; looking at others waits for the device, so it is done once for all
                self._check()
            self._metrics[category].update(chosen, truth)

    def _check(self) -> None:
        if self._ends is not None and self.unit is not None:
            low, high = self._ends.tolist()
            check_unit(-low, high, self.unit, f"{self._who}'s map")


class _Overlap:
    """Runs work on a second stream of a CUDA device, so that its waits are not the next forward's; elsewhere at once.

    Work is run when the next comes, or when all is done: by then the device has the next forward to go on with.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._next: tuple[Callable[[], None], torch.cuda.Event] | None = None

    def __call__(self, work: Callable[[], None], reads: Tensor) -> None:
        """Runs ``work``, which reads a tensor that the current stream makes."""
        if self.stream is None:
            work()
            return
        reads.record_stream(self.stream)
        made = torch.cuda.current_stream(reads.device).record_event()
        last, self._next = self._next, (work, made)
        self._run(last)

    def done(self) -> None:
        last, self._next = self._next, None
        self._run(last)
        if self.stream is not None:
            self.stream.synchronize()

    def _run(self, item: tuple[Callable[[], None], torch.cuda.Event] | None) -> None:
        if item is not None and self.stream is not None:
            with torch.cuda.stream(self.stream):
                self.stream.wait_event(item[1])
                item[0]()
