"""AdaCLIP against its formulas, written apart on open_clip's modules, image by image; clusters; losses; bad input."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from sklearn.cluster import KMeans
from torch import Tensor

from headlens.backbone import load
from headlens.detectors import PRESETS, AdaCLIP, AdaCLIPConfig, Answers, ClusterPooled, TrainingConfig, build
from headlens.detectors.clusters import first_centres, k_means
from headlens.errors import ConfigError
from headlens.heads import clean_forward, contributions
from headlens.heads.direct import image_parts
from headlens.training.run import load_run
from headlens.training.trainer import train
from tests.backbone.models import close, random_clip
from tests.methods.cases import PROMPTED, images, made
from tests.tiny import SENTENCES, clip

CATEGORIES = ["metal_nut", "pipe-fryum", "metal_nut"]
CALLED = {"metal_nut": "metal_nut", "pipe-fryum": "pipe fryum", "object": "object"}
STATES = (
    ["{}", "flawless {}", "perfect {}", "unblemished {}", "{} without flaw", "{} without defect", "{} without damage"],
    ["damaged {}", "broken {}", "{} with flaw", "{} with defect", "{} with damage"],
)
TEMPLATES = ["a bad photo of a {}.", "a low resolution photo of the {}.", "a bad photo of the {}."]
TEMPLATES += ["a cropped photo of the {}."]
KINDS = [{}, {"dynamic": False}, {"static": False}, {"prompted": ("text",)}, {"prompted": ("image",)}]


@cache
def theirs() -> CLIP:
    return random_clip(SENTENCES)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def prompt(detector: AdaCLIP, tower: str, number: int, z: Tensor) -> Tensor:
    """The tokens of one image, [length, D], by a linear map for every token, as the authors have them."""
    part, length = getattr(detector, f"{tower}_prompts"), detector.config.length
    total = torch.zeros(length, 1, dtype=torch.float64)
    if part.dynamic is not None:
        maps = zip(part.dynamic.weight.double().chunk(length), part.dynamic.bias.double().chunk(length), strict=True)
        total = torch.stack([weight @ z + bias for weight, bias in maps])
    return total if part.static is None else total + part.static[number].double()


def text_of(detector: AdaCLIP, thing: str, z: Tensor) -> Tensor:
    """[2, d_e] of one image; block 0 reads the sentence, and blocks 1 and 2 prompts over its first words."""
    model, pair = theirs(), []
    for states in STATES:
        sentences = [template.format(state.format(thing)) for state in states for template in TEMPLATES]
        tokens = detector.backbone.tokenizer(sentences)
        x = model.token_embedding(tokens) + model.positional_embedding
        for number, block in enumerate(model.transformer.resblocks):
            if 1 <= number < detector.config.depth and "text" in detector.config.prompted:
                x[:, 1 : 1 + detector.config.length] = prompt(detector, "text", number - 1, z)
            x = block(x, attn_mask=model.attn_mask)
        x = model.ln_final(x)[torch.arange(len(x)), tokens.argmax(1)] @ model.text_projection
        pair.append(unit(unit(x).mean(0)))
    return torch.stack(pair)


def seen(detector: AdaCLIP, image: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
    """One image [1, 3, h, w]: CLS after CLIP's projection and the linear map behind it, and patches, of unit length."""
    visual, config = theirs().visual, detector.config
    z = theirs().encode_image(image)[0]
    x = visual.conv1(image).flatten(2).transpose(1, 2)
    x = visual.ln_pre(torch.cat([visual.class_embedding.expand(1, 1, -1), x], 1) + visual.positional_embedding)
    taps = {}
    for number, block in enumerate(visual.transformer.resblocks):
        if number < config.depth and "image" in config.prompted:
            x = torch.cat([x[:, :17], prompt(detector, "image", number, z)[None]], 1)
        x = block(x)
        if number in config.taps:
            layer = detector.projections[str(number)]
            taps[number] = unit(x[0, 1:17] @ layer.weight.double().T + layer.bias.double())
    cls = visual.ln_post(x[0, 0]) @ visual.proj
    return unit(cls @ detector.image.weight.double().T + detector.image.bias.double()), taps


def clustered(taps: dict[int, Tensor], margins: Tensor, config: AdaCLIPConfig) -> Tensor:
    """The mean of the centres of clusters of the highest patches of one image, of unit length."""
    highest = margins.argsort(descending=True)[: config.patches]
    points = torch.cat([tokens[highest].detach() for tokens in taps.values()], 1)
    start = first_centres((points @ points.T)[None], config.clusters, config.cluster_seed)[0]
    found = KMeans(config.clusters, init=points[start].numpy(), n_init=1, tol=0).fit_predict(points.numpy())
    centres = [
        torch.cat([tokens[highest][found == number] for tokens in taps.values()]).mean(0)
        for number in range(config.clusters)
    ]
    return unit(torch.stack(centres).mean(0))


