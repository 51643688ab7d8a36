"""The command as somebody types it."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import headlens
from headlens import cli
from headlens.backbone.parity import stirred_state
from headlens.cli import app, main
from headlens.cli.common import at_once, tables
from headlens.cli.eval import sets_of
from headlens.errors import ConfigError
from tests.backbone.models import listed
from tests.backbone.test_loading import container_archive


def run(*arguments: str):
    return CliRunner().invoke(app, arguments)


def test_help_and_version_import_nothing_heavy():
    """What makes ``headlens --help`` answer at once."""
    heavy = ("torch", "transformer_lens", "open_clip", "pandas", "matplotlib", "captum")
    for arguments in (["--help"], ["verify", "--help"], ["methods"], ["--version"]):
        code = (
            "import sys; from headlens.cli import app\n"
            f"try: app({arguments!r})\n"
            f"except SystemExit: print([m for m in {heavy!r} if m in sys.modules])"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert out.splitlines()[-1] == "[]"


def test_version():
    assert run("--version").output.strip() == f"headlens {headlens.__version__}"


@pytest.fixture
def named():
    with listed():
        yield


def test_verify_prints_the_table(named):
    result = run("verify", "ViT-T-32")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "ViT-T-32: random weights (seed 0); this is about arithmetic, not about images"
    assert [line.split()[:2] for line in lines[2:8]] == [
        [size, dtype] for dtype in ("float64", "float32") for size in ("224x224", "518x518", "336x518")
    ]
    assert lines[-1].startswith("equal: ")


def test_verify_can_fail(monkeypatch, named):
    """The table is a measurement: a tower that differs is found, and the exit status says so."""
    for wrong in (0.0, torch.nan):
        monkeypatch.setattr(
            "headlens.backbone.vision.VisionTower.positions", lambda self, grid, wrong=wrong: torch.full((1,), wrong)
        )
        result = run("verify", "ViT-T-32")
        assert result.exit_code == 1
        assert "NOT EQUAL" in result.output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["verify", "RN50"], "headlens: RN50 needs what the headlens towers do not have: a ResNet image tower"),
        (["verify", "ViT-B-99"], "headlens: unknown architecture 'ViT-B-99'"),
    ],
)
def test_errors_are_one_line(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["headlens", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_errors_that_are_bugs_stay_what_they_are(monkeypatch):
    def run():
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli, "app", run)
    with pytest.raises(RuntimeError, match="a bug"):
        main()


@pytest.mark.parametrize("gib, own", [(80, 32), (12, 8)])
def test_a_large_gpu_gets_more_pictures_at_once(gib, own, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=gib * 2**30))
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [at_once(given, device, 32) for given in (None, 3) for device in (cpu, cuda)] == [8, own, 3, 3]


def test_usage_errors(tmp_path):
    (tmp_path / "x.pt").touch()
    assert run("verify", "ViT-S-32", "ViT-B-32", "--weights", str(tmp_path / "x.pt")).exit_code == 2
    missing = run("verify", "ViT-S-32", "--weights", "nowhere.pt")
    assert missing.exit_code == 2
    assert "nowhere.pt" in missing.output
    assert run("verify", "--seed", "-1").exit_code == 2


def test_verify_own_weights_in_openais_archive(tmp_path, named):
    path = tmp_path / "tiny.pt"
    container_archive(stirred_state("ViT-T-32-quickgelu"), path)
    result = run("verify", "ViT-T-32-quickgelu", "--weights", str(path))
    assert result.exit_code == 0, result.output
    assert result.output.startswith("ViT-T-32-quickgelu: tiny.pt, SHA-256 ")


def test_python_m_headlens():
    out = subprocess.run([sys.executable, "-m", "headlens", "-h"], capture_output=True, text=True, check=True).stdout
    assert "verify" in out


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_as_configuration_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "mine.toml")
    with pytest.raises(ConfigError, match=r"mine\.toml: .*is a pipe"):
        tables(tmp_path / "mine.toml")


def test_sets_of_one_name_are_called_by_their_paths_in_utf8(tmp_path):
    for number, folder in enumerate(("a", os.fsdecode(b"pr\xfcf"))):
        (tmp_path / folder / "screw").mkdir(parents=True)
        Image.new("L", (4, 4), number).save(tmp_path / folder / "screw" / "0.png")
    sets = sets_of([str(path / "screw") for path in sorted(tmp_path.iterdir())], 2, 100, None, False)
    assert [one.name for one in sets] == [f"{tmp_path}/a/screw", f"{tmp_path}/pr\\udcfcf/screw"]


def test_a_domain_of_no_data_is_refused(tmp_path):
    done = run("compare", "--of", "importance", "--domain", "medical", "--out", str(tmp_path))
    assert isinstance(done.exception, ConfigError) and "leave it out, or name --data" in str(done.exception)
