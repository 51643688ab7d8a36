"""Every kind of result: its panels on axes that are given, and figures of nothing, and of what is no number."""

from __future__ import annotations

import dataclasses
import io
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from headlens.errors import ConfigError, HeadlensError
from tests import test_html as every

results, pytestmark = every.results, every.pytestmark
PANELS = {  # in a new figure, without arguments
    "Weights": 2,
    "Contributions": 1,  # of the image margin, into which local heads write nothing
    "Ablation": 2,
    "Importance": 2,
    "Screen": 1,
    "Comparison": 6,
    "MapParts": 10,
    "Naming": 1,
    "Attribution": 3,
}


@pytest.mark.parametrize("kind", PANELS)
def test_no_panel_is_dropped_without_a_word(results, kind):
    result, panels = results[kind], PANELS[kind]
    fig, axes = result.plot()
    assert np.asarray(axes, dtype=object).size == panels and fig.get_supxlabel().replace("\n", " · ") == result.made_by
    given = Figure(figsize=(12, 6)).subplots(1, panels + 1)
    found, drawn = result.plot(given[:panels] if panels > 1 else given[0])
    assert found is given[0].figure and list(np.asarray(drawn, dtype=object).ravel()) == list(given[:panels])
    assert all(ax.has_data() for ax in given[:panels]) and not given[panels].has_data()
    if panels > 1:
        for wrong in (given[0], given):
            with pytest.raises(ConfigError, match=f"axes for {panels} panels .*give a sequence of {panels} as ax"):
                result.plot(wrong)


def tables(result):
    return [f.name for f in dataclasses.fields(result) if isinstance(getattr(result, f.name), pd.DataFrame)]


@pytest.mark.parametrize("kind", PANELS)
def test_a_result_without_rows_is_refused_in_one_line(results, kind):
    empty = dataclasses.replace(
        results[kind], **{name: getattr(results[kind], name)[:0] for name in tables(results[kind])}
    )
    with pytest.raises(HeadlensError) as error:
        empty.plot()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", PANELS)
@pytest.mark.parametrize("all_of_it", [False, True])
def test_what_is_no_number_is_left_out_of_the_figure(results, kind, all_of_it):
    def holed(frame):
        frame = frame.copy()
        for name in frame.columns[[dtype.kind == "f" for dtype in frame.dtypes]]:
            frame.loc[frame.index if all_of_it else frame.index[:1], name] = np.nan
        return frame

    result = results[kind]
    result = dataclasses.replace(result, **{name: holed(getattr(result, name)) for name in tables(result)})
    if hasattr(result, "map"):
        map_ = result.map.copy()
        map_[0, : None if all_of_it else 3] = np.nan
        result = dataclasses.replace(result, map=map_)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            result.plot().figure.savefig(io.BytesIO(), dpi=30)
        except HeadlensError as error:
            assert all_of_it and "\n" not in str(error)  # nothing is left to draw


@pytest.mark.parametrize("kind", PANELS)
def test_names_of_strangers_break_no_figure(results, kind):
    name = "a$b$ <b>50%</b>\n\udce9 汉 \\frac"
    about = {**results[kind].provenance, "dataset": {"name": name, "images": 1}}
    result = dataclasses.replace(results[kind], provenance=about)
    name = name.replace("\udce9", "")  # which pandas keeps out of its frames
    if kind == "Naming":
        result = dataclasses.replace(result, frame=result.frame.assign(phrase=name))
    if kind == "Comparison":
        odd = {group: f"{group} {name}" for group in result.groups}
        runs = {odd[group]: own for group, own in about["runs"].items()}
        frame = result.frame.rename(columns=odd).replace({"first": odd, "second": odd})
        result = dataclasses.replace(result, frame=frame, provenance={**about, "runs": runs})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig = result.plot().figure
        fig.draw_without_rendering()
        fig.set_layout_engine("none")  # arranged once for all three
        for suffix in ("png", "svg", "pdf"):
            fig.savefig(io.BytesIO(), format=suffix, dpi=30)
    page = result._repr_html_()
    assert "<b>50%" not in page and "a$b$" in re.sub('base64,[^"]*', "", page)
