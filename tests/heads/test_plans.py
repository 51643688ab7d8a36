"""Ablation under everything that a plan may ask of the tower, against gates in one whole forward for each variant."""

from __future__ import annotations

import pytest
import torch

from headlens.heads.clean import clean_forward
from headlens.heads.measuring import PROBES, measure
from headlens.heads.replacement import mean_heads
from headlens.heads.variants import Head, Variant, heads_of, single_heads
from tests.heads.plans import PLANS


def gated(detector, images, variant):
    """Margins with the variant's heads turned off by gates."""
    cfg = detector.backbone.vision.cfg
    gates = {s: torch.ones(1, cfg.n_layers, cfg.n_heads, dtype=torch.float64) for s in detector.plan.streams}
    for head in variant.heads:
        gates[head.stream][0, head.layer, head.head] = 0
    return detector.margins(images, gates=gates)


@pytest.mark.parametrize("pooling", [0.0, 0.5])
@pytest.mark.parametrize("name", PLANS)
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
        small = detector.scoring.patch_maps(expected, clean.grid)
        torch.testing.assert_close(answers.patch_map[row], small, rtol=0, atol=1e-11)
        score = detector.score(expected, images.shape[2:]).joint_score
        torch.testing.assert_close(answers.joint_score[row], score, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["as it is", "local MLP", "tokens, adapters, local MLP"])
def test_the_probe_of_the_noise_floor_moves_by_rounding_alone(planned, images, name):
    clean = clean_forward(planned(name), images)
    probed = measure(clean, [PROBES["global"], *single_heads([Head("global", 1, 0)])]).image_margin
    moved = (probed - clean.margins.image).abs()
    assert 0 < moved[0].max() < 1e-10 < moved[1].max()


def test_extra_tokens_have_means_of_their_own(planned, images):
    clean = clean_forward(planned("tokens"), images)
    for layer in (2, 3):
        z, mean = clean.z["local"][layer], mean_heads([clean])["local"][layer][0]
        torch.testing.assert_close(mean[0], z[:, 0].mean(0))
        torch.testing.assert_close(mean[clean.patches], z[:, clean.patches].mean((0, 1)).expand(len(mean) - 4, -1, -1))
        torch.testing.assert_close(mean[-3:], z[:, -3:].mean(0))
