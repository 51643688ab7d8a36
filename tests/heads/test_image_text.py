"""A method whose text depends on the image: held, or following what is ablated, against the plain hook loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headlens import data
from headlens.detectors.methods.headclip import HeadCLIP
from headlens.detectors.reading import Features, Reading
from headlens.detectors.text import Pair
from headlens.errors import ConfigError
from headlens.heads.ablation import ablate
from headlens.heads.importance import gate_gradients
from headlens.heads.variants import Head, Variant, single_heads
from tests.heads.oracles import HOOKS

VARIANTS = [
    *single_heads([Head("global", 0, 1), Head("global", 3, 2), Head("local", 2, 0)]),
    Variant("three", (Head("global", 1, 0), Head("global", 2, 3), Head("local", 3, 1))),
]


class Conditioned(HeadCLIP):
    """HeadCLIP with both prompts moved by the image's CLS and by its patches."""

    def reading(self, images: Tensor, categories: Sequence[str] = ()) -> Reading:
        reading = super().reading(images, categories)
        prompts = self.text_of(categories or ["object"])

        def follow(features: Features) -> Pair:
            moved = torch.tanh(features.cls + features.taps[3].mean(1))  # (R, d_e)
            shift = torch.stack([moved, moved.flip(-1)], 1)
            return Pair(F.normalize(prompts + 0.3 * F.normalize(shift, dim=-1), dim=-1), self.config.temperature)

        return replace(reading, text=follow(reading.features(self.see(images, reading))), follow=follow)


@pytest.fixture
def conditioned(detector) -> Conditioned:
    other = Conditioned(detector.backbone, detector.config)
    other.load_state_dict(detector.state_dict())
    return other.requires_grad_(False)


def plain(detector, images: Tensor, reading: Reading, heads: Sequence[Head], follows: bool):
    """Prediction with heads at zero, by hooks; the text is that of ``reading``, or of the hooked CLS."""

    def zero(number):
        def edit(z, hook):
            z = z.clone()
            z[:, :, number] = 0
            return z

        return edit

    hooks = [(HOOKS[head.stream].format(head.layer), zero(head.head)) for head in heads]
    out = detector.backbone.vision.run_with_hooks(images, reading.plan, fwd_hooks=hooks)
    if follows:
        reading = replace(reading, text=reading.follow(reading.features(out)))
    return detector.score(reading.margins(reading.features(out)), images.shape[2:])


@torch.no_grad()
@pytest.mark.parametrize("text", ["held", "follows"])
@pytest.mark.parametrize("changes", [{}, {"score_pooling": 0.4}])
def test_text_is_held_or_follows_as_in_the_hook_loop(text, changes, conditioned, pictures):
    detector = conditioned.with_config(**changes)
    result = ablate(detector, pictures, VARIANTS, text=text, batch=5, metrics=(), replicates=5)
    assert result.provenance["text"] == text
    (batch,) = data.Loader(pictures, data.Preprocess(32), len(pictures))
    images = batch.images.double()
    reading = detector.reading(images)
    assert reading.text.text.shape[:2] == (12, 2)
    rows = result.frame.set_index(["variant", "metric"])["value"]
    for variant in VARIANTS:
        expected = plain(detector, images, reading, variant.heads, text == "follows")
        other = plain(detector, images, reading, variant.heads, text != "follows")
        for metric in ("image_margin", "joint_score"):
            measured, wanted = torch.tensor(rows[variant.name, metric].to_numpy()), getattr(expected, metric)
            assert torch.allclose(measured, wanted, rtol=0, atol=1e-9)
        if any(head.stream == "global" for head in variant.heads):
            assert (expected.image_margin - other.image_margin).abs().min() > 1e-4


def test_gates_hold_the_text(conditioned, images):
    """By finite differences with the reading held, as the gradients take it."""
    _, gradients = gate_gradients(conditioned, images, "image_margin")
    reading, ends = conditioned.reading(images), []
    for step in (-1e-5, 1e-5):
        gates = {"global": torch.ones(3, 4, 4, dtype=torch.float64)}
        gates["global"][:, 1, 2] += step
        ends.append(reading.margins(reading.features(conditioned.see(images, reading, gates))).image)
    torch.testing.assert_close(gradients["global"][:, 1, 2], (ends[1] - ends[0]) / 2e-5, rtol=1e-6, atol=1e-8)


def test_nothing_follows_where_the_text_does_not_depend_on_the_image(detector, pictures):
    with pytest.raises(ConfigError, match=r"text 'follows': the text of headclip does not depend .*'held' is exact"):
        ablate(detector, pictures, VARIANTS, text="follows")
    with pytest.raises(ConfigError, match="unknown text 'free'; available: held, follows"):
        ablate(detector, pictures, VARIANTS, text="free")
