"""What is asked of learned head weights: which heads are set back, and what the tables make of the answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from head_weight_questions import COUNTS, changes, changes_table, correlation_table, order_of_change, set_weights
from trained_runs import Task, cell

from headlens.backbone import load
from headlens.detectors import build


@pytest.fixture(scope="module")
def mini():
    return load("mini")


def weights(seed: int) -> dict[str, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {stream: 1 + torch.randn(12, 16, generator=made) for stream in ("global", "local")}


def test_most_changed_heads_are_set_back_and_the_others_are_left():
    before, other = weights(0), weights(1)
    distance = torch.stack([(grid - 1).abs() for grid in before.values()]).flatten()
    asked = dict(changes(before, other, seed=0))
    assert asked["as trained"] is before and asked["the other domain's head weights"] is other
    for count in COUNTS:
        most = torch.zeros(len(distance), dtype=torch.bool)
        most[distance.topk(count).indices] = True
        for name, reset in ((f"{count} most changed", most), (f"all but the {count} most changed", ~most)):
            after = torch.stack([*asked[f"{name} set back"].values()]).flatten()
            unchanged = torch.stack([*before.values()]).flatten()
            assert torch.equal(after, torch.where(reset, 1.0, unchanged))
        drawn = torch.stack([*asked[f"{count} drawn at random set back"].values()]).flatten()
        assert int((drawn == 1).sum()) == count
    assert all(bool((grid == 1).all()) for grid in asked["all set back"].values())
    assert order_of_change({"local": torch.ones(2, 2)}) == []


def test_weights_that_are_set_are_those_of_the_detector(mini):
    detector, asked = build(mini, "headclip", streams=("local",)), {"local": 1 + torch.rand(24, 16)}
    set_weights(detector, asked)
    assert torch.equal(detector.head_weights()["local"].detach(), asked["local"])


def test_tables_are_means_over_seeds_of_differences_to_the_same_run():
    chance, results = np.random.default_rng(0), {}
    for domain in ("industrial", "medical"):
        for seed in range(3):
            rows = {name: dict.fromkeys(("I", "P", "PRO"), chance.uniform()) for name in ("as trained", "all set back")}
            moved = {"local": {"moved": chance.uniform(), "signed": chance.uniform()}}
            results[Task("HeadCLIP", seed, domain)] = {"metrics": rows, "correlation": moved}
    medical = [results[task] for task in results if task.domain == "medical"]
    first, change = ([part.strip() for part in line.split("|")] for line in changes_table(results).splitlines()[2:])
    assert first[3] == change[3] == "3 + 3"
    assert first[-2] == cell([one["metrics"]["as trained"]["PRO"] for one in medical])
    lost = [one["metrics"]["all set back"]["P"] - one["metrics"]["as trained"]["P"] for one in medical]
    assert change[-3] == cell(lost, "+")
    row = [part.strip() for part in correlation_table(results).splitlines()[-1].split("|")]
    assert row[-3:-1] == [cell([one["correlation"]["local"][name] for one in medical]) for name in ("moved", "signed")]
