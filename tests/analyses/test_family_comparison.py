"""The comparison of methods: every one can be built, and tables say what their frame says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from family_comparison import COLUMNS, HAND, METHODS, UNTRAINED, differences_table, values_table
from scipy import stats
from trained_runs import DOMAINS, NOTHING, cell

from headlens.backbone import load
from headlens.baselines import SCALES
from headlens.detectors import TrainingConfig, build


@pytest.fixture(scope="module")
def mini():
    return load("mini")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_fits_the_embedded_backbones(name, mini):
    preset, changes, training = METHODS[name]
    detector = build(mini, preset, **changes)
    learns = name not in UNTRAINED
    assert bool(detector.stages(TrainingConfig.of(training))) == bool(list(detector.parameters())) == learns


@pytest.fixture(scope="module")
def frame():
    chance = np.random.default_rng(0)
    runs = [(f"local contrast {scale:g}", NOTHING, 0) for scale in SCALES] + [(HAND, NOTHING, 0)]
    runs += [("AA-CLIP", domain, seed) for domain in DOMAINS for seed in range(3)]
    rows = [
        (*run, tested, *column, chance.uniform()) for run in runs for tested in DOMAINS for column in COLUMNS.values()
    ]
    return pd.DataFrame(rows, columns=["choice", "trained", "seed", "tested", "score", "metric", "value"])


def taken(frame, **about):
    return frame[np.logical_and.reduce([frame[key] == value for key, value in about.items()])]


def test_values_are_means_over_seeds_of_the_right_runs(frame):
    rows = [[part.strip() for part in line.split("|")] for line in values_table(frame, crosswise=True).splitlines()]
    row = next(row for row in rows if row[1:3] == ["medical", "AA-CLIP"])
    own = taken(frame, choice="AA-CLIP", trained="industrial", tested="medical", score="pixel", metric="auroc")["value"]
    half = stats.t.interval(0.95, 2, own.mean(), stats.sem(own))[1] - own.mean()
    assert row[3] == "3" and row[4 + list(COLUMNS).index("P")] == f"{100 * own.mean():.1f} ±{100 * half:.1f}"
    best = taken(frame, trained=NOTHING, tested="medical", score="pixel", metric="aupro")
    best = best[best["choice"].str.startswith("local")]["value"].max()
    floor = next(row for row in rows if row[1:3] == ["medical", "local contrast"])
    assert floor[4 + list(COLUMNS).index("PRO")] == f"{100 * best:.1f}"


def test_differences_to_what_is_not_trained_are_to_its_one_value(frame):
    line = next(line for line in differences_table(frame).splitlines() if line.startswith(f"| AA-CLIP - {HAND} "))
    about = {"tested": "industrial", "score": "joint", "metric": "auroc"}
    own = taken(frame, choice="AA-CLIP", trained="industrial", **about)["value"]
    assert line.split("|")[2].strip() == cell(own - float(taken(frame, choice=HAND, **about)["value"].iloc[0]), "+")
