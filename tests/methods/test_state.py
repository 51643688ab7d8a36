"""Nothing is left behind by what fails, and what is learned comes back to the bit: from a file, on another backbone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from headlens.attribution import METHODS
from headlens.detectors import Detector, TrainingConfig
from headlens.errors import ConfigError, HeadlensError
from headlens.training.run import load_run, save_run
from tests.methods.cases import REFUSALS, clip_of, completed
from tests.methods.lens import LENS

FAILING = ("ablate", "ablate, mean", "importance", "contributions", "name_heads", "capture", "screen", "faithfulness")
FAILING += tuple(  # gradients are taken as those of input_x_gradient are
    f"attribute {name}, image_margin"
    for name in METHODS
    if name not in ("integrated_gradients", "gradient_shap", "smooth_grad", "edges")
)


def state(detector: Detector) -> dict[str, object]:
    """Everything of a detector, its towers and torch that work on it may change."""
    backbone = detector.backbone
    modules = {
        f"{part}.{name}": module
        for part, whole in (("detector", detector), ("vision", backbone.vision), ("text", backbone.text))
        for name, module in whole.named_modules()
    }
    tensors = {**detector.state_dict(), **{f"backbone.{name}": p for name, p in backbone.named_parameters()}}
    return {
        "hooks": {name: hooks(module) for name, module in modules.items()},
        "modes": {name: module.training for name, module in modules.items()},
        "requires_grad": [p.requires_grad for p in (*detector.parameters(), *backbone.parameters())],
        "gradients": [p.grad is None for p in (*detector.parameters(), *backbone.parameters())],
        "tensors": {name: float(tensor.double().sum()) for name, tensor in tensors.items()},
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "threads": torch.get_num_threads(),
        "default dtype": torch.get_default_dtype(),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()),
        "generator": torch.get_rng_state().sum().item(),
    }


def hooks(module: nn.Module) -> int:
    """How many are set, of torch's and of TransformerLens's."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "fwd_hooks", "bwd_hooks")
    return sum(len(getattr(module, name, ())) for name in names)


class OnPurposeError(Exception):
    """What stops a verb in the middle."""


def fail(n: int) -> None:
    raise OnPurposeError


def test_nothing_is_left_behind_after_an_exception(case, detector, dataset):
    before = state(detector)
    for name in FAILING:
        with pytest.raises(HeadlensError if name in REFUSALS[case] else OnPurposeError):
            LENS[name](detector, dataset, progress=fail)
        assert state(detector) == before, name


def test_nothing_is_left_behind_by_what_works(case, detector, dataset, shown):
    before = state(detector)
    works = {"ablate", "importance", "contributions", "attribute legrad, image_margin"} - REFUSALS[case].keys()
    for name in sorted(works):
        LENS[name](detector, dataset, precision="bfloat16")
        assert state(detector) == before, name
    with pytest.raises(OnPurposeError), detector.backbone.vision.hooks([("blocks.1.attn.hook_z", fail_at)]):
        detector(shown)
    assert state(detector) == before


def fail_at(z, hook):
    raise OnPurposeError


@torch.no_grad()
def test_the_same_tensors_are_read_in_another_way_and_back(case, detector, shown):
    expected, config = detector(shown), detector.config
    changes = {"alpha": 0.75, "sigma": 9.0} if detector.reads_map else {}
    other = detector.with_config(**changes)
    assert not changes or not torch.equal(other(shown).joint_score, expected.joint_score)
    back = other.with_config(**{name: getattr(config, name) for name in changes})
    assert back.config == config
    for again in (back, detector.on(clip_of(case)), detector.on(detector.backbone, replace(config))):
        assert again.state_dict().keys() == detector.state_dict().keys()
        assert torch.equal(again(shown).anomaly_map, expected.anomaly_map)
        assert torch.equal(again(shown).joint_score, expected.joint_score)
    for learned in config.LEARNED:
        with pytest.raises(ConfigError, match=f"{learned} decides what is learned"):
            detector.with_config(**{learned: getattr(config, learned)})


def test_what_is_learned_has_the_shapes_that_its_config_says(detector):
    shapes = detector.config.learned_shapes(detector.backbone.vision.cfg, detector.backbone.text.cfg)
    assert {name: tuple(tensor.shape) for name, tensor in detector.state_dict().items()} == shapes
    assert {name for name, _ in detector.named_parameters()} == set(shapes)


@torch.no_grad()
def test_a_run_folder_gives_the_same_bits(case, detector, shown, tmp_path):
    save_run(tmp_path, detector, TrainingConfig(seed=7), {"threshold": 0.4})
    run = load_run(tmp_path, clip_of(case))
    assert run.detector.config == detector.config and run.detector.method == detector.method
    expected, again = detector(shown), completed(case, run.detector)(shown)
    for name in ("anomaly_map", "joint_score", "image_margin"):
        assert torch.equal(getattr(again, name), getattr(expected, name))
