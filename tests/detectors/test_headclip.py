"""The detector against a reference that is written from AnomalyCLIP's formulas on open_clip's own modules."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.detectors.methods.headclip import HeadCLIP
from headlens.detectors.methods.registry import preset
from headlens.detectors.parts.head_weights import HeadWeights
from headlens.detectors.scoring import pooled
from headlens.errors import ConfigError
from tests.tiny import SMALL


def reference_text(model, tokens: Tensor, context: Tensor, deep: list[Tensor]) -> Tensor:
    """[2, d]: context behind start-of-text, deep prompts over positions 1..k before blocks 1, 2, ..."""
    ends = tokens.argmax(1) + context.shape[1]
    x = model.token_embedding(tokens)
    x = torch.cat([x[:, :1], context, x[:, 1:]], 1)[:, : tokens.shape[1]] + model.positional_embedding
    for number, block in enumerate(model.transformer.resblocks):
        if 1 <= number <= len(deep):
            k = len(deep[number - 1])
            x = torch.cat([x[:, :1], deep[number - 1].expand(len(x), -1, -1), x[:, 1 + k :]], 1)
        x = block(x, attn_mask=model.attn_mask)
    x = model.ln_final(x)[torch.arange(len(x)), ends] @ model.text_projection
    return F.normalize(x, dim=-1)


def reference_image(model, images: Tensor, start: int, taps: tuple[int, ...]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Raw CLS [B, D], its embedding [B, d], and the local stream's patches [B, N, d] at each tap."""
    visual = model.visual
    x = visual.conv1(images).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
    x, y, found = visual.ln_pre(x), None, []
    for number, block in enumerate(visual.transformer.resblocks):
        if number >= start:
            width, heads = x.shape[2], block.attn.num_heads
            v = block.ln_1(x) @ block.attn.in_proj_weight[2 * width :].T + block.attn.in_proj_bias[2 * width :]
            v = v.unflatten(2, (heads, -1)).transpose(1, 2)
            z = (v @ v.mT * v.shape[-1] ** -0.5).softmax(-1) @ v
            y = (x if y is None else y) + block.attn.out_proj(z.transpose(1, 2).flatten(2))
        x = block(x)
        if number in taps:
            found.append(visual.ln_post(y)[:, 1:] @ visual.proj)
    return x[:, 0], visual.ln_post(x)[:, 0] @ visual.proj, found


@torch.no_grad()
@pytest.mark.parametrize("name", ["anomalyclip", "anomalyclip-published"])
def test_anomalyclip_is_its_formulas(name, theirs, clip):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    config = preset(name, **(SMALL | ({"taps": (3,)} if name.endswith("published") else {})))
    detector = HeadCLIP(clip, config, seed=3)
    for parameter in detector.parameters():
        parameter.mul_(20)  # as large as learned ones become
    tokens = clip.tokenizer(["object.", "damaged object."])
    text = reference_text(theirs, tokens, detector.prompts.context, list(detector.prompts.deep))
    torch.testing.assert_close(detector.text()[0], text, rtol=1e-4, atol=1e-5)

    raw, embedding, taps = reference_image(theirs, images, config.local_start, config.taps)
    cls = raw @ theirs.visual.proj if name.endswith("published") else embedding
    logits = F.normalize(cls, dim=-1) @ text.T / 0.07
    prediction = detector(images)
    torch.testing.assert_close(prediction.image_score, logits.softmax(1)[:, 1], rtol=1e-4, atol=1e-5)
    maps = [(F.normalize(patches, dim=-1) @ text.T / 0.07).softmax(2) for patches in taps]
    maps = sum((p[..., 1] + 1 - p[..., 0]) / 2 for p in maps) / len(maps)
    mean = torch.stack(list(prediction.tap_margins.values())).sigmoid().mean(0)
    torch.testing.assert_close(mean.flatten(1), maps, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_untrained_head_weights_change_nothing(clip, images):
    weighted = HeadCLIP(clip, preset("headclip", **SMALL), seed=1)
    without = HeadCLIP(clip, preset("headclip", head_weights="none", **SMALL), seed=1)
    a, b = weighted(images), without(images)
    torch.testing.assert_close(a.anomaly_map, b.anomaly_map)
    torch.testing.assert_close(a.joint_score, b.joint_score)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["free", "sigmoid", "softmax"])
