"""Results show themselves: which backbone, what matters, escaped, and of odd frames, too."""

from __future__ import annotations

import base64
import dataclasses
import html as html_of_python
import re

import numpy as np
import pandas as pd
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from headlens import data, heads, html
from headlens.attribution import attribute, faithfulness
from headlens.baselines import LocalContrast
from headlens.data import check
from headlens.detectors.methods.headclip import HeadCLIP
from headlens.detectors.methods.registry import preset
from headlens.detectors.stages import TrainingConfig
from headlens.results import Result
from headlens.training.evaluation import Evaluation, evaluate
from headlens.training.run import Run
from headlens.training.summary import over_seeds
from tests import tiny

pytestmark = pytest.mark.usefixtures("one_torch_thread")
EVIL = "<script>alert('$x$')</script>"


def text(page):
    """What a reader sees: no tags."""
    return re.sub(r"<[^>]+>", " ", page)


@pytest.fixture(scope="module")
def results():
    """One of every kind, small, by the name of its class."""
    own = tiny.headclip()
    pictures = data.open("procedural:industrial/aux", per_category=4, size=32, category="nut")
    few, first = heads.heads_of(own, [2]), pictures.pixels(3).image
    slope = heads.importance(own, pictures, size=32)
    found = [
        heads.weights(own),
        heads.contributions(own, pictures, size=32),
        heads.ablate(own, pictures, heads.single_heads(few), metrics=(), replicates=5, size=32),
        slope,
        heads.screen(own, pictures, slope, top=2, sample=2, size=32),
        heads.compare({"one": own, "two": [slope_free(own, 1), slope_free(own, 2)]}, k=2),
        heads.map_parts(own, first, size=32),
        heads.name_heads(own, pictures, few[:2], pool=["red", "metal", "a crack"], phrases=2, size=32),
        attribute(own, first, "edges", size=32),
        faithfulness(own, pictures, methods=["edges"], measures=["pointing"], size=32, replicates=5),
    ]
    return {type(one).__name__: one for one in found}


def slope_free(detector, seed):
    """Another detector on the same backbone."""
    other = HeadCLIP(detector.backbone, detector.config, seed=seed)
    with torch.no_grad():
        for raw in other.weights.raw.values():
            raw.add_(torch.rand(raw.shape, generator=torch.Generator().manual_seed(seed)))
    return other.requires_grad_(False)


