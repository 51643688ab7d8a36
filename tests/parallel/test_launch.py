"""What the environment says of other processes, what is left in it, and how long anybody waits for them."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
import torch
from torch import distributed

from headlens import launch, parallel
from headlens.cli import app
from headlens.errors import ConfigError, RunError
from tests.metrics.test_merging import free_port

LEFT = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29533"}


@pytest.fixture
def environment(monkeypatch):
    """Sets variables; those of a launcher that the tests themselves may have are away."""
    for name in (*LEFT, "LOCAL_RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)

    def put(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)

    return put


def test_a_launched_process_knows_its_place(environment):
    assert launch.place() is None
    environment(**LEFT, LOCAL_RANK="0")
    assert launch.place() == launch.Place(0, 2, 0, "127.0.0.1:29533") and launch.launched()
    environment(WORLD_SIZE="1")
    assert launch.place() is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"WORLD_SIZE": "auto"}, "WORLD_SIZE is 'auto'"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is ''"),
        ({"WORLD_SIZE": "0"}, "a number from 1 on"),
        ({"WORLD_SIZE": "²"}, "WORLD_SIZE is '²'"),
        ({"RANK": "2"}, "RANK is '2' in the environment, expected a number from 0 to 1"),
        ({"RANK": "-1"}, "RANK is '-1'"),
        ({"RANK": None}, "RANK is not set"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR is not set"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
        ({"MASTER_PORT": "70000"}, "a number from 1 to 65535"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK is 'x'"),
    ],
)
def test_an_environment_that_cannot_be_right_is_one_line_where_it_matters(environment, capsys, wrong, said):
    environment(**LEFT | wrong)
    with pytest.raises(ConfigError) as error:
        app(["eval", "--run", "mini-industrial", "--data", "nowhere"], standalone_mode=False)
    line = str(error.value)
    assert said in line and "unset" in line and "WORLD_SIZE" in line and "\n" not in line
    app(["data", "protocols"], standalone_mode=False)  # not shared: it looks at nothing of this
    assert "one domain" in capsys.readouterr().out


def test_what_is_done_by_one_process_says_so_under_torchrun_alone(environment, capsys):
    environment(**LEFT)
    app(["data", "protocols"], standalone_mode=False)
    environment(TORCHELASTIC_RUN_ID="none")
    with pytest.raises(ConfigError, match=r"data runs in one process: start it without torchrun.*unset RANK"):
        app(["data", "protocols"], standalone_mode=False)


@pytest.mark.parametrize("rank", [0, 1])
def test_others_that_never_come_are_waited_for_in_words_and_not_for_ever(environment, monkeypatch, capsys, rank):
    monkeypatch.setattr(parallel, "_MEETING", timedelta(seconds=1))
    environment(**LEFT | {"RANK": str(rank), "MASTER_PORT": str(free_port())})
    with pytest.raises(RunError, match=r"timed out waiting for 2 processes at 127.0.0.1:.*unset"), parallel.ranks():
        raise AssertionError("nobody else was there")
    said = capsys.readouterr().err
    assert said.startswith("headlens: waiting for 2 processes at 127.0.0.1:") and "unset RANK WORLD_SIZE" in said
    assert not distributed.is_initialized() and parallel.current().size == 1


def test_variables_of_other_launchers_are_not_seen_by_libraries(environment, monkeypatch):
    others = {"OMPI_COMM_WORLD_SIZE": "2", "PMI_SIZE": "2", "SLURM_NTASKS": "2", "LOCAL_RANK": "1"}
    environment(**others)
    assert launch.place() is None
    with launch.alone():
        assert not {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "LOCAL_RANK"} & set(os.environ)
    assert others.items() <= os.environ.items()


def test_training_alone_takes_no_notice_of_them(environment, tmp_path):
    from tests.parallel import worker

    environment(OMPI_COMM_WORLD_SIZE="2", PMI_SIZE="2", LOCAL_RANK="1", RANK="1")
    threads = torch.get_num_threads()
    worker.painted(tmp_path / "plates", "plate", 4)
    worker.train(tmp_path / "one", 4)
    assert (tmp_path / "one" / "run" / "card.json").is_file() and not distributed.is_initialized()
    assert torch.get_num_threads() == threads
