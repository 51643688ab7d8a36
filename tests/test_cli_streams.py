"""What a command prints never stops it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import typer

from headlens import HeadlensError, cli
from headlens.cli.ending import forgiving


@contextmanager
def piped(monkeypatch) -> Iterator[int]:
    """Standard output is a Latin-1 pipe; the number of its other end."""
    theirs, ours = os.pipe()
    os.set_blocking(theirs, False)
    with open(ours, "w", encoding="latin-1", closefd=False) as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        yield theirs
        assert sys.stdout is stream
    os.close(ours)


@contextmanager
def left(monkeypatch) -> Iterator[None]:
    """The same after its reader has left."""
    with piped(monkeypatch) as theirs:
        os.close(theirs)
        with pytest.raises(BrokenPipeError):
            os.write(sys.stdout.fileno(), b"x")
        yield


def test_a_reader_that_leaves_stops_no_work(monkeypatch, tmp_path):
    def work():
        typer.echo("the first line\n" * 100_000)  # more than a pipe holds
        (tmp_path / "result").touch()

    monkeypatch.setattr(cli, "app", work)
    with left(monkeypatch):
        cli.main()
    assert (tmp_path / "result").exists()


def test_what_an_encoding_has_not_is_escaped(monkeypatch):
    with piped(monkeypatch) as theirs:
        with forgiving():
            typer.echo("pr\udcfcf é Ω")
        assert os.read(theirs, 100) == b"pr\\udcfcf \xe9 \\u03a9\n"
        os.close(theirs)


def test_an_error_is_an_error_without_a_reader(monkeypatch):
    def fails():
        typer.echo("something")
        raise HeadlensError("told")

    monkeypatch.setattr(cli, "app", fails)
    with left(monkeypatch), pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
