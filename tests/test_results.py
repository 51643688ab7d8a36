"""What all results have in common: a frame, a figure, files, and where they came from."""

from __future__ import annotations

import importlib
import inspect

import pandas as pd
import pytest

from headlens.detectors import Prediction
from headlens.errors import ConfigError
from headlens.heads import Capture
from headlens.results import Result

for package in ("heads", "attribution", "metrics", "training"):
    for name in importlib.import_module(f"headlens.{package}").__all__:
        getattr(importlib.import_module(f"headlens.{package}"), name)
KINDS = [*Result.__subclasses__(), Capture, Prediction]


def test_there_are_all_of_them():
    assert {"Ablation", "Attribution", "Evaluation", "Faithfulness", "MetricTable"} <= {kind.__name__ for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_every_result_has_a_frame_a_figure_files_and_a_provenance(kind):
    fields = {*getattr(kind, "__dataclass_fields__", ()), *dir(kind)}
    assert {"frame", "provenance", "plot", "save", "_repr_html_"} <= fields
    assert kind.plot is not Result.plot
    first = list(inspect.signature(kind.plot).parameters.values())[1]
    assert (first.name, first.default) == ("ax", None)
    assert list(inspect.signature(kind.save).parameters) == ["self", "path"]


def test_a_result_of_no_kind_has_no_figure():
    with pytest.raises(ConfigError, match=r"a Result cannot be drawn; load it with its class"):
        Result(pd.DataFrame({"value": [0.5]}), {}).plot()
