"""Crane against its formula on open_clip's modules, in float64; its losses; text that follows; what it refuses."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor

from headlens.detectors import PRESETS, Answers, CraneConfig, HeadCLIPConfig, TrainingConfig, build
from headlens.errors import ConfigError
from headlens.heads import Head, clean_forward, single_heads
from headlens.heads.measuring import measure
from tests.backbone.models import close, random_clip
from tests.methods.cases import CASES, LAST, PROMPTS, images
from tests.methods.formula import predicted
from tests.tiny import EVEN, clip


@cache
def theirs() -> CLIP:
    return random_clip(EVEN)


@cache
def crane():
    return CASES["crane"]()


def text_of(model: CLIP, prompts, shown: Tensor | None = None) -> Tensor:
    """[2, d_e]: ``[SOT] V1..V5 [image] object. [EOT]``, position by position, deep prompts before blocks 1 and 2."""
    pair = []
    for side, sentence in enumerate(("object.", "damaged object.")):
        tokens = clip(even=True).tokenizer([sentence])[0]
        words = model.token_embedding(tokens[: int(tokens.argmax()) + 1])
        parts = [words[:1], prompts.context[side].double()]
        parts += [] if shown is None else [F.normalize(shown, dim=0)[None]]
        x = torch.cat([*parts, words[1:]])
        x = (x + model.positional_embedding[: len(x)])[None]
        mask = torch.full((x.shape[1],) * 2, -torch.inf, dtype=x.dtype).triu(1)
        for number, block in enumerate(model.transformer.resblocks):
            if number in (1, 2):
                x = torch.cat([x[:, :1], prompts.deep[number - 1].double()[None], x[:, 4:]], 1)
            x = block(x, attn_mask=mask)
        pair.append(F.normalize(model.ln_final(x)[0, -1] @ model.text_projection, dim=0))
    return torch.stack(pair)


def tokens_of(model: CLIP, given: Tensor) -> tuple[Tensor, Tensor]:
    """CLS [B, d_e], and the second stream's patches after the last block [B, N, d_e], it began at block 1."""
    visual = model.visual
    x = visual.conv1(given).flatten(2).mT
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
    x = visual.ln_pre(x)
    y = None
    for number, block in enumerate(visual.transformer.resblocks):
        if number >= 1:
            y = x if y is None else y
            attn, normed = block.attn, block.ln_1(x)
            q, k, v = (
                (normed @ attn.in_proj_weight.T + attn.in_proj_bias).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
            )
            matrix = sum((a @ a.mT / 8**0.5).softmax(-1) for a in (q, k, v))
            y = y + attn.out_proj((matrix @ v).transpose(1, 2).flatten(2))
        x = block(x)
    return visual.ln_post(x[:, 0]) @ visual.proj, visual.ln_post(y[:, 1:]) @ visual.proj


@torch.no_grad()
@pytest.mark.parametrize("conditioned", [True, False])
def test_a_prediction_is_the_published_formula(conditioned):
    given, detector = images((32, 32)), crane().with_config(conditioned=conditioned)
    cls, patches = tokens_of(theirs(), given)
    pairs = torch.stack([text_of(theirs(), detector.prompts, one if conditioned else None) for one in cls])
    unit = F.normalize(patches, dim=-1)
    p = (torch.einsum("bnd,bcd->bnc", unit, pairs) / 0.07).softmax(-1)[..., 1]
    pooled = F.normalize((p[..., None] * unit).sum(1), dim=-1)
    feature = F.normalize(0.5 * pooled + 0.5 * F.normalize(cls, dim=-1), dim=-1)
    score = (torch.einsum("bd,bcd->bc", feature, pairs) / 0.07).softmax(-1)[:, 1]
    found = detector(given)
    close(found.image_score, score, 1e-12)
    close(found.joint_score, score, 1e-12)
    close(found.tap_margins[3].flatten(1).sigmoid(), p, 1e-12)


