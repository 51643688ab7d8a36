"""The lens's verbs as somebody at a shell uses them, on a run of a few steps at 56 px and a folder of pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from headlens.cli import app
from headlens.cli.attribute import _pixels, masks_of
from headlens.cli.common import layers_of
from headlens.cli.results import stem
from headlens.data.mask_sources import files_of
from headlens.errors import ConfigError, DataError, RunError, ShapeError
from headlens.heads import Ablation, Transfer
from headlens.heads.phrases import BUILT_IN, read_phrases
from headlens.results import Result
from headlens.training.run import load_run, save_run

pytestmark = pytest.mark.usefixtures("runs_share_backbones", "painted_small")


def invoke(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result.output


def the(folder: Path, pattern: str) -> Path:
    """The only file of that name, whatever the mark of its question."""
    (path,) = folder.glob(pattern)
    return path


@pytest.fixture(scope="module")
def run(painted_small, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "small"
    invoke(
        *("train", "--data", "procedural:industrial/aux", "--per-category", 2, "--epochs", 1, "--batch", 5),
        *("--size", 56, "--out", folder, "--cpu"),
    )
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """MVTec's layout: three good ones, three with a square."""
    folder = tmp_path_factory.mktemp("data") / "bolts"
    for number in range(6):
        flawed = number % 2
        pixels = np.random.default_rng(number).integers(90, 130, (56, 56, 3), dtype=np.uint8)
        where = np.zeros((56, 56), np.uint8)
        if flawed:
            where[8 * number : 8 * number + 12, 20:34] = 255
            pixels[where > 0] = 250
            mask = folder / "bolt" / "ground_truth" / "spot" / f"{number}_mask.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(where).save(mask)
        path = folder / "bolt" / "test" / ("spot" if flawed else "good") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    train = folder / "bolt" / "train" / "good" / "0.png"
    train.parent.mkdir(parents=True)
    Image.fromarray(pixels).save(train)
    return folder


@pytest.fixture
def lens(run, parts, tmp_path):
    """Runs a verb on both, with results in a folder of its own."""

    def go(verb: str, *arguments: object, data: bool = True) -> str:
        where = ("--data", parts) if data else ()
        return invoke(verb, "--run", run, *where, "--out", tmp_path / "lens", *arguments)

    go.out = tmp_path / "lens"
    return go


@pytest.fixture
def unwritten(monkeypatch):
    """No files of figures: to write them takes longer than what they show."""
    monkeypatch.setattr("headlens.plots.Figure.save", lambda figure, path: path)


def test_ablate_prints_all_heads_of_a_layer_the_strongest_first(lens):
    said = lens("ablate", "--layer", 18, "--rows", 32)
    assert "Backbone(mini-captions" in said and "noise floor" in said and "I-AUROC" in said
    result = Ablation.load(the(lens.out, "ablate-small-L18-bolts-????????.parquet"))
    order = result.means("joint_margin")["variant"].tolist()
    assert len(order) == 32
    rows = [line.split()[0] for line in said.splitlines() if line.strip().startswith("L18H")]
    assert rows == order
    stem = the(lens.out, "ablate-small-L18-bolts-????????.png").stem
    assert {path.name for path in lens.out.iterdir()} == {
        f"{stem}{suffix}" for suffix in (".parquet", ".summary.parquet", ".png")
    }


