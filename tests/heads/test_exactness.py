"""What the lens refuses: every refusal with what it says, asked of parts and not of methods."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from headlens.backbone import LocalStream, VisionPlan
from headlens.detectors import PatchMean, Reading, Readout
from headlens.detectors.parts.adaptation import Adapted
from headlens.detectors.parts.self_calibration import self_calibrated
from headlens.errors import ConfigError, ShapeError
from headlens.heads import exactness
from headlens.heads.variants import Head

BESIDE = VisionPlan((1, 3), LocalStream(1), adapters={"global": {2: abs}, "local": {1: abs, 9: abs}})
ADAPTED = torch.zeros(1, 3, 3), torch.zeros(1, 3)
LINEAR = Readout(torch.eye(3), tail=Adapted(*ADAPTED))
TANH = Readout(torch.eye(3), tail=Adapted(*ADAPTED, sentences=torch.zeros(1, 3, 3)))
REFUSALS = {
    "check_tap": (lambda check: check(BESIDE, 2), ShapeError, "tap 2 is not read; taps are 1, 3"),
    "check_local": (lambda check: check(VisionPlan((3,))), ConfigError, "no local stream.*take its global heads"),
    "check_reached": (
        lambda check: check({("global", 3)}, "global", 1),
        ConfigError,
        r"heads of layer 1 of the global stream have no direct effect.*contributions has the stream below it.*'below'",
    ),
    "check_straight": (
        lambda check: check(BESIDE, [Head("local", 2, 0), Head("global", 3, 0), Head("global", 2, 1)], "a name"),
        ConfigError,
        r"a name for L2H1: the adapter after block 2.*name heads above block 2",
    ),
    "check_unadapted": (
        lambda check: check(BESIDE, Head("global", 3, 0)),
        ConfigError,
        "L3H0 as a target.*attribute a score",
    ),
    "check_summed": (
        lambda check: check(TANH, "margins of patches"),
        ConfigError,
        "margins of patches are not sums over heads: they are read through the tanh.*use ablate or importance",
    ),
    "check_one_map": (
        lambda check: check(LINEAR, "local"),
        ConfigError,
        "heads of the local stream have no names.*name global heads",
    ),
    "check_attends": (
        lambda check: check(VisionPlan((3,), self_calibrated(4)), "local", "maps of attention"),
        ConfigError,
        "maps of attention: heads of the local stream mix patches by similarities.*take contributions, ablate",
    ),
    "check_image_summed": (
        lambda check: check(Reading(BESIDE, None, {}, None, image_text=SimpleNamespace(opaque="graphs over frames"))),
        ConfigError,
        "not a sum over heads: it is read through graphs over frames.*ablate and importance",
    ),
    "check_reads_cls": (
        lambda check: check(Reading(VisionPlan((3,)), None, {}, None, PatchMean(3))),
        ConfigError,
        "CLS has no part in this detector's image feature.*map_parts",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_of_plans(name):
    refuse, error, message = REFUSALS[name]
    with pytest.raises(error, match=message):
        refuse(getattr(exactness, name))


def test_refusals_of_detectors(detector):
    exactness.check_unhooked(detector, "a thing")
    exactness.check_gradients(detector, None)
    with pytest.raises(ConfigError, match="smaller than float16 can tell from 0; choose bfloat16"):
        exactness.check_gradients(detector, "float16")
    with (
        detector.backbone.vision.hooks([("ln_final.hook_scale", lambda scale, hook: scale)]),
        pytest.raises(ConfigError, match=r"a thing would not call the hook at vision\.ln_final\.hook_scale: remove it"),
    ):
        exactness.check_unhooked(detector, "a thing")
    with pytest.raises(ConfigError, match="text"):
        exactness.check_follows(detector)


def test_no_refusal_is_without_a_test():
    assert {name for name in vars(exactness) if name.startswith("check_")} == {
        *REFUSALS,
        "check_follows",
        "check_gradients",
        "check_unhooked",
    }


def test_what_no_adapter_changes_is_not_refused():
    exactness.check_straight(BESIDE, [Head("local", 2, 0), Head("global", 3, 0)], "a name")
    exactness.check_unadapted(VisionPlan((1, 3), adapters={"global": {2: abs}}), Head("global", 3, 0))
    exactness.check_reads_cls(Reading(BESIDE, None, {}, None))
    exactness.check_local(BESIDE)
    exactness.check_tap(BESIDE, 3)
    exactness.check_attends(BESIDE, "local", "maps of attention")
    exactness.check_attends(VisionPlan((3,), self_calibrated(4)), "global", "maps of attention")
    exactness.check_summed(LINEAR, "margins of patches")
    exactness.check_one_map(Readout(torch.eye(3)), "local")
