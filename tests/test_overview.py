"""The table of methods: what ships is what the code says, and what tests of methods say that the lens refuses."""

from __future__ import annotations

import json
from math import prod

import full_methods
import methods_table
import pytest
from typer.testing import CliRunner

from headlens import works
from headlens.backbone import architecture
from headlens.cli import app
from headlens.detectors import PRESETS
from headlens.errors import ConfigError
from headlens.overview import described, rows, shipped
from headlens.training.compared import cost_rows, costs
from tests.methods.cases import ONE_STREAM, REFUSALS, made

NAMES = {
    "ablate global": "ablate",
    "importance": "importance",
    "contributions image": "attribute contributions, image_margin",
    "contributions map": "attribute contributions, map_margin",
    "map_parts": "map_parts",
    "name global": "name_heads",
    "attribute pixels": "attribute input_x_gradient, joint_margin",
    "attribute head global": "attribute input_x_gradient, L3H0",
    "attribute head local": "attribute input_x_gradient, L3H0/local",
    "attention image": "attribute legrad, image_margin",
    "attention map": "attribute legrad, map_margin",
}
"""Functions of the table as ``tests.methods.lens.LENS`` calls them, which asks heads of the highest layer."""
LOCAL = {"ablate local", "name local", "attribute head local"}
SHIPPED = {row.preset: row for row in shipped()}


def shell(*arguments: str, columns: int = 80) -> str:
    """What stands on standard output, with what is said beside it only where people read both."""
    done = CliRunner().invoke(app, ["methods", *arguments], catch_exceptions=False, env={"COLUMNS": str(columns)})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_every_preset_has_its_row():
    """Where this fails: python analyses/methods_table.py."""
    assert list(SHIPPED) == list(PRESETS)
    for name, row in SHIPPED.items():
        assert described(name, row.works) == row
        assert tuple(row.works) == works.FUNCTIONS
    assert SHIPPED["anomalyclip"].arxiv == "2310.18961" and "arXiv" not in SHIPPED["anomalyclip"].title
    assert SHIPPED["april-gan"].learned == 4 * (128 + 1) * 128 and SHIPPED["winclip"].learned == 0
    assert all(row.imported for row in SHIPPED.values() if row.preset in ("crane", "aa-clip", "adaclip"))


@pytest.mark.parametrize("case", [case for case in REFUSALS if case in PRESETS])
def test_what_is_refused_is_what_the_tests_of_methods_say(case):
    first = {function: next(iter(answer)) for function, answer in SHIPPED[case].works.items()}
    no_local = ONE_STREAM.items() <= REFUSALS[case].items()
    assert {name for name, mark in first.items() if mark == "-"} - {"weights"} == (LOCAL if no_local else set())
    said = REFUSALS[case].keys() - (ONE_STREAM.keys() if no_local else set())
    expected = {function for function, asked in NAMES.items() if asked in said}
    assert {name for name, mark in first.items() if mark == "R" and name in NAMES} == expected


def test_the_lens_still_answers_so():
    """Of methods with all marks."""
    assert rows(["aa-clip", "sc-clip"]) == [SHIPPED["aa-clip"], SHIPPED["sc-clip"]]
    marks = {"/".join(answer) for name in ("aa-clip", "sc-clip") for answer in SHIPPED[name].works.values()}
    assert marks == {"E", "h", "R", "-", "E/R", "h/R"}


def test_any_detector_can_be_asked_and_bugs_are_no_refusals(monkeypatch):
    detector = made("april-gan", taps=(1, 3), head_weights="free")
    monkeypatch.setattr(works, "_OF_HEADS", dict.fromkeys(works._OF_HEADS, works._OF_HEADS["ablate"]))
    answers = works.works_on(detector)
    assert answers["weights"] == answers["ablate global"] == {"E": ""} and answers["name local"] == {"-": ""}

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(works, "_OF_SCORES", {"importance": broken})
    with pytest.raises(ZeroDivisionError):
        works.works_on(detector)


def test_the_page_has_the_table():
    """Where this fails: python analyses/methods_table.py."""
    _, table, _ = methods_table.parted(methods_table.PAGE.read_text(encoding="utf-8"))
    assert table == methods_table.table(shipped())
    page = methods_table.COSTS_PAGE.read_text(encoding="utf-8")
    assert methods_table.parted(page, methods_table.COSTS_MARKS)[1] == methods_table.costs_table()


