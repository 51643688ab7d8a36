"""The controls, moved by a program as a hand would move them."""

from __future__ import annotations

import base64
import io
import sys

import pytest
from matplotlib.figure import Figure
from PIL import Image

from headlens.errors import ConfigError, DataError
from headlens.heads import Head
from headlens.lab import HeadView, explore


@pytest.fixture
def drawn(monkeypatch):
    """What the view was asked to draw; in place of its figures stand small ones that say it, which costs less."""
    asked = []

    def plot(self, *args):
        asked.append(args)
        fig = Figure(figsize=(2, 1))
        fig.text(0, 0, str(args))
        return fig, None

    monkeypatch.setattr(HeadView, "plot", plot)
    return asked


@pytest.fixture
def explorer(drawn, detector, make, pictures):
    return explore({"industrial": detector, "medical": make()}, pictures, size=32)


def test_every_control_redraws_once(explorer, drawn):
    drawn.clear()
    before = explorer.figure.value
    explorer.image.value = 7
    explorer.head.value = 1
    explorer.layer.value = 2
    explorer.patch.value = (1, 1)
    assert drawn == [
        (7, Head("local", 3, explorer.view.heads[-1]), None),
        (7, Head("local", 3, 1), None),
        (7, Head("local", 2, 1), None),
        (7, Head("local", 2, 1), (1, 1)),
    ]
    assert explorer.figure.value != before and bytes(explorer.figure.value[1:4]) == b"PNG"


def test_layers_follow_the_stream(explorer, drawn):
    explorer.stream.value = "global"
    assert (explorer.layer.min, explorer.layer.max) == (0, 3)
    explorer.layer.value = 0
    explorer.stream.value = "local"
    assert (explorer.layer.min, explorer.layer.value) == (1, 1)
    assert explorer.shown == Head("local", 1, explorer.view.heads[-1]) == drawn[-1][1]


def test_every_picture_and_patch_can_be_chosen(explorer, pictures):
    assert [name for name, _ in explorer.image.options] == [record.name for record in pictures.records]
    rows, columns = explorer.view.grid
    assert len(explorer.patch.options) == 1 + rows * columns


def test_what_goes_wrong_is_said_and_the_next_picture_is_drawn(explorer, monkeypatch):
    before, draw = explorer.figure.value, explorer.view.plot

    def broken(picture, *rest):
        if picture == 1:
            raise DataError("<b>: cannot be read")
        return draw(picture, *rest)

    monkeypatch.setattr(explorer.view, "plot", broken)
    explorer.image.value = 1
    assert "&lt;b&gt;: cannot be read" in explorer.message.value and explorer.figure.value == before
    explorer.image.value = 2
    assert explorer.message.value == "" and explorer.figure.value != before


def test_a_page_without_a_kernel_has_the_picture(detector, pictures):
    explorer = explore(detector, pictures, size=32)
    bundle = explorer._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]) == explorer.figure.value
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert 200 < Image.open(io.BytesIO(explorer.figure.value)).width < 1200


def test_without_ipywidgets_the_error_says_what_to_install(detector, pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ConfigError, match=r"pip install 'headlens\[lab\]'"):
        explore(detector, pictures, size=32)
