"""Exported detectors: scores and maps of the file are those of the detector, in any batch; or a refusal by name."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from export_parity import EXPORTED, REFUSED, SIDE, difference, reader, tiny_clip
from export_parity import detector as random_detector
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import headlens
from headlens import data, export
from headlens.cli import app
from headlens.detectors import PRESETS, Detector
from headlens.errors import ConfigError, IdentityError, RunError
from headlens.export import threshold_at
from headlens.training.run import Run
from tests.methods.cases import Network

pytestmark = pytest.mark.usefixtures("one_torch_thread")
ROOT = Path(__file__).parent.parent
METHODS = ("april-gan", "aa-clip", "crane", "anoclip", "winclip", "sc-clip", "kanoclip", "c2p-clip")
"""A preset of each other method than HeadCLIP that can be exported; ``analyses/export_parity.py`` has all presets."""
REASONS = {
    "anoclip-plus": r"anoclip .*\(adapter of each image\)",
    "anoclip-plus-visa": r"anoclip .*\(adapter of each image\)",
    "adaclip": r"adaclip .*\(prompts of each image\).* clusters .* share = 0",
    **dict.fromkeys(("vadclip", "vadclip-ucf", "vadclip-xd"), r"vadclip .* over the frames of a clip.* one by one"),
}
EXPORT = sys.modules["headlens.export"]  # the module: as an attribute of the package it is the function


def detector(preset: str, **settings: object) -> Detector:
    return random_detector(tiny_clip(), preset, **(EXPORTED | REFUSED)[preset] | settings)


def test_every_preset_is_exported_or_refused():
    assert sorted(PRESETS) == sorted([*EXPORTED, *REFUSED])


@pytest.mark.parametrize("preset", METHODS)
def test_a_graph_is_its_detector_in_any_batch(preset):
    made = detector(preset)
    program = EXPORT._traced(EXPORT.graph_of(made, "wood", SIDE), SIDE)
    assert difference(made, program.module(), SIDE, (1, 2, 5)) < 1e-5


def check_file(made: Detector, file: Path) -> None:
    assert difference(made, reader(file), SIDE, (1, 2, 5)) < 1e-5
    content = file.read_bytes()
    assert b"/headlens/" not in content and str(ROOT).encode() not in content  # no path of this machine


def test_an_archive_is_its_detector_in_any_batch(tmp_path):
    made = detector("headclip")
    check_file(made, export(made, tmp_path / "model.pt2").model)


def test_the_page_writes_onnx_and_runs_it_without_headlens(tmp_path, monkeypatch):
    run = Run(tmp_path, detector("headclip"), None, {"threshold": 0.0})
    noise = np.random.default_rng(0).integers(256, size=(40, 31, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "part.png")
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    writes, runs = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert "headlens" not in runs
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(headlens, "load", lambda *_, **__: run)
    exec(writes, {})
    check_file(run.detector, tmp_path / "model.onnx")
    names: dict = {}
    exec(runs, names)
    expected = headlens.predict(run, "part.png")
    np.testing.assert_allclose(names["score"], expected.joint_score, atol=1e-5, rtol=0)
    np.testing.assert_allclose(names["anomaly_map"], expected.anomaly_map, atol=1e-5, rtol=0)
    assert names["decision"]


@pytest.mark.parametrize("preset", REFUSED)
def test_what_depends_on_each_image_is_refused_by_name(preset, tmp_path):
    with pytest.raises(ConfigError, match=REASONS[preset]):
        export(detector(preset), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


def test_other_refusals_say_what_to_do(tmp_path, monkeypatch):
    crane, plain = detector("crane", conditioned=True), detector("clip")
    with pytest.raises(ConfigError, match=r"crane .* sentences depend on the image"):
        export(crane, tmp_path / "model.pt2")
    second = detector("crane").with_second(Network().float())
    with pytest.raises(ConfigError, match="features of the second network"):
        export(second, tmp_path / "model.pt2")
    with pytest.raises(ConfigError, match=r"views = true.*with_config\(views=False\)"):
        export(detector("anoclip", views=True), tmp_path / "model.pt2")
    with pytest.raises(ConfigError, match=r"ends in \.onnx or \.pt2, such as x\.onnx"):
        export(plain, tmp_path / "x.bin")
    with pytest.raises(ConfigError, match="'screw': the sentences of this headclip name none"):
        export(plain, tmp_path / "model.pt2", category="screw")
    with pytest.raises(ConfigError, match="size is 4"):
        export(plain, tmp_path / "model.pt2", size=4)
    hooked, why = [("blocks.0.hook_resid_post", lambda x, hook: x)], r"vision\.blocks\.0\.hook_resid_post is no part of"
    with plain.backbone.vision.hooks(hooked), pytest.raises(ConfigError, match=why):
        export(plain, tmp_path / "model.pt2")
    monkeypatch.setattr(EXPORT, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ConfigError, match=r"onnxscript is not installed: pip install 'headlens\[export\]'"):
        export(plain, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_differs_is_not_written(tmp_path, monkeypatch):
    plain = detector("clip")

    def written(graph, outputs, path):
        path.write_bytes(b"graph")
        return lambda pixels: [out + 2e-5 for out in graph(pixels)]

    monkeypatch.setattr(EXPORT, "_traced", lambda graph, size: graph)
    monkeypatch.setitem(EXPORT._SAVE, ".pt2", written)
    with pytest.raises(IdentityError, match="the score of the exported graph differs from the detector's by 2e-05"):
        export(plain, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


@given(st.lists(st.integers(-8, 8), min_size=1, max_size=30), st.integers(0, 99))
def test_a_threshold_leaves_at_most_the_rate_above_it_and_is_the_lowest_score_that_does(scores, percent):
    value = threshold_at(torch.tensor(scores, dtype=torch.float32), percent / 100)
    right = [t for t in scores if 100 * sum(s > t for s in scores) <= percent * len(scores)]
    assert value == min(right)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run without its folder, with a threshold; what is written of it is not traced."""
    monkeypatch.setattr(EXPORT, "_traced", lambda graph, size: graph)
    monkeypatch.setitem(EXPORT._SAVE, ".pt2", lambda graph, outputs, path: path.write_bytes(b"x") and graph)
    return Run(tmp_path / "mine", detector("clip"), None, {"threshold": 0.4, "trained_on": "visa", "seed": 3})


