"""Groups at a shell: how they are named, and ``headlens compare`` of several."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from headlens import heads
from headlens.cli import app
from headlens.cli.compare import OF, measured
from headlens.cli.groups import data_by_group, groups_of
from headlens.errors import ConfigError
from headlens.heads import Comparison, Variance
from headlens.training.run import Run
from tests import tiny

pytestmark = pytest.mark.usefixtures("runs_share_backbones")


def typed(*arguments: object):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)], catch_exceptions=False)


def test_runs_are_folders_shipped_names_and_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("food-0", "food-1", "food-10", "odd,name"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / "food-2").touch()  # a file is no run
    found = groups_of(
        ["food=runs/food-*", "odd=runs/odd,name", "both = runs/food-0, mini-medical", "odd=mini-medical-1"], {}
    )
    assert found == {
        "food": ["runs/food-0", "runs/food-1", "runs/food-10"],
        "odd": ["runs/odd,name", "mini-medical-1"],
        "both": ["runs/food-0", "mini-medical"],
    }
    assert groups_of(["medical=a"], {"medical": ["b"], "industrial": []}) == {"medical": ["a", "b"]}
    for bad in ("food", "=runs", "food=", "food= , "):
        with pytest.raises(ConfigError, match="expected NAME=RUNS"):
            groups_of([bad], {})
    with pytest.raises(ConfigError, match=r"runs/wood-\*: no run folder and no shipped run fits"):
        groups_of(["wood=runs/wood-*"], {})


def test_images_are_of_one_group_or_of_all(tmp_path):
    (tmp_path / "food=wood").mkdir()
    assert data_by_group([str(tmp_path / "food=wood")], ["food"]) == {"food": str(tmp_path / "food=wood")}
    assert data_by_group(["wood=a", "food=b"], ["food", "wood"]) == {"wood": "a", "food": "b"}
    with pytest.raises(ConfigError, match="no group is called 'foood'; did you mean food"):
        data_by_group(["foood=a"], ["food", "wood"])
    with pytest.raises(ConfigError, match="food has images already"):
        data_by_group(["a", "food=b"], ["food", "wood"])


def test_three_groups_are_compared_and_saved(tmp_path):
    groups = ["--group=all=mini-industrial,mini-medical", "--group=one=mini-medical-0"]
    with pytest.raises(ConfigError, match="mini-medical-0 and mini-medical-0 are the same run"):
        typed(*groups, "--out", tmp_path)
    groups = ["--group=a=mini-industrial-?", "--group=b=mini-medical-0,mini-medical-1", "--group=c=mini-medical-2"]
    result = typed(*groups, "--out", tmp_path, "--rows", 3)
    assert result.exit_code == 0 and "a: mini-industrial-0, mini-industrial-1, mini-industrial-2" in result.output
    path = next(tmp_path.glob("compare-weights-a-b-c-*.agreement.parquet"))
    saved = Comparison.load(path.with_name(path.name.replace(".agreement", "")))
    assert saved.groups == ("a", "b", "c") and saved.paragraph in result.output
    pd.testing.assert_frame_equal(
        saved.pairs[["first", "second"]], pd.DataFrame({"first": list("aab"), "second": list("bcc")})
    )
    assert "industrial and medical" not in saved.paragraph
    with pytest.raises(ConfigError, match="at least two groups of runs, got a"):
        typed("--group", "a=mini-medical")
    with pytest.raises(ConfigError, match="a: no images are named; give --data a=FOLDER"):
        typed(*groups, "--of", "importance")


def test_the_options_of_two_domains_are_groups(tmp_path):
    short = typed("--industrial", "mini-industrial-0", "--medical", "mini-medical-0", "--out", tmp_path)
    long = typed("--group=industrial=mini-industrial-0", "--group=medical=mini-medical-0", "--out", tmp_path)
    tables = [output.output.partition("Agreement")[2].partition(str(tmp_path))[0] for output in (short, long)]
    assert tables[0] == tables[1] and "within industrial" in tables[0]


def test_the_variance_of_two_factors(tmp_path):
    runs = {"whole/x": "mini-industrial", "whole/y": "mini-medical", "shallow/x": "mini-industrial-shallow"}
    groups = [f"--group={name}={run}" for name, run in runs.items()]
    with pytest.raises(ConfigError, match="no runs of shallow / y"):
        typed("--factors", "method/domain", *groups, "--out", tmp_path)
    groups.append("--group=shallow/y=mini-medical-shallow")
    result = typed("--factors", "method/domain", *groups, "--out", tmp_path)
    saved = Variance.load(next(tmp_path.glob("variance-weights-method-domain-whole-shallow-x-y-*.parquet")))
    assert result.exit_code == 0 and saved.paragraph in result.output and "method x domain" in result.output
    assert saved.provenance["factors"] == {"method": ["whole", "shallow"], "domain": ["x", "y"]}
    assert data_by_group(["x=a", "whole/y=b"], [*runs]) == {"whole/x": "a", "shallow/x": "a", "whole/y": "b"}


@pytest.mark.parametrize("of", OF[1:])
def test_what_a_verb_measures_is_compared(of, pictures, tmp_path, one_torch_thread):
    runs = {name: [Run(Path(name), tiny.headclip(torch.float32), None, {})] for name in ("a", "b")}
    for raw in runs["b"][0].detector.weights.raw.values():
        raw.mul_(2)
    results = measured(of, runs, dict.fromkeys(runs, pictures[::4]), 4, tmp_path)
    compared = heads.compare(results, k=2)
    kinds = {"importance": "importance", "ablate": "ablation", "contributions": "contribution", "name": "naming"}
    assert compared.provenance["of"] == kinds[of] and compared.groups == ("a", "b") and len(compared.frame) > 3
