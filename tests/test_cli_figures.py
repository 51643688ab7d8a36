"""``headlens figures`` as somebody at a shell uses it."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import headlens.figures
from headlens.cli import app
from headlens.errors import ConfigError, RunError
from headlens.figures import FIGURES

ANALYSES = Path(__file__).parent.parent / "analyses"


def invoke(*arguments: object):
    return CliRunner().invoke(app, ["figures", *map(str, arguments)], catch_exceptions=False)


def test_one_figure_of_the_shipped_runs_and_its_script(tmp_path, monkeypatch):
    out = tmp_path / "figures"
    result = invoke("difference", "--out", out)
    assert result.exit_code == 0 and f"difference: {out / 'difference.pdf'}" in result.output
    page = (out / "difference.md").read_text()
    assert (
        f"`headlens figures difference --out {out}`" in page
        and "mini-captions-medical-9" in page
        and "never seen" in page
    )
    pdf = (out / "difference.pdf").read_bytes()
    monkeypatch.setattr(sys, "argv", ["figure_difference.py", "--out", str(tmp_path / "script")])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(ANALYSES / "figure_difference.py"), run_name="__main__")
    assert (tmp_path / "script" / "difference.pdf").read_bytes() == pdf


def test_every_figure_has_its_script():
    scripts = {path.stem.removeprefix("figure_").replace("_", "-"): path for path in ANALYSES.glob("figure_*.py")}
    assert set(scripts) == {spec.name for spec in FIGURES}
    assert all(f'["figures", "{name}"]' in path.read_text() for name, path in scripts.items())


def test_one_domain_alone_and_bad_input(tmp_path):
    result = invoke("weights", "difference", "--industrial", "mini-industrial-0", "--out", tmp_path)
    assert result.exit_code == 1 and "difference: not made: a difference takes two domains or more" in result.output
    assert (
        "(1 run)" not in result.output
        and "mean over 1 industrial run. A weight" in (tmp_path / "weights.md").read_text()
    )
    assert "--industrial mini-industrial-0" in (tmp_path / "weights.md").read_text()
    small = invoke(
        "weights", "--industrial", "mini-industrial-0", "--out", tmp_path, "--format", "svg", "--width", "60mm"
    )
    assert small.exit_code == 0 and 'width="170.' in (tmp_path / "weights.svg").read_text()
    assert "--format svg --width 60mm" in (tmp_path / "weights.md").read_text()
    with pytest.raises(ConfigError, match="unknown figure 'weight'"):
        invoke("weight", "--out", tmp_path / "none")
    (tmp_path / "mine.mplstyle").write_text("font.siez: 8")
    for wrong, why in (("--width", "85"), "'85'"), (("--style", tmp_path / "mine.mplstyle"), r"line 1: .*font\.size"):
        with pytest.raises(ConfigError, match=why):
            invoke("weights", *wrong, "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_data_of_a_domain_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--industrial-data is given, but no run of that domain"):
        invoke("--medical", "mini-medical-0", "--industrial-data", "procedural:industrial/aux", "--out", tmp_path)


@pytest.mark.parametrize(("why", "code"), [(ConfigError("no labels"), 0), (RunError("no room"), 1)])
def test_all_figures_but_those_that_the_pictures_do_not_allow(monkeypatch, tmp_path, why, code):
    made = [(FIGURES[0], [tmp_path / "weights.pdf"]), (FIGURES[1], why)]
    monkeypatch.setattr(headlens.figures, "make", lambda *arguments: iter(made))
    result = invoke("--industrial", "mini-industrial-0", "--out", tmp_path)
    assert result.exit_code == code and f"{FIGURES[1].name}: not made: {why}" in result.output


def test_domains_of_any_name(tmp_path):
    groups = ["--group=food=mini-industrial-0", "--group=wood=mini-medical-0", "--group=cloth=mini-medical-1"]
    with pytest.raises(ConfigError, match="food: no images are named; give --data food=FOLDER"):
        invoke("weights", *groups, "--out", tmp_path)
    result = invoke("weights", "difference", *groups, "--data", "procedural:medical", "--out", tmp_path)
    assert result.exit_code == 0 and "cloth, on " in result.output
    for name in ("weights", "difference"):
        page = (tmp_path / f"{name}.md").read_text()
        assert "--group food=mini-industrial-0 --group wood=mini-medical-0" in page and "1 cloth run" in page
    assert "domains by domains" in page
