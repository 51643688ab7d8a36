"""Two processes against one: the same files to the byte, a killed one ends the other, and one goes on alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.multiprocessing import start_processes

from headlens import parallel
from headlens.cli.common import device_of
from headlens.devices import one_thread
from headlens.errors import ConfigError
from headlens.heads import ablation
from headlens.parallel import Ranks
from headlens.training.run import load_run
from tests.metrics import test_merging as merging
from tests.metrics.test_merging import free_port
from tests.parallel import worker
from tests.parallel.test_launch import LEFT

# Processes are forked from one that has imported everything once, which takes longer than what they do.
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["tests.parallel.worker", "tests.metrics.test_merging", "open_clip", "seaborn"])


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """``plates``, to train on; ``bolts``, of which an image is damaged; and in ``one`` what one process makes."""
    folder = tmp_path_factory.mktemp("ranks")
    worker.painted(folder / "plates", "plate", 20)
    worker.painted(folder / "bolts", "bolt", 7)
    (folder / "bolts" / "bolt" / "test" / "good" / "2.png").write_bytes(b"no picture")
    with one_thread():
        worker.train(folder / "one", 10)
        worker.train_stages(folder / "one", 4)
        worker.every_verb(folder / "one")
    return folder


@pytest.fixture(scope="module")
def ended(place) -> list[tuple[int, float, str, str]]:
    """Two processes with what ``torchrun`` says to them: how each ended, when, and what it printed.

    Without ``torchrun`` itself, which would end the one when the other dies: here it has to notice.
    """
    ports = [free_port(), free_port()]
    processes = [FORKED.Process(target=worker.work, args=(rank, place, ports)) for rank in range(2)]
    for process in processes:
        process.start()
    found = []
    try:
        for process in reversed(processes):  # the second is killed first
            process.join(timeout=300)
            found.append(time.monotonic())
    finally:
        for process in processes:
            process.kill()
    said = [[(place / f"{rank}.{name}").read_text() for name in ("out", "err")] for rank in range(2)]
    return [(p.exitcode, at, *own) for p, at, own in zip(processes, found[::-1], said, strict=True)]


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "run" not in path.relative_to(folder).parts
    }


def test_two_processes_make_the_files_of_one(place, ended):
    out, errors = "".join(end[2] for end in ended), "".join(end[3] for end in ended)
    assert (place / "two" / "scores.parquet").is_file(), errors[-3000:]
    for once in (
        "4 steps on 20 images",
        "noise floor",
        "'in layer'",
        "'separation'",
        "which of",
        "cls_peak",
    ):
        assert out.count(once) == 1, once
    assert errors.count("1 image of bolts left out: bolt/test/good/2 (") == 6  # once by each verb
    one, two = files(place / "one"), files(place / "two")
    assert "eval.json" in one and one.keys() == two.keys() and not [name for name in two if ".parts" in name]
    assert [name for name in one if one[name] != two[name]] == []


def test_two_processes_train_as_one_with_twice_the_batch(place, ended):
    runs = {name: load_run(place / name / "run") for name in ("one", "two")}
    cards = {name: run.card for name, run in runs.items()}
    assert cards["two"]["processes"] == 2 and cards["one"]["steps"] == cards["two"]["steps"] == 4
    assert cards["two"]["threshold"] == pytest.approx(cards["one"]["threshold"], abs=1e-3)
    for name, value in runs["one"].detector.state_dict().items():
        torch.testing.assert_close(runs["two"].detector.state_dict()[name], value, rtol=0.02, atol=2e-4)


def test_two_processes_train_two_stages_as_one_and_go_on_to_the_same_bits(place, ended):
    learned = {run.relative_to(place).parts[:3:2]: run for run in place.glob("*/stages/*/run/model.safetensors")}
    learned = {names: load_file(path) for names, path in learned.items()}
    assert len(learned) == 4, "".join(end[3] for end in ended)[-3000:]
    for name, value in learned["one", "whole"].items():
        assert torch.equal(learned["one", "cut"][name], value)
        assert torch.equal(learned["two", "cut"][name], learned["two", "whole"][name])
        torch.testing.assert_close(learned["two", "whole"][name], value, rtol=0.02, atol=2e-4)


def test_a_killed_process_ends_the_other_and_one_goes_on_to_the_same_bits(place, ended, monkeypatch):
    (code, at, _, said), (dead, before, _, _) = ended
    assert (code, dead) == (1, -9), said[-3000:]
    assert at - before < 120  # its own two batches, and no timeout, which is longer
    last = said.strip().splitlines()[-1]
    assert last.startswith("headlens: another process of this run has ended") and "Traceback" not in said
    lens = place / "cut" / "lens"
    parts = sorted(path.name for path in lens.glob("*.parts/part*"))
    assert parts == ["part-00000.parquet", "part-00002.parquet"]

    measure, calls = ablation.measure, []
    monkeypatch.setattr(ablation, "measure", lambda *arguments: calls.append(0) or measure(*arguments))
    with one_thread():
        given = ("--run", place / "one" / "run", "--data", place / "bolts")
        worker.call(*worker.ABLATE, *given, "--out", lens)
    assert len(calls) == 2  # of four batches
    whole = files(place / "one" / "lens")
    assert {name: whole[name] for name in whole if name.startswith("ablate")} == files(lens)


def test_metrics_of_two_processes_equal_those_of_one(tmp_path):
    start_processes(merging.process, (free_port(), tmp_path), nprocs=2, start_method="forkserver")
    for name, metric in merging.metrics().items():
        merging.feed(metric, *merging.data())
        whole = merging.answers(metric)
        for case in merging.SHARES:
            for rank in range(2):
                found = json.loads((tmp_path / f"{case}-{name}-{rank}.json").read_text())
                assert found == whole, (case, name, rank)


def test_torchrun_as_the_docs_have_it(place, tmp_path):
    """The command of docs/several-gpus.md; torchrun itself, and the ``--`` that keeps it from our options."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    verb = ["headlens", "eval", "--run", place / "one" / "run", "--data", place / "bolts", "--batch", 2]
    command = list(map(str, [*start, *verb, "--device", "cpu", "--json"]))
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr[-3000:]  # an image was left out
    assert done.stderr.count("1 image of bolts left out") == 1
    assert done.stdout == (place / "one" / "eval.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(("things", "size"), [(7, 2), (7, 3), (2, 3), (0, 2)])
def test_shares_are_all_of_it_once(things, size):
    every = [Ranks(rank, size) for rank in range(size)]
    assert sorted(i for own in every for i in own.share(things)) == list(range(things))
    table = torch.arange(things + 1)
    assert [own.rows(table).tolist() for own in every] == [[0, *(1 + i for i in own.share(things))] for own in every]
    batches = [range(4)] * things
    assert sum(every[0].behind(number, batches) for number in every[0].share(things)) == 4 * things


def test_a_process_by_itself_has_everything():
    arrays = {"a": np.arange(3)}
    with parallel.ranks() as own:
        assert own == parallel.current() and own.main and own.size == 1
        assert own.each(arrays) == [arrays] and list(own.merged([(1, arrays)], 3)) == [arrays]


def test_every_process_has_its_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    for name, value in (LEFT | {"WORLD_SIZE": "3", "LOCAL_RANK": "1"}).items():
        monkeypatch.setenv(name, value)
    assert device_of("cuda") == "cuda"  # variables that were left over: nobody shares
    monkeypatch.setattr(parallel, "_current", Ranks(1, 3))
    assert device_of("cuda") == "cuda:1" and device_of("cpu") == "cpu" and device_of("cuda:0") == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="no GPU for process 2: this machine has 2"):
        device_of("cuda")