def predicted(detector: AdaCLIP, image: Tensor, category: str) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """Of one image: the map before smoothing [h, w], the two logits of the image, and those of patches."""
    config, (cls, taps) = detector.config, seen(detector, image)
    text = text_of(detector, CALLED[category], theirs().encode_image(image)[0])
    logits = {tap: tokens @ text.T / config.temperature for tap, tokens in taps.items()}
    mean = torch.stack([*logits.values()]).mean(0)
    feature = (1 - config.share) * cls
    if config.share:
        feature = feature + config.share * clustered(taps, mean.softmax(1)[:, 1], config)
    large = [
        F.interpolate(each.T.reshape(1, 2, 4, 4), image.shape[2:], mode="bilinear", align_corners=True)
        for each in logits.values()
    ]
    p = torch.stack(large).mean(0).softmax(1)[0]
    return (p[1] + 1 - p[0]) / 2, unit(feature) @ text.T / config.temperature, logits


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_prediction_is_the_published_formula_image_by_image(kind):
    detector, given = made("adaclip", **(PROMPTED | {"share": 0.4, "temperature": 0.1, **kind})), images((32, 32))
    found = detector(given, CATEGORIES)
    for i, category in enumerate(CATEGORIES):
        shown, logits, patches = predicted(detector, given[i : i + 1], category)
        smooth = scipy.ndimage.gaussian_filter(shown.numpy(), 4 * 32 / 518, mode="mirror", radius=1)
        close(found.anomaly_map[i], torch.from_numpy(smooth), 1e-10)
        close(found.image_margin[i], logits[1] - logits[0], 1e-10)
        close(found.image_score[i], logits.softmax(0)[1], 1e-10)
        for tap, each in patches.items():
            close(found.tap_margins[tap][i].flatten(), each[:, 1] - each[:, 0], 1e-10)
    close(found.joint_score, found.image_score, 1e-12)
    assert found.unit == "probability"


@torch.no_grad()
def test_without_clusters_the_image_feature_is_cls():
    detector, given = made("adaclip", **PROMPTED).with_config(share=0.0), images((32, 32))
    _, logits, _ = predicted(detector, given[:1], "object")
    close(detector(given).image_margin[0], logits[1] - logits[0], 1e-10)
    assert not detector.reading(given).pooling.reads_patches


@torch.no_grad()
def test_prompts_are_of_each_image_and_of_nothing_else():
    detector, given = made("adaclip", **PROMPTED), images((32, 32))
    tokens = detector.reading(given).plan.tokens
    assert [*tokens] == [0, 1, 2] and tokens[0].shape == (3, 3, 32)
    assert not torch.equal(tokens[0][0], tokens[0][1])
    order = [2, 0, 1]
    turned = detector(given[order], [CATEGORIES[i] for i in order])
    close(turned.joint_score, detector(given, CATEGORIES).joint_score[order], 1e-12)
    close(turned.anomaly_map, detector(given, CATEGORIES).anomaly_map[order], 1e-12)
    static = made("adaclip", **PROMPTED, dynamic=False).reading(given)
    assert static.plan.tokens[0].shape == (3, 32) and static.beforehand == ()


@torch.no_grad()
def test_text_needs_images_where_it_depends_on_them():
    detector, given = made("adaclip", **PROMPTED), images((32, 32))
    pair = detector.text(["metal_nut"] * 3, given)
    close(pair[1], text_of(detector, "metal_nut", theirs().encode_image(given[1:2])[0]), 1e-10)
    with pytest.raises(ConfigError, match="depends on the image: give images"):
        detector.text(["wood"])
    static = made("adaclip", **PROMPTED, dynamic=False)
    close(static.text(["wood"]), static.text(["wood"], given[:1]), 1e-12)
    agnostic = made("adaclip", **PROMPTED, class_aware=False)
    close(agnostic.text(["wood", "nut"], given[:1].expand(2, -1, -1, -1)).diff(dim=0), torch.zeros(1, 2, 20), 1e-12)


@torch.no_grad()
def test_half_prompts_are_rounded():
    detector, given = made("adaclip", **PROMPTED), images((32, 32))
    plain = detector.reading(given).plan.tokens
    rounded = detector.with_config(half_prompts=True).reading(given).plan.tokens
    for block, tokens in plain.items():
        assert torch.equal(rounded[block], tokens.half().double()) and not torch.equal(rounded[block], tokens)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(4))