def test_ablate_reverts_weighs_groups_and_grows(lens):
    assert "kind revert" in lens("ablate", "--layer", "20-21", "--kind", "revert", "--metric", "image_auroc")
    reverted = Ablation.load(the(lens.out, "ablate-small-L20-21-revert-image_auroc-bolts-????????.parquet")).means(
        "anomaly_map"
    )
    assert set(reverted["stream"]) == {"local"} and (reverted["effect"] > 0).all()  # what was not learned has none
    lens("ablate", "--group", "L20H1+L22H3/local", "--group", "L5H4/local", "--metric", "image_auroc")
    groups = Ablation.load(
        the(lens.out, "ablate-small-L20H1+L22H3-local+L5H4-local-image_auroc-bolts-????????.parquet")
    ).means("joint_margin")
    assert set(groups["variant"]) == {"L20H1+L22H3/local", "L5H4/local"}
    lens("ablate", "--layer", "21,22", "--what", "layers", "--stream", "global", "--metric", "image_auroc")
    layers = Ablation.load(the(lens.out, "ablate-small-L21+22-global-layers-image_auroc-bolts-????????.parquet")).means(
        "joint_margin"
    )
    assert set(layers["variant"]) == {"L21", "L22"} and set(layers["heads"]) == {16}
    lens("ablate", "--layer", 22, "--head", 1, "--head", 3, "--what", "cumulative", "--metric", "image_auroc")
    grown = Ablation.load(the(lens.out, "ablate-small-L22-H1+3-cumulative-image_auroc-bolts-????????.parquet")).means(
        "joint_margin"
    )
    assert set(grown["order"]) == {"strongest first", "weakest first", "random 0", "random 1", "random 2"}
    last = grown[grown["heads"] == 4]["effect"]
    assert len(last) == 5 and np.allclose(last, last.iloc[0], atol=1e-5)  # all heads are all heads


def test_an_interrupted_sweep_goes_on(unwritten, lens, monkeypatch):
    from headlens.heads import ablation

    measured = ablation.measure
    calls = []

    def stopped(*arguments):
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measured(*arguments)

    monkeypatch.setattr(ablation, "measure", stopped)
    with pytest.raises(AssertionError):
        lens("ablate", "--layer", 23, "--batch", 3)
    assert [path.name for path in lens.out.glob("*.parts/part*")] == ["part-00000.parquet"]
    lens("ablate", "--layer", 23, "--batch", 3)
    assert len(calls) == 3 and not list(lens.out.glob("*.parts"))


def test_importance_is_held_against_ablation(lens):
    said = lens("importance", "--screen", 3, "--rows", 5)
    assert "rank correlation" in said and "more in the frame" in said
    stem = the(lens.out, "importance-small-screen3-bolts-????????.png").stem
    assert {path.name for path in lens.out.iterdir()} == {
        f"{stem}{suffix}"
        for suffix in (".parquet", ".png", ".screen.parquet", ".screen.agreement.parquet", ".screen.png")
    }
    alone = lens("importance", "--screen", 0, "--metric", "image_margin")
    assert "rank correlation" not in alone and "image_margin" in alone


def test_transfer_puts_heads_of_one_run_on_another(run, parts, tmp_path):
    out, quick = tmp_path / "lens", ("--keep", "0,4", "--random", 1, "--shuffles", 1, "--metric", "pixel_aupro")
    asked = ("transfer", "--from", run, "--to", "mini-captions-medical-0", "--data", parts, "--out", out, *quick)
    said = invoke(*asked)
    result = Transfer.load(the(out, "transfer-mini-captions-medical-0-from-small-*-bolts-????????.parquet"))
    assert result.paragraph in said and result.made_by.endswith("6 images")
    assert set(result.weights["weights"]) == {"none", "small", "measured", "shuffled 0 small"}
    assert result.provenance["keep"] == [0, 4, 304] and result.best("small", 304) != result.best("measured", 304)
    assert not list(out.glob("*.parts*")) and len(list(out.iterdir())) == 5  # tables, and the figure
    said = invoke(*asked, "--by", "importance", "--stream", "global", "--keep", 4, "--random", 0)
    result = Transfer.load(the(out, "transfer-*-importance-global-*-bolts-????????.parquet"))
    assert "No head weights" in said and {head.stream for head in result.best("measured")} <= {"global"}


def test_contributions_of_a_set_and_of_pictures(lens, parts):
    said = lens("contributions", "--check", "--rows", 2)
    assert "image_margin (logits)" in said and "tap_margin_23" in said and "separation" in said
    assert "Held fixed in each image: layer norm scale, embedding norm" in said
    one = lens("contributions", parts / "bolt" / "test" / "spot" / "1.png", "--tap", 23, "--top", 2, data=False)
    assert "what heads add to its peak" in one
    frame = pd.read_parquet(lens.out / "contributions-small-1-png-tap23.parquet")
    assert frame.groupby(["row", "column"])["value"].sum().shape == (16,)
    assert (lens.out / "contributions-small-1-png-tap23.png").is_file()


