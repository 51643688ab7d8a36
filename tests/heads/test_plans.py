"""Ablation under everything that a plan may ask of the tower, against gates in one whole forward for each variant."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from headlens.backbone import LocalStream
from headlens.detectors import HeadCLIP
from headlens.heads.clean import clean_forward
from headlens.heads.measuring import PROBES, measure
from headlens.heads.variants import Head, Variant, heads_of, single_heads


class Leaky:
    """A residual adapter, matched to the token's norm; linear where its mask and norms are held."""

    def __init__(self, width: int, seed: int, mix: float = 0.1) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(width, width, generator=generator, dtype=torch.float64) / width**0.5
        self.mix = mix

    def _parts(self, x):
        hidden = x @ self.weight
        slope = torch.where(hidden > 0, 1.0, 0.01).to(x)
        scale = x.norm(dim=-1, keepdim=True) / (hidden * slope).norm(dim=-1, keepdim=True)
        return hidden, slope, scale

    def __call__(self, x):
        hidden, slope, scale = self._parts(x)
        return (1 - self.mix) * x + self.mix * scale * hidden * slope

    def pull(self, x, covector):
        _, slope, scale = self._parts(x)
        return (1 - self.mix) * covector + self.mix * scale * ((covector * slope) @ self.weight.T)


def extra_tokens(width: int, *shape: int):
    return torch.randn(*shape, width, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def plans(width: int):
    """Changes of the tiny detector's plan, by name."""
    adapters = {"global": {0: Leaky(width, 0), 2: Leaky(width, 1)}}
    local_adapters = {"local": {1: Leaky(width, 2), 3: Leaky(width, 3)}}
    tokens = {0: extra_tokens(width, 2), 2: extra_tokens(width, 3)}
    return {
        "as it is": {},
        "adapters": {"adapters": adapters},
        "local adapters": {"adapters": local_adapters},
        "both adapters": {"adapters": adapters | local_adapters},
        "adapter at the end": {"adapters": {"global": {3: Leaky(width, 4)}}},
        "local MLP": {"local": LocalStream(1, ("vv",), mlp=True)},
        "replaced": {"local": LocalStream(1, ("vv", "kk"), mode="replace")},
        "replaced, with MLP": {"local": LocalStream(2, ("vv",), mode="replace", mlp=True)},
        "no local stream": {"local": None},
        "tokens": {"tokens": tokens},
        "tokens of each image": {"tokens": {1: extra_tokens(width, 3, 2)}},
        "tokens, adapters, local MLP": {"tokens": tokens, "adapters": adapters, "local": LocalStream(1, mlp=True)},
    }


@pytest.fixture
def planned(make):
    """The tiny detector with its plan changed, and other fields of its config."""

    def made(name: str, **config):
        detector = make(**config)
        changes = plans(detector.backbone.vision.cfg.d_model)[name]

        class Planned(HeadCLIP):
            @property
            def plan(self):
                plan = super().plan
                streams = ("global",) if changes.get("local", plan.local) is None else ("global", "local")
                changed = replace(plan, **changes)
                kept = {s: w for s, w in plan.head_weights.items() if s in streams and s in changed.streams}
                return replace(changed, head_weights=kept)

        detector.__class__ = Planned
        return detector

    return made


def gated(detector, images, variant):
    """Margins with the variant's heads turned off by gates."""
    cfg = detector.backbone.vision.cfg
    gates = {s: torch.ones(1, cfg.n_layers, cfg.n_heads, dtype=torch.float64) for s in detector.plan.streams}
    for head in variant.heads:
        gates[head.stream][0, head.layer, head.head] = 0
    return detector.margins(images, gates=gates)


@pytest.mark.parametrize("pooling", [0.0, 0.5])
@pytest.mark.parametrize("name", list(plans(32)))
def test_ablated_margins_are_those_of_a_gated_forward(planned, images, name, pooling):
    detector = planned(name, score_pooling=pooling)
    heads = heads_of(detector, [0, 1, 3], [0, 1])
    variants = [*single_heads(heads), Variant("three", tuple(heads[::3])), Variant("two", tuple(heads[1:3]))]
    if "local" in detector.plan.streams:
        variants.append(Variant("both", (Head("local", 2, 1), Head("global", 2, 0), Head("local", 3, 0))))
    clean = clean_forward(detector, images)
    whole = detector.margins(images)
    torch.testing.assert_close(clean.margins.image, whole.image, rtol=0, atol=1e-12)
    answers = measure(clean, [*variants, *PROBES.values()] if pooling == 0 and name == "as it is" else variants)
    for row, variant in enumerate(variants):
        expected = gated(detector, images, variant)
        torch.testing.assert_close(answers.image_margin[row], expected.image, rtol=0, atol=1e-9)
        small = detector.scoring.patch_maps(expected.taps, clean.grid)
        torch.testing.assert_close(answers.patch_map[row], small, rtol=0, atol=1e-11)
        score = detector.score(expected, images.shape[2:]).joint_score
        torch.testing.assert_close(answers.joint_score[row], score, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["as it is", "local MLP", "tokens, adapters, local MLP"])
def test_the_probe_of_the_noise_floor_moves_by_rounding_alone(planned, images, name):
    clean = clean_forward(planned(name), images)
    probed = measure(clean, [PROBES["global"], *single_heads([Head("global", 1, 0)])]).image_margin
    moved = (probed - clean.margins.image).abs()
    assert 0 < moved[0].max() < 1e-10 < moved[1].max()