def test_a_sentence_for_everything_that_is_held_or_refused():
    text = " ".join("\n".join(methods_table.notes(shipped())).split())
    for row in shipped():
        for why in (why for answer in row.works.values() for why in answer.values() if why):
            assert methods_table.shortened(why) in text
    assert methods_table.shortened("a" * 150 + ": b" + "c" * 60 + "; d") == "a" * 150
    assert methods_table.shortened("short; as it is") == "short; as it is"


def test_at_a_shell():
    lines = shell(columns=300).splitlines()
    for row in shipped():
        about, answers = (line.split() for line in lines if line.split()[:1] == [row.preset])
        assert about[2] == (f"{row.learned:,}" if row.learned else "nothing")
        assert answers[1:] == ["/".join(answer) for answer in row.works.values()]
    one = shell("aa-clip", columns=300)
    assert "245,760 numbers" in one and "held in each image: pooling weights, adapters" in one
    assert "name heads above block 5" in one and "2503.06661" in one
    assert [entry["preset"] for entry in json.loads(shell("--json"))] == list(PRESETS)
    assert json.loads(shell("clip", "--json"))[0]["learned"] == 0
    assert "headlens train" in " ".join(shell("--help").split())


def test_results_at_a_shell():
    text = shell("--results", columns=300)
    titles = [line.split(",")[0] for line in text.splitlines() if "tested in the other domain" in line]
    assert titles == ["mini-captions", "mini"]
    same, other = text.split("mini, tested")[0].split("tested in the other domain")
    assert "hand-written prompts" in same and "hand-written prompts" not in other
    assert all(name in other for name in ("HeadCLIP", "APRIL-GAN", "AA-CLIP"))
    records = json.loads(shell("--results", "--json"))
    values = records["results"]
    value = next(
        v
        for v in values
        if (v["backbone"], v["method"], v["trained"], v["tested"], v["metric"])
        == ("mini-captions", "HeadCLIP", *["medical"] * 2, "P")
    )
    assert f"{value['mean']:.1f} ±{value['half']:.1f}" in next(
        line for line in same.splitlines() if line.startswith("HeadCLIP ")
    )
    cost = next(row for row in records["costs"] if (row["preset"], row["what"]) == ("winclip", "scoring"))
    line = next(line for line in text.splitlines() if line.startswith("winclip "))
    assert line.split() == ["winclip", "0", "-", "-", f"{cost['images_per_s']:.0f}", f"{cost['peak_gib']:.1f}"]
    assert cost["device"] in text and cost["setting"] in text


def test_costs_are_of_methods_as_they_are():
    """Presets by what they learn on the CLIP that was measured."""
    towers = architecture("ViT-L-14-336")
    for preset, own in costs().groupby("preset"):
        shapes = PRESETS[preset].learned_shapes(towers.vision, towers.text)
        assert set(own["learned"]) == {sum(map(prod, shapes.values()))}
        assert ("training step" in " ".join(own["what"])) == bool(shapes)
        assert (own["what"] == "scoring").sum() == 1


def test_a_step_of_each_stage_has_its_place():
    rows = [
        {"way": "aa-clip", "what": "training step, text", "images/s": 4.0, "peak GiB": 1.0},
        {"way": "aa-clip", "what": "training step, image", "images/s": 8.0, "peak GiB": 2.0},
        {"way": "clip", "what": "scoring", "images/s": 16.0, "peak GiB": 0.5},
        {"way": "winclip", "what": "scoring", "images/s": None},
    ]
    made = full_methods.frame(rows, {"aa-clip": 1000, "clip": 0, "winclip": 0}, "a setting", "a device")
    assert list(made) == list(costs())
    trained, untrained = cost_rows(made)
    assert trained == ["aa-clip", "1,000", "4, then 8", "1.0, then 2.0", "-", "-"]
    assert untrained == ["clip", "0", "-", "-", "16", "0.5"]


def test_what_does_not_exist_is_an_error():
    for arguments, message in ((["winclp"], "did you mean winclip"), (["clip", "--results"], "leave out the name")):
        error = CliRunner().invoke(app, ["methods", *arguments]).exception
        assert isinstance(error, ConfigError) and message in str(error)