@torch.no_grad()
def test_maps_are_smoothed_and_imported_prompts_score_as_before():
    """As HeadCLIP with Crane's pooling, to the bit: how published prompts were scored before Crane was a method."""
    detector, given = crane().with_config(conditioned=False), images()
    fields = {**PROMPTS, **LAST, "local_attention": ("qq", "kk", "vv"), "score_pooling": 0.5}
    fields |= {"head_weights": "none", "alpha": 0.0}
    before = build(detector.backbone, HeadCLIPConfig(**fields))
    before.load_state_dict(detector.state_dict())
    found, expected = detector(given), before(given)
    for name in ("anomaly_map", "image_score", "joint_score", "image_margin"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    vision = detector.backbone.vision
    formula = predicted(vision, vision(given, detector.plan), detector.text()[0], before.config, (32, 40))
    close(found.anomaly_map, formula.anomaly_map, 1e-12)


@torch.no_grad()
def test_the_text_of_an_image_is_held_or_follows_what_is_ablated():
    detector, given, head = crane(), images(), Head("global", 2, 1)
    cfg = detector.backbone.vision.cfg
    gates = torch.ones(1, cfg.n_layers, cfg.n_heads, dtype=torch.float64)
    gates[:, head.layer, head.head] = 0
    clean = clean_forward(detector, given)
    held, follows = (measure(clean, single_heads([head]), follow=follow).image_margin[0] for follow in (False, True))
    close(held, detector.margins(given, gates={"global": gates}).image)
    reading = clean.reading
    seen = detector.see(given, reading, {"global": gates})
    again = replace(reading, text=replace(reading.text, text=detector.shown(seen.embedding)))
    close(follows, again.margins(again.features(seen)).image)
    assert (held - follows).abs().max() > 1e-4


def answers() -> Answers:
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[0, 4:20, 9:17] = True
    return Answers(torch.tensor([1, 0, 0]), masks, torch.tensor([True, True, True]))


@pytest.mark.parametrize("shown", [True, False])
def test_losses_and_gradients_are_the_published_formula(shown):
    detector, given, asked = CASES["crane"](), images((32, 32)), answers()
    detector = detector.on(detector.backbone, replace(detector.config, train_conditioned=shown, pixel_weight=3.0))
    detector.requires_grad_(True)
    (stage,) = detector.stages(TrainingConfig(lr=0.5))
    assert [(group["lr"], group["betas"]) for group in stage.groups] == [(0.5, (0.6, 0.999))]
    seen = stage.see(given, [""] * 3)
    terms = stage.loss(seen, asked)
    loss = sum(stage.weights[name] * term for name, term in terms.items())
    learned = list(detector.parameters())
    gradients = torch.autograd.grad(loss, learned)

    cls, patches = (tokens.detach() for tokens in tokens_of(theirs(), given))
    pairs = torch.stack([text_of(theirs(), detector.prompts, one if shown else None) for one in cls])
    unit = F.normalize(patches, dim=-1)
    both = (torch.einsum("bnd,bcd->bnc", unit, pairs) / 0.07).softmax(-1)
    pooled = F.normalize((both[..., 1:] * unit).sum(1), dim=-1)
    feature = F.normalize(0.5 * pooled + 0.5 * F.normalize(cls, dim=-1), dim=-1)
    logits = torch.einsum("bd,bcd->bc", feature, pairs) / 0.01
    maps = both.mT.unflatten(2, (4, 4)).repeat_interleave(8, 2).repeat_interleave(8, 3)  # the nearest patch
    t = asked.masks.double()
    right = torch.where(asked.masks, maps[:, 1], maps[:, 0]) * (1 - 2e-5) + 2e-5
    focal = -((1 - right) ** 2 * right.log()).mean()
    whole = (1 - maps[:, 0] + maps[:, 1]) / 2
    dice = 1 - ((2 * (whole * t).flatten(1).sum(1) + 1) / (whole.flatten(1).sum(1) + t.flatten(1).sum(1) + 1)).mean()
    expected = 3 * focal + 3 * dice + 0.2 * F.cross_entropy(logits, asked.labels)
    close(loss, expected, 1e-10)
    for one, other in zip(gradients, torch.autograd.grad(expected, learned), strict=True):
        close(one, other, 1e-6)  # what is learned is float32
    kept = stage.see_kept(stage.keep(given), [""] * 3)
    close(stage.loss(kept, asked)["pixel"], terms["pixel"], 1e-12)


def test_the_preset_has_the_published_values():
    config = PRESETS["crane"]
    assert isinstance(config, CraneConfig)
    assert (config.taps, config.score_pooling, config.local_start, config.deep) == ((23,), 0.5, 5, 8)
    assert (config.pixel_weight, config.image_weight, config.image_temperature) == (2.0, 0.2, 0.01)
    assert not config.conditioned and config.train_conditioned


def test_prompts_of_another_width_than_the_joint_space_are_shown_no_image():
    said = "tiny embeds images in 20 numbers, but its text tower reads tokens of 24"
    with pytest.raises(ConfigError, match=f"conditioned: {said}"):
        build(clip(), "crane", conditioned=True, **LAST, **PROMPTS)
    detector = build(clip(), "crane", **LAST, **PROMPTS)
    assert detector(images()).image_score.shape == (3,)
    with pytest.raises(ConfigError, match=f"train_conditioned: {said}"):
        detector.stages(TrainingConfig())
    assert build(clip(), "crane", train_conditioned=False, **LAST, **PROMPTS).stages(TrainingConfig())
    assert not build(clip(), "crane", prompts="ensemble", **LAST).stages(TrainingConfig())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"taps": ()}, r"taps is \(\)"),
        ({"taps": (24,)}, "taps: block 24 does not exist"),
        ({"local_attention": ("vk",)}, "local_attention is"),
        ({"score_pooling": 1.5}, "score_pooling is 1.5"),
        ({"betas": (0.9, 1.0)}, "betas is"),
        ({"image_temperature": 0.0}, "image_temperature is 0.0"),
        ({"context": 29}, "context is 29, but the text tower of tiny reads 32 tokens"),
        ({"deep": 4}, "deep is 4, but the text tower has blocks 0..3"),
        ({"deep_tokens": 6}, "deep_tokens is 6: they overwrite context"),
        ({"prompts": "ensemble", "conditioned": True}, "conditioned is True"),
    ],
)
def test_settings_that_make_no_detector_are_named(fields, said):
    with pytest.raises(ConfigError, match=said):
        build(clip(even=True), "crane", **{**LAST, **PROMPTS, **fields})