def test_weights_and_what_heads_do(lens):
    said = lens("weights", data=False)
    assert "local heads" in said and said.count("1.0") > 50 and not list(lens.out.glob("capture*"))
    said = lens("weights")
    assert "entropy_patches" in said and "furthest apart" in said
    with pytest.raises(ConfigError, match="mini-medical-anomalyclip-0 has no head weights"):
        invoke("weights", "--run", "mini-medical-anomalyclip")
    folder = the(lens.out, "capture-small-bolts-????????")
    assert len(pd.read_parquet(folder)["image"].unique()) == 6 and folder.with_suffix(".png").is_file()


def test_names(lens, tmp_path, monkeypatch):
    (tmp_path / "some.txt").write_text("\n".join(read_phrases(BUILT_IN)[::20]), encoding="utf-8")
    monkeypatch.setattr("headlens.heads.naming.BUILT_IN", tmp_path / "some.txt")  # all take seconds
    said = lens("name", "--layer", 23, "--head", 1)
    assert "L23H1" in said and "beat every draw of chance" in said
    assert the(lens.out, "name-small-L23-H1-bolts-????????.parquet").is_file()


def test_attributions_of_pictures(lens, parts, tmp_path):
    pictures, masks = tmp_path / "images", tmp_path / "masks"
    for folder, source, end in ((pictures, "test", ""), (masks, "ground_truth", "_mask")):
        folder.mkdir()
        for number in (1, 3):
            shutil.copy(parts / "bolt" / source / "spot" / f"{number}{end}.png", folder)
    said = lens("attribute", pictures, "--mask", masks, "--method", "integrated_gradients", "--steps", 2, data=False)
    saved = Result.load(lens.out / "attribute-small-joint_margin-2-steps.parquet")
    frame = saved.frame
    assert saved.provenance["options"]["integrated_gradients"]["steps"] == 2
    assert len(frame) == 2 and said.count("\njoint margin ") == 2 and "residual" in said
    complete = frame["residual"].abs() <= 1e-3 * (frame["value"] - frame["baseline"]).abs()
    assert complete.all() and np.allclose(frame["value"] - frame["baseline"] - frame["effect"], frame["residual"])
    assert (lens.out / "attribute-small-1-png-joint_margin-2-steps-integrated_gradients.png").is_file()
    maps = np.load(lens.out / "attribute-small-1-png-joint_margin-2-steps-integrated_gradients.npz")
    assert np.isclose(maps["map"].astype(float).sum(), frame["effect"][0], atol=1e-6)


def test_attributions_inside_a_mask_and_of_single_heads(lens, parts):
    picture, mask = parts / "bolt" / "test" / "spot" / "1.png", parts / "bolt" / "ground_truth" / "spot" / "1_mask.png"
    lens("attribute", picture, "--method", "legrad", "--target", "map_margin", "--mask", mask, "--inside", data=False)
    lens("attribute", picture, "--method", "legrad", "--target", "image_margin", "--head", "L18H7", data=False)
    inside = np.load(lens.out / "attribute-small-1-png-map_margin-inside-legrad.npz")
    assert inside["region"].sum() > 0
    assert (lens.out / "attribute-small-1-png-image_margin-L18H7-legrad.npz").is_file()


def test_a_mask_of_an_image_is_brought_over_it_or_refused(tmp_path):
    """As in data sets: a photograph on its side, and a mask a pixel larger; not one of another shape."""
    marked = np.zeros((24, 40), np.uint8)
    marked[3:9, 5:19] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    image, mask = tmp_path / "a.png", tmp_path / "m.png"
    Image.fromarray(marked).save(image, exif=exif)
    for stored in (marked, np.rot90(marked, -1), np.pad(marked, ((0, 1), (0, 0)))):
        Image.fromarray(stored).save(mask)
        pixels = _pixels(image, mask, 10_000, inside=True)
        assert pixels.image.shape == (3, 40, 24)
        assert (pixels.mask == (pixels.image[0] > 0)).float().mean() > 0.95
    Image.fromarray(marked[:10]).save(mask)
    with pytest.raises(DataError, match=r"m\.png: the mask is 40x10 pixels, its image 24x40"):
        _pixels(image, mask, 10_000, inside=True)
    assert _pixels(image, None, 10_000, inside=False).mask is None


