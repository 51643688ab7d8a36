"""Targets against the detector's own scores, against exact head parts, and against finite differences."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from headlens.attribution.targets import SCORES, target_of
from headlens.detectors.detector import Detector
from headlens.errors import ConfigError, ShapeError
from headlens.heads.clean import clean_forward
from headlens.heads.direct import image_parts, tap_parts
from tests.attribution.conftest import untouched
from tests.backbone.models import close

EVERY = (*SCORES, "L2H1", "L2H3/local")


@pytest.fixture
def region() -> torch.Tensor:
    mask = torch.zeros(32, 40)
    mask[5:19, 12:30] = 1
    return mask


SCORED = {  # of a detector's own predictions
    "image_margin": lambda prediction: prediction.image_margin,
    "joint_score": lambda prediction: prediction.joint_score,
    "joint_margin": lambda prediction: prediction.joint_score.logit(),
}


@pytest.fixture(params=[{}, {"score_pooling": 0.5}], ids=["cls", "pooled"])
def either(request, make) -> Detector:
    """A detector whose image feature is CLS, or CLS and patches, as Crane's."""
    return make(**request.param)


@pytest.mark.parametrize("name", SCORED)
def test_scores_are_those_of_the_detector(name, either, images):
    target, prediction = target_of(either, name), either(images)
    close(target(images), SCORED[name](prediction))
    close(target.anomaly_map(target.forward(images)), prediction.anomaly_map)


def test_scores_that_are_logits_stay_what_they_are(make, images):
    detector = make()
    logits = replace(detector.scoring, fuse="mean margin")
    type_of = type("Logits", (type(detector),), {"scoring": property(lambda self: logits)})
    detector.__class__ = type_of
    score = detector(images).joint_score
    for name in ("joint_score", "joint_margin"):
        close(target_of(detector, name)(images), score)


def test_map_margin_is_the_mean_over_the_region(detector, images, region):
    taps = detector(images).tap_margins
    mean = torch.stack(list(taps.values())).mean(0)  # (B, rows, columns)
    close(target_of(detector, "map_margin")(images), mean.mean((1, 2)))
    total, area = torch.zeros(3, dtype=torch.float64), 0.0
    for row in range(4):
        for column in range(5):
            covered = float(region[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].sum())
            total, area = total + covered * mean[:, row, column], area + covered
    close(target_of(detector, "map_margin", region=region)(images), total / area)


@pytest.mark.parametrize("norm", [True, False])
def test_a_head_is_its_direct_effect(norm, make, images, region):
    detector = make(cls_norm=norm)
    clean = clean_forward(detector, images)
    parts = image_parts(clean).heads["global"]
    for layer, head in ((0, 3), (3, 0)):
        close(target_of(detector, f"L{layer}H{head}")(images), parts[:, layer, head])
    found = [tap_parts(clean, tap) for tap in (1, 3)]
    share = target_of(detector, "map_margin", region=region).share((32, 40))
    for layer, head in ((1, 2), (2, 0)):  # the tap at 1 is below layer 2, and gets nothing of it
        drawn = sum(
            own.heads["local"][:, :, own.layers["local"].index(layer), head]
            for own in found
            if layer in own.layers["local"]
        )
        close(target_of(detector, f"L{layer}H{head}/local")(images), drawn.mean(1) / 2)
        close(target_of(detector, f"L{layer}H{head}/local", region=region)(images), drawn @ share / 2)


