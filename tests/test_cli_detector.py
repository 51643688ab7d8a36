"""Training, evaluation and scoring as somebody at a shell does them, on a run of a few steps."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from headlens.cli import app
from headlens.cli.score_table import ScoreTable
from headlens.data.procedural import World
from headlens.detectors import Detector
from headlens.errors import ConfigError, DataError, RunError

pytestmark = pytest.mark.usefixtures("runs_share_backbones", "painted_small")


def invoke(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result.output


def printed(*arguments: object, status: int = 0) -> str:
    """What a program that reads standard output gets."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result.stdout


@pytest.fixture(scope="module")
def run(painted_small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        invoke(
            *("train", "--data", "procedural:industrial/aux", "--per-category", 2, "--epochs", 1, "--batch", 5),
            *("--preset", "anomalyclip", "--size", 56, "--seed", seed, "--out", folder / str(seed), "--cpu"),
        )
    return folder


REAL_CATEGORIES = World("procedural:industrial").categories


@pytest.fixture
def two_categories(monkeypatch):
    """Of every procedural world the first two, at 56 px by every detector: what is said of them depends on neither."""

    class Small(World):
        def __init__(self, *own: object, **options: object) -> None:
            super().__init__(*own, **options)
            self.categories = self.categories[:2]

    monkeypatch.setattr("headlens.data.procedural.World", Small)
    monkeypatch.setattr(Detector, "image_size", 56)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "parts"
    (folder / "inner").mkdir(parents=True)
    for number, path in enumerate(("a.png", "b.JPG", "inner/a.png")):
        Image.effect_noise((40 + number, 30), 50).convert("RGB").save(folder / path)
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_a_run_folder_holds_everything(run):
    assert {path.name for path in (run / "0").iterdir()} == {"config.toml", "model.safetensors", "card.json", "log.csv"}
    card = json.loads((run / "0" / "card.json").read_text())
    assert card["preset"] == "anomalyclip" and card["steps"] == 4 and 0 < card["threshold"] < 1


def test_eval_prints_seeds_with_intervals_and_writes_json(two_categories, run, tmp_path):
    one = invoke("eval", "--run", run / "0", "--data", "procedural:medical", "--per-category", 2)
    assert "mini-captions" in one and "head_ct" in one and "±" not in one
    two = ("eval", "--run", run / "0", "--run", run / "1", "--data", "procedural:medical", "--per-category", 2)
    csv_file = tmp_path / "result.csv"
    (result,) = json.loads(printed(*two, "--json", "--csv", csv_file))["results"]
    with csv_file.open() as file:
        assert {row["category"] for row in csv.DictReader(file)} >= {"head_ct", "mean"}
    assert result["backbone"]["name"] == "mini-captions"
    assert {row["metric"] for row in result["metrics"]} >= {"cls_auroc", "map_auroc", "image_auroc", "pixel_aupro"}
    assert all(row["seeds"] == 2 for row in result["metrics"])


def test_eval_of_one_category_at_another_size(run):
    asked = ("eval", "--run", run / "0", "--data", "procedural:medical", "--per-category", 2, "--category", "head_ct")
    (result,) = json.loads(printed(*asked, "--size", 28, "--json"))["results"]
    assert result["size"] == 28 and {row["category"] for row in result["metrics"]} == {"head_ct", "mean"}
    with pytest.raises(ConfigError, match="size is 3"):
        invoke(*asked, "--size", 3)


def test_eval_keeps_apart_what_differs_in_more_than_its_seed(two_categories, run):
    names = ("mini-captions-medical-0", "mini-captions-medical-1", "mini-captions-medical-anomalyclip-0", run / "0")
    arguments = [argument for name in names for argument in ("--run", name)]
    done = invoke("eval", *arguments, "--data", "procedural:medical", "--per-category", 2, "--latex")
    latex = done[done.index(r"\begin{tabular}") : done.index(r"\end{tabular}")]
    rows = [line for line in latex.splitlines() if " & head\\_ct" in line]
    assert [row.partition(" ")[0] for row in rows] == ["mini-captions-medical-0,", *names[2:3], "0"]
    assert "trained on procedural:industrial/aux" in done and r"\textbf{" in latex and r"$\pm$" in rows[0]
    assert r"$\pm$" not in rows[1]


def test_score_writes_maps_overlays_and_one_table(run, pictures, tmp_path):
    out = tmp_path / "out"
    invoke("score", pictures, "--run", run / "0", "--out", out, "--batch", 2)
    with (out / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    for row in rows:
        with Image.open(row["file"]) as picture:
            native = np.load(out / row["map"])
            assert native.shape == picture.size[::-1] and native.dtype == np.float32
        assert (out / row["overlay"]).is_file()
        assert float(row["joint_score"]) == pytest.approx(float(row["image_score"]), abs=1e-6)  # alpha 0
        threshold = json.loads((run / "0" / "card.json").read_text())["threshold"]
        assert row["anomalous"] == str(float(row["joint_score"]) > threshold).lower()


def test_score_does_not_depend_on_company(run, pictures, tmp_path):
    invoke("score", pictures, "--run", run / "0", "--out", tmp_path / "all")
    invoke("score", pictures / "b.JPG", "--run", run / "0", "--out", tmp_path / "one")
    scores = {}
    for name in ("all", "one"):
        with (tmp_path / name / "scores.csv").open() as file:
            scores[name] = {row["file"]: float(row["joint_score"]) for row in csv.DictReader(file)}
    (path, alone) = next(iter(scores["one"].items()))
    assert scores["all"][path] == pytest.approx(alone, abs=2e-6)


def test_a_bad_picture_is_named_and_the_others_are_scored(run, pictures, tmp_path):
    (pictures / "b.JPG").write_bytes(b"broken")
    result = CliRunner().invoke(app, ["score", str(pictures), "--run", str(run / "0"), "--out", str(tmp_path / "o")])
    assert result.exit_code == 1
    assert "2 images scored" in result.output and "b.JPG" in result.output


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        (["score", "{pictures}/gone.png", "--run", "{run}/0"], DataError, "gone.png"),
        (["score", "{pictures}/*.tiff", "--run", "{run}/0"], DataError, "no such file, folder or pattern"),
        (["score", "{empty}", "--run", "{run}/0"], DataError, "no image in it"),
        (["score", "{pictures}", "--run", "{run}/7"], RunError, "no such folder"),
        (["score", "{pictures}", "--run", "{run}/0", "--out", "{pictures}/a.png/x"], RunError, "cannot be written"),
        (["train", "--data", "procedural:industrial/aux", "--out", "{run}/0", "--preset", "x"], ConfigError, "'x'"),
        (["train", "--data", "procedural:industrial/aux", "--out", "{run}/0"], RunError, "finished run"),
        (["eval", "--run", "{run}/0", "--data", "{pictures}/gone"], DataError, "gone"),
    ],
)
def test_what_cannot_be_done_is_one_clear_error(arguments, error, named, run, pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    places = {"run": run, "pictures": pictures, "empty": tmp_path / "empty"}
    filled = [argument.format(**places) for argument in arguments]
    if filled[0] == "score" and "--out" not in filled:
        filled += ["--out", str(tmp_path / "out")]
    with pytest.raises(error) as raised:
        CliRunner().invoke(app, filled, catch_exceptions=False)
    assert named in str(raised.value)


def test_a_config_file_sets_what_flags_do_not(tmp_path):
    config = tmp_path / "mine.toml"
    text = "[detector]\nalpha = 0.2\ntaps = [11, 23]\n[training]\nepochs = 1\nbatch = 10\nsize = 56\n"
    config.write_text(text, encoding="utf-8-sig")  # as editors on Windows save it
    out = tmp_path / "run"
    invoke(
        *("train", "--data", "procedural:medical/aux", "--per-category", 2, "--config", config, "--out", out, "--cpu"),
        *("--preset", "anomalyclip"),
    )
    card = json.loads((out / "card.json").read_text())
    assert card["detector"]["alpha"] == 0.2 and card["detector"]["taps"] == [11, 23]
    config.write_text("[detectors]\nalpha = 0.2\n")
    with pytest.raises(ConfigError, match="unknown table 'detectors'"):
        invoke("train", "--data", "procedural:medical/aux", "--config", config, "--out", tmp_path / "other")


def scores(out: Path) -> dict[str, dict[str, str]]:
    with (out / "scores.csv").open(encoding="utf-8", newline="") as file:
        return {Path(row["file"]).name: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("maps", ["npy", "tiff"])
def test_results_in_the_images_own_folder_are_no_images(run, pictures, maps):
    users = pictures / "a.png.overlay.png"
    for path in (pictures / "$a$_$.png", pictures / "mask.tiff", users):
        Image.new("L", (30, 20)).save(path)
    before = users.read_bytes()
    asked = ("score", pictures, "--run", run / "0", "--out", pictures, "--maps", maps)
    assert "6 images scored;" in invoke(*asked)
    again = invoke(*asked)
    assert "0 images scored, 6 were scored before" in again and "skipped: results of headlens" in again
    assert "6 images scored;" in invoke(*asked, "--force")
    assert users.read_bytes() == before  # the overlay of a.png has another name


def test_another_question_is_refused_and_forced(run, pictures, tmp_path):
    asked = ("score", pictures, "--run", run / "0", "--out", tmp_path / "o")
    invoke(*asked, "--maps", "tiff")
    with pytest.raises(
        RunError, match=r"scores\.csv was made with other settings: threshold .* before, 1\.0 now; maps tiff"
    ):
        invoke(*asked, "--threshold", 1.0)
    with pytest.raises(RunError, match="model_sha256"):
        invoke("score", pictures, "--run", run / "1", "--out", tmp_path / "o", "--maps", "tiff")
    invoke(*asked, "--threshold", 1.0, "--force")
    assert {row["anomalous"] for row in scores(tmp_path / "o").values()} == {"false"}  # whatever noise they are
    assert not list((tmp_path / "o").glob("*.tiff")) and len(list((tmp_path / "o").glob("*.npy"))) == 3
    (tmp_path / "o" / "scores.json").unlink()
    with pytest.raises(RunError, match="there is no record of how it was made"):
        invoke(*asked)


def test_an_interrupted_score_goes_on(run, pictures, tmp_path, monkeypatch):
    out, done = tmp_path / "o", []
    asked = ("score", pictures, "--run", run / "0", "--out", out, "--batch", 1)
    add = ScoreTable.add

    def stopped(table, batch):
        if len(done) == 2:
            with table.path.open("ab") as file:
                file.write(b'"torn, as by kill -9')
            raise KeyboardInterrupt
        add(table, batch)
        done.append(0)

    with monkeypatch.context() as patch:
        patch.setattr(ScoreTable, "add", stopped)
        CliRunner().invoke(app, list(map(str, asked)))
    assert "1 image scored, 2 were scored before" in invoke(*asked)
    invoke(*asked[:-3], tmp_path / "at once")
    ours, theirs = scores(out), scores(tmp_path / "at once")
    assert len(ours) == 2 and {n: r["map"] for n, r in ours.items()} == {n: r["map"] for n, r in theirs.items()}
    assert len((out / "scores.csv").read_text().splitlines()) == 4


def test_a_file_that_changed_and_a_map_that_is_gone_are_scored_again(run, pictures, tmp_path):
    asked = ("score", pictures, "--run", run / "0", "--out", tmp_path / "o")
    invoke(*asked)
    before = scores(tmp_path / "o")
    Image.effect_noise((33, 44), 80).convert("RGB").save(pictures / "b.JPG")
    (tmp_path / "o" / before["a.png"]["map"]).unlink()
    assert "2 images scored, 1 was scored before" in invoke(*asked)
    after = scores(tmp_path / "o")
    assert after["a.png"] == before["a.png"] and after["b.JPG"]["image_score"] != before["b.JPG"]["image_score"]
    assert np.load(tmp_path / "o" / after["b.JPG"]["map"]).shape == (44, 33)


def test_images_left_out_are_counted_and_all_are_named(run, pictures, tmp_path):
    for name in ("c.png", "d.png"):
        (pictures / name).write_bytes(b"broken")
    (pictures / "phone.heic").write_bytes(b"0")
    Image.new("L", (90, 90)).save(pictures / "large.png")
    asked = ["score", pictures, "--run", run / "0", "--out", tmp_path / "o", "--max-pixels", 8000]
    result = CliRunner().invoke(app, list(map(str, asked)))
    assert result.exit_code == 1 and "3 images scored" in result.output
    (line,) = [line for line in result.output.splitlines() if "left out" in line]
    assert line.startswith("4 left out: ") and "(and 1 more like it)" in line and "--max-pixels" in line
    named = (tmp_path / "o" / "scores.left_out.txt").read_text().splitlines()
    assert len(named) == 4 and all(any(name in line for line in named) for name in ("c.png", "d.png", "phone.heic"))
    for name in ("c.png", "d.png", "phone.heic"):
        (pictures / name).unlink()
    assert "left out" not in invoke(*asked[:-1], 8100)
    assert not (tmp_path / "o" / "scores.left_out.txt").exists()


def test_strips_have_maps_of_their_size_and_overlays_of_a_bounded_one(run, tmp_path):
    for number, size in enumerate([(1, 3000), (3000, 1)]):
        Image.effect_noise(size, 50).save(tmp_path / f"{number}.png")
        invoke("score", tmp_path / f"{number}.png", "--run", run / "0", "--out", tmp_path / str(number))
        assert np.load(tmp_path / str(number) / f"{number}.png.npy").shape == size[::-1]
        with Image.open(tmp_path / str(number) / f"{number}.png.overlay.png") as drawn:
            assert max(drawn.size) < 1000


def test_maps_as_tiff_are_the_same_floats(run, pictures, tmp_path):
    for kind in ("npy", "tiff"):
        invoke("score", pictures / "a.png", "--run", run / "0", "--out", tmp_path / kind, "--maps", kind)
    with Image.open(tmp_path / "tiff" / "a.png.tiff") as picture:
        assert picture.mode == "F"
        assert np.array_equal(np.asarray(picture), np.load(tmp_path / "npy" / "a.png.npy"))


def test_what_was_scored_before_the_disk_was_full_stays(run, pictures, tmp_path, monkeypatch):
    out, save = tmp_path / "out", np.save

    def full(path, array):
        if len(list(out.glob("*.npy"))) == 2:
            raise OSError(28, "No space left on device")
        save(path, array)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(RunError, match=r"No space left on device\); 2 images are done and stay"):
        invoke("score", pictures, "--run", run / "0", "--out", out, "--batch", 1)
    with (out / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(out / row["map"]).is_file() and (out / row["overlay"]).is_file() for row in rows] == [True, True]


def test_eval_takes_all_seeds_of_a_shipped_run_and_says_what_is_no_test(two_categories):
    arguments = ["eval", "--run", "mini-medical-anomalyclip", "--data", "procedural:medical/aux", "--per-category", "2"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    out = " ".join(done.stderr.split())
    assert "Not zero-shot: mini-medical-anomalyclip-0, " in out and "were trained on procedural:medical/aux" in out
    assert "Pixel metrics are within" in out
    (result,) = json.loads(done.stdout)["results"]
    assert [Path(name).name[-1] for name in result["runs"]] == ["0", "1", "2"]
    assert all(row["seeds"] == 3 for row in result["metrics"])


def test_the_demo_shows_everything(two_categories, tmp_path):
    out = tmp_path / "demo"
    first = invoke("demo", "--out", out, "--per-category", 4)
    for name in ("chance", "local contrast", "CLIP, hand-written prompts", "AnomalyCLIP", "HeadCLIP", "L18H"):
        assert name in first
    assert "Backbone(mini-captions" in first and "never seen a photograph" in first
    written = {"methods.md", "maps-industrial.png", "maps-medical.png", "layer-18.parquet", "industrial", "medical"}
    assert written <= {path.name for path in out.iterdir()}
    lines = first.partition("Next:")[2].splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("  headlens ")]
    assert [words[1] for words in commands] == ["score", "ablate", "eval", "train"]
    for _, verb, *words in commands:  # with options that exist, and the folder that the demo has written
        command = typer.main.get_command(app).commands[verb]
        command.make_parser(typer.Context(command)).parse_args(words)
    assert Path(commands[0][2]) == out / "industrial" / "screw" / "test"  # which this smaller demo does not write
    assert "screw" in REAL_CATEGORIES and (out / "industrial").is_dir()
    table = [line for line in first.splitlines() if line.startswith("|")]
    assert (out / "methods.md").read_text().splitlines() == table
    with pytest.raises(DataError, match="not an empty folder"):
        invoke("demo", "--out", out, "--per-category", 6)


def test_a_run_counts_once_in_eval_and_a_set_too(run, tmp_path):
    copy, link = shutil.copytree(run / "0", tmp_path / "copy"), tmp_path / "link"
    link.symlink_to(run / "0")
    for again in (run / "0", copy, link):
        with pytest.raises(ConfigError, match="are the same run; a run counts once"):
            invoke("eval", "--run", run / "0", "--run", run / "1", "--run", again, "--data", "procedural:medical")
    with pytest.raises(ConfigError, match="is given twice; a set counts once"):
        invoke("eval", "--run", run / "0", "--data", "procedural:medical", "--data", "procedural:medical")


def test_eval_says_what_is_undefined_and_what_was_left_out_and_keeps_sets_of_one_name_apart(run, tmp_path):
    def saved(place, mark=None):
        place.parent.mkdir(parents=True, exist_ok=True)
        image = Image.effect_noise((40, 40), 60) if mark is None else Image.new("L", (40, 40))
        if mark:
            image.paste(255, mark)
        image.save(place)

    a, b = tmp_path / "a/bolts", tmp_path / "b/bolts"
    for number in range(2):
        saved(a / f"bolt/test/good/{number}.png")
        for thing in ("bolt", "nut"):
            saved(a / f"{thing}/test/bent/{number}.png")
            saved(a / f"{thing}/ground_truth/bent/{number}_mask.png", (3, 3, 20, 20))
        saved(b / f"{number}.png")
    (a / "nut/test/bent/1.png").write_bytes(b"broken")
    arguments = ("eval", "--run", run / "0", "--data", a, "--data", b)
    said = invoke(*arguments, "--markdown", status=1)
    assert f"| {a} | mean | " in said and "(1 of 2)" in said and f"| {b} | mean | - |" in said
    for line in (
        f"1 image of {a} left out: nut/test/bent/1 (",
        f"{a}: image metrics of nut are undefined: no image is normal",
        f"{b}: image metrics of bolts are undefined: no image is labelled",
        f"{b}: pixel metrics of all categories are undefined: no mask is known",
    ):
        assert line in said, said
    result = json.loads(printed(*arguments, "--json", status=1))
    assert list(result["skipped"]) == ["nut/test/bent/1"] and len(result["undefined"]) == 3