def test_pictures_of_one_name_and_masks_that_vanish(run, parts, tmp_path):
    """Names never overwrite each other, and one bad mask costs no other picture."""
    good, spot = parts / "bolt" / "test" / "good" / "0.png", parts / "bolt" / "test" / "spot" / "1.png"
    empty, marked = tmp_path / "empty.png", parts / "bolt" / "ground_truth" / "spot" / "1_mask.png"
    Image.new("L", (56, 56)).save(empty)
    for name in ("a b.png", "a-b.png"):
        (tmp_path / name).write_bytes(spot.read_bytes())
    pictures, masks = (tmp_path / "a b.png", good, tmp_path / "a-b.png"), (marked, empty, marked)
    told = [part for mask in masks for part in ("--mask", mask)]
    asked = ("--method", "legrad", "--target", "map_margin", "--inside", "--run", run, "--out", tmp_path / "o")
    result = CliRunner().invoke(app, [str(part) for part in ("attribute", *pictures, *told, *asked)])
    assert result.exit_code == 1 and "empty.png" in result.output and "left out" in result.output
    assert len(list((tmp_path / "o").glob("attribute-small-a-b-png-*-map_margin-inside-legrad.npz"))) == 2
    with pytest.raises(DataError, match="not the only image of that name"):
        masks_of([Path("a/1.png"), Path("b/1.png")], [marked.parent])


def test_masks_in_a_folder_go_by_the_names_that_they_have_in_data_sets(tmp_path):
    for name in ("a_Segmentation.png", "B_label.png", "c_mask.png", "c_mask_1.png", "other.png"):
        Image.new("L", (4, 4), 255).save(tmp_path / name)
    files = [Path(f"images/{name}.jpg") for name in ("a", "b", "c", "d")]
    found = masks_of(files, [tmp_path])
    assert {file.stem: [path.name for path in files_of(mask)] for file, mask in found.items()} == {
        "a": ["a_Segmentation.png"],
        "b": ["B_label.png"],
        "c": ["c_mask.png", "c_mask_1.png"],
    }
    Image.new("L", (4, 4), 255).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a_Segmentation\.png: .*not its only mask"):
        masks_of(files, [tmp_path])


