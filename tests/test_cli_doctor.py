"""``headlens doctor``: what it says of a healthy machine, and that it notices when something is wrong."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import socket
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

import headlens
from headlens.backbone import Backbone, embedded
from headlens.backbone.checkpoint import sha256_of
from headlens.cli import app
from headlens.data.procedural import World, write


def findings(*arguments: str) -> tuple[dict[str, dict[str, str]], int]:
    result = CliRunner().invoke(app, ["doctor", "--json", *arguments])
    rows = json.loads(result.stdout)
    assert all(row.keys() == {"what", "status", "detail"} for row in rows)
    return {row["what"]: row for row in rows}, result.exit_code


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """Any attempt fails the test, and no weights of this machine's owner are found."""

    def refuse(self, address):
        raise AssertionError(f"the doctor called {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def quick(monkeypatch):
    """For tests of the other looks: these two load every weight that ships."""
    for look in ("_embedded", "_shipped"):
        monkeypatch.setattr(importlib.import_module("headlens.cli.doctor"), look, lambda: iter(()))


def test_a_healthy_machine():
    found, code = findings()
    assert code == 0, found
    assert {row["status"] for row in found.values()} <= {"ok", "warning"}
    assert headlens.__version__ in found["headlens"]["detail"]
    for package, name in (("torch", "torch"), ("transformer-lens", "transformer-lens"), ("open-clip-torch",) * 2):
        assert found[name]["detail"] == importlib.metadata.version(package)
    assert {"python", "cpu", "mps"} <= found.keys()
    assert str(torch.get_num_threads()) in found["cpu"]["detail"]
    for name in embedded.NAMES:
        assert sha256_of(embedded.weights(name)) in found[name]["detail"]
    assert found["ViT-L-14-336-quickgelu openai"]["status"] == "warning"
    for text in ("open_clip_model.safetensors", "timm/vit_large_patch14_clip_336.openai", "hub"):
        assert text in found["ViT-L-14-336-quickgelu openai"]["detail"]


def test_for_people_one_line_each(quick):
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert {line.split()[0] for line in lines} == {"ok", "warning"}
    assert len(lines) == len(findings()[0])


def test_other_forms_have_the_same_findings(quick, tmp_path):
    done = CliRunner().invoke(app, ["doctor", "--markdown", "--csv", str(tmp_path / "found.csv")])
    found = findings()[0]
    assert done.stdout.startswith("| what | status | detail |") and len(done.stdout.splitlines()) == 2 + len(found)
    rows = list(csv.DictReader((tmp_path / "found.csv").open()))
    assert {row["what"]: row for row in rows} == found


def test_weights_that_are_there(quick, tmp_path):
    folder = tmp_path / "hub" / "models--timm--vit_large_patch14_clip_336.openai"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    file = folder / "snapshots" / "abc" / "open_clip_model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"0" * 2**20)
    row = findings()[0]["ViT-L-14-336-quickgelu openai"]
    assert row["status"] == "ok"
    assert str(file) in row["detail"]


@pytest.mark.parametrize("what", ["missing", "too old"])
def test_packages_that_do_not_do(quick, monkeypatch, what):
    version = importlib.metadata.version

    def other(name):
        if name != "captum":
            return version(name)
        if what == "missing":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1"

    monkeypatch.setattr("importlib.metadata.version", other)
    found, code = findings()
    assert code == 1
    assert found["captum"]["status"] == "problem"
    assert "pip install 'captum>=0.8'" in found["captum"]["detail"]
    assert sum(row["status"] == "problem" for row in found.values()) == 1


def test_a_backbone_that_computes_nonsense(monkeypatch):
    monkeypatch.setattr(Backbone, "encode_image", lambda self, images: torch.full((1, 128), torch.nan))
    found, code = findings()
    assert code == 1
    assert found["mini"]["status"] == "problem"
    assert "not all of them finite" in found["mini"]["detail"]


def test_weights_that_are_damaged(monkeypatch, tmp_path):
    """And what comes after them is looked at all the same."""
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    monkeypatch.setattr("headlens.backbone.embedded.weights", lambda name: broken)
    monkeypatch.setattr("headlens.backbone.embedded.config", lambda name, of=embedded.config: CONFIG)
    found, code = findings()
    assert code == 1
    assert found["embedded backbones"]["status"] == "problem"
    assert "CheckpointError" in found["embedded backbones"]["detail"]
    assert "ViT-L-14-336-quickgelu openai" in found


CONFIG = embedded.config("mini")


def test_a_gpu_that_is_listed_and_useless(quick, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: (2**30, 2**31))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: "Tesla K80")
    ones = torch.ones

    def refuse(*size, device=None):
        if device:
            raise RuntimeError("no kernel image is available for execution on the device")
        return ones(*size)

    monkeypatch.setattr(torch, "ones", refuse)
    found, code = findings()
    assert code == 1
    assert found["cuda:0"]["status"] == "problem"
    assert found["cuda:0"]["detail"].startswith("Tesla K80, 1.0 of 2.0 GiB free")
    assert "no kernel image" in found["cuda:0"]["detail"]


def test_data(quick, tmp_path):
    write(World("procedural:medical", 2, 28), tmp_path / "set")
    found, code = findings("--data", str(tmp_path / "set"))
    assert code == 0
    assert "5 normal + 5 anomalous" in found["data"]["detail"]
    assert "28x28" in found["data"]["detail"]
    assert "can be measured by image_auroc, image_ap, image_f1max, pixel_auroc" in found["data"]["detail"]
    for bad in ("nowhere", "procedural:nonsense"):
        found, code = findings("--data", bad)
        assert code == 1
        assert found["data"]["status"] == "problem"
        assert bad in found["data"]["detail"]
    assert findings("--data", "procedural:medical")[1] == 0


def test_details_stay_on_their_line(quick, monkeypatch):
    monkeypatch.setattr("platform.platform", lambda: "a\nproblem b\x1b")
    lines = CliRunner().invoke(app, ["doctor"]).output.splitlines()
    assert [line.split()[1] for line in lines[:2]] == ["headlens:", "python:"]
    assert r"a\nproblem b\x1b" in lines[1]


def test_data_with_records_that_are_left_out(quick, tmp_path):
    write(World("procedural:medical", 2, 28), tmp_path / "set")
    (tmp_path / "set" / "head_ct" / "test" / "good" / "x.png").symlink_to("/dev/null")
    found, code = findings("--data", str(tmp_path / "set"))
    assert code == 1
    assert "the reader refuses 1, such as: " in found["data"]["detail"]


def test_runs_are_looked_at(request):
    found, code = findings("--run", "mini-medical-1")
    assert code == 0 and found["shipped runs"]["status"] == found["run"]["status"] == "ok"
    assert "mini-captions-medical (10), " in found["shipped runs"]["detail"]
    assert "headclip" in found["run"]["detail"] and "procedural:medical/aux" in found["run"]["detail"]
    request.getfixturevalue("quick")
    found, code = findings("--run", "nothing")
    assert code == 1 and "nothing: no such folder" in found["run"]["detail"]


def test_an_activation_that_nothing_tells_is_a_warning(quick, monkeypatch):
    from headlens.training.run import load_run

    run = load_run("mini-industrial")
    backbone = run.detector.backbone
    backbone.provenance = replace(backbone.provenance, act_fn_known=False)
    monkeypatch.setattr("headlens.training.run.load_run", lambda *own, **options: run)
    found, code = findings("--run", "mine")
    assert code == 0
    assert found["activation"]["status"] == "warning"
    assert "it is unknown which one" in found["activation"]["detail"]
    assert "assumed" in found["run"]["detail"]
