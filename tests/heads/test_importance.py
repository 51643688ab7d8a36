"""Identities 8, 9 and 11: gate gradients against finite differences, activations, and integrals along the gates."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headlens.backbone import load
from headlens.detectors.methods.headclip import HeadCLIP
from headlens.errors import ConfigError
from headlens.heads.importance import TARGETS, gate_gradients, importance, target
from tests.backbone.models import close
from tests.heads.oracles import HOOKS, hooked

STEP = 1e-5


def gates_of(value: float = 1.0, batch: int = 3) -> dict[str, torch.Tensor]:
    return {stream: torch.full((batch, 4, 4), value, dtype=torch.float64) for stream in ("global", "local")}


@pytest.mark.parametrize("name", TARGETS)
def test_8_gradients_are_finite_differences(name, detector, images):
    value, gradients = gate_gradients(detector, images, name)
    prediction = hooked(detector, images, [])
    score = prediction.joint_score
    close(value, {"image_margin": prediction.image_margin, "joint_score": score, "joint_margin": score.logit()}[name])
    for stream in ("global", "local"):
        for layer, head in ((0, 1), (1, 3), (2, 0), (3, 2)):
            ends = []
            for step in (-STEP, STEP):
                gates = gates_of()
                gates[stream][:, layer, head] += step
                ends.append(target(detector, images, name, gates=gates))
            close(gradients[stream][:, layer, head], (ends[1] - ends[0]) / (2 * STEP), 1e-7)


def test_8_gradients_are_gradient_times_activation_at_z(detector, images):
    _, gradients = gate_gradients(detector, images, "image_margin")
    kept = {}

    def keep(z, hook):
        kept[hook.name] = z.requires_grad_() if z.is_leaf else z
        return kept[hook.name]

    names = [HOOKS["global"].format(layer) for layer in range(4)]
    value = hooked(detector, images, [(name, keep) for name in names]).image_margin.sum()
    for layer, own in enumerate(torch.autograd.grad(value, [kept[name] for name in names])):
        z = kept[names[layer]]
        close(gradients["global"][:, layer], (z * own).sum((1, 3)))


def test_9_gradients_along_the_gates_add_up_to_the_difference(detector, images):
    """Integrated gradients from all gates 0 to all gates 1, by Gauss and Legendre's rule."""
    nodes, shares = np.polynomial.legendre.leggauss(96)
    total = torch.zeros(3, dtype=torch.float64)
    for node, share in zip((nodes + 1) / 2, shares / 2, strict=True):
        _, gradients = gate_gradients(detector, images, "image_margin", at=gates_of(float(node)))
        total += share * sum(own.sum((1, 2)) for own in gradients.values())
    ends = [target(detector, images, "image_margin", gates=gates_of(value)) for value in (0.0, 1.0)]
    close(total, ends[1] - ends[0], 1e-8)


def test_11_one_image_at_a_time_and_nothing_is_left_behind(detector, images):
    detector.requires_grad_(True)
    _, together = gate_gradients(detector, images)
    for row in range(3):
        _, alone = gate_gradients(detector, images[row : row + 1])
        for stream, own in alone.items():
            close(own[0], together[stream][row])
    with pytest.raises(ConfigError, match="unknown target 'auroc'"):
        gate_gradients(detector, images, "auroc")
    assert all(p.grad is None for p in [*detector.parameters(), *detector.backbone.parameters()])
    vision = detector.backbone.vision
    assert not any(point._forward_hooks or point._backward_hooks for point in vision.hook_dict.values())


def test_in_float32_on_the_embedded_backbone():
    detector = HeadCLIP(load("mini"))
    images = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    _, gradients = gate_gradients(detector, images, "image_margin")
    gates = {s: torch.ones(2, 24, 16) for s in ("global", "local")}
    ends = []
    for step in (-0.02, 0.02):
        gates["global"][:, 18, 7] = 1 + step
        ends.append(target(detector, images, "image_margin", gates=gates))
    close(gradients["global"][:, 18, 7], (ends[1] - ends[0]) / 0.04, 1e-3)


def test_over_a_data_set(make, pictures):
    detector = make(torch.float32)
    result = importance(detector, pictures, metrics=("image_margin", "joint_margin"), batch=5)
    assert len(result.frame) == len(pictures) * 2 * (16 + 12)
    summary = result.summary.query("metric == 'joint_margin'")
    assert (summary["importance"] >= summary["signed"].abs() - 1e-9).all()
    norms = (summary["relative"] ** 2).groupby([summary["stream"], summary["layer"]]).sum()
    assert np.allclose(norms, 1, atol=1e-5)
    # The image margin does not depend on local heads.
    assert (result.summary.query("metric == 'image_margin' and stream == 'local'")["importance"] == 0).all()
    other = importance(detector, pictures, metrics=("image_margin", "joint_margin"), batch=12)
    assert np.allclose(other.frame["value"], result.frame["value"], atol=1e-4)


def test_what_was_killed_goes_on_to_the_same_bits(make, pictures, tmp_path):
    detector = make(torch.float32)
    whole = importance(detector, pictures, batch=5)

    def killed(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        importance(detector, pictures, batch=5, out=tmp_path / "slopes", progress=killed)
    again = importance(detector, pictures, batch=5, out=tmp_path / "slopes")
    assert again.frame.equals(whole.frame)
    axes = again.plot().axes
    assert [ax.get_title() for ax in axes] == ["global heads", "local heads"]
    with pytest.raises(ConfigError, match="'image_margin' was not a target; available: joint_margin"):
        again.plot(metric="image_margin")
    with pytest.raises(ConfigError, match="unknown target 'foo'"):
        importance(detector, pictures, metrics=("foo",), out=tmp_path / "never")
    assert not (tmp_path / "never").exists()