def test_the_card_has_the_threshold_and_where_all_came_from(run, tmp_path):
    about = export(run, tmp_path / "a.pt2").about
    assert about["threshold"] == {"value": 0.4, "from": "the run"}
    made_by = about["provenance"]
    assert (made_by["run"], made_by["trained_on"], made_by["seed"]) == ("mine", "visa", 3)
    assert made_by["backbone"]["name"] == "tiny" and made_by["detector"]["method"] == "headclip"
    assert json.loads((tmp_path / "a.pt2.json").read_text()) == about

    assert export(run, tmp_path / "b.pt2", size=32).about["threshold"] is None  # the run's is one of another size
    images = data.open("procedural:industrial/aux", category="wood", per_category=12, size=32)
    scores = headlens.predict(run, images.where(lambda record: record.anomalous is False)).joint_score
    about = export(run, tmp_path / "c.pt2", normal=images, rate=0.2).about["threshold"]
    assert about["value"] == pytest.approx(sorted(scores.tolist(), reverse=True)[len(scores) // 5])
    assert about["images"] == len(scores) and about["above"] <= 0.2

    with pytest.raises(RunError, match=r"a\.pt2 exists already.*--force"):
        export(run, tmp_path / "a.pt2")
    with pytest.raises(ConfigError, match="a threshold is given, and images"):
        export(run, tmp_path / "d.pt2", threshold=0.5, normal=images)
    with pytest.raises(ConfigError, match="no normal image"):
        export(run, tmp_path / "d.pt2", normal=images.where(lambda record: record.anomalous is True))


def test_the_verb_writes_both_files_and_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setattr("headlens.training.run.load_run", lambda *given, **options: run)
    arguments = ["export", "--run", "mine", "--out", str(tmp_path / "model.pt2")]
    result = CliRunner().invoke(app, [*arguments, "--threshold", "0.25"], catch_exceptions=False)
    assert re.search(r"model\.pt2: \d.* MiB, pixels \[batch, 3, 24, 24\] to score \[batch\] and map", result.stdout)
    assert "threshold 0.25 from the user" in result.stdout
    assert (tmp_path / "model.pt2").exists() and (tmp_path / "model.pt2.json").exists()
    with pytest.raises(ConfigError, match="--rate goes with --data"):
        CliRunner().invoke(app, [*arguments, "--force", "--rate", "0.1"], catch_exceptions=False)
