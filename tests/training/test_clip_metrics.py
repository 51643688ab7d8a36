"""Metrics of clips against scikit-learn and plain loops; what is printed and drawn of them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from typer.testing import CliRunner

from headlens import data
from headlens.backbone import load
from headlens.cli import app
from headlens.detectors import build
from headlens.errors import MetricError
from headlens.metrics.intervals import Interval, average_precision, found
from headlens.plots import timelines
from headlens.training import TrainingConfig, evaluate, load_run
from headlens.training.clip_metrics import IOUS, clip_metrics, clip_table
from headlens.training.run import save_run


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    """Of four clips with two kinds of anomalies, one of which the detector does not know."""
    random, rows = np.random.default_rng(0), []
    clips = [("good", 0, 0), ("CarCrash", 3, 9), ("fire", 10, 14), ("CarCrash", 1, 4)]
    for number, (family, begin, end) in enumerate(clips):
        for t in range(16):
            happens = begin <= t < end
            score, kind = float(random.random() / 2 + 0.4 * happens), family if happens else "good"
            score = 0.8 if (number, t) == (0, 7) else score - 0.15 * (number == 1)  # that clip is missed
            rows.append(("s", f"clip{number}", f"clip{number}/{t}", happens, kind, score, score / 2))
    columns = ["dataset", "clip", "name", "anomalous", "family", "joint", "kind: car crash"]
    return pd.DataFrame(rows, columns=columns).assign(domain="d", category=["x", "y"] * 32)


def value(frame: pd.DataFrame, kind: str, metric: str) -> float:
    return float(frame.set_index(["kind", "metric"])["value"][kind, metric])


def test_metrics_are_those_of_scikit_learn_and_of_the_intervals(scores):
    found_here = clip_metrics(scores)
    y, s = scores["anomalous"].to_numpy(bool), scores["joint"].to_numpy()
    assert value(found_here, "all", "frame_auroc") == pytest.approx(roc_auc_score(y, s))
    assert value(found_here, "all", "frame_ap") == pytest.approx(average_precision_score(y, s))
    fire = ~y | (scores["family"] == "fire").to_numpy()
    assert value(found_here, "fire", "frame_auroc") == pytest.approx(roc_auc_score(y[fire], s[fire]))
    tops = [scores.loc[scores["clip"] == f"clip{i}", "joint"].max() for i in range(4)]
    assert value(found_here, "all", "clip_auroc") == pytest.approx(roc_auc_score([0, 1, 1, 1], tops))
    clips = [scores[scores["clip"] == f"clip{i}"] for i in range(4)]
    runs = [found(clip["kind: car crash"]) for clip in clips]
    truth = [[], [Interval(3, 9)], [], [Interval(1, 4)]]
    at = [average_precision(runs, truth, iou) for iou in IOUS]
    assert [value(found_here, "CarCrash", f"ap_{iou}") for iou in IOUS] == pytest.approx(at)
    of_fire = found_here.loc[found_here["kind"] == "fire", "metric"]
    assert not of_fire.str.startswith("ap_").any(), "the detector does not tell it apart"


def test_a_clip_counts_where_its_frames_do_not(scores):
    """Of one clip only the family is known."""
    here = scores["clip"] == "clip1"
    known = scores["anomalous"].astype(object).where(~here, None)
    weak = clip_metrics(scores.assign(anomalous=known, family=scores["family"].where(~here, "CarCrash")))
    rest, every = clip_metrics(scores[~here]), clip_metrics(scores)
    for metric in ("frame_auroc", "frame_ap", "ap_mean"):
        assert value(weak, "all", metric) == value(rest, "all", metric)
    assert value(weak, "all", "clip_auroc") == value(every, "all", "clip_auroc") != value(rest, "all", "clip_auroc")
    assert clip_metrics(scores.assign(clip="")).empty


def test_the_table_ends_with_all_kinds(scores):
    table = clip_table({"a": [clip_metrics(scores)] * 2})
    assert [row[1] for row in table.rows] == ["CarCrash", "fire", "all"]
    auroc = value(clip_metrics(scores), "all", "frame_auroc")
    assert table.rows[1][4:] == ["-"] * 8 and table.rows[-1][2] == f"{100 * auroc:.1f}"


def test_timelines_shade_what_happens():
    rows = pd.DataFrame({"score": [0.1, 0.7, 0.8, 0.2, 0.6], "anomalous": [False, True, True, None, True]})
    fig, (ax,) = timelines({"one": rows.assign(kind=0.5)})
    spans = sorted((patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches)
    assert spans == [(0.5, 2.5), (3.5, 4.5)]
    assert [list(line.get_ydata()) for line in ax.lines] == [[0.5] * 5, list(rows["score"])]
    assert timelines({"a": rows, "b": rows}, fig.subplots(2)).axes.shape == (2,)


def test_clips_are_evaluated_and_drawn(tmp_path):
    """Frames of a clip are scored together, whatever the batch; the verb says what the function does."""
    detector = build(load("mini-captions"), "vadclip", layers=0, length=48, threshold=1.0)  # where rounding jumps
    detector.size = 28
    save_run(tmp_path / "run", detector, TrainingConfig(size=28), {"trained_on": "nothing"})
    frames = data.open("procedural:clips", category="screw", per_category=4, size=28, every=3)
    results = [evaluate(load_run(tmp_path / "run"), frames, batch=batch) for batch in (1, 100)]
    np.testing.assert_allclose(results[0].scores["joint"], results[1].scores["joint"], rtol=1e-3)
    assert [name for name in results[0].scores if name.startswith("kind: ")] == [
        f"kind: {k}" for k in detector.config.kinds[1:]
    ]
    assert {*results[0].of_clips["kind"]} == {"all", "contamination", "missing"}
    assert len(results[0].timelines().axes) == 2
    clip = frames.records[0].clip
    assert [ax.get_title() for ax in results[0].timelines([clip]).axes] == [clip]
    with pytest.raises(MetricError, match="there is no clip 'screw'"):
        results[0].timelines(["screw"])
    plain = data.open("procedural:industrial/aux", category="nut", per_category=2, size=28)
    images = evaluate(load_run(tmp_path / "run"), plain)
    assert images.of_clips.empty
    with pytest.raises(MetricError, match="no clip was scored"):
        images.timelines()
    drawn, options = tmp_path / "clips.png", ["--data", "procedural:clips", "--per-category", "2", "--every", "8"]
    asked = ["eval", "--run", str(tmp_path / "run"), *options, "--timelines", str(drawn)]
    told = CliRunner().invoke(app, [*asked, "--json"], catch_exceptions=False)
    (result,) = json.loads(told.stdout)["results"]
    assert drawn.stat().st_size > 1000 and {row["kind"] for row in result["clips"]} == {"all", "contamination"}
    shown = CliRunner().invoke(app, asked, catch_exceptions=False).stdout
    assert "frame AUROC" in shown and "Frames and clips" in shown
