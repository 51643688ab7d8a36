"""Crane against its formula on open_clip's modules, in float64; its losses; text that follows; what it refuses."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor

from headlens.data import preprocess
from headlens.detectors import PRESETS, Answers, CraneConfig, HeadCLIPConfig, TrainingConfig, build
from headlens.detectors.parts.second_network import affinity
from headlens.errors import ConfigError, ShapeError
from headlens.heads import Head, Variant, clean_forward, single_heads
from headlens.heads.exactness import held
from headlens.heads.measuring import measure
from tests.backbone.models import close, random_clip
from tests.methods.cases import CASES, LAST, PROMPTS, Network, images
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
    kept = stage.see_features(stage.keep(given), [""] * 3)
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


def second_copy(model: CLIP, given: Tensor) -> Tensor:
    """D-Attn's patches of one image [3, 32, 32] after the last block, before ``ln_post``, [N, D]."""
    statistics = (preprocess.CLIP_MEAN, preprocess.CLIP_STD, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    mean, std, their_mean, their_std = torch.tensor(statistics, dtype=torch.float64)[..., None, None]
    pixels = (given * std + mean).clamp(0, 1)
    features = Network()(((pixels - their_mean) / their_std)[None])[0].flatten(1).T
    alike = F.cosine_similarity(features[:, None], features[None], dim=-1)
    scores = (alike - 1.2 * alike.mean()) * 3
    matrix = torch.where(scores < 0, -torch.inf, scores).softmax(-1)
    assert not matrix.isnan().any() and (matrix == 0).any()
    visual = model.visual
    x = visual.conv1(given[None]).flatten(2).mT
    x = torch.cat([visual.class_embedding.expand(1, 1, -1), x], 1) + visual.positional_embedding
    x = visual.ln_pre(x)
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    block = visual.transformer.resblocks[-1]
    mid = x + block.attention(block.ln_1(x))
    v = (block.ln_1(mid[0, 1:]) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias)[:, 64:]
    return block.attn.out_proj(matrix @ v)


@torch.no_grad()
def test_crane_plus_is_the_published_formula_of_each_image():
    given, detector = images((32, 32)), CASES["crane"]().with_config(conditioned=False).with_second(Network())
    cls, patches = tokens_of(theirs(), given)
    visual, pair = theirs().visual, detector.text()[0]
    more = torch.stack([visual.ln_post(second_copy(theirs(), one)) @ visual.proj for one in given])
    unit = F.normalize(torch.stack([patches, more]), dim=-1)  # (copy, B, N, d)
    logits = unit @ pair.T / 0.07
    weight = logits.mean(0).softmax(-1)[..., 1:]
    pooled = F.normalize((weight * unit.mean(0)).sum(1), dim=-1)
    feature = F.normalize(0.5 * pooled + 0.5 * F.normalize(cls, dim=-1), dim=-1)
    found = detector(given)
    close(found.image_score, (feature @ pair.T / 0.07).softmax(-1)[:, 1], 1e-10)
    small = detector.scoring.patch_maps(detector.margins(given), (4, 4)).flatten(1)
    close(small, logits.softmax(-1)[..., 1].mean(0), 1e-10)
    for i in range(3):  # not the mean similarity of a batch
        close(detector(given[i : i + 1]).anomaly_map, found.anomaly_map[i : i + 1], 1e-12)


def test_each_copy_of_the_patches_makes_a_map_in_training():
    detector = CASES["crane"]().with_second(Network()).requires_grad_(True)
    (stage,) = detector.stages(TrainingConfig())
    kept = stage.keep(images((32, 32)))
    seen = stage.see_features(kept, [""] * 3)
    assert [tuple(m.shape) for m in seen.maps.values()] == [(3, 4, 4)] * 2
    both = stage.loss(seen, answers())["pixel"]
    each = [stage.loss(replace(seen, maps={0: m}), answers())["pixel"] for m in seen.maps.values()]
    close(both, each[0] + each[1], 1e-12)


def test_a_second_network_is_asked_for_by_name_and_goes_along():
    detector = CASES["crane"]().with_config(second=True)
    with pytest.raises(ConfigError, match=r"there is no second network: detector.with_second\(network\)"):
        detector(images())
    given, plus = images(), detector.with_second(Network())
    again = plus.with_config(alpha=0.5).on(clip(even=True)).with_config(alpha=0.0)
    assert torch.equal(again(given).anomaly_map, plus(given).anomaly_map)
    assert plus.state_dict().keys() == detector.state_dict().keys()
    assert {"text of the image", "features of the second network"} <= set(held(plus))
    with pytest.raises(ShapeError, match=r"the second network made \(3, 12\) of 3 images"):
        plus.with_second(lambda pixels: torch.zeros(3, 12))(given)
    for fields in ({"taps": (1, 3)}, {"local_start": -1}):
        with pytest.raises(ConfigError, match="second is True"):
            detector.with_config(**fields)


@torch.no_grad()
def test_features_on_another_grid_are_interpolated_and_images_without_a_difference_are_themselves():
    class Fine(Network):
        def forward(self, pixels: Tensor) -> Tensor:
            return F.interpolate(super().forward(pixels), scale_factor=2)

    matrix = affinity(Fine(), images(), (4, 5))
    assert matrix.shape == (3, 20, 20)
    close(matrix.sum(-1), torch.ones(3, 20, dtype=torch.float64), 1e-12)
    alike = affinity(lambda pixels: torch.ones(3, 2, 4, 5, dtype=torch.float64), images(), (4, 5))
    close(alike, torch.eye(20, dtype=torch.float64).expand(3, -1, -1), 1e-12)


@torch.no_grad()
def test_heads_of_both_copies_are_ablated_without_pooling_too():
    detector, given = CASES["crane"]().with_second(Network()).with_config(score_pooling=0.0), images()
    cfg, clean = detector.backbone.vision.cfg, clean_forward(detector, given)
    both = Variant("both", (Head("local", 2, 1), Head("global", 3, 0)))
    variants = [*single_heads([Head("local", 3, 1), Head("local", 1, 0), Head("global", 3, 2)]), both]
    found = measure(clean, variants)
    for row, variant in enumerate(variants):
        gates = {stream: torch.ones(1, cfg.n_layers, cfg.n_heads, dtype=torch.float64) for stream in clean.plan.streams}
        for head in variant.heads:
            gates[head.stream][:, head.layer, head.head] = 0
        expected = detector.margins(given, gates=gates)
        close(found.patch_map[row], detector.scoring.patch_maps(expected, clean.grid))
        close(found.image_margin[row], expected.image)
    assert (found.patch_map - detector.scoring.patch_maps(clean.margins, clean.grid)).abs().amax((1, 2, 3)).min() > 1e-5
