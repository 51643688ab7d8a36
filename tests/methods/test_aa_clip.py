"""AA-CLIP against its formulas, written apart from the package on open_clip's own modules, in float64."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from torch import Tensor

from headlens import data
from headlens.attribution.attention import contributions
from headlens.attribution.targets import target_of
from headlens.backbone import architecture
from headlens.data import Pixels, Preprocess
from headlens.detectors import AACLIP, AACLIPConfig, Answers, TrainingConfig
from headlens.detectors.parts.ensemble import TEMPLATES
from headlens.detectors.parts.teacher import teach
from headlens.errors import ConfigError
from headlens.heads import Head, clean_forward, name_heads
from headlens.heads.direct import image_parts, pooled_parts, source_maps
from headlens.lab.view import HeadView
from tests.backbone.models import close, random_clip
from tests.heads.test_naming import paper
from tests.tiny import SENTENCES, clip

TAPS = (1, 3)
SMALL = {"taps": TAPS, "adapt_image": 2, "adapt_text": 2, "teacher_start": 1, "mix": 0.3, "augment": False}
LIMITS = ("a damaged {}", "a broken {}", "a {} with flaw", "a {} with defect", "a {} with damage")


@cache
def model():
    return random_clip(SENTENCES)


@pytest.fixture
def detector() -> AACLIP:
    return AACLIP(clip(), AACLIPConfig(**SMALL), seed=1)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def leaky(x: Tensor, weight: Tensor) -> Tensor:
    hidden = x @ weight.double().T
    return torch.where(hidden > 0, hidden, 0.01 * hidden)


def mixed(x: Tensor, weight: Tensor, mix: float = 0.3) -> Tensor:
    y = leaky(x, weight)
    return mix * y * (x.norm(dim=-1) / y.norm(dim=-1))[..., None] + (1 - mix) * x


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def their_text(detector: AACLIP, thing: str) -> Tensor:
    """[2, d_e], normal and abnormal."""
    text, pair = model(), []
    for states in (("{}", "a {}", "the {}"), LIMITS):
        sentences = [form.format(state.format(thing)) for state in states for form in ("{}.", "a photo of {}.")]
        tokens = detector.backbone.tokenizer(sentences)
        x = text.token_embedding(tokens) + text.positional_embedding
        for number, block in enumerate(text.transformer.resblocks):
            x = block(x, attn_mask=text.attn_mask)
            if number < 2:
                x = mixed(x, detector.text_adapters[number].linear.weight)
        x = text.ln_final(x)[torch.arange(len(x)), tokens.argmax(1)]
        pair.append(unit(unit(leaky(x, detector.text_projection.linear.weight)).mean(0)))
    return torch.stack(pair)


def their_start(images: Tensor) -> Tensor:
    visual = model().visual
    x = visual.conv1(images).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1)
    return visual.ln_pre(x + visual.positional_embedding)


def their_patches(detector: AACLIP, images: Tensor) -> tuple[dict[int, Tensor], Tensor]:
    """Unit embeddings of the patches at each tap, and the image feature."""
    visual, x, tapped = model().visual, their_start(images), {}
    for number, block in enumerate(visual.transformer.resblocks):
        x = block(x)
        if number < 2:
            x = mixed(x, detector.image_adapters[number].linear.weight)
        if number in TAPS:
            tapped[number] = visual.ln_post(x[:, 1:])
    patches = {tap: unit(tokens @ detector.patches[str(tap)].weight.double().T) for tap, tokens in tapped.items()}
    return patches, unit(tapped[3] @ detector.image.weight.double().T).mean(1)


@torch.no_grad()
@pytest.mark.parametrize(
    ("kernel", "sigma", "ends"), [(7, 1.0, ()), (7, 1.5, ((-60.0, 90.0), (0.4, 0.55))), (3, 1.0, ())]
)
def test_a_prediction_is_its_formula(detector, images, kernel, sigma, ends):
    changes = {"map_ends": ends[0], "image_ends": ends[1]} if ends else {}
    detector = detector.with_config(kernel=kernel, sigma=sigma, **changes)
    text = torch.stack([their_text(detector, thing) for thing in ("metal nut", "wood", "wood")])
    patches, feature = their_patches(detector, images)
    maps = torch.zeros(3, 32, 32, dtype=torch.float64)
    for tokens in patches.values():
        cosines = 100 * torch.einsum("bnd,bsd->bsn", tokens, text)
        small = ((cosines[:, 1] + 1 - cosines[:, 0]) / 2).reshape(3, 4, 4).numpy()
        blurred = [scipy.ndimage.gaussian_filter(one, sigma, mode="mirror", radius=kernel // 2) for one in small]
        blurred = torch.from_numpy(np.stack(blurred))[:, None]
        maps = maps + F.interpolate(blurred, (32, 32), mode="bilinear", align_corners=True)[:, 0]
    image = ((feature * text[:, 1]).sum(1) + 1) / 2
    if ends:
        maps, image = (maps + 60) / 150, (image - 0.4) / 0.15
    found = detector(images, ["metal_nut", "wood", "wood"])
    close(found.anomaly_map, maps)
    close(found.image_score, image)
    close(found.joint_score, 0.5 * image + 0.5 * maps.flatten(1).amax(1))
    assert found.unit == "logit"
    close(detector.with_config(alpha=1.0)(images, ["metal_nut", "wood", "wood"]).joint_score, maps.flatten(1).amax(1))


@torch.no_grad()
def test_things_are_called_object_by_their_category_or_by_a_phrase(detector, images):
    phrases = (("wood", "a brown plank"),)
    called = detector.with_config(phrases=phrases).text_of(["wood", "metal_nut"])
    close(called, torch.stack([their_text(detector, thing) for thing in ("a brown plank", "metal nut")]))
    close(detector.text_of(["object"])[0], their_text(detector, "object"))
    agnostic = AACLIP(clip(), AACLIPConfig(**SMALL, class_aware=False), seed=1)
    close(agnostic.text_of(["wood", "nut"]), their_text(detector, "object"))


def their_teacher(images: Tensor, across: bool) -> dict[int, Tensor]:
    """Attention of v with itself from block 1 on: within an image, or of one place in all images."""
    visual, x, found = model().visual, their_start(images), {}
    for number, block in enumerate(visual.transformer.resblocks):
        if number < 1:
            x = block(x)
            continue
        width = x.shape[2]
        v = block.ln_1(x) @ block.attn.in_proj_weight[2 * width :].T + block.attn.in_proj_bias[2 * width :]
        v = v.unflatten(2, (block.attn.num_heads, -1))  # (B, T, H, d)
        scores = torch.einsum("athd,bthd->thab" if across else "bahd,bchd->bhac", v, v) * v.shape[-1] ** -0.5
        z = torch.einsum("thab,bthd->athd" if across else "bhac,bchd->bahd", scores.softmax(-1), v)
        x = x + block.attn.out_proj(z.flatten(2))
        x = x + block.mlp(block.ln_2(x))
        if number in TAPS:
            found[number] = unit(visual.ln_post(x[:, 1:]) @ visual.proj)
    cls = unit(model().encode_image(images))[:, None]
    return {tap: patches + cls for tap, patches in found.items()}


@torch.no_grad()
@pytest.mark.parametrize("across", [False, True])
def test_the_teacher_is_its_formula(detector, images, across):
    taught = teach(detector.backbone.vision, images, TAPS, 1, across)
    for tap, expected in their_teacher(images, across).items():
        close(taught.taps[tap], expected)
    alone = teach(detector.backbone.vision, images[:1], TAPS, 1, across).taps[3]
    assert torch.allclose(alone, taught.taps[3][:1]) != across, "only the authors' mixes images"


def their_losses(margins: Tensor, mask: Tensor) -> Tensor:
    """Focal and both Dice losses of margins [B, rows, columns], of two logits as their authors write them."""
    logits = torch.stack([torch.zeros_like(margins), margins], 1)
    p = F.interpolate(logits, mask.shape[1:], mode="bilinear", align_corners=True).softmax(1)
    hot = torch.stack([~mask, mask], 1).double().clamp(1e-5, 1 - 1e-5)
    right = (p * hot).sum(1) + 1e-5
    loss = (-((1 - right) ** 2) * right.log()).mean()
    for side, target in ((0, (~mask).double()), (1, mask.double())):
        one, two = p[:, side].flatten(1), target.flatten(1)
        loss = loss + 1 - ((2 * (one * two).sum(1) + 1) / (one.sum(1) + two.sum(1) + 1)).mean()
    return loss


@pytest.fixture
def answers() -> Answers:
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[1, 4:20, 8:15] = True
    return Answers(torch.tensor([0, 1, 1]), masks, torch.ones(3, dtype=torch.bool))


THINGS = ["wood", "nut", "wood"]


@pytest.mark.parametrize("last", [False, True])
def test_the_first_stage_is_its_formula(images, answers, last):
    detector = AACLIP(clip(), AACLIPConfig(**SMALL, last_tap=last), seed=1)
    stage = detector.stages(TrainingConfig())[0]
    kept = stage.keep(images)
    assert [*kept.taps] == [*(TAPS[1:] if last else TAPS)], "nothing that the loss does not read"
    seen = stage.see_features(kept, THINGS)
    text = torch.stack([their_text(detector, thing) for thing in THINGS])
    taught = their_teacher(images, False)
    terms = stage.loss(seen, answers)
    margins = [
        100 * torch.einsum("bnd,bd->bn", taught[tap], text[:, 1] - text[:, 0]).unflatten(1, (4, 4))
        for tap in (TAPS[1:] if last else TAPS)
    ]
    close(terms["pixel"], sum(their_losses(each, answers.masks) for each in margins))
    close(terms["orthogonality"], (text[:, 0] * text[:, 1]).sum(1).mean() ** 2)
    assert stage.weights == {"orthogonality": 0.1} and (stage.epochs, stage.batch) == (5, 16)
    again = stage.loss(stage.see(images, THINGS), answers)
    close(again["pixel"], terms["pixel"])
    sum(terms.values()).backward()
    moved = {name for name, parameter in detector.named_parameters() if parameter.grad is not None}
    assert moved == {name for name, _ in detector.named_parameters() if name.startswith("text")}


@torch.no_grad()
def test_autocast_does_not_round_margins_of_the_first_stage(images):
    detector = AACLIP(clip(torch.float32), AACLIPConfig(**SMALL), seed=1)
    stage = detector.stages(TrainingConfig())[0]
    taught = stage.keep(images.float())
    expected = stage.see_features(taught, THINGS)
    with torch.autocast("cpu", torch.bfloat16):
        seen = stage.see_features(taught, THINGS)
    for tap in TAPS:
        assert seen.taps[tap].dtype == torch.float32 and torch.equal(seen.taps[tap], expected.taps[tap])


def test_the_second_stage_is_its_formula(detector, images, answers):
    stage = detector.stages(TrainingConfig())[1]
    for parameter in (*detector.text_adapters.parameters(), *detector.text_projection.parameters()):
        parameter.requires_grad_(False)
    terms = stage.loss(stage.see(images, THINGS), answers)
    text = torch.stack([their_text(detector, thing) for thing in THINGS])
    patches, feature = their_patches(detector, images)
    close(terms["image"], F.cross_entropy(torch.einsum("bd,bsd->bs", feature, text), answers.labels))
    u = 100 * (text[:, 1] - text[:, 0])
    margins = [torch.einsum("bnd,bd->bn", each, u).unflatten(1, (4, 4)) for each in patches.values()]
    close(terms["pixel"], sum(their_losses(each, answers.masks) for each in margins))
    assert (stage.epochs, stage.batch, stage.schedule.milestones) == (20, 2, (16000, 32000)) and stage.keep is None
    sum(terms.values()).backward()
    assert all((p.grad is None) == name.startswith("text") for name, p in detector.named_parameters())


def test_the_authors_attention_across_a_batch_is_not_kept(images):
    stage = AACLIP(clip(), AACLIPConfig(**SMALL, across_batch=True), seed=1).stages(TrainingConfig())[0]
    assert stage.keep is None
    both, one = (stage.see(images[:count], THINGS[:count]).taps[3] for count in (2, 1))
    assert not torch.allclose(both[:1], one)


def test_it_learns_as_many_numbers_as_its_authors():
    of = architecture("ViT-L-14-336")
    shapes = AACLIPConfig().learned_shapes(of.vision, of.text)
    text = {name for name in shapes if name.startswith("text")}
    assert sum(math.prod(shapes[name]) for name in text) == 2_359_296
    assert sum(math.prod(shapes[name]) for name in shapes.keys() - text) == 10_223_616


def test_images_are_augmented_as_the_authors_do():
    text, image = AACLIP(clip(), AACLIPConfig(**SMALL | {"augment": True})).stages(TrainingConfig())
    asked = {"mosaic": 0.0, "strength": 0.5, "rotation": 0.5, "degrees": 30.0, "translation": 0.5, "share": 0.15}
    assert text.keep is None and text.augment.table() == {**asked, "flip": 0.5, "colour": 0.0}
    assert image.augment.table() == {**asked, "flip": 0.5, "colour": 0.7}


def test_head_weights_are_a_part(images):
    detector = AACLIP(clip(), AACLIPConfig(**SMALL, head_weights="free"), seed=1)
    before = detector(images).image_margin
    groups = detector.stages(TrainingConfig(lr_heads=0.25))[1].groups
    assert groups[1]["lr"] == 0.25 and groups[1]["params"] == list(detector.weights.parameters())
    with torch.no_grad():
        detector.weights.raw["global"][2, 1] = 0.0
    gates = {"global": detector.head_weights()["global"][None]}
    plain = AACLIP(clip(), AACLIPConfig(**SMALL), seed=1)
    close(detector(images).image_margin, plain.margins(images, gates=gates).image)
    assert not torch.allclose(detector(images).image_margin, before)


def test_without_the_second_stage_the_teachers_patches_are_read(images):
    detector = AACLIP(clip(), AACLIPConfig(**SMALL, image_epochs=0), seed=1)
    assert [stage.name for stage in detector.stages(TrainingConfig())] == ["text"]
    assert {name.split(".")[0] for name in detector.state_dict()} == {"text_adapters", "text_projection"}
    cls = unit(clip().vision(images).embedding)[:, None]
    patches = {tap: taught - cls for tap, taught in teach(clip().vision, images, TAPS, 1).taps.items()}
    text, margins = detector.text()[0], detector.margins(images)
    for tap in TAPS:
        close(margins.taps[tap], patches[tap] @ (text[1] - text[0]) / 0.01)
    close(margins.image, patches[max(TAPS)].mean(1) @ text[1])


def test_without_the_first_stage_the_text_is_clips(images):
    detector = AACLIP(clip(), AACLIPConfig(**SMALL, text_epochs=0), seed=1)
    assert [stage.name for stage in detector.stages(TrainingConfig())] == ["image"]
    assert {name.split(".")[0] for name in detector.state_dict()} == {"image_adapters", "patches", "image"}
    sentences = [f"{state.format('object')}." for state in ("{}", "a {}", "the {}")]
    sentences += [f"a photo of {sentence}" for sentence in sentences]
    tokens = clip().tokenizer(sentences)
    close(detector.text()[0, 0], unit(unit(clip().encode_text(tokens)).mean(0)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_epochs": 0, "image_epochs": 0}, "image_epochs is 0"),
        ({"image_epochs": 0, "head_weights": "free"}, "head_weights is 'free'"),
        (
            {"kernel": 4},
            "kernel is 4, which is not a value it can have; AACLIPConfig says of it: sigma, kernel: .* which is odd$",
        ),
        ({"map_ends": (1.0, 1.0)}, r"map_ends is \(1.0, 1.0\)"),
        ({"image_ends": (1.0,)}, "image_ends"),
        ({"mix": 1.5}, "mix is 1.5"),
        ({"taps": (3, 3)}, "taps"),
        ({"text_batch": 0}, "text_batch is 0"),
        ({"alpha": 2.0}, "alpha is 2.0"),
        ({"milestones": (5, 2)}, "milestones are"),
    ],
)
def test_what_makes_no_detector_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        AACLIPConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapt_text": 9}, "adapt_text is 9: the text tower of tiny has 4"),
        ({"adapt_image": 5}, "adapt_image is 5: the image tower of tiny has 4"),
        ({"teacher_start": 4}, "block 4 does not exist: tiny has 4"),
    ],
)
def test_what_a_backbone_has_not_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        AACLIP(clip(), AACLIPConfig(**SMALL | changes))


HEADS = ["L1H2", "L2H0", "L3H3"]


@torch.no_grad()
def test_what_a_head_has_of_the_image_margin_stands_at_patches(detector, images):
    clean = clean_forward(detector, images)
    heads_of_image, target = image_parts(clean).heads["global"], target_of(detector, "image_margin")
    close(contributions(target, images).sum((1, 2)), heads_of_image.sum((1, 2)))
    for name in HEADS:
        head = Head.of(name)
        expected = heads_of_image[:, head.layer, head.head]
        close(contributions(target, images, heads=[head]).sum((1, 2)), expected)
        close(
            sum(parts.heads["global"][:, :, head.layer, head.head].sum(1) for parts in pooled_parts(clean).values()),
            expected,
        )
        if head.layer > 1:
            close(target_of(detector, name)(images), expected)
    with pytest.raises(ConfigError, match="L1H2 as a target"):
        target_of(detector, "L1H2")(images)
    with pytest.raises(ConfigError, match="CLS has no part in this detector's image feature"):
        source_maps(clean, 2)
    shown = torch.randint(256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    view, clean = HeadView(detector, [shown], size=32), clean_forward(detector, seen(shown), ["object"])
    drawn = pooled_parts(clean)[3].heads["global"][0, :, 2, 1]
    close(torch.from_numpy(view.contribution(view.domains[0], 0, "L2H1")).flatten(), drawn)


def seen(shown: Tensor) -> Tensor:
    preprocess = Preprocess(32)
    return preprocess.normalise(preprocess(Pixels(shown, None)).image[None])


@torch.no_grad()
def test_heads_are_named_at_patches_by_phrases_through_the_adapted_text(detector):
    pictures = data.open("procedural:industrial/aux", category="wood", per_category=4, size=32)
    pool, head = ["a red ring", "a scratch", "wood", "damaged object"], Head("global", 2, 1)
    named = name_heads(detector, pictures, [head], pool=pool, phrases=3).frame
    means = []
    for phrase in pool:
        tokens = detector.backbone.tokenizer([form.format(phrase) for form in TEMPLATES])
        means.append(detector.encode_text(tokens).mean(0))
    texts = torch.stack(means) - torch.stack(means).mean(0)
    batch = next(iter(data.Loader(pictures, Preprocess(32), len(pictures))))
    vision, norm = detector.backbone.vision, detector.backbone.vision.ln_final
    given = batch.images.double()
    out, cache = vision.run_with_cache(given, detector.plan, names_filter="blocks.2.attn.hook_result")
    wrote, raw, matrix = (
        cache["blocks.2.attn.hook_result"][:, 1:, 1],
        out.tapped[3],
        detector.patches["3"].weight.double(),
    )
    scale = (raw.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    length = (norm(raw) @ matrix.T).norm(dim=-1, keepdim=True)
    rows = ((wrote - wrote.mean(-1, keepdim=True)) / scale * norm.weight @ matrix.T / length).flatten(0, 1)
    found = paper(rows.numpy(), unit(texts).numpy(), 3)
    assert named["phrase"].tolist() == [pool[best] for best, *_ in found]
    np.testing.assert_allclose(named["variance"], rows.var(0, correction=0).sum(), rtol=1e-8)
