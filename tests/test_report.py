"""Reports: one file that needs nothing else, says what is in it and what is not, and shows names as text."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

from headlens import data, heads, plots, report
from headlens.cli import app
from headlens.detectors import build
from headlens.errors import ConfigError, RunError, ShapeError
from headlens.report import page, pixels, sections
from headlens.report.measuring import ends, measured
from headlens.training.run import Run
from tests import tiny

pytestmark = pytest.mark.usefixtures("one_torch_thread")
EVIL = "<b>&'\""
VOID = {"meta", "br", "img", "input"}


class Tags(HTMLParser):
    """Every tag with its attributes, and the text of the page; a tag that is not closed in its place is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"line {self.getpos()[0]}"

    def handle_data(self, text):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(text)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def sections(self) -> list[str | None]:
        return [about.get("id") for tag, about in self.tags if tag == "section"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    card = {"trained_on": "<b>mine", "images": 8, "threshold": 0.5, "seed": 3}
    return Run(tmp_path_factory.mktemp("runs") / "mine", tiny.headclip(), None, card)


@pytest.fixture(scope="module")
def images():
    return data.open("procedural:industrial/aux", per_category=4, size=32, category="nut")


@pytest.fixture(scope="module")
def made(run, images):
    return report(run, images, worst=2, size=32, command="headlens report --run <i>")


@pytest.fixture
def undrawn(monkeypatch):
    """Heat maps are drawn in the first report alone: it takes longer than all else, and they are tested elsewhere."""
    monkeypatch.setattr(plots, "grids", lambda *_, **__: plots.Figure(Figure(figsize=(1, 1)), None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Images without labels, one of them with a name that is markup."""
    place = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(("one", "two", EVIL)):
        Image.effect_noise((40, 30 + number), 50).convert("RGB").save(place / f"{name}.png")
    return place


def test_it_is_one_valid_file_that_loads_nothing(made):
    found = Tags(made.html)
    for tag, about in found.tags:
        assert tag not in ("link", "iframe", "object", "base")
        for name, value in about.items():
            if name in ("src", "href", "srcset", "data", "poster", "action"):
                assert value.startswith(("data:image/", "#")), (tag, name, value[:80])
            assert not name.startswith("on")
    style_and_script = "".join(re.findall(r"<(?:style|script)>(.*?)</", made.html, re.DOTALL))
    assert "http://" not in made.html and "https://" not in made.html
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", style_and_script)
    anchors = {about["href"][1:] for tag, about in found.tags if tag == "a"}
    assert anchors == set(found.sections()) and len(made.html) < 10 * 2**20
    ids = [about["id"] for _, about in found.tags if "id" in about]
    assert len(ids) == len(set(ids))
    assert ("meta", {"charset": "utf-8"}) in found.tags and "prefers-color-scheme: dark" in made.html


def test_it_has_every_part(made, run):
    found = Tags(made.html)
    assert found.sections() == [
        *("the-run", "metrics", "images", "head-weights", "importance-of-heads", "without-a-layer", "provenance")
    ]
    assert not made.left_out
    about = made.measured.evaluation.provenance
    for said in (about["learned_sha256"], about["dataset"]["fingerprint"], "headclip", "tiny"):
        assert said in found.text, said
    assert "headlens report --run <i>" in found.text and "<b>mine, 8 images" in found.text
    head = heads.importance(
        run, data.open("procedural:industrial/aux", per_category=4, size=32, category="nut"), size=32
    )
    first = head.summary.sort_values("importance", ascending=False).iloc[0]
    assert str(heads.Head(*first[["stream", "layer", "head"]])) in found.text
    assert str(run.folder.parent) not in made.html


def test_what_a_reader_has_to_know_first(run, images, made):
    before = run.detector.backbone.provenance
    for weights, said in (("embedded, trained on sentences", "never seen a photograph"), ("random (seed 0)", "random")):
        with patch.object(run.detector.backbone, "provenance", replace(before, weights=weights)):
            assert said in sections.warnings(made.measured, images) and said not in made.html
    known = replace(made.measured, run=replace(run, card={"trained_on": images.name}))
    assert "Not zero-shot" in sections.warnings(known, images) and "Not zero-shot" not in made.html


def test_metrics_are_those_of_evaluate_and_intervals_hold_them(run):
    several = data.open("procedural:industrial/aux", per_category=8, size=32, category="nut")
    found = measured(run, several, [], size=32)
    table = found.evaluation.table().frame
    expected = table[(table["category"] == "nut") & table["value"].notna()].set_index("metric")["value"]
    rows = found.metrics[found.metrics["category"] == "nut"].set_index("metric")
    assert rows["value"].to_dict() == {name: expected[name] for name in rows.index} and "pixel_aupro" in rows.index
    spread = rows.drop(index=["image_f1max", "pixel_f1max"])  # these are maxima: resampling moves them upwards
    assert (spread["low"] <= spread["value"]).all() and (spread["value"] <= spread["high"]).all()
    assert (rows["low"] < rows["high"]).any()


def test_the_worst_images_come_first_and_are_judged(made):
    scores = made.measured.evaluation.scores
    anomalous, normal = (scores[scores["anomalous"].eq(label)] for label in (True, False))
    first, second = made.cases.groups.values()
    assert [case.score for case in first] == sorted(anomalous["joint"])[:2]
    assert [case.score for case in second] == sorted(normal["joint"])[:-3:-1]
    for case in made.cases.every:
        right = (case.score > 0.5) == case.anomalous
        verdict = f"{'true' if right else 'false'} {'positive' if case.score > 0.5 else 'negative'}"
        block = made.html[made.html.index(f"<h4>{case.name}</h4>") :][:400]
        assert verdict in block
    views = [about for tag, about in Tags(made.html).tags if about.get("class") == "view"]
    assert len(views) == 3 * 4
    assert made.html.count('class="outline"') == 3 * sum(bool(case.pixels.mask.any()) for case in made.cases.every)


def test_a_second_run(run, images, undrawn):
    other = Run(run.folder.with_name("other"), tiny.headclip(alpha=0.0), None, {})
    found = report(run, images, against=other, worst=1, layers=[], size=32)
    text = Tags(found.html).text
    assert "Against the other run" in text and "Rank correlation with other" in text
    (same,) = re.findall("Against the other run.*?</table>", sections.metrics(found.against, found.against), re.DOTALL)
    cells = [row[-1] for row in (re.findall("<td>(.*?)</td>", row) for row in same.split("<tr>")) if row]
    assert cells and {cell.split()[0] for cell in cells} == {"+0.0"}


def test_without_labels_masks_weights_and_threshold(folder, tmp_path, undrawn):
    plain = Run(tmp_path / EVIL, build(tiny.clip(), "clip", taps=(1, 3), local_start=1), None, {})
    found = report(plain, folder, size=32, worst=2, layers=[2])
    text, where = Tags(found.html).text, found.html.split('id="left-out"')[1]
    assert set(found.left_out) == {
        *("Image metrics and decisions", "Pixel metrics and outlines", "Head weights", "Decisions")
    }
    assert all(part in where.split("</section>")[0] for part in found.left_out)
    assert "<b>" not in re.sub(r'<div class="tiles">.*?</div></div>', "", found.html) and EVIL in text
    assert list(found.cases.groups) == ["Images with the highest scores"]
    assert "head-weights" not in Tags(found.html).sections()


def test_one_image_alone(run, folder, undrawn):
    found = report(run, folder / "one.png", size=32, layers=[3])
    assert len(found.cases.every) == 1 and "without-a-layer" in Tags(found.html).sections()


def test_what_a_method_refuses_is_left_out_and_said(run, images, monkeypatch, undrawn):
    def refuse(*_: object, **__: object) -> None:
        raise ConfigError("no <i>gradients</i> here")

    monkeypatch.setattr(heads, "importance", refuse)
    monkeypatch.setattr(sys.modules["headlens.report.cases"], "attribute", refuse)
    found = report(run, images, worst=1, size=32)
    assert found.left_out == dict.fromkeys(("Importance of heads", "Attribution"), "no <i>gradients</i> here")
    assert "no <i>gradients</i> here" in Tags(found.html).text
    assert "importance-of-heads" not in Tags(found.html).sections() and found.cases.every[0].attribution is None


def test_mistakes_are_errors(run, images, made, tmp_path):
    wrong = (
        (ConfigError, "is not a run", {"run": run.detector}),
        (ConfigError, "unknown method", {"method": "grad"}),
        (ConfigError, "0 to 20", {"worst": 21}),
        (ShapeError, "layer 9", {"layers": [9]}),
    )
    for error, said, change in wrong:
        with pytest.raises(error, match=said):
            report(**{"run": run, "images": images, "size": 32, **change})
    path = made.save(tmp_path / "report.html")
    before = path.read_bytes()
    with pytest.raises(RunError, match="exists already"):
        made.save(path)
    assert made.save(path, force=True).read_bytes() == before
    with pytest.raises(ConfigError, match="HTML"):
        made.save(tmp_path / "report.pdf")


def test_dots_of_many_scores_and_of_none_with_a_label():
    many = pd.DataFrame({"name": "x", "anomalous": pd.NA, "joint": np.linspace(0, 1, 2 * page.DOTS)})
    drawn = page.strip(many, None, (0.0, 1.0))
    assert drawn.count("<circle") == page.DOTS and "<line" not in drawn and "no label" in drawn
    few = pd.DataFrame({"name": ["<a>"], "anomalous": [True], "joint": [0.5]})
    assert "&lt;a&gt;: 0.500" in page.strip(few, 0.5, (0.0, 1.0)) and "<line" in page.strip(few, 0.5, (0.0, 1.0))


def test_an_overlay_is_the_image_where_a_map_is_low_and_colour_where_it_is_high():
    image, values = np.full((40, 60, 3), 200, np.uint8), np.zeros((4, 6))
    values[:, 3:] = 1.0
    with patch.object(pixels, "_element", lambda drawn, about: drawn):
        drawn = pixels.overlaid(image, values, "", (0.0, 1.0))
        signed = pixels.overlaid(image, values - 0.5, "", (-0.5, 0.5), sign=True)
    assert drawn.shape == (40, 60, 3) and (drawn[:, :10] == 200).all() and np.ptp(drawn[20, 55]) > 50
    assert signed[20, 2, 2] > signed[20, 2, 0] and signed[20, 57, 0] > signed[20, 57, 2]  # blue, and red
    assert pixels.outlined(np.zeros((8, 8), bool), (8, 8)) == ""


def test_ends_of_an_interval():
    assert np.isnan(ends(np.full(3, np.nan))).all()


def test_at_a_shell(run, images, tmp_path, monkeypatch, undrawn):
    monkeypatch.setattr("headlens.training.run.load_run", lambda *_, **__: run)
    monkeypatch.setattr("headlens.cli.common.data_of", lambda *_, **__: images)
    out = tmp_path / "deep" / "report.html"
    options = ["report", "--run", "mine", "--data", "mine", "--out", out, "--size", 32, "--worst", 1]

    def shell(*more: object) -> object:
        return CliRunner().invoke(app, list(map(str, [*options, *more])))

    done = shell("--layer", "1-2")
    assert done.exit_code == 0, done.exception
    assert "4 images" in done.output and len(Tags(out.read_text("utf-8")).sections()) == 7
    assert "exists already" in str(shell().exception)
