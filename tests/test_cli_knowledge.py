"""``headlens knowledge`` as somebody types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from headlens.cli import app
from headlens.data.procedural import World
from headlens.errors import ConfigError, DataError
from headlens.heads import PromptParts
from headlens.knowledge import Row, captions, read, write
from headlens.knowledge.building import Model

ASKED = '[[question]]\nto = "text"\nstate = "anomalous"\nask = "What is wrong with a {category}?"\n'
NUT = Row("industrial", "nut", "anomalous", "It is rusty.", "me")

STATES = (("normal", "flawless"), ("anomalous", "damaged"))


def run(*arguments: object):
    return CliRunner().invoke(app, ["knowledge", *map(str, arguments)])


def test_what_ships_has_no_fault():
    result = run("check", "--json")
    told = json.loads(result.output)
    assert result.exit_code == 0 and told["faults"] == [] and told["rows"] > 500
    assert {row["domain"] for row in told["coverage"]} == {"industrial", "medical"}


def test_check_names_faults_of_the_file_and_of_the_data(tmp_path):
    path = tmp_path / "base.jsonl"
    write(path, [NUT, NUT, Row("industrial", "nuts", "normal", "It is round.", "me")])
    path.write_text(path.read_text() + "{\n")
    result = run("check", path, "--data", "procedural:industrial/aux", "--per-category", 2)
    assert result.exit_code == 1, result.output
    assert [line.removeprefix("error: ").replace(f"{path}: ", "") for line in result.output.splitlines()[:3]] == [
        "line 2: repeats line 1: It is rusty.",
        "warning: line 3: no data set given has the category 'nuts'; did you mean nut?",
        "line 4: is not JSON (Expecting property name enclosed in double quotes at character 2): {",
    ]
    assert "2 errors, 1 warnings" in result.output.splitlines()[-1]
    assert run("check", path, "--most", 0).output.splitlines()[0] == "... and 2 more"


def test_check_of_warnings_alone_and_of_no_file(tmp_path):
    path = tmp_path / "base.jsonl"
    write(path, [NUT])
    result = run("check", path, "--data", "procedural:medical", "--per-category", 2)
    assert result.exit_code == 0 and "has the domain 'industrial'" in result.output
    forms = ("--markdown", "--csv", tmp_path / "f.csv")
    rows = run("check", path, "--data", "procedural:medical", "--per-category", 2, *forms)
    assert (
        rows.stdout.startswith("| file | line | message | severity |") and "| medical | knee_mri | 0 |" in rows.stdout
    )
    faults, covered = ((tmp_path / name).read_text() for name in ("f.csv", "f.coverage.csv"))
    assert "has the domain 'industrial'" in faults and "medical,knee_mri,0" in covered
    assert run("check", tmp_path / "none.jsonl").exit_code == 2
    assert json.loads(run("check", path, "--data", tmp_path / "none", "--json").output)["ok"] is False


def test_captions_of_a_world_fit_it(tmp_path):
    path = tmp_path / "captions.jsonl"
    rows = captions(World("procedural:medical", per_category=2, size=28))
    write(path, rows)
    result = run("check", path, "--data", "procedural:medical", "--per-category", 2, "--json")
    told = json.loads(result.output)
    assert result.exit_code == 0 and told["faults"] == []
    assert [row["images"] for row in told["coverage"]] == [0, 2, 2, 2, 2, 2]


def test_rows_of_the_printed_table_and_of_all(tmp_path):
    printed = run("show", "--rows", 2, "--csv", tmp_path / "all.csv").output
    every = (tmp_path / "all.csv").read_text().splitlines()
    assert f"... and {len(every) - 3} more" in printed and every[2].split(",")[1] in printed
    assert every[3].split(",")[1] not in printed
    sentences = json.loads(run("show", "--category", "metal nut", "--rows", 1, "--json").output)["sentences"]
    assert len(sentences) > 5 and sentences[0]["state"] == "normal"
    assert len(run("show", "--category", "metal nut", "--rows", 1, "--markdown").output.splitlines()) == 3


def test_show():
    table = run("show", "--domain", "medical").output
    assert "brain_mri" in table and "zipper" not in table
    lines = [line.split(maxsplit=1) for line in run("show", "--category", "metal nut").output.splitlines()]
    assert ["anomalous", "The metal nut is rusty."] in lines
    assert ["normal", "The hole of the metal nut is round and centred."] in lines
    assert ["normal", "Every part is present and in its place."] in lines
    assert "The lungs are clear." not in [sentence for _, sentence in lines]
    assert "did you mean zipper?" in str(run("show", "--category", "zippr").exception)
    assert isinstance(run("show", "--domain", "space").exception, ConfigError)


@pytest.fixture
def parrot(monkeypatch):
    """Models whose answer to everything is the same, in place of those of folders."""
    said = ["It is rusty. Its edge is chipped."]
    monkeypatch.setattr(
        "headlens.knowledge.models.model_of",
        lambda to, folder, device, tokens: Model(folder.name, "1", lambda prompt, image: said[0], tokens),
    )
    return said


def built(out: Path, *more: object):
    about = ("--data", "procedural:industrial/aux", "--per-category", 2, "--text-model", "parrot")
    return run("build", *about, "--out", out, *more)


def test_build_asks_and_writes_rows_and_answers(tmp_path, parrot):
    questions = tmp_path / "mine.toml"
    questions.write_text(ASKED, encoding="utf-8")
    result = built(tmp_path / "out", "--questions", questions)
    assert result.exit_code == 0, result.output
    rows = read(tmp_path / "out" / "knowledge.jsonl")
    assert len(rows) == 20 and len((tmp_path / "out" / "answers.jsonl").read_text().splitlines()) == 10
    assert rows[0].source == "parrot, revision 1: What is wrong with a wood?"
    assert built(tmp_path / "out", "--questions", questions).exit_code == 0, "the same again"

    parrot[0] = "It is cracked all over."
    (tmp_path / "out" / "answers.jsonl").unlink()
    other = built(tmp_path / "out", "--questions", questions)
    assert isinstance(other.exception, ConfigError) and "move it, then continue" in str(other.exception)
    assert read(tmp_path / "out" / "knowledge.jsonl") == rows


def test_build_says_what_it_left_out_and_writes_nothing_without_rows(tmp_path, parrot):
    parrot[0] = "Ни одной."
    result = built(tmp_path / "out")
    assert isinstance(result.exception, DataError)
    parrot[0] = "Ничего не найдено здесь."
    result = built(tmp_path / "other")
    assert "left out: 'Ничего не найдено здесь.': the sentence has the letter" in result.output
    assert isinstance(result.exception, DataError) and not (tmp_path / "other" / "knowledge.jsonl").exists()


def test_build_needs_a_model_and_a_folder(tmp_path):
    without = run("build", "--data", "procedural:medical", "--out", tmp_path / "out")
    assert "there is no model to ask" in str(without.exception)
    missing = built(tmp_path / "out")
    assert "parrot: is no folder" in str(missing.exception) and not (tmp_path / "out").exists()


def test_build_ends_with_1_if_an_image_cannot_be_read(tmp_path, parrot):
    for name, content in (("good", b""), ("bad", b"no image")):
        folder = tmp_path / "mine" / "nut" / "test" / name
        folder.mkdir(parents=True)
        (folder / "1.png").write_bytes(content)
    questions = tmp_path / "mine.toml"
    questions.write_text(ASKED + ASKED.replace("text", "image"), encoding="utf-8")
    about = ("--data", tmp_path / "mine", "--domain", "industrial", "--questions", questions, "--out", tmp_path / "out")
    result = run("build", *about, "--text-model", "parrot", "--image-model", "parrot")
    assert result.exit_code == 1 and "left out: " in result.output and "bad/1.png" in result.output, result.output
    assert {row.image for row in read(tmp_path / "out" / "knowledge.jsonl")} == {""}


def test_explain_tells_which_prompts_and_which_sentences(tmp_path):
    base, image = tmp_path / "base.jsonl", tmp_path / "nut.png"
    write(base, [Row("industrial", "*", state, f"a photo of a {word} metal", "me") for state, word in STATES])
    Image.new("RGB", (30, 20), (90, 120, 60)).save(image)
    (tmp_path / "bad.png").write_bytes(b"no image")
    about = ("--base", base, "--nearest", 1, "--out", tmp_path / "lens")
    result = run("explain", image, tmp_path / "bad.png", *about)
    assert result.exit_code == 1 and "bad.png" in result.output, result.output
    lines = [line for line in result.output.splitlines() if " 0: a photo of a " in line]
    assert sorted(line.split()[1] for line in lines) == ["abnormal", "normal"]
    (table,) = (tmp_path / "lens").glob("*nut-png.parquet")
    parts = PromptParts.load(table)
    assert len(parts.frame) == len(parts.sentences) == 2 and table.with_suffix(".png").exists()
    assert run("explain", image, *about).exit_code == 0
    assert len(list((tmp_path / "lens").glob("knowledge-*nut-png.parquet"))) == 1, "the same question, the same name"