KINDS = {  # something that only a useful page has
    "Weights": "Furthest from 1",
    "Contributions": "image margin",
    "Ablation": "joint margin",
    "Importance": "most important",
    "Screen": "spearman",
    "Comparison": "rank correlation",
    "MapParts": "add to the peak",
    "Naming": "beats",
    "Attribution": "effect",
    "Faithfulness": "pointing",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_result_says_its_backbone_and_what_matters(results, kind):
    page = results[kind]._repr_html_()
    assert "backbone tiny" in text(page) and KINDS[kind] in text(page)
    assert ("data:image/png" in page) == (kind in ("Weights", "MapParts", "Attribution"))
    if kind != "Comparison":
        assert results[kind].provenance["learned_sha256"][:12] in text(page)


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_without_rows_shows_its_columns(results, kind):
    result = results[kind]
    frames = [f.name for f in dataclasses.fields(result) if isinstance(getattr(result, f.name), pd.DataFrame)]
    empty = dataclasses.replace(result, **{name: getattr(result, name).iloc[:0] for name in frames})
    odd = dataclasses.replace(result, **{name: pd.DataFrame({EVIL: [EVIL]}) for name in frames})
    assert "backbone tiny" in text(empty._repr_html_())
    assert "<script" not in odd._repr_html_() and "alert" in odd._repr_html_()


def test_the_strongest_rows_come_first_and_the_rest_is_counted(results):
    page = results["Importance"]._repr_html_()
    summary = results["Importance"].summary.sort_values("importance", ascending=False)
    first = heads.Head(*summary.iloc[0][["stream", "layer", "head"]])
    assert re.findall("<td>(.*?)</td>", page)[0] == str(first)
    assert f"… and {len(summary) - html.MOST} more" in page


def test_a_comparison_names_its_runs(results):
    page = text(results["Comparison"]._repr_html_())
    assert "one 0, two 0, two 1" in page


def test_names_are_escaped_and_plain_repr_stays(results):
    frame = pd.DataFrame({"image": [EVIL], "value": [np.nan]})
    result = Result(frame, {"dataset": {"name": EVIL, "images": 1}})
    page = result._repr_html_()
    assert "<script" not in page and "&lt;script&gt;" in page and "<td>-</td>" in page
    assert repr(result).startswith("Result(frame=")


def test_tables_are_short_whatever_their_length():
    frame = pd.DataFrame({"value": range(10_000)})
    page = html.table(frame, "caption", most=3)
    assert page.count("<tr>") == 4 and "… and 9997 more" in page and "caption" in page
    assert "no rows" in html.table(frame.iloc[:0])


def test_detectors_runs_and_backbones_say_what_they_are(detector, tmp_path):
    for page in (detector._repr_html_(), detector.backbone._repr_html_()):
        assert "tiny" in text(page)
    assert "local heads" in text(detector._repr_html_()) and "taps: 1, 3" in text(detector._repr_html_())
    card = {"trained_on": EVIL, "images": 8, "threshold": 0.25, "seed": 3}
    page = Run(tmp_path / "mine", detector, TrainingConfig(), card)._repr_html_()
    assert "Run mine" in page and "0.250" in page and "seed: 3" in page and "<script" not in page
    assert str(tmp_path) not in page
    assert "Run mine" in Run(tmp_path / "mine", detector, TrainingConfig(), {})._repr_html_()
    assert "head weights: none" in text(
        HeadCLIP(detector.backbone, preset("clip", taps=(1,), local_start=1))._repr_html_()
    )


def test_a_prediction_has_a_row_for_each_picture(detector):
    found = detector(torch.zeros(2, 3, 32, 40, dtype=torch.float64))
    assert found.frame["joint score"].tolist() == found.joint_score.tolist()
    assert found._repr_html_().count("<tr>") == 3 and "32 x 40 px" in found._repr_html_()


def test_a_data_set_counts_its_pictures(pictures):
    page = pictures._repr_html_()
    assert "<td>wood</td><td>3</td><td>3</td>" in page and "pixel_aupro" in page
    assert "images: 0" in text(pictures.where(lambda record: False)._repr_html_())
    assert "no errors" in check(pictures.where(lambda record: record.category == "nut"))._repr_html_()
    assert "there is no image in it" in check(pictures.where(lambda record: False))._repr_html_()


def test_an_evaluation_says_who_was_tested(detector, pictures):
    few = pictures.where(lambda record: record.category == "nut")
    found = evaluate(detector, few, size=32)
    page = text(found._repr_html_())
    assert "backbone tiny" in page and "nut" in page and "image AUROC" in page
    assert "LocalContrast" in text(evaluate(LocalContrast(), few, size=32)._repr_html_())
    wood = evaluate(detector, pictures.where(lambda record: record.category == "wood"), size=32)
    both = Evaluation.joined([found, wood])
    assert both.made_by == found.made_by.split(" · ")[0]  # which sets there are, its parts say
    nothing = dataclasses.replace(found, frame=found.frame[:0], scores=found.scores[:0])
    assert "images: 0" in text(nothing._repr_html_())
    assert "AUPRO" in text(found.table()._repr_html_())
    assert "nut" in text(over_seeds([found, found])._repr_html_())


@pytest.mark.parametrize("kind", KINDS)
def test_viewers_without_html_get_the_same_as_text_and_image(results, kind):
    page, bundle = results[kind]._repr_html_(), results[kind]._repr_mimebundle_()
    cells = [html_of_python.unescape(cell) for cell in re.findall("<t[hd]>(.*?)</t[hd]>", page)]
    assert cells and all(cell in bundle["text/plain"] for cell in cells) and "backbone tiny" in bundle["text/plain"]
    assert not re.search("</?(?:div|table|td|br|img|p)\\b", bundle["text/plain"])
    assert ("image/png" in bundle) == (kind in ("Weights", "MapParts", "Attribution"))
    if "image/png" in bundle:
        assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG") and bundle["image/png"] in page


def test_columns_of_a_table_are_aligned_and_markup_of_others_is_text():
    frame = pd.DataFrame({"head": ["L18H7", EVIL], "effect": [0.5, 12.25]})
    said = html.plain(html.card("Run", {"by": EVIL}, html.table(frame, "caption")))
    name, fact, caption, *rows = said.splitlines()
    assert (name, fact, caption) == ("Run", f"by: {EVIL}", "caption") and len({len(row) for row in rows}) == 1
    assert [row.split("  ")[-1].strip() for row in rows] == ["effect", "0.5", "12.25"] and EVIL in rows[-1]


def test_whatever_shows_itself_does_so_in_any_viewer(detector, pictures, tmp_path):
    run = Run(tmp_path / "mine", detector, None, {})
    for one in (detector, detector.backbone, pictures, run, detector(torch.zeros(1, 3, 32, 32)), check(pictures[:1])):
        bundle = InteractiveShell.instance().display_formatter.format(one)[0]
        assert sorted(bundle) == ["text/html", "text/plain"]
        assert bundle["text/plain"].splitlines()[0] in bundle["text/html"] and str(tmp_path) not in str(bundle)
