"""The explorer without its page, which is tested in Chromium: what it begins with, answers and sends."""

from __future__ import annotations

import base64
import io
import sys

import numpy as np
import pytest
from PIL import Image

from headlens.detectors import build
from headlens.errors import ConfigError, DataError, ShapeError
from headlens.heads import Head
from headlens.lab import HeadView, explore
from headlens.lab.gallery import Gallery
from tests import tiny

LOCAL = Head("local", 2, 1)


@pytest.fixture
def explorer(detector, make, pictures):
    return explore({"industrial": [detector, make()], "medical": make()}, pictures, size=32)


def ask(explorer, **change):
    """As a message from the page does it."""
    asked = explorer.widget.asked
    explorer.widget.set_state({"asked": asked | {"turn": asked["turn"] + 1} | change})


def floats(sent, shape):
    return np.frombuffer(sent["values"], "<f4").reshape(shape)


def test_it_begins_at_the_first_anomalous_image(explorer, detector, pictures):
    assert explorer.image == next(n for n, record in enumerate(pictures.records) if record.anomalous) > 0
    normal, anomalous = pictures.pixels(0).image, pictures.pixels(3)
    assert explore(detector, [normal, anomalous], size=32).image == 1
    assert explore(detector, [normal, normal], size=32).image == 0


def test_it_begins_at_the_head_whose_weight_is_the_furthest_from_1(explorer, detector):
    weights = {name: values.numpy() for name, values in detector.head_weights().items()}
    weights["local"] = np.where(np.arange(4)[:, None] >= 1, weights["local"], 1)  # layers that have local heads
    furthest = max(abs(values - 1).max() for values in weights.values())
    head = explorer.head
    assert abs(weights[head.stream][head.layer, head.head] - 1) == furthest
    assert f"{weights[head.stream][head.layer, head.head]:.2f}" in explorer.widget.scene["facts"][0]


def test_it_begins_at_a_head_that_all_detectors_have(detector, pictures):
    runs = {"HeadCLIP": detector, "APRIL-GAN": build(tiny.clip(), "april-gan", taps=(1, 3))}
    explorer = explore(runs, pictures, size=32)
    assert explorer.head.stream == "global" and explorer.view.streams == ("global", "local")


def test_without_weights_it_begins_at_the_head_with_the_largest_direct_effect(pictures):
    explorer = explore(build(tiny.clip(), "clip", taps=(1, 3), local_start=1), pictures, size=32)
    effects = explorer.view.effects(explorer.view.domains[0], explorer.image, "local")
    layer, head = np.unravel_index(effects.argmax(), effects.shape)
    assert explorer.head == Head("local", layer + 1, head) and "direct effect" in explorer.widget.scene["facts"][0]


def test_where_local_effects_are_refused_it_begins_at_a_global_head(explorer, monkeypatch, detector, pictures):
    effects = HeadView.effects

    def refused(self, domain, image, stream):
        if stream == "local":
            raise ConfigError("no sum")
        return effects(self, domain, image, stream)

    monkeypatch.setattr(HeadView, "effects", refused)
    monkeypatch.setattr(HeadView, "learned", lambda self, domain, stream: np.empty((0, 4, 4)))
    other = explore(detector, pictures, size=32)
    assert other.head.stream == "global"
    assert other.widget.picture["effects"]["local"]["maps"] == [
        {"title": "a detector: direct effects", "why": "no sum"}
    ]


def test_what_is_sent_is_what_the_view_says(explorer):
    view, scene = explorer.view, explorer.widget.scene
    explorer.head, explorer.patch = LOCAL, (1, 2)
    scene, picture, fixed = explorer.widget.scene, explorer.widget.picture, explorer.widget.fixed
    for at, domain in enumerate(view.domains):
        for kind, shown in (
            ("attention", view.attention(domain, 3, LOCAL, (1, 2))),
            ("contribution", view.contribution(domain, 3, LOCAL)),
        ):
            np.testing.assert_allclose(floats(scene[kind]["maps"][at], view.grid), shown, rtol=1e-6)
        effects = floats(picture["effects"]["local"]["maps"][at], (3, 4))
        np.testing.assert_allclose(effects[::-1], view.effects(domain, 3, "local"), rtol=1e-6)
        weights = floats(fixed["weights"]["local"]["maps"][at], (3, 4))
        np.testing.assert_allclose(weights[::-1], view.learned(domain, "local").mean(0), rtol=1e-6)
    assert scene["attention"]["low"] == 0 and scene["contribution"]["low"] == -scene["contribution"]["high"]
    ends = fixed["weights"]["local"]
    assert ends["low"] + ends["high"] == pytest.approx(2)
    sent = np.asarray(Image.open(io.BytesIO(picture["png"])))
    np.testing.assert_array_equal(sent, view.pixels(3).image.permute(1, 2, 0).numpy())
    assert (scene["query"], scene["patch"]) == ((1, 2), (1, 2)) and "row 1, column 2" in scene["facts"][-2]


