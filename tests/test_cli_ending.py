"""Verbs that do not come to their end: interrupted, out of memory, or asked for a device that is not there."""

from __future__ import annotations

import errno
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import headlens
from headlens import cli, devices
from headlens.backbone import load
from headlens.cli.ending import memory_short
from headlens.errors import ConfigError, MemoryShortError

GPU = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79 GiB. Consider PYTORCH_X=1."
SHORT = [
    (MemoryError(), "out of memory"),
    (torch.OutOfMemoryError(GPU), "out of memory: CUDA out of memory. Tried to allocate 20.00 MiB"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: not enough memory: 4 bytes."), "not enough"),
    (
        RuntimeError("MPS backend out of memory (MPS allocated: 5.05 GB, max allowed: 9.07 GB)."),
        "max allowed: 9.07 GB)",
    ),
]


def fails(monkeypatch, error):
    """Every detector that is loaded raises this."""

    def raising(*args, **kwargs):
        raise error

    monkeypatch.setattr("headlens.training.run.load_run", raising)
    monkeypatch.setattr("headlens.training.run.load_runs", raising)
    monkeypatch.setattr("headlens.training.run.load_groups", raising)


def main(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["headlens", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.fixture
def image(tmp_path):
    from PIL import Image

    Image.new("RGB", (9, 8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize(("error", "said"), SHORT)
def test_too_little_memory_is_one_line_with_the_verb_s_own_options(monkeypatch, capsys, image, error, said):
    fails(monkeypatch, error)
    for verb, has, has_not in (
        (("score", image, "--run", "mini-industrial", "--out", image.parent / "s"), "--batch (now 8)", "--memory"),
        (("attribute", image, "--out", image.parent / "a"), "--batch", "--memory"),
        (("ablate", "--memory", "64", "--out", image.parent / "b"), "--memory (now 64)", "--epochs"),
    ):
        assert main(monkeypatch, *verb) == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("headlens: out of memory") and said in lines[0]
        assert has in lines[0] and has_not not in lines[0] and "PYTORCH_X" not in lines[0]


def test_real_allocations_that_fail_are_recognised():
    for ask in (lambda: np.zeros(10**15), lambda: torch.empty(10**14)):
        with pytest.raises((MemoryError, RuntimeError)) as error:
            ask()
        assert "allocate" in memory_short(error.value)
    assert memory_short(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert memory_short(ValueError("out of memory")) is None and memory_short(OSError(2, "no such file")) is None
    assert issubclass(MemoryShortError, MemoryError)


def test_a_fault_of_headlens_keeps_its_traceback(monkeypatch, image):
    fails(monkeypatch, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    monkeypatch.setattr(sys, "argv", ["headlens", "attribute", str(image), "--out", str(image.parent / "o")])
    with pytest.raises(RuntimeError, match="mat1"):
        cli.main()


def test_ctrl_c_is_one_line_and_status_130(monkeypatch, capsys, image):
    fails(monkeypatch, KeyboardInterrupt())
    out = image.parent / "lens"
    assert main(monkeypatch, "ablate", "--out", out) == 130
    assert capsys.readouterr().err.strip() == "headlens: ablate was interrupted"
    out.mkdir()
    assert main(monkeypatch, "ablate", "--out", out) == 130
    said = capsys.readouterr().err.strip()
    assert said == f"headlens: ablate was interrupted; finished work was saved in {out}; the same command resumes"
    for verb, goes_on in (("weights", True), ("compare", True), ("figures", True), ("name", False)):
        assert main(monkeypatch, verb, "--out", out) == 130
        assert ("the same command resumes" in capsys.readouterr().err) is goes_on, verb
    monkeypatch.setattr(
        "headlens.data.checking.check", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    assert main(monkeypatch, "data", "check", image.parent) == 130
    assert capsys.readouterr().err.strip().endswith("headlens: check was interrupted")


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "foo", "cuda:x", "", "cpu:3", "meta", "xpu"])
def test_a_device_that_is_not_there_is_one_line_in_every_verb_and_in_python(monkeypatch, capsys, image, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda:7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    out = image.parent / "o"
    for verb in (
        ("score", image, "--run", "mini-industrial", "--out", out),
        ("eval", "--run", "mini-industrial", "--data", "procedural:industrial"),
        ("weights", "--run", "mini-industrial", "--out", out),
        ("ablate", "--out", out),
        ("attribute", image, "--out", out),
        ("compare", "--out", out),
        ("figures", "weights", "--out", out),
    ):
        if not device:  # as if it were not given
            break
        assert main(monkeypatch, *verb, "--device", device) == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and "device" in lines[0] and device in lines[0], verb
    in_python = (lambda: headlens.load("mini-industrial", device=device), lambda: load("mini", device=device))
    for ask in in_python if device != "meta" else ():  # shapes without numbers are of use in Python
        with pytest.raises(ConfigError, match="device"):
            ask()
    assert devices.device_of("cpu") == torch.device("cpu")


def test_a_precision_that_a_device_has_not_is_one_line(tmp_path):
    asked = ["ablate", "--layer", "23", "--per-category", "2", "--precision", "tf32", "--device", "cpu"]
    done = CliRunner().invoke(cli.app, [*asked, "--out", str(tmp_path)])
    assert isinstance(done.exception, ConfigError)
    assert "precision tf32 is one of CUDA GPUs; on cpu take float32 or bfloat16" in str(done.exception)
