"""A backbone in half precision: results in float32, near those in float32."""

from __future__ import annotations

import os
from importlib import import_module
from unittest.mock import patch

import numpy as np
import pytest
import torch

from headlens import heads, provenance
from headlens.backbone import load
from headlens.detectors.methods.headclip import HeadCLIP, HeadCLIPConfig
from headlens.detectors.parts.prompts import LearnedPrompts
from headlens.detectors.precision import at_precision
from headlens.errors import ConfigError
from headlens.precision import allow_tf32, repeatable, rounding_unit


def test_half_precision_answers_every_question(make, pictures):
    half, single = make(torch.bfloat16), make(torch.float32)
    variants = heads.single_heads(heads.heads_of(half, [1, 3]))
    for ask in (
        lambda detector: heads.contributions(detector, pictures, check_sums=True).frame["value"],
        lambda detector: heads.importance(detector, pictures, metrics=("image_margin",)).frame["value"],
        lambda detector: heads.ablate(detector, pictures, variants, metrics=(), replicates=5).frame["value"],
    ):
        a, b = ask(half).to_numpy(), ask(single).to_numpy()
        assert a.dtype == np.float32
        assert np.abs(a - b).mean() < 0.05 * np.abs(b).mean()


def test_a_detector_in_another_precision_is_a_copy(make, images):
    single = make(torch.float32)
    kept = single.backbone.vision.proj.clone()
    with at_precision(single, "bfloat16") as half:
        assert half.backbone.vision.proj.dtype == torch.bfloat16
        clean = heads.clean_forward(half, images.float())
        assert clean.x[-1].dtype == clean.mid[1].dtype == clean.y[2].dtype == torch.float32  # streams are not rounded
        assert clean.z["global"][0].dtype == torch.bfloat16
    assert torch.equal(single.backbone.vision.proj, kept)
    with at_precision(single) as same:
        assert same is single
    with pytest.raises(ConfigError, match="tf32 is one of CUDA GPUs; on cpu take"), at_precision(single, "tf32"):
        pass
    with pytest.raises(ConfigError, match="float8"), at_precision(single, "float8"):
        pass


def test_settings_of_torch_end_with_the_block():
    flags, gpu = torch.backends.cuda.matmul, torch.device("cuda")  # they can be set where there is none
    assert not flags.allow_tf32
    with allow_tf32(True, gpu):
        assert flags.allow_tf32 and rounding_unit(torch.float32, gpu) == 2**-10
        assert rounding_unit(torch.float32, torch.device("cpu")) == torch.finfo(torch.float32).eps
        with allow_tf32(False, gpu):
            assert not flags.allow_tf32
    assert not flags.allow_tf32 and rounding_unit(torch.float32, gpu) == torch.finfo(torch.float32).eps


def test_gradients_repeat_within_a_block_and_only_there(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # what somebody has chosen stays
    asked = torch.are_deterministic_algorithms_enabled
    with repeatable(torch.device("cpu")), repeatable(torch.device("cuda"), wanted=False):
        assert not asked()
    with pytest.raises(ValueError), repeatable(torch.device("cuda")):
        assert asked() and not torch.utils.deterministic.fill_uninitialized_memory
        raise ValueError
    assert not asked() and torch.utils.deterministic.fill_uninitialized_memory
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_a_gpu_repeats_importance_to_the_bit(precision):
    images = torch.randn(8, 3, 224, 224, device="cuda")
    twelve = HeadCLIP(load("ViT-B-16", device="cuda"), HeadCLIPConfig(taps=(5, 11)))
    with at_precision(twelve, precision) as detector, repeatable(detector.device):
        first, *others = [heads.gate_gradients(detector, images)[1] for _ in range(5)]
    assert all(torch.equal(own[stream], first[stream]) for own in others for stream in first)


def test_the_noise_floor_is_that_of_the_precision(make, pictures):
    single = make(torch.float32)
    variants = heads.single_heads(heads.heads_of(single, [1, 2]))

    def swept(precision):
        result = heads.ablate(single, pictures, variants, metrics=(), replicates=5, precision=precision)
        frame = result.frame[result.frame["metric"] == "joint_margin"]
        return result, frame[frame["kind"] != "none"]["effect"].to_numpy(), frame[frame["kind"] == "none"]

    _, exact, fine = swept("float32")
    found, rough, probes = swept("bfloat16")
    assert found.provenance["precision"] == "bfloat16"
    error = np.abs(rough - exact).mean()
    floor = {stream: own["effect"].abs().mean() for stream, own in probes.groupby("stream")}
    assert floor["global"] > 20 * fine[fine["stream"] == "global"]["effect"].abs().mean()
    assert 0.1 * error < floor["global"] < 10 * error


def test_deterministic_importance_is_the_same_importance(make, pictures, monkeypatch):
    single, asked = make(torch.float32), []
    module = import_module("headlens.heads.importance")  # the package shows the verb by that name
    monkeypatch.setattr(module, "repeatable", lambda device, wanted: asked.append(wanted) or repeatable(device, wanted))
    plain, same = (heads.importance(single, pictures, deterministic=wanted) for wanted in (False, True))
    assert asked == [False, True]
    assert plain.frame.equals(same.frame)
    assert same.provenance["deterministic"] and "deterministic" not in plain.provenance


def test_importance_has_no_float16(make, pictures):
    with pytest.raises(ConfigError, match="bfloat16"):
        heads.importance(make(torch.float32), pictures, precision="float16")
    with pytest.raises(ConfigError, match="bfloat16"):
        heads.importance(make(torch.float16), pictures)


def test_results_tell_that_torch_rounds_products(make, monkeypatch):
    detector = make(torch.float32)
    assert provenance.computed(detector)["precision"] == "torch.float32"
    monkeypatch.setattr(provenance, "rounding_unit", lambda dtype, device: 2.0**-10)
    assert provenance.computed(detector)["precision"] == "torch.float32, products in TF32"
    assert provenance.computed(detector, "bfloat16")["precision"] == "bfloat16"


def test_text_is_read_again_when_prompts_change(make):
    detector = make(torch.float32)
    read = patch.object(LearnedPrompts, "forward", autospec=True, side_effect=LearnedPrompts.forward)
    with torch.no_grad(), read as forward:
        before = detector.text()
        assert torch.equal(detector.text(), before) and forward.call_count == 1
        detector.prompts.context.mul_(1.5)
        after = detector.text()
        assert forward.call_count == 2
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, detector.text())  # with gradients nothing is kept
