"""Methods that read what an image shows, settings that one has not, and detectors just trained, as people meet them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from headlens import backbone, data
from headlens.cli import app
from headlens.cli.common import shown_by
from headlens.cli.name import _rows
from headlens.detectors import TrainingConfig, build
from headlens.errors import ConfigError, IdentityError
from headlens.figures.gallery import _unit, draw
from headlens.heads import Head, MapParts, contributions, map_parts, name_heads, weights
from headlens.training.run import Run, load_run, save_run
from tests.tiny import clip

SMALL = {"aa-clip": {"adapt_image": 2, "adapt_text": 2, "teacher_start": 1}, "april-gan": {}}
SAID = "give one, such as --category"


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """AA-CLIP as it begins, at 56 px: it reads categories, and has few sentences."""
    folder = tmp_path_factory.mktemp("runs") / "maps"
    folder.mkdir()
    detector = build(backbone.load("mini", image_size=56), "aa-clip", taps=(3, 23))
    save_run(folder, detector, TrainingConfig(size=56), {"threshold": None})
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "screw.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (56, 56, 3), dtype=np.uint8)).save(path)
    return path


def test_a_run_that_reads_categories_asks_what_an_image_shows(run, picture, tmp_path):
    asked = (picture, "--run", run, "--out", tmp_path)
    assert SAID in invoke("score", *asked)
    said = invoke("contributions", *asked, "--category", "screw", "--check", "--top", 1)
    assert SAID not in said and "Checked" in said
    written = MapParts.load(tmp_path / "contributions-maps-screw-png.parquet")
    seen = map_parts(load_run(run), picture, category="screw")
    np.testing.assert_allclose(written.margin, seen.margin, atol=1e-5)
    assert not np.allclose(seen.margin, map_parts(load_run(run), picture).margin, atol=1e-3)
    assert written.provenance["category"] == "screw"  # so that other sentences have other files


def test_a_run_that_reads_no_categories_does_not_ask(run, capsys):
    for class_aware in (True, False):
        detector = build(backbone.load("mini"), "april-gan", class_aware=class_aware)
        assert shown_by(Run(run, detector, None, {}), None) == "object"
        assert (SAID in capsys.readouterr().err) == class_aware


def test_parts_of_an_image_are_checked_where_that_is_asked(run, picture, tmp_path, monkeypatch):
    def broken(*arguments):
        raise IdentityError("they do not add up")

    monkeypatch.setattr(sys.modules["headlens.heads.map_parts"], "check", broken)
    with pytest.raises(IdentityError, match="add up"):
        invoke("contributions", picture, "--run", run, "--out", tmp_path, "--check")


@pytest.mark.parametrize("preset", ["april-gan", "headclip"])
def test_phrases_of_a_method_that_reads_none_are_refused(preset, tmp_path):
    asked = ("--data", "procedural:industrial/aux", "--per-category", 2, "--out", tmp_path / "run")
    message = f"phrases.json: {preset} does not read what categories are called; aa-clip, aa-clip-medical, "
    with pytest.raises(ConfigError, match=message):
        invoke("train", "--preset", preset, "--descriptions", "phrases.json", *asked)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("preset, field", [("april-gan", "taps"), ("aa-clip", "teacher_start"), ("headclip", "taps")])
def test_a_block_that_does_not_exist_is_named_with_its_field_and_file(preset, field, tmp_path):
    config = tmp_path / "deep.toml"
    config.write_text(f"[detector]\n{field} = {[24] if field == 'taps' else 24}\n")
    asked = ("--data", "procedural:industrial/aux", "--per-category", 2, "--out", tmp_path / "run")
    with pytest.raises(
        ConfigError, match=rf"deep.toml: {field}: block 24 does not exist: mini-captions has 24, counted from 0"
    ):
        invoke("train", "--preset", preset, "--config", config, *asked)


def test_a_detector_without_head_weights_says_how_to_have_them(run):
    with pytest.raises(ConfigError, match=r"head_weights = 'free' in table \[detector\]"):
        invoke("weights", "--run", run)


@pytest.mark.parametrize("method, read", [("aa-clip", "all patches at the last tap"), ("april-gan", "CLS")])
def test_names_say_what_they_are_of(method, read):
    images = data.open("procedural:industrial/aux", category="wood", per_category=2, size=32)
    named = name_heads(
        build(clip(), method, taps=(1, 3), **SMALL[method]), images, [Head("global", 3, 1)], pool=["wood", "a red ring"]
    )
    assert _rows(named) == f"{read} of 2 images"


def test_maps_of_two_units_share_no_scale():
    runs = [Run(Path(name), build(clip(), name, taps=(1, 3), **SMALL[name]), None, {}) for name in SMALL]
    with pytest.raises(ConfigError, match="aa-clip gives logits, april-gan gives probabilities: name runs of one"):
        draw([SimpleNamespace(run=run) for run in runs])
    assert _unit(SimpleNamespace(run=run) for run in runs[:1]) == "logit"


@pytest.mark.parametrize("method", list(SMALL))
@pytest.mark.filterwarnings("error:Converting a tensor")
def test_a_detector_that_can_still_be_trained_is_looked_into_as_it_is(method):
    detector = build(clip(torch.float32), method, taps=(1, 3), head_weights="free", **SMALL[method])
    images = data.open("procedural:industrial/aux", category="wood", per_category=2, size=32)
    assert weights(detector).frame["value"].between(0.5, 1.5).all()
    while_trained = contributions(detector, images, check_sums=True).frame["value"]
    frozen = contributions(detector.requires_grad_(False), images).frame["value"]
    np.testing.assert_array_equal(while_trained, frozen)
