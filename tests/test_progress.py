"""Progress: a bar where somebody looks, lines in a log, one bar for one question, and none for what is quick."""

from __future__ import annotations

import inspect
import io
import subprocess
import sys
import time
from contextlib import redirect_stderr
from types import SimpleNamespace

import pytest
from tqdm.std import tqdm

from headlens import attribution, heads, progress
from headlens.predict import predict
from headlens.progress import bar, followed
from headlens.training import evaluate, trainer


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_has_a_bar():
    with redirect_stderr(Terminal()) as terminal:
        with bar(4, "heads") as shown:
            shown.update(2)
        assert "heads:" in terminal.getvalue() and "\r" in terminal.getvalue()


def test_a_log_has_whole_lines_and_few_of_them(monkeypatch):
    with redirect_stderr(io.StringIO()) as log:
        monkeypatch.setattr(progress, "_LINES", 0.05)
        with bar(40, "heads") as shown:
            for _ in range(40):
                time.sleep(0.005)
                shown.update()
        lines = log.getvalue().splitlines()
        assert 2 <= len(lines) <= 6 and all(line.startswith("heads:") and "/40 [" in line for line in lines)
        assert "\r" not in log.getvalue() and lines[-1].startswith("heads: 100% 40/40")


def test_a_log_of_what_is_quick_is_empty():
    with redirect_stderr(io.StringIO()) as log:
        with bar(4, "heads") as shown:
            shown.update(4)
        assert log.getvalue() == ""


def test_what_is_quick_and_a_single_thing_have_no_bar():
    with redirect_stderr(Terminal()) as terminal:
        for count in (1, 9):
            with followed(None, count, "heads") as done:
                done(count)
        assert terminal.getvalue() == ""


def test_what_is_given_is_called_in_place_of_a_bar(monkeypatch):
    with redirect_stderr(Terminal()) as terminal:
        monkeypatch.setattr(progress, "_SOON", 0.0)
        calls = []
        with followed(calls.append, 9, "heads") as done:
            done(4)
        assert calls == [4] and terminal.getvalue() == ""
        with followed(None, 9, "heads") as done:
            done(9)
        assert "heads: 100%" in terminal.getvalue()


_WITHOUT_TORCH = """
import sys, types
sys.modules["headlens.parallel"] = types.SimpleNamespace(current=lambda: types.SimpleNamespace(main=True))
"""


def in_a_new_process(code, **variables):
    """What it prints on standard output and on standard error: what tqdm imports decides what it draws."""
    environment = {"PYTHONPATH": ":".join(sys.path), **variables}
    code = f"{_WITHOUT_TORCH}\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.strip(), done.stderr


_NOTEBOOK = """
shell = types.SimpleNamespace(config={"IPKernelApp": {}})
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: shell, version_info=(9,))
"""


@pytest.mark.parametrize("where", ["", _NOTEBOOK], ids=["a script", "a notebook"])
def test_the_environment_switches_it_off(where):
    code = f"{where}\nfrom headlens.progress import bar\nwith bar(4) as shown: print(shown.disable)"
    assert in_a_new_process(code, TQDM_DISABLE="1") == ("True", "")


def test_a_notebook_without_widgets_has_a_bar_of_text_and_no_warning():
    code = f"""{_NOTEBOOK}
sys.modules["ipywidgets"] = None
from headlens.progress import bar
with bar(4, "heads") as shown:
    shown.update(4)
"""
    said, drawn = in_a_new_process(code)
    assert said == "" and "heads: 100%" in drawn and "arning" not in drawn and "IProgress" not in drawn


def test_only_the_first_of_several_processes_shows_it(monkeypatch):
    with redirect_stderr(Terminal()) as terminal:
        monkeypatch.setattr("headlens.parallel.current", lambda: SimpleNamespace(main=False))
        with bar(4) as shown:
            shown.update(4)
        assert terminal.getvalue() == ""


def test_training_shows_steps_terms_of_its_loss_and_the_stage(monkeypatch):
    with redirect_stderr(Terminal()):
        shown, begun = [], []

        def trained(*_, begin, progress, **__):
            begin(1, 3)
            progress({"step": 2, "stage": "text", "seconds": 0.1, "label": 0.25})
            progress({"step": 3, "stage": "image", "seconds": 0.2, "pixel": 0.5})
            return {}

        real = trainer.train
        monkeypatch.setattr(trainer, "train", trained)
        monkeypatch.setattr(tqdm, "set_postfix", lambda self, terms: shown.append((self.n, self.total, terms)))
        assert real(None, None, None, "runs/mine", begin=lambda *at: begun.append(at)) == {}
        assert begun == [(1, 3)]
        assert shown == [(2, 3, {"stage": "text", "label": "0.250"}), (3, 3, {"stage": "image", "pixel": "0.500"})]


LONG = [
    heads.ablate,
    heads.capture,
    heads.contributions,
    heads.importance,
    heads.name_heads,
    heads.screen,
    heads.transfer,
]
LONG += [heads.map_agreement, attribution.attribute, attribution.faithfulness, predict, evaluate, trainer.train]


@pytest.mark.parametrize("function", LONG, ids=lambda function: function.__name__)
def test_whatever_takes_long_has_a_bar_by_default(function):
    assert inspect.signature(function).parameters["progress"].default is None
