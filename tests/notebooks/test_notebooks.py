"""Every notebook runs from top to bottom, on small images, and is committed as it ran on those of its size."""

from __future__ import annotations

import re

import nbformat
import pytest

from notebooks.execute import NOTEBOOKS, all_executed, cleaned

MACHINE = re.compile(r"/(?:tmp|home|work|root|Users|private|var)/|site-packages|\\\\Users")
SILENT = re.compile(r"cleanup\(\)|^(?:from|import) |= ")  # a last line that shows nothing
NAMES = ["01-quick-start", "02-head-weights", "03-ablations", "04-industrial-against-medical", "05-attribution"]
NAMES += ["06-your-own-images", "07-which-heads-do-methods-agree-on", "08-a-back-door"]
SMALL = """
from headlens.data.procedural import World
from headlens.detectors import Detector
Detector.image_size, World.__init__.__defaults__ = 56, (80, 56, 0)  # pixels along a side, instead of 224
"""


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def fresh():
    """All of them, executed here and now, by name; a cell that fails raises, with its traceback."""
    return dict(zip(NAMES, all_executed([small(name) for name in NAMES], SMALL), strict=True))


def small(name):
    """The committed one, with images of 56 pixels where it asks for 112: the same of fewer patches."""
    notebook = saved(name)
    for cell in code(notebook):
        cell.source = re.sub(r"\bsize( ?= ?)112\b", r"size\g<1>56", cell.source)
    return notebook


def saved(name):
    return nbformat.read(next(path for path in NOTEBOOKS if path.stem == name), as_version=4)


def test_there_are_eight():
    assert [path.stem for path in NOTEBOOKS] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_and_shows_what_the_committed_one_shows(name, fresh):
    for new, old in zip(code(fresh[name]), code(small(name)), strict=True):
        assert new.source == old.source
        assert [kinds(output) for output in new.outputs] == [kinds(output) for output in old.outputs]


def kinds(output):
    return output.get("name") or sorted(output["data"])


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_one_has_its_outputs(name):
    notebook = saved(name)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert cell.outputs or SILENT.search(cell.source.splitlines()[-1]), cell.source
        assert all(output.output_type != "error" and output.get("name") != "stderr" for output in cell.outputs)
    shown = [output.get("data", {}) for cell in cells for output in cell.outputs]
    assert any("image/png" in data for data in shown) and any("text/html" in data for data in shown)
    words = [text for data in shown for kind, text in data.items() if kind != "image/png"]
    words += [output.text for cell in cells for output in cell.outputs if output.output_type == "stream"]
    assert not [text for text in words if MACHINE.search(re.sub('base64,[^"]*', "", text))]


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_one_is_small_and_has_nothing_that_changes_by_itself(name):
    path = next(path for path in NOTEBOOKS if path.stem == name)
    assert path.stat().st_size < 1_500_000
    assert path.read_text(encoding="utf-8") == nbformat.writes(cleaned(saved(name))) + "\n"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shown_as_html_is_there_for_other_viewers_too(name):
    """Figures as images, everything else as text: exporters to PDF and some viewers show no HTML."""
    shown = [output["data"] for cell in code(saved(name)) for output in cell.outputs if "data" in output]
    assert all(data.get("text/plain", "").strip() for data in shown)
    assert all("image/png" in data for data in shown if "data:image/png" in data.get("text/html", ""))
