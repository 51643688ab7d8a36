from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pytest

from headlens.detectors.methods.registry import PRESETS, preset
from headlens.errors import ConfigError
from headlens.settings import Settings

if TYPE_CHECKING:
    from somewhere import OnlyForTypes


@dataclass(frozen=True)
class Layered(Settings):
    NAMES: ClassVar[OnlyForTypes] = ()
    layers: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Deeper(Layered):
    share: float = 0.5


def test_presets_differ_in_what_their_names_say():
    headclip, anomalyclip = preset("headclip"), preset("anomalyclip")
    assert headclip.head_weights != "none" and headclip.alpha > 0
    assert anomalyclip == preset("headclip", head_weights="none", alpha=0.0)
    assert preset("anomalyclip-published").taps == (23,) and not preset("anomalyclip-published").cls_norm
    assert preset("clip").prompts == "ensemble"


@pytest.mark.parametrize("name", PRESETS)
def test_a_config_comes_back_from_its_table(name):
    table = {k: list(v) if isinstance(v, tuple) else v for k, v in preset(name).table().items()}
    assert type(preset(name)).of(table) == preset(name)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"prompts": "learnt"}, "'learnt'"),
        ({"pool": "mean"}, "max, top"),
        ({"streams": ("sideways",)}, "sideways"),
        ({"streams": ()}, "streams"),
        ({"taps": ()}, "taps"),
        ({"taps": (5, 5)}, "taps"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"temperature": 0.0}, "temperature"),
        ({"top": 0.0}, "top"),
        ({"local_start": -1}, "local_start=-1"),
        ({"local_attention": ("vq",)}, "local_attention"),
        ({"local_attention": ()}, "local_attention"),
        ({"score_pooling": 1.5}, "score_pooling is 1.5"),
        ({"colour": "red"}, "HeadCLIPConfig has no field 'colour'"),
    ],
)
def test_a_bad_value_is_named(changes, named):
    with pytest.raises(ConfigError) as error:
        preset("headclip", **changes)
    assert named in str(error.value)


def test_an_unknown_preset_is_named():
    with pytest.raises(ConfigError, match=r"headclop.*anomalyclip"):
        preset("headclop")


def test_types_of_constants_are_not_evaluated():
    """Python 3.10 cannot evaluate a plain ``ClassVar``, and no Python a name that is there for type checkers alone."""
    assert Deeper(layers=[2, 3]).layers == (2, 3)
    with pytest.raises(ConfigError, match="share"):
        Deeper(share="all")
