"""Linear read-outs, against ``nn.Linear`` and torch's own initialisation."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from headlens.detectors.parts.projections import TapProjections
from headlens.detectors.readout import Readout
from headlens.detectors.text import Pair
from tests.backbone.models import close
from tests.tiny import clip as tiny


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_readout_is_the_layer_behind_the_norm(norm, bias):
    tower, tokens = tiny().vision, torch.randn(2, 7, 32, dtype=torch.float64)
    projections = TapProjections((1, 3), tower, bias=bias)
    readout, layer = projections.readouts(tower, norm)[3], deepcopy(projections["3"]).double()
    expected = layer(F.layer_norm(tokens, (32,), tower.ln_final.weight, tower.ln_final.bias) if norm else tokens)
    close(readout(tokens), expected, 1e-12)
    close(readout.in_full_precision(tokens), expected, 1e-12)
    text = Pair(torch.randn(2, 2, expected.shape[-1], dtype=torch.float64))
    ((at, covector),), rest = readout.held(tokens, text)
    assert at is None
    close(covector.of(tokens) + rest, text.margin(expected), 1e-12)


def test_gradients_reach_the_layer_whatever_the_precision_of_the_tower():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        tower = tiny(dtype).vision
        projections = TapProjections((1,), tower)
        Readout.linear(projections["1"], tower)(torch.ones(1, 2, 32, dtype=dtype)).sum().backward()
        assert projections["1"].weight.dtype == torch.float32
        assert projections["1"].weight.grad.eq(2).all() and projections["1"].bias.grad.eq(2).all()


@pytest.mark.parametrize("init", ["fan_in", "xavier"])
def test_initial_values_are_distributed_as_torchs_and_follow_the_seed(init):
    tower = tiny().vision
    one, again, other = (TapProjections((0, 1), tower, init=init, seed=seed) for seed in (5, 5, 6))
    assert all(map(torch.equal, one.state_dict().values(), again.state_dict().values()))
    assert not any(map(torch.equal, one.state_dict().values(), other.state_dict().values()))
    assert not torch.equal(one["0"].weight, one["1"].weight)
    theirs = torch.nn.Linear(*reversed(one["0"].weight.shape))
    if init == "xavier":
        torch.nn.init.xavier_uniform_(theirs.weight)
    outputs, inputs = theirs.weight.shape
    of_weight = (6 / (inputs + outputs)) ** 0.5 if init == "xavier" else inputs**-0.5
    for name, bound in {"weight": of_weight, "bias": inputs**-0.5}.items():
        ours, reference = getattr(one["0"], name), getattr(theirs, name)
        assert float(reference.detach().abs().max()) <= bound
        assert 0.8 * bound < float(ours.detach().abs().max()) <= bound
        assert float(ours.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.3)
