"""What ``headlens train`` says when it is stopped."""

from __future__ import annotations

import signal

import pytest
from typer.testing import CliRunner

from headlens.cli import app
from headlens.training.interrupt import Stopped

ARGUMENTS = ["train", "--data", "procedural:industrial/aux", "--per-category", "2", "--cpu", "--out"]


@pytest.mark.parametrize(
    ("ended", "said", "status"),
    [
        (Stopped(26, 125, signal.SIGINT), "stopped at step 26 of 125; the same command goes on\n", 130),
        (Stopped(26, 125, signal.SIGTERM), "stopped at step 26 of 125; the same command goes on\n", 143),
        (KeyboardInterrupt(), "interrupted between two steps; the same command goes on from what is saved in", 130),
    ],
)
def test_a_stop_is_said_in_one_line(ended, said, status, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise ended

    monkeypatch.setattr("headlens.training.trainer.train", stopped)
    done = CliRunner().invoke(app, [*ARGUMENTS, str(tmp_path / "run")])
    assert said in done.output and done.exit_code == status
    assert "Traceback" not in done.output and "Aborted" not in done.output