def test_k_means_is_scikit_learns_from_the_same_centres(seed):
    points = drawn(5, 40, 6, seed=seed)
    found = k_means(points, 7, seed)
    start = first_centres(points @ points.mT, 7, seed)
    for row, own, first in zip(points, found, start, strict=True):
        expected = KMeans(7, init=row[first].numpy(), n_init=1, tol=0).fit(row.numpy())
        assert np.array_equal(expected.labels_, own.numpy())
    for row in range(5):
        assert torch.equal(k_means(points[row : row + 1], 7, seed)[0], found[row]), "no row has a part in another"


def test_centres_begin_far_from_each_other():
    """Each is drawn in proportion to its squared distance: frequencies of the second centre."""
    points = torch.tensor([[0.0], [1.0], [2.0], [4.0]], dtype=torch.float64)[None]
    counts = torch.zeros(4, 4, dtype=torch.float64)
    for seed in range(2000):
        first, second = first_centres(points @ points.mT, 2, seed)[0].tolist()
        counts[first, second] += 1
    squares = (points[0] - points[0].T).square()
    assert float((counts.sum(1) / 2000 - 0.25).abs().max()) < 0.05
    assert float((counts / counts.sum(1, keepdim=True) - squares / squares.sum(1, keepdim=True)).abs().max()) < 0.08


def test_few_or_equal_points_make_fewer_clusters():
    assert sorted(k_means(drawn(1, 3, 2), 20, 0)[0].tolist()) == [0, 1, 2]
    assert len(set(k_means(torch.ones(1, 9, 2), 3, 0)[0].tolist())) == 1
    taps = {1: torch.cat([torch.ones(1, 4, 2), -torch.ones(1, 2, 2)], 1)}
    weights = ClusterPooled(0.5, 4, 6).patch_weights(taps, {1: torch.zeros(1, 6)})
    close(weights[0], torch.tensor([1 / 8] * 4 + [1 / 4] * 2), 1e-6)


def test_patches_below_the_highest_count_for_nothing():
    taps, margins = {1: drawn(2, 12, 5), 3: drawn(2, 12, 5, seed=1)}, {1: drawn(2, 12, seed=2), 3: drawn(2, 12, seed=3)}
    weights = ClusterPooled(0.5, 3, 8, seed=4).patch_weights(taps, margins)
    mean = (margins[1] + margins[3]) / 2
    for row, own in zip(weights, mean, strict=True):
        assert set(row.nonzero().flatten().tolist()) == set(own.argsort(descending=True)[:8].tolist())
    close(weights.sum(1), torch.ones(2, dtype=torch.float64), 1e-12)


def losses_of(logits: list[Tensor], image: Tensor, masks: Tensor, labels: Tensor, rows: bool) -> Tensor:
    """Focal and Dice losses of two classes; ``rows``: every row of pixels is taken for an image."""

    def focal(p: Tensor, hot: Tensor) -> Tensor:
        right = (p * hot.double().clamp(1e-5, 1 - 1e-5)).sum(1) + 1e-5
        return (-((1 - right) ** 2) * right.log()).mean()

    def dice(p: Tensor, mask: Tensor) -> Tensor:
        each = zip(*(x.flatten(0, 1) if rows else x for x in (p, mask.double())), strict=True)
        return torch.stack([1 - (2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1) for a, b in each]).mean()

    total = focal(image.softmax(1), torch.stack([labels == 0, labels == 1], 1))
    for each in logits:
        p = F.interpolate(each, masks.shape[1:], mode="bilinear", align_corners=True).softmax(1)
        total = total + focal(p, torch.stack([~masks, masks], 1)) + dice(p[:, 1], masks) + dice(p[:, 0], ~masks)
    return total


@pytest.mark.parametrize("rows", [False, True])
def test_the_loss_is_the_published_formula(rows):
    detector = made("adaclip", **PROMPTED, temperature=0.5, row_dice=rows).requires_grad_(True)
    given, labels = images((32, 32)), torch.tensor([0, 1, 1])
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[1, 4:20, 8:15] = masks[2, 3:9] = True
    (stage,) = detector.stages(TrainingConfig(lr=0.01))
    found = stage.see(given, CATEGORIES)
    terms = stage.loss(found, Answers(labels, masks, torch.ones(3, dtype=torch.bool)))
    each = [predicted(detector, given[i : i + 1], category) for i, category in enumerate(CATEGORIES)]
    logits = [torch.stack([one[2][tap].T.reshape(2, 4, 4) for one in each]) for tap in (1, 3)]
    expected = losses_of(logits, torch.stack([one[1] for one in each]), masks, labels, rows)
    total = terms["image"] + terms["pixel"]
    close(total, expected, 1e-10)
    learned = list(detector.parameters())
    ours, published = (torch.autograd.grad(loss, learned) for loss in (total, expected))
    for one, other in zip(ours, published, strict=True):
        close(one, other, 1e-7)  # parameters are float32
    assert stage.optimiser == "adamw" and stage.weights == {} and [group["lr"] for group in stage.groups] == [0.01]


