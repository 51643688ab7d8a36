"""The comparison of methods: every one can be built, and tables say what their frame says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from family_comparison import (
    COLUMNS,
    FLOOR,
    HAND,
    METHODS,
    UNTRAINED,
    backbone_of,
    differences_table,
    long_frame,
    values_table,
    write_csv,
)
from kanoclip_choices import CHOICES, DEFAULT, choices_table
from scipy import stats
from trained_runs import DOMAINS, NOTHING, cell

from headlens.backbone import load
from headlens.baselines import SCALES
from headlens.detectors import TrainingConfig, build
from headlens.training import comparison


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


def test_the_long_form_has_every_value(frame):
    made = long_frame(frame, "mini-captions").set_index(["method", "trained", "tested", "metric"])
    assert len(made) == 2 * 2 * 3 + 4 * 3 and set(made["backbone"]) == {"mini-captions"}
    for trained in DOMAINS:
        own = taken(frame, choice="AA-CLIP", trained=trained, tested="medical", score="joint", metric="auroc")["value"]
        low, high = stats.t.interval(0.95, 2, own.mean(), stats.sem(own))
        row = made.loc["AA-CLIP", trained, "medical", "I"]
        np.testing.assert_allclose([row["mean"], row["half"]], [100 * own.mean(), 50 * (high - low)])
        assert row["seeds"] == 3
    assert np.isnan(made.loc[HAND, NOTHING, "medical", "P"]["half"])
    best = taken(frame, trained=NOTHING, tested="industrial", score="pixel", metric="aupro")
    best = best[best["choice"].str.startswith("local")]["value"].max()
    assert made.loc[FLOOR, NOTHING, "industrial", "PRO"]["mean"] == 100 * best


def test_a_backbone_is_written_in_place_of_itself_and_beside_others(frame, tmp_path):
    file = tmp_path / "all.csv"
    write_csv(file, long_frame(frame, "one"))
    once = file.read_bytes()
    write_csv(file, long_frame(frame, "one"))
    assert file.read_bytes() == once
    write_csv(file, long_frame(frame, "two"))
    assert pd.read_csv(file).groupby("backbone").size().nunique() == 1 and file.read_bytes().startswith(once)


def test_runs_of_two_backbones_are_no_table(tmp_path):
    with pytest.raises(SystemExit, match="no backbone"):
        backbone_of(tmp_path)
    for name in ("one", "two"):
        (tmp_path / "industrial" / name).mkdir(parents=True)
        (tmp_path / "industrial" / name / "card.json").write_text(f'{{"backbone": {{"name": "{name}"}}}}')
    with pytest.raises(SystemExit, match="one, two; a table is of one backbone"):
        backbone_of(tmp_path)


def test_what_ships_has_methods_of_the_comparison():
    shipped = comparison()
    assert list(shipped.columns) == ["backbone", "method", "trained", "tested", "metric", "mean", "half", "seeds"]
    assert set(shipped["method"]) <= {*METHODS, FLOOR} and set(shipped["metric"]) <= {*COLUMNS}
    keys = ["backbone", "method", "trained", "tested", "metric"]
    assert not shipped.duplicated(keys).any() and shipped["mean"].between(0, 100).all()
    untrained = shipped["method"].isin([*UNTRAINED, FLOOR])
    assert ((shipped["trained"] == NOTHING) == untrained).all() and (shipped["half"].isna() == untrained).all()


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_of_kanoclip_can_be_built(name, mini):
    preset, changes, _ = CHOICES[name]
    assert build(mini, preset, **changes).config != build(mini, preset).config or name == DEFAULT


def test_choices_are_differences_to_the_default(frame):
    own = frame[frame["choice"] == "AA-CLIP"]
    other = own.assign(choice="reduce = max", value=own["value"] + 0.01 * (1 + own["seed"]))
    table = choices_table(pd.concat([own.assign(choice=DEFAULT), other]))
    row = next(line for line in table.splitlines() if line.startswith("| reduce"))
    assert {part.strip() for part in row.split("|")[2:-1]} == {cell([0.01, 0.02, 0.03], "+")}