def test_pictures_that_cannot_be_attributed_are_left_out(run, parts, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    good = parts / "bolt" / "test" / "good" / "0.png"
    pictures = (good, tmp_path / "broken.png")
    arguments = ["attribute", *pictures, "--method", "legrad", "--run", run, "--out", tmp_path / "o"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 1 and "left out" in result.output and "broken.png" in result.output
    assert (tmp_path / "o" / "attribute-small-0-png-joint_margin-legrad.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("attribute", "PICTURE", "--method", "magic"), ConfigError, "unknown method 'magic'; available: integrated"),
        (("attribute", "PICTURE", "--target", "magic"), ConfigError, "unknown target 'magic'"),
        (("attribute", "PICTURE", "--method", "rollout", "--target", "L18H7"), ConfigError, "does not take --target"),
        (
            ("attribute", "PICTURE", "--method", "legrad", "--steps", 8),
            ConfigError,
            "--steps is not an option of legrad",
        ),
        (("attribute", "PICTURE", "--inside"), ConfigError, "--inside reads the map inside a mask"),
        (("attribute", "PICTURE", "--mask", "a.png", "--mask", "b.png"), ConfigError, "2 masks for 1 images"),
        (("attribute", "nowhere.png"), DataError, "nowhere.png: no such file"),
        (("ablate", "--layer", 24), ShapeError, "layer 24 does not exist; layers are 0..23"),
        (("ablate", "--layer", 18, "--head", 16), ShapeError, "head 16 does not exist; heads are 0..15"),
        (("ablate", "--layer", 3, "--stream", "local"), ShapeError, "layer 3 does not exist; layers are 5..23"),
        (("ablate", "--layer", "6-3"), ConfigError, "a range goes upwards, such as 3-6"),
        (("ablate", "--group", "L18H7", "--layer", 3), ConfigError, "leave out --layer, --head and --what"),
        (("ablate", "--layer", "all-3"), ConfigError, "--layer 'all-3': expected a number"),
        (("ablate", "--what", "blocks"), ConfigError, "--what 'blocks'; available: heads, layers, cumulative"),
        (
            ("ablate", "--what", "head"),
            ConfigError,
            "--what 'head'; available: heads, layers, cumulative; did you mean heads",
        ),
        (
            ("ablate", "--category", "bold"),
            DataError,
            "bolts has no category 'bold'; available: bolt; did you mean bolt",
        ),
        (("ablate", "--size", 7), ConfigError, "size is 7: images have 14 px, one patch"),
        (("ablate", "--kind", "knockout"), ConfigError, "unknown kind 'knockout'"),
        (("ablate", "--group", "l18h7+L20H1"), ShapeError, "'l18h7' is not a head; did you mean L18H7?"),
        (("ablate", "--group", "L18"), ShapeError, "'L18' is not a head; write L18H7"),
        (("ablate", "--metric", "f1"), ConfigError, "unknown metric 'f1'"),
        (("transfer", "--keep", "0,x"), ConfigError, "--keep '0,x': 'x' is no number of heads; write 0,1,2,4"),
        (("transfer", "--by", "size"), ConfigError, "--by 'size'; available: weights, importance"),
        (("transfer", "--from-data", "x"), ConfigError, "weights need no images; leave them out"),
        (("importance", "--metric", "map"), ConfigError, "unknown target 'map'"),
        (("contributions", "nowhere.png"), DataError, "nowhere.png: no such file"),
        (("contributions", "--tap", 9, "PICTURE"), ShapeError, "tap 9 is not read"),
        (("contributions", "PICTURE", "--batch", 8), ConfigError, "--batch is an option for data sets; leave it out"),
        (("contributions", "PICTURE", "--precision", "tf32"), ConfigError, "--precision is an option for data sets"),
        (("contributions", "--tap", 23), ConfigError, "--tap is an option for single images; leave it out"),
        (("name", "--pool", "nowhere.txt"), DataError, "nowhere.txt"),
    ],
)
def test_bad_input_is_named(arguments, error, message, run, parts, tmp_path):
    picture = str(parts / "bolt" / "test" / "good" / "0.png")
    arguments = [picture if a == "PICTURE" else str(a) for a in arguments]
    with pytest.raises(error, match=message.replace("(", r"\(")):
        where = () if {"attribute", picture, "nowhere.png"} & set(arguments) else ("--data", parts)
        invoke(*arguments, "--to" if arguments[0] == "transfer" else "--run", run, *where, "--out", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.png"))


def test_places_that_cannot_be_written_and_domains_without_a_run(run, parts, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="cannot be written"):
        invoke("ablate", "--run", run, "--data", parts, "--layer", 23, "--out", tmp_path / "file" / "lens")
    with pytest.raises(
        ConfigError, match="no run ships for domain 'food'; name a run with --run, or choose industrial or medical"
    ):
        invoke("ablate", "--domain", "food")


def test_layers_as_they_are_typed():
    assert layers_of(["0-2,5", "2"]) == [0, 1, 2, 5] and layers_of(["all"]) is None and layers_of(None) is None


def broken_copy(parts: Path, to: Path) -> Path:
    """The same set, of which one image cannot be read and another one's mask is not over it."""
    shutil.copytree(parts, to)
    (to / "bolt/test/spot/3.png").write_bytes(b"broken")
    Image.new("L", (56, 120), 255).save(to / "bolt/ground_truth/spot/5_mask.png")
    return to


@pytest.mark.parametrize(
    "arguments",
    [
        ("ablate", "--layer", 23, "--head", 0),
        ("importance", "--screen", 0),
        ("contributions",),
        ("weights",),
        ("name", "--layer", 23, "--head", 0, "--stream", "both", "--pool", "POOL"),
        ("compare", "--of", "importance", "--industrial", "RUN", "--medical", "mini-captions-medical-1"),
    ],
)
def test_what_is_left_out_is_told_with_its_reason_and_the_status_is_1(unwritten, arguments, run, parts, tmp_path):
    data = broken_copy(parts, tmp_path / "bolts")
    pool = tmp_path / "pool.txt"
    pool.write_text("a scratch\nwood\nmetal\na crack\n", encoding="utf-8")
    asked = [{"RUN": run, "POOL": pool}.get(one, one) for one in arguments]
    where = ("--data", data, "--out", tmp_path / "out", *(() if arguments[0] == "compare" else ("--run", run)))
    said = invoke(*asked, *where, status=1)
    (line,) = [line for line in said.splitlines() if line.startswith("1 image ") and " left out: " in line]
    assert "bolt/test/spot/3 (" in line and "3.png" in line.partition("(")[2]
    assert "1 image of bolts without a usable mask: bolt/test/spot/5 (" in said
    if arguments[0] not in ("weights", "compare"):
        (saved,) = [p for p in (tmp_path / "out").glob("*.parquet") if "summary" not in p.name]
        skipped = Result.load(saved).provenance["skipped"]
        assert list(skipped) == ["bolt/test/spot/3"] and "3.png" in skipped["bolt/test/spot/3"]


def test_no_question_writes_over_anothers_answer(unwritten, run, parts, tmp_path):
    """Settings, and runs and sets of one name in different folders: each has its own file, asked twice the same one."""
    (tmp_path / "other").mkdir()
    other_run = shutil.copytree(run, tmp_path / "other" / run.name)
    card, config = json.loads((run / "card.json").read_text()), load_run("mini-captions-industrial-1")
    save_run(other_run, config.detector, config.training, {**card, "trained_on": "x"})
    other_parts = shutil.copytree(parts, tmp_path / "other" / parts.name)
    Image.new("RGB", (56, 56)).save(other_parts / "bolt/test/good/8.png")
    questions = [
        {},
        {"--metric": "image_margin"},
        {"--max-pixels": 4000},
        {"--domain": "medical"},
        {"--run": other_run},
        {"--data": other_parts},
        {"--screen": 1},
        {"--screen": 1, "--seed": 3},
    ]
    out, seen = tmp_path / "out", {}
    for question in questions:
        options = {"--run": run, "--data": parts, "--screen": 0, "--out": out, **question}
        for _ in range(2 if not question else 1):
            invoke("importance", *(word for option in options.items() for word in option))
        new = {path: path.read_bytes() for path in out.glob("*.parquet")}
        assert all(new[path] == content for path, content in seen.items())
        assert len(new) > len(seen)
        seen = new
    assert len([path for path in seen if "screen.parquet" not in path.name and "agreement" not in path.name]) == len(
        questions
    )


facts = st.dictionaries(st.sampled_from(["run", "data", "group"]), st.one_of(st.none(), st.text(max_size=9)))


@given(st.lists(st.tuples(st.lists(st.text(max_size=90), min_size=1, max_size=3), facts), min_size=2, max_size=6))
def test_other_facts_are_other_names(questions):
    """Whatever is spelled: names are legal and short, and the same for the same question alone."""
    known = {}
    for spelled, told in questions:
        told = {**told, "run": told.get("run") or "of a folder"}
        name = stem("verb", *spelled, **told)
        assert len(name.encode()) <= 120 and not set(name) & set("/\\:*?\0")
        question = json.dumps([spelled, {k: v for k, v in told.items() if v is not None}], sort_keys=True)
        assert known.setdefault(name, question) == question


def test_a_set_of_any_domain_and_of_none(unwritten, lens):
    for domain in ("medical", "textiles"):
        lens("importance", "--screen", 0, "--domain", domain)
    found = {Result.load(path).frame["domain"].iloc[0] for path in lens.out.glob("importance*.parquet")}
    assert found == {"medical", "textiles"}
    with pytest.raises(ConfigError, match="no run ships for domain 'textiles'"):
        invoke("importance", "--domain", "textiles", "--data", "procedural:medical")
