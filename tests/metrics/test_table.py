from __future__ import annotations

import numpy as np
import pytest

from headlens.errors import MetricError
from headlens.metrics import MetricTable
from headlens.metrics.table import IMAGE, MEMBERS, METRICS, PIXEL


def row(domain, dataset, category, **metrics):
    return {"domain": domain, "dataset": dataset, "category": category, **metrics}


def full(value):
    return {name: value + 0.01 * i for i, name in enumerate(IMAGE + PIXEL)}


ROWS = [
    row("industrial", "big", "a", **full(0.5)),
    row("medical", "scans", "head", image_auroc=0.9, image_ap=0.8, image_f1max=0.7),
    row("industrial", "big", "b", **full(0.6)),
    row("industrial", "big", "c", **{**full(0.7), "pixel_aupro": np.nan}),
    row("industrial", "small", "a", **full(0.9)),
]


def value(table, domain, dataset, category, metric):
    frame = table.frame
    found = frame[
        (frame.domain == domain) & (frame.dataset == dataset) & (frame.category == category) & (frame.metric == metric)
    ]
    assert len(found) == 1
    return found.value.item(), found.n.item()


def test_means_over_classes_then_data_sets_say_how_many_they_average():
    table = MetricTable.of(ROWS)
    assert value(table, "industrial", "big", "mean", "image_auroc") == (pytest.approx(0.6), 3)
    assert value(table, "industrial", "big", "mean", "pixel_aupro") == (pytest.approx(0.61), 2)
    # Data sets count the same, however many classes they have.
    assert value(table, "industrial", "mean", "mean", "image_auroc") == (pytest.approx((0.6 + 0.9) / 2), 2)
    assert value(table, "industrial", "big", "a", "image_ap") == (pytest.approx(0.51), 1)


def test_mad_is_the_mean_of_its_members_or_undefined():
    table = MetricTable.of(ROWS)
    assert value(table, "industrial", "big", "a", "image_mad") == (pytest.approx(0.51), 1)
    assert value(table, "industrial", "big", "a", "pixel_mad") == (pytest.approx(0.545), 1)
    assert value(table, "industrial", "big", "a", "mad7") == (pytest.approx(0.53), 1)
    undefined = [
        value(table, "medical", "scans", "head", "pixel_mad"),
        value(table, "industrial", "big", "c", "mad7"),
        value(table, "medical", "mean", "mean", "mad7"),
    ]
    assert all(np.isnan(mean) and n == 0 for mean, n in undefined)
    assert value(table, "medical", "mean", "mean", "image_mad") == (pytest.approx(0.8), 1)
    assert value(table, "industrial", "big", "mean", "mad7")[1] == 2


def test_a_mean_over_fewer_says_so_and_a_mad_follows_from_its_own_row():
    one_kind = dict.fromkeys(IMAGE, np.nan)
    rows = [
        row("d", "s", "a", **full(0.5)),
        row("d", "s", "b", **full(0.7)),
        row("d", "s", "c", **full(0.9) | one_kind),
    ]
    table = MetricTable.of(rows)
    for kind in ("image_mad", "pixel_mad", "mad7"):
        for keys in (("d", "s", "mean"), ("d", "mean", "mean")):
            members = [value(table, *keys, name)[0] for name in MEMBERS[kind]]
            assert value(table, *keys, kind)[0] == pytest.approx(np.mean(members))
    cells = table.markdown(["image_auroc", "pixel_auroc", "mad7"]).splitlines()[-2]
    assert cells == "| d | s | mean | 60.0 (2 of 3) | 73.0 | 68.7 (2 of 3) |"
    assert table.latex(["image_auroc"]).count("(2 of 3)") == 1


def test_printed_in_order_with_every_member():
    text = MetricTable.of(ROWS).markdown()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert [line[:3] for line in lines[2:]] == [
        ["industrial", "big", "a"],
        ["industrial", "big", "b"],
        ["industrial", "big", "c"],
        ["industrial", "big", "mean"],
        ["industrial", "small", "a"],
        ["industrial", "small", "mean"],
        ["industrial", "mean", "mean"],
        ["medical", "scans", "head"],
        ["medical", "scans", "mean"],
        ["medical", "mean", "mean"],
    ]
    assert len(lines[0]) == 3 + len(METRICS) and lines[0][-1] == "mAD7"
    assert lines[5][3:5] == ["60.0", "61.0"] and lines[5][-3] == "61.0 (2 of 3)"
    assert lines[8][3:5] == ["75.0", "76.0"]  # of both data sets
    assert lines[9][-1] == "-"


def test_latex_is_the_same_table_escaped():
    table = MetricTable.of([row("industrial", "a_b", "50% & more", image_auroc=0.25)])
    text = table.latex(["image_auroc"])
    assert r"industrial & a\_b & 50\% \& more & 25.0 \\" in text
    assert text.startswith(r"\begin{tabular}{lllr}") and text.endswith(r"\end{tabular}")
    assert text.count(r"\\") == 1 + len(table.markdown(["image_auroc"]).splitlines()) - 2


def test_rows_that_make_no_table():
    for rows, message in (
        ([], "no rows"),
        ([{"dataset": "a"}], "expected domain"),
        ([row("d", "a", None)], "expected domain"),
        ([row("d", "a", "c", image_auc=1.0)], "image_auc"),
        ([row("d", "a", "c"), row("d", "a", "c")], "d / a / c is given twice"),
        ([row("d", "a", "mean")], "rename it"),
    ):
        with pytest.raises(MetricError, match=message):
            MetricTable.of(rows)
    with pytest.raises(MetricError, match="unknown metric 'auc'"):
        MetricTable.of(ROWS).markdown(["auc"])
