"""``headlens data`` as somebody types it."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tqdm import tqdm
from typer.testing import CliRunner

from headlens.cli import app
from headlens.data import layouts
from headlens.data.checking import KINDS
from headlens.data.procedural import ALL_SPECS, CLIPS, World, write
from headlens.data.protocol import PROTOCOLS


def run(*arguments: object):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A set without a fault, in MVTec's layout. Smaller pictures have flaws that are no pixel large."""
    folder = tmp_path_factory.mktemp("whole") / "parts"
    write(World("procedural:industrial", 4, 56), folder)
    return folder


@pytest.fixture
def tree(whole, tmp_path) -> Path:
    """A copy that may be broken."""
    return Path(shutil.copytree(whole, tmp_path / "parts"))


def some(tree: Path, category: str, kind: str = "test") -> list[Path]:
    """Normal pictures, anomalous pictures, or masks of a category."""
    found = sorted((tree / category).glob({"mask": "ground_truth/*/*.png"}.get(kind, "test/*/*.png")))
    return [p for p in found if kind == "mask" or (p.parent.name == "good") == (kind == "good")]


def test_list():
    out = run("list").output
    for name in (*layouts(), *ALL_SPECS, *CLIPS):
        assert f"\n{name} " in out
    told = json.loads(run("list", "--json").output)
    assert told["layouts"] == layouts()
    assert [row["spec"] for row in told["procedural"]] == [*ALL_SPECS, *CLIPS]
    assert all(row["categories"] and row["families"] for row in told["procedural"])


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from headlens.cli import app\n"
        "try: app(['data', 'check', '--help'])\n"
        "except SystemExit: print([m for m in ('torch', 'pandas', 'PIL', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_protocols():
    out = run("protocols").output
    assert all(protocol.name in out for protocol in PROTOCOLS)
    told = json.loads(run("protocols", "--json").output)
    assert [(p["name"], tuple(p["train"]), tuple(p["test"])) for p in told] == [
        (p.name, p.train, p.test) for p in PROTOCOLS
    ]


def test_make_then_check(tmp_path):
    made = run("make", "procedural:medical", "--out", tmp_path / "made", "--per-category", 2, "--size", 56)
    assert made.exit_code == 0, made.output
    assert "10 images of 5 categories" in made.output
    checked = run("check", tmp_path / "made")
    assert checked.exit_code == 0, checked.output
    assert checked.output.splitlines()[-1] == "made: 10 images, 0 errors, 0 warnings"