def test_a_head_of_a_pooled_feature_by_hand(make, images):
    """Each token's part by its own LayerNorm and norm, times what the token weighs in the image feature."""
    detector = make(score_pooling=0.5)
    vision, text, share = detector.backbone.vision, detector.text()[0], 0.5
    u = (text[1] - text[0]).double() / 0.07
    seen = target_of(detector).forward(images)
    cls, mean = seen.out.embedding, sum(F.normalize(e, dim=-1) for e in seen.out.patches.values()) / 2
    anomalous = (sum(seen.margins.taps.values()) / 2).sigmoid()
    pooled = (anomalous[..., None] * mean).sum(1)
    feature = (1 - share) * F.normalize(cls, dim=-1) + share * F.normalize(pooled, dim=-1)
    close((F.normalize(feature, dim=-1) * u).sum(-1), seen.margins.image)

    def part(tokens, embeddings, written):  # of <e / |e|, u>, of what the head wrote
        centred = written - written.mean(-1, keepdim=True)
        scale = (tokens.var(-1, unbiased=False, keepdim=True) + vision.ln_final.eps).sqrt()
        return (centred / scale * vision.ln_final.weight @ vision.proj * u).sum(-1) / embeddings.norm(dim=-1)

    for layer, head in ((0, 3), (2, 1)):  # below the local stream's start, and above
        name = f"blocks.{layer}.attn.hook_z"
        _, cache = vision.run_with_cache(images, detector.plan, names_filter=name)
        written = cache[name][:, :, head] @ vision.blocks[layer].attn.W_O[head]
        effect = (1 - share) * part(seen.out.cls, cls, written[:, 0])
        if layer == 0:
            for tap, tokens in seen.out.tapped.items():
                own = anomalous / 2 * part(tokens, seen.out.patches[tap], written[:, 1:])
                effect = effect + share * own.sum(1) / pooled.norm(dim=-1)
        close(target_of(detector, f"L{layer}H{head}")(images), effect / feature.norm(dim=-1))


@pytest.mark.parametrize("name", EVERY)
def test_gradients_are_finite_differences(name, either, images):
    target = target_of(either, name)
    along = torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(target(leaf).sum(), leaf)
    ends = [target(images + step * along) for step in (-1e-5, 1e-5)]
    close((gradient * along).sum((1, 2, 3)), (ends[1] - ends[0]) / 2e-5, 1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_images_are_independent_and_hooks_change_nothing(name, either, images):
    target = target_of(either, name)
    together = target(images, hooked=True)
    for row in range(3):
        close(target(images[row : row + 1])[0], together[row])
    assert untouched(either)


def test_class_aware_prompts_are_those_of_the_category(make, images):
    detector = make(class_aware=True)
    for category in ("metal_nut", "wood"):
        close(target_of(detector, category=category)(images), detector(images, [category] * 3).joint_score.logit())


def test_head_weights_stand_in_place_of_learned_ones(make, images):
    detector = make()
    ones = {stream: torch.ones_like(weight) for stream, weight in detector.head_weights().items()}
    unweighed = replace(target_of(detector, "joint_score"), head_weights=ones)(images)
    with torch.no_grad():
        for raw in detector.weights.raw.values():
            raw.fill_(1)
    close(unweighed, detector(images).joint_score)


def test_a_run_is_taken_as_its_detector(detector, images):
    close(target_of(SimpleNamespace(detector=detector))(images), target_of(detector)(images))
    with pytest.raises(ConfigError, match="int is neither a detector nor a run"):
        target_of(3)


def test_what_does_not_exist_is_named(detector, images):
    with pytest.raises(ConfigError, match="unknown target 'auroc'"):
        target_of(detector, "auroc")
    with pytest.raises(ShapeError, match="layer 9 does not exist"):
        target_of(detector, "L9H0")
    with pytest.raises(ShapeError, match="layer 0 does not exist"):
        target_of(detector, "L0H0/local")
    with pytest.raises(ConfigError, match="image_margin reads no region"):
        target_of(detector, "image_margin", region=torch.ones(32, 40))
    with pytest.raises(ShapeError, match=r"\(8, 8\)"):
        target_of(detector, "map_margin", region=torch.ones(8, 8))(images)
    with pytest.raises(ShapeError, match="region is empty"):
        target_of(detector, "map_margin", region=torch.zeros(32, 40))(images)