def test_images_without_label_or_mask_count_for_nothing():
    detector = made("adaclip", **PROMPTED)
    (stage,) = detector.stages(TrainingConfig())
    given, masks = images((32, 32)), torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[2, :9] = True
    known = torch.tensor([True, False, True])
    found = stage.loss(stage.see(given, []), Answers(torch.tensor([0, -1, 1]), masks, known))
    expected = stage.loss(stage.see(given[[0, 2]], []), Answers(torch.tensor([0, 1]), masks[[0, 2]], known[[0, 2]]))
    for name, term in expected.items():
        close(found[name], term, 1e-12)


@pytest.mark.parametrize("changes", [{}, {"mosaic": 0.5, "prompted": ("image",)}, {"head_weights": "free"}])
def test_a_training_moves_what_is_learned_and_its_run_gives_the_same_bits(changes, dataset, tmp_path):
    detector = build(clip(torch.float32), "adaclip", **PROMPTED, **changes)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    card = train(detector, dataset, TrainingConfig(epochs=4, batch=4, lr=0.01), tmp_path / "run", cpu=True)
    moved = {name for name, tensor in detector.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == before.keys() and card["steps"] == 4 and card["stages"][0]["optimiser"] == "adamw"
    losses = pd.read_csv(tmp_path / "run" / "log.csv")["pixel"]
    assert losses.iloc[-1] < losses.iloc[0] or changes.get("mosaic"), "mosaics are other images at every step"
    given = images().float()
    run = load_run(tmp_path / "run", clip(torch.float32))
    assert torch.equal(run.detector(given, CATEGORIES).anomaly_map, detector(given, CATEGORIES).anomaly_map)
    assert run.detector.config == detector.config


@torch.no_grad()
def test_direct_effects_hold_clusters_and_prompts(dataset):
    detector, given = made("adaclip", **PROMPTED, share=0.4), images((32, 32))
    parts = image_parts(clean_forward(detector, given, CATEGORIES))
    close(parts.total, detector(given, CATEGORIES).image_margin, 1e-9)
    held = contributions(detector, dataset, check_sums=True).provenance["held"]
    assert held == ["layer norm scale", "embedding norm", "pooling weights", "prompts of each image"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"taps": ()}, r"taps is \(\)"),
        ({"taps": (1, 4)}, "block 4 does not exist: tiny has 4"),
        ({"prompted": ("image", "audio")}, r"prompted is \('image', 'audio'\)"),
        ({"prompted": ("text", "text")}, r"prompted is \('text', 'text'\)"),
        ({"static": False, "dynamic": False}, "dynamic is False"),
        ({"depth": 0}, "depth is 0"),
        ({"depth": 5}, "depth is 5: the image tower of tiny has 4 blocks"),
        ({"depth": 5, "prompted": ("text",)}, "depth is 5: the text tower of tiny has 4 blocks"),
        ({"length": 0}, "length is 0"),
        ({"length": 7}, "length is 7"),
        ({"share": 1.5}, "share is 1.5"),
        ({"clusters": 0}, "clusters is 0"),
        ({"patches": 0}, "patches is 0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"mosaic": -0.1}, r"mosaic is -0\.1"),
        ({"sigma": -1.0}, "sigma is -1.0"),
        ({"pool": "mean"}, "pool is 'mean'"),
        ({"head_weights": "some"}, "head_weights is 'some'"),
        ({"k_clusters": 5}, "AdaCLIPConfig has no field 'k_clusters'"),
    ],
)
def test_settings_that_make_no_detector_are_named(fields, said):
    with pytest.raises(ConfigError, match=said):
        build(clip(), "adaclip", **({"taps": (1, 3)} | fields))


@torch.no_grad()
def test_the_longest_prompt_fits_the_shortest_sentence():
    detector = build(clip(), "adaclip", **(PROMPTED | {"length": 6}))
    assert detector(images((32, 32)), ["", "a", "-"]).joint_score.isfinite().all()


def test_the_preset_has_the_published_values():
    config = PRESETS["adaclip"]
    assert isinstance(config, AdaCLIPConfig) and config.taps == (5, 11, 17, 23) and config.temperature == 0.01
    assert (config.depth, config.length, config.share, config.clusters, config.patches) == (4, 5, 0.2, 20, 100)
    learned = build(load("mini-captions"), "adaclip").requires_grad_(True)
    width, text, d = (learned.backbone.vision.cfg.d_model, learned.backbone.text.cfg.d_model, 128)
    static = 4 * 5 * width + 3 * 5 * text  # the authors have a prompt of the text's first block, which is not read
    linear = 4 * (width * d + d) + d * d + d + 5 * (d * width + width) + 5 * (d * text + text)
    assert sum(p.numel() for p in learned.parameters()) == static + linear