def test_a_whole_set(whole):
    result = run("check", whole, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["problems"] == []
    assert (told["ok"], told["layout"], told["domain"], told["images"]) == (True, "mvtec", "industrial", 32)


def test_everything_that_is_wrong_at_once(tree):
    """Every fault the checker is for, each in a picture of its own."""
    first, *rest = some(tree, "screw", "bad")
    first.write_bytes(first.read_bytes()[:50])
    some(tree, "tile", "mask")[0].unlink()
    some(tree, "brick", "mask")[0].write_bytes(b"")
    Image.fromarray(np.zeros((56, 56), np.uint8)).save(some(tree, "mesh", "mask")[0])
    Image.fromarray(np.full((56, 70), 255, np.uint8)).save(some(tree, "mesh", "mask")[1])
    train = tree / "cookie" / "train" / "good"
    train.mkdir(parents=True)
    shutil.copy(some(tree, "cookie", "good")[0], train / "000.png")
    shutil.copy(some(tree, "cookie", "good")[1], tree / "terrazzo" / "test" / "good" / "900.png")
    shutil.rmtree(tree / "bearing" / "test" / "good")
    outside = tree.parent / "outside.png"
    shutil.copy(rest[0], outside)
    (tree / "bottle_cap" / "test" / "good" / "800.png").symlink_to(outside)
    (tree / "bottle_cap" / "test" / "good" / "801.png").symlink_to(tree / "nowhere.png")

    result = run("check", tree, "--json")
    assert result.exit_code == 1, result.output
    told = json.loads(result.stdout)
    assert told["counts"] == {
        "refused": 1,
        "missing-image": 1,
        "unreadable-image": 1,
        "unreadable-mask": 1,
        "mask-size": 1,
        "empty-mask": 1,
        "no-mask": 1,
        "duplicate-across-splits": 1,
        "duplicate-across-categories": 1,
        "no-normals": 1,
    }
    assert not told["ok"]
    assert len(told["problems"]) == 10
    for problem in told["problems"]:
        assert problem.keys() == {"severity", "kind", "record", "file", "message"}
        assert problem["severity"] == KINDS[problem["kind"]][0]

    text = run("check", tree)
    assert text.exit_code == 1
    for kind in told["counts"]:
        assert f"error: {kind}, 1x: " in text.output
    for problem in told["problems"]:
        assert f"  {problem['message']}\n" in text.output


def test_a_listing_with_a_missing_mask_and_a_path_outside(whole, tmp_path):
    rows = []
    for path in sorted(whole.glob("screw/test/*/*.png")):
        flaw = path.parent.name != "good"
        mask = f"screw/ground_truth/{path.parent.name}/{path.stem}_mask.png" if flaw else ""
        image = path.relative_to(whole).as_posix()
        rows.append(
            {"img_path": image, "mask_path": mask, "cls_name": "screw", "specie_name": "", "anomaly": int(flaw)}
        )
    root = Path(shutil.copytree(whole, tmp_path / "parts"))
    (root / rows[-1]["mask_path"]).unlink()
    rows.append({**rows[0], "img_path": "../../etc/passwd.png"})
    (root / "meta.json").write_text(json.dumps({"train": {}, "test": {"screw": rows}}))
    told = json.loads(run("check", root, "--json").stdout)
    assert told["layout"] == "meta"
    assert told["counts"] == {"refused": 1, "reading": 1, "missing-mask": 1}  # the listing has one category of several
    assert "outside" in told["problems"][0]["message"]


def test_warnings_alone_are_no_failure(tree):
    good = some(tree, "screw", "good")[0]
    shutil.copy(good, good.with_name("900.png"))
    result = run("check", tree)
    assert result.exit_code == 0, result.output
    assert "warning: duplicate, 1x" in result.output
    assert result.output.splitlines()[-1] == "parts: 33 images, 0 errors, 1 warnings"


def test_problems_as_a_table(tree, tmp_path):
    some(tree, "tile", "mask")[0].unlink()
    result = run("check", tree, "--markdown", "--csv", tmp_path / "problems.csv")
    lines = result.stdout.splitlines()
    assert result.exit_code == 1 and lines[0] == "| severity | kind | record | file | message |"
    (row,) = csv.DictReader((tmp_path / "problems.csv").open())
    assert (row["severity"], row["record"]) == ("error", lines[2].split(" | ")[2]) and "tile/" in row["record"]


def test_how_much_is_shown(tree):
    for path in tree.glob("*/test/good/*.png"):
        path.write_text(f"no picture of {path}")
    result = run("check", tree, "--most", 3)
    assert result.output.count("not an image") == 3
    assert "... and 13 more" in result.output
    assert len(json.loads(run("check", tree, "--json").stdout)["problems"]) == 16


def test_splits_and_categories_can_be_chosen(tree):
    some(tree, "screw", "bad")[0].write_bytes(b"no")
    assert run("check", tree, "--category", "screw").exit_code == 1
    assert run("check", tree, "--category", "tile").exit_code == 0
    assert run("check", tree, "--split", "train").exit_code == 2


@pytest.mark.parametrize("arguments", [["nowhere"], [".", "--layout", "mvtek"], ["."]])
def test_nothing_to_open(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    result = run("check", *arguments)
    assert result.exit_code == 2
    assert result.output.startswith("headlens: ")
    told = json.loads(run("check", *arguments, "--json").stdout)
    assert not told["ok"]
    assert told["error"] in result.output


def test_names_that_are_no_text(tree):
    """Bytes that are no UTF-8, as old archives have them."""
    good = some(tree, "screw", "good")[0]
    odd = os.fsencode(good.parent) + b"/\xe9t\xe9.png"
    with open(odd, "wb") as file:  # noqa: PTH123 pathlib takes no bytes
        file.write(b"no picture")
    result = run("check", tree)
    assert result.exit_code == 1, result.output
    assert "t\\udce9.png: not an image" in result.output
    assert run("check", tree, "--json").exit_code == 1


def test_names_that_would_forge_the_report(tree, monkeypatch):
    """Escaped for people; machines get them as they are."""
    name = "x\n0 errors, 0 warnings\x1b[2J.png"
    bad = some(tree, "screw", "good")[0].with_name(name)
    bad.write_bytes(b"no picture")
    result = run("check", tree)
    assert result.exit_code == 1
    assert r"x\n0 errors, 0 warnings\x1b[2J.png" in result.output
    assert "\x1b" not in result.output
    assert sum(line.endswith("0 errors, 0 warnings") for line in result.output.splitlines()) == 0
    (problem,) = json.loads(run("check", tree, "--json").stdout)["problems"]
    assert problem["file"] == str(bad)
    assert run("check", tree, "--layout", "a\nb").output.count("\n") == 1


def test_what_can_be_measured(tree):
    assert "\nmetrics: image_auroc, image_ap, image_f1max, pixel_auroc, pixel_ap, " in run("check", tree).output
    for path in tree.glob("*/ground_truth"):
        shutil.rmtree(path)
    assert json.loads(run("check", tree, "--json").stdout)["metrics"] == ["image_auroc", "image_ap", "image_f1max"]
    for path in tree.glob("*/test/*"):
        if path.name != "good":
            shutil.rmtree(path)
    assert "\nmetrics: none\n" in run("check", tree).output


def test_the_bar_says_when_all_is_read_and_files_are_compared(whole, monkeypatch):
    told = []

    class Bar(tqdm):
        def __init__(self, **options):
            super().__init__(**{**options, "disable": False, "file": io.StringIO()})

        def set_description(self, text=None, refresh=True):
            told.append((text, self.n))

    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    monkeypatch.setattr("headlens.data.checking.contents", lambda paths: told.append(len(list(paths))) or {})
    assert run("check", whole).exit_code == 0
    assert told == [("looking for duplicates", 32), 32 + 16], "of images, and of the masks of half of them"
