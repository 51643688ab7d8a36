"""What a drawing returns: shown once by a notebook, unpacked as matplotlib's own functions are, and saved."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from matplotlib import pyplot
from matplotlib.image import imread

from headlens import plots
from headlens.errors import ConfigError, RunError
from headlens.files import is_result

NO_FIGURE = {"axes_for", "limits_of", "named"}


@pytest.fixture
def drawn():
    return plots.overlay(None, np.array([[0.2, 0.8]]), "a map")


def shown(value):
    """The mime types that a notebook gets of the last line of a cell."""
    return InteractiveShell.instance().display_formatter.format(value)[0]


def test_every_drawing_returns_one():
    functions = {name: value for name in plots.__all__ if inspect.isfunction(value := getattr(plots, name))}
    returned = {name: inspect.signature(value).return_annotation for name, value in functions.items()}
    assert {name for name, kind in returned.items() if kind != "Figure"} == NO_FIGURE and len(returned) > 15


def test_a_notebook_shows_its_image(drawn, tmp_path):
    bundle = shown(drawn)
    assert sorted(bundle) == ["image/png", "text/plain"] and bundle["text/plain"] == repr(drawn)
    path = tmp_path / "shown.png"
    path.write_bytes(bundle["image/png"])
    width, height = drawn.figure.get_size_inches() * drawn.figure.dpi
    assert imread(path).shape[:2] == (int(height), int(width))


def test_a_figure_of_pyplot_is_left_to_pyplot():
    figure, ax = pyplot.subplots()
    on_given = plots.overlay(None, np.array([[0.2, 0.8]]), "a map", ax)
    assert on_given.figure is figure and on_given.axes is ax
    assert sorted(shown(on_given)) == ["text/plain"]
    pyplot.close(figure)
    assert "image/png" in shown(on_given)


def test_it_is_unpacked_as_what_matplotlib_returns(drawn):
    figure, ax = drawn
    assert figure is drawn.figure and ax is drawn.axes and ax.get_title() == "a map"


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_its_suffix_says_what_is_saved(drawn, tmp_path, suffix, start):
    path = drawn.save(str(tmp_path / "new" / f"map.{suffix}"))
    assert path.read_bytes().startswith(start)
    assert is_result(path) == (suffix == "png"), "a result is not taken for one of the user's images"


def test_saving_says_what_went_wrong(drawn, tmp_path):
    with pytest.raises(ConfigError, match=r"map\.docx: figures are saved as .*\.pdf"):
        drawn.save(tmp_path / "map.docx")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        drawn.save(tmp_path / "file" / "map.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
