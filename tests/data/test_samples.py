"""What a set says it can be measured by, against what the metrics make of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headlens.data.loading import Loader
from headlens.data.opening import open
from headlens.data.preprocess import Preprocess
from headlens.data.samples import DataSet, Pixels, Record
from headlens.metrics import ImageMetrics, PixelMetrics
from headlens.metrics.table import IMAGE, PIXEL


class Squares(DataSet):
    """Half of an anomalous picture is flawed, where somebody has drawn that."""

    def pixels(self, i: int) -> Pixels:
        record, mask = self.records[i], torch.zeros(8, 8, dtype=torch.bool)
        if record.anomalous:
            mask[:4] = True
        drawn = record.anomalous is False or record.mask
        return Pixels(torch.zeros(3, 8, 8, dtype=torch.uint8), mask if drawn else None)

    def where(self, keep):
        return Squares(self.name, self.domain, filter(keep, self.records))


def defined(dataset: DataSet) -> list[str]:
    """The metrics that are no NaN."""
    image, pixel = ImageMetrics(), PixelMetrics()
    for batch in Loader(dataset, Preprocess(8), workers=0):
        told = batch.labels >= 0
        image.update(torch.rand(int(told.sum())), batch.labels[told])
        if batch.masks is not None and batch.has_mask.any():
            pixel.update(torch.rand(int(batch.has_mask.sum()), 8, 8), batch.masks[batch.has_mask])
    found = {f"image_{name}": value for name, value in image.compute().items()}
    if dataset.has_masks:
        found |= {f"pixel_{name}": value for name, value in pixel.compute().items()}
    return [name for name in IMAGE + PIXEL if name in found and not torch.isnan(torch.as_tensor(found[name]))]


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from([True, False, None]), st.booleans()), min_size=1, max_size=5))
def test_what_is_measured_is_what_is_defined(kinds):
    records = [
        Record(str(i), "box", anomalous, mask=Path("m.png") if drawn else None)
        for i, (anomalous, drawn) in enumerate(kinds)
    ]
    dataset = Squares("squares", "", records)
    assert list(dataset.metrics) == defined(dataset)


@pytest.mark.parametrize("family, names", [("", IMAGE + PIXEL), ("good", ()), ("flawed", PIXEL)])
def test_painted_sets(family, names):
    dataset = open("procedural:medical", per_category=2, size=28)
    part = dataset.where(lambda r: not family or (r.family == "good") == (family == "good"))
    assert part.metrics == names