def test_head_weights_reach_the_heads(kind, clip, images):
    detector = HeadCLIP(clip, preset("headclip", head_weights=kind, streams=("global", "local"), **SMALL), seed=1)
    before = detector(images)
    assert all(torch.allclose(w, torch.ones(4, 4)) for w in detector.head_weights().values())
    detector.weights.raw["global"][0, 0] -= 1.0
    after = detector(images)
    assert (before.image_score - after.image_score).abs().min() > 1e-6
    gates = {"global": detector.head_weights()["global"][None]}
    plain = HeadCLIP(clip, preset("headclip", head_weights="none", **SMALL), seed=1)
    score = plain.score(plain.margins(images, gates=gates), images.shape[2:])
    torch.testing.assert_close(after.anomaly_map, score.anomaly_map)


def test_softmax_weights_share_a_layer():
    weights = HeadWeights((3, 4), "softmax", ("local",))
    weights.raw["local"].data.normal_()
    torch.testing.assert_close(weights()["local"].sum(1), torch.full((3,), 4.0))


@torch.no_grad()
def test_a_score_depends_on_its_image_alone(clip, images):
    detector = HeadCLIP(clip, preset("headclip", **SMALL), seed=1)
    together = detector(images)
    alone = [detector(image[None]) for image in images.flip(0)][::-1]
    for name in ("anomaly_map", "image_score", "joint_score"):
        torch.testing.assert_close(getattr(together, name), torch.cat([getattr(one, name) for one in alone]))


@torch.no_grad()
def test_the_joint_score_is_what_its_config_says(clip, images):
    detector = HeadCLIP(clip, preset("headclip", **SMALL), seed=1)
    prediction = detector(images)
    peak = prediction.anomaly_map.flatten(1).amax(1)
    torch.testing.assert_close(prediction.joint_score, 0.5 * prediction.image_score + 0.5 * peak)
    other = detector.with_config(alpha=0.25, pool="top", top=0.1)(images)
    top = prediction.anomaly_map.flatten(1).sort(1, descending=True).values[:, :128].mean(1)  # a tenth of 32 x 40
    torch.testing.assert_close(other.joint_score, 0.75 * prediction.image_score + 0.25 * top)
    with pytest.raises(ConfigError, match="streams"):
        detector.with_config(streams=("global",))


def test_pooling_a_tiny_map_takes_a_pixel_at_least():
    assert float(pooled(torch.tensor([[[0.1, 0.9]]]), 0.01)) == pytest.approx(0.9)


@torch.no_grad()
def test_class_aware_prompts_follow_the_category(clip, images):
    detector = HeadCLIP(clip, preset("headclip", class_aware=True, **SMALL), seed=1)
    score = detector(images, ["bottle_cap", "screw", "bottle_cap"]).image_score
    one = detector(images[:1], ["bottle_cap"]).image_score
    other = detector(images[:1], ["screw"]).image_score
    torch.testing.assert_close(score[:1], one)
    assert abs(float(one - other)) > 1e-6


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"taps": (9,)}, "block 9"),
        ({"local_start": 4}, "block 4"),
        ({"deep": 4}, "deep is 4"),
        ({"context": 2}, "2 tok"),
    ],
)
def test_what_the_backbone_cannot_do_is_named(changes, named, clip):
    with pytest.raises(ConfigError) as error:
        HeadCLIP(clip, preset("headclip", **(SMALL | changes)))
    assert named in str(error.value)


def test_gradients_reach_what_is_learned_and_nothing_else(clip, images):
    detector = HeadCLIP(clip, preset("headclip", **SMALL), seed=1)
    prediction = detector(images)
    (prediction.joint_score.sum() + prediction.anomaly_map.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in detector.parameters())
    assert all(p.grad is None for p in clip.parameters())
    assert not any("backbone" in name for name in detector.state_dict())