def test_of_a_global_head_patches_add_up(explorer):
    explorer.head = "L3H2"
    for domain, line in zip(explorer.view.domains, explorer.widget.scene["facts"], strict=False):
        total = f"{explorer.view.contribution(domain, 3, 'L3H2').sum():+.3g}"
        assert line.startswith(domain) and line.endswith(total.replace("-", "−"))


def test_the_outline_goes_around_the_mask(explorer, pictures):
    mask = np.zeros((20, 40), bool)
    mask[5:10, 10:30] = True
    given = pictures.pixels(3)
    explorer = explore(
        explorer.view.detectors["medical"], [type(given)(given.image, given.mask.new_tensor(mask))], size=32
    )
    (line,) = explorer.widget.picture["outline"]
    np.testing.assert_allclose((np.min(line, 0), np.max(line, 0)), ((0.25, 0.25), (0.75, 0.5)), atol=1e-4)


def test_the_page_asks_and_is_answered(explorer):
    ask(explorer, head="L2H1/local")
    assert (explorer.head, explorer.image) == (LOCAL, 3) and explorer.widget.scene["head"] == "L2H1/local"
    ask(explorer, patch=[0, 3])
    assert explorer.patch == (0, 3) and explorer.widget.scene["query"] == (0, 3)
    ask(explorer, image=7, patch=None)
    assert explorer.widget.picture["name"] == explorer.view.names[7] and explorer.patch is None
    assert explorer.widget.answered == explorer.widget.asked["turn"] == 4


def test_only_what_is_new_is_sent(explorer):
    sent = []
    explorer.widget.observe(lambda change: sent.append(change["name"]))
    ask(explorer, patch=[0, 3])
    assert "picture" not in sent and {"scene", "answered"} <= {*sent}


def test_what_goes_wrong_is_said_and_what_is_shown_stays(explorer, monkeypatch):
    before, scene = explorer.widget.asked, explorer.widget.scene
    for change, why in (
        ({"head": "L99H0"}, "layer 99"),
        ({"head": "x"}, "not a head"),
        ({"patch": [9, 0]}, "does not exist"),
    ):
        ask(explorer, **change)
        assert why in explorer.widget.error and explorer.widget.scene == scene
        assert (
            explorer.widget.asked | {"turn": 1} == before and explorer.widget.answered == explorer.widget.asked["turn"]
        )

    def broken(self, number):
        raise DataError("two.png: cannot be read")

    with monkeypatch.context() as patches:
        patches.setattr(Gallery, "pixels", broken)
        ask(explorer, image=5)
    assert explorer.widget.error == "two.png: cannot be read" and explorer.image == 3
    ask(explorer, image=5)
    assert explorer.widget.error == "" and explorer.image == 5


def test_an_error_of_ours_is_said_in_the_page_and_raised_into_the_log(explorer, monkeypatch):
    monkeypatch.setattr(HeadView, "panels", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ask(explorer, patch=[0, 0])
    assert explorer.widget.error.startswith("ZeroDivisionError") and explorer.widget.answered == 2


def test_it_is_set_from_code(explorer):
    explorer.head = "L2H1/local"
    explorer.patch = (1, 1)
    explorer.image = 7
    assert (explorer.image, explorer.head, explorer.patch) == (7, LOCAL, None)
    assert explorer.widget.asked["head"] == "L2H1/local" and repr(explorer).startswith("Explorer(L2H1/local at ")
    assert explorer.plot().figure.get_suptitle() == "L2H1, local stream"
    with pytest.raises(ShapeError, match="patch"):
        explorer.patch = (9, 9)
    assert explorer.patch is None


def test_a_page_without_a_kernel_has_the_figure(explorer):
    data, _ = explorer._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == explorer.widget.model_id
    assert 400 < Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).width < 1400
    assert data["text/plain"] == repr(explorer)


def test_without_anywidget_the_error_says_what_to_install(detector, pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(ConfigError, match=r"pip install 'headlens\[lab\]'"):
        explore(detector, pictures, size=32)
