"""Tables of all verbs: as wide as the terminal and no wider, and in every form the same numbers."""

from __future__ import annotations

import csv
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from headlens.cli import app
from headlens.cli.ablate import table as of_ablation
from headlens.cli.attribute import table as of_attribution
from headlens.cli.comparison_text import agreement, differing
from headlens.cli.contributions import shares
from headlens.cli.contributions import tables as of_contributions
from headlens.cli.eval import table as of_evaluation
from headlens.cli.importance import tables as of_importance
from headlens.cli.knowledge import covered
from headlens.cli.methods import detailed, results_of_all, works
from headlens.cli.name import table as of_naming
from headlens.cli.output import Output, fitted
from headlens.cli.score import highest
from headlens.cli.weights import grid
from headlens.errors import ConfigError
from headlens.metrics.table import KEYS
from headlens.overview import shipped
from headlens.tables import Table, best, latex
from headlens.training.summary import COLUMNS, Summary
from tests import test_html as every

results, pytestmark = every.results, every.pytestmark
LONG = "a_name_that_somebody_gave_to_a_folder_without_a_thought_of_narrow_terminals"


def summary(scale: float) -> Summary:
    """Two sets of two categories, with intervals; AUPRO is undefined."""
    rows = [
        ("industrial", dataset, category, metric, np.nan if metric == "pixel_aupro" else scale, 0.1, 2, 1, 2)
        for dataset, category in [*((d, c) for d in (LONG, "b") for c in ("screw", LONG, "mean")), ("mean", "mean")]
        for metric in COLUMNS
    ]
    columns = [*KEYS, "metric", "value", "interval", "seeds", "n", "of"]
    return Summary(pd.DataFrame(rows, columns=columns), {})


def scores() -> list[dict[str, str]]:
    names = dict.fromkeys(("joint_score", "image_score", "map_max"), "0.123456")
    return [{"file": f"folder/{LONG}/{n}.png", "anomalous": "true", **names} for n in range(3)]


@pytest.fixture(scope="module")
def tables(results) -> dict[str, list[Table]]:
    """Of every verb that prints any."""
    attributed = results["Attribution"].frame.assign(image=LONG)
    rows = shipped()
    return {
        "ablate": [of_ablation(results["Ablation"], 3)],
        "importance": of_importance(results["Importance"], results["Screen"], 3),
        "contributions": [*of_contributions(results["Contributions"], 3)],
        "contributions of images": [shares(results["MapParts"], LONG, 4)],
        "compare": [
            agreement(results["Comparison"]),
            differing(results["Comparison"], 4),
        ],
        "name": [of_naming(results["Naming"], 3)],
        "weights": [grid(results["Weights"].frame.query("stream == 'global'"), LONG)],
        "attribute": [of_attribution(attributed)],
        "eval": [of_evaluation({LONG: summary(0.9), "two": summary(0.8)})],
        "methods": [works(rows), detailed(rows[-1])],
        "methods --results": results_of_all(),
        "score": [highest(scores(), 2)],
        "knowledge show": [covered(pd.DataFrame({"domain": ["x"], "category": [LONG], "normal": [3]}))],
    }


VERBS = (
    *("ablate", "importance", "contributions", "contributions of images", "compare", "name", "weights", "attribute"),
    *("eval", "methods", "methods --results", "score", "knowledge show"),
)


@pytest.mark.parametrize("verb", VERBS)
def test_tables_fit_and_break_no_number(tables, verb):
    for table in tables[verb]:
        narrow, wide = table.text(80), table.text(200)
        for text, width in ((narrow, 80), (wide, 200)):
            assert max(map(len, text.splitlines())) <= width, text
            for row in table.rows:
                for cell in row[len(row) - table.numbers :]:
                    assert all(part in text for part in cell.split(" "))
        assert len(wide.splitlines()) <= len(narrow.splitlines())


