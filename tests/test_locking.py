"""Folders that one process has for itself, and files that appear whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headlens.errors import RunError
from headlens.files import write_atomically
from headlens.locking import LOCK, locked

_HOLD = """
import sys, time
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from headlens.locking import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_in_use_is_refused_until_its_process_is_dead(tmp_path):
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, folder, *sys.path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        message = rf"run is in use by another headlens \(process {holder.pid}\): wait"
        with pytest.raises(RunError, match=message), locked(folder):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert (folder / LOCK).exists()  # a stale one, which blocks nobody
    with locked(folder):
        (folder / "result").touch()
    assert [path.name for path in folder.iterdir()] == ["result"]


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "run"):
        raise ZeroDivisionError
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_locked_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file: cannot be written"), locked(tmp_path / "file"):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("point", ["fsync", "chmod", "replace"])
def test_a_process_killed_inside_a_write_leaves_the_old_file(point, tmp_path, monkeypatch):
    path = tmp_path / "card.json"
    write_atomically(path, b"old")
    child = os.fork()
    if not child:
        monkeypatch.setattr(os if point == "fsync" else Path, point, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        write_atomically(path, b"new")
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2
    with locked(tmp_path):
        assert sorted(entry.name for entry in tmp_path.iterdir()) == [LOCK, "card.json"]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