@pytest.mark.parametrize("verb", VERBS)
def test_every_form_has_every_cell(tables, verb):
    for table in tables[verb]:
        lines = table.markdown().splitlines()
        assert len(lines) == 2 + len(table.rows) and {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {
            1 + len(table.header)
        }
        body = re.search(r"\\midrule\n(.*)\\bottomrule", table.latex(), re.DOTALL)
        spec = re.search(r"{tabular}{(.*)}", table.latex())
        assert body and spec
        columns = len(re.sub(r"@{[^}]*}", "", spec[1]))
        rows = body[1].splitlines()
        assert len(rows) == len(table.rows)
        assert all(len(re.findall(r"(?<!\\)&", row)) == columns - 1 and row.endswith(r" \\") for row in rows)
        records = table.records()
        assert json.loads(json.dumps(records, allow_nan=False)) == records and len(records) >= 1
        assert len(list(csv.reader(table.csv().splitlines()))) == 1 + len(records)


def test_the_verbs_of_data_fit_as_well():
    for arguments in (["data", "list"], ["data", "protocols"], ["methods"], ["methods", "--results"]):
        done = CliRunner().invoke(app, arguments, env={"COLUMNS": "80"}, catch_exceptions=False)
        assert done.exit_code == 0 and max(map(len, done.output.splitlines())) <= 80


def test_the_best_of_each_category_is_bold_and_alone_nothing_is():
    two = of_evaluation({"one": summary(0.9), "two": summary(0.8)})
    bold = {(row, column) for row, column in two.bold}
    assert {column for _, column in bold} == {3 + n for n, name in enumerate(COLUMNS) if name != "pixel_aupro"}
    assert {two.rows[row][0] for row, _ in bold} == {"one"}
    alone = of_evaluation({"one": summary(0.9)})
    assert not alone.bold and alone.header[:2] == ["data set", "category"]
    assert r"\textbf" not in alone.latex() and r"90.0 & $\pm$10.0 (1 of 2)" in alone.latex()
    assert best([0.5, float("nan"), 0.5]) == {0, 2} and best([0.5, float("nan")]) == set()


def test_a_carriage_return_in_a_name_ends_no_row_of_a_csv():
    frame = pd.DataFrame({"image": ["a\r", "b\r\nc", "d"], "value": [0.5, 1.5, 2.5]})
    of_frame = Table(["image", "value"], [["a", "1"]], numbers=1, name="x", frame=frame).csv()
    of_rows = Table(["image", "value"], [[name, str(value)] for name, value in frame.to_numpy()], 1, "x").csv()
    for text in (of_frame, of_rows):
        header, *rows = csv.reader(io.StringIO(text, newline=""))
        assert header == ["image", "value"] and [name for name, _ in rows] == ["a\r", "b\r\nc", "d"]
    assert Table(["image"], [["a"]], 0, "x").csv() == "image\na\n"


def test_text_of_a_table_is_escaped_for_latex():
    code = latex(["a_b", "n"], [["50 % & {x} ~ ^ \\ # $", "-1.5 [-2.0, -1.0]"]], 1)
    assert r"50 \% \& \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \# \$" in code
    assert r"$-$1.5" in code and r"[$-$2.0, $-$1.0]" in code and r"\multicolumn{2}{r}{n}" in code


def test_one_form_on_standard_output_and_the_rest_beside_it(capsys, tmp_path):
    frame = pd.DataFrame({"head": ["L1H2"], "value": [1 / 3]})
    one = Table(["head", "value"], [["L1H2", "0.33"]], 1, "heads", "Heads", "note", frame)
    two = Table(["a"], [["x"]], name="others")
    for form, begins in (("json", "{"), ("markdown", "| head | value |"), ("latex", "% Heads\n\\begin{tabular}{lr}")):
        output = Output(**{form: True}, csv=tmp_path / "x" / "t.csv")
        output.say("said")
        output.show(one, two)
        out, err = capsys.readouterr()
        assert out.startswith(begins) and "said" in err and "t.csv, " in err
        assert "Heads" not in out or form == "latex"  # where it is a comment
        if form == "json":
            assert json.loads(out) == {"heads": [{"head": "L1H2", "value": 1 / 3}], "others": [{"a": "x"}]}
    assert (tmp_path / "x" / "t.csv").read_text() == f"head,value\nL1H2,{1 / 3}\n"
    assert (tmp_path / "x" / "t.others.csv").read_text() == "a\nx\n"
    Output().show(one)
    assert capsys.readouterr().out.split("\n") == ["Heads", "", "head  value", "L1H2   0.33", "note", ""]
    with pytest.raises(ConfigError, match="--json and --latex are different forms"):
        Output(json=True, latex=True)
    with pytest.raises(ConfigError, match=r"table\.txt: the name of the file ends in \.csv"):
        Output(csv=tmp_path / "table.txt")


def test_prose_is_wrapped_and_names_of_files_are_not(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    lines = fitted(f"  {'word ' * 12}\n\n{LONG}.parquet").splitlines()
    assert all(len(line) <= 40 and line.startswith("  ") for line in lines[:2]) and lines[2:] == ["", f"{LONG}.parquet"]
