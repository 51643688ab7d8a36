"""APRIL-GAN against its formula, written down on open_clip's modules; its text, its losses, and what it refuses."""

from __future__ import annotations

from functools import cache

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP

from headlens.backbone import load
from headlens.detectors import PRESETS, APRILGANConfig, Detector, TrainingConfig, build
from headlens.detectors.stages import Answers
from headlens.errors import ConfigError
from headlens.training.run import load_run
from headlens.training.trainer import train
from tests.backbone.models import close, random_clip
from tests.methods.cases import images, made
from tests.tiny import SENTENCES, clip

CATEGORIES = ["metal_nut", "wood", "metal_nut"]
STATES = (
    ["{}", "flawless {}", "perfect {}", "unblemished {}", "{} without flaw", "{} without defect", "{} without damage"],
    ["damaged {}", "broken {}", "{} with flaw", "{} with defect", "{} with damage"],
)
LOOKS = ["bad", "low resolution", "cropped", "bright", "dark", "close-up", "black and white", "jpeg corrupted"]
LOOKS += ["blurry", "good"]


@cache
def theirs() -> CLIP:
    return random_clip(SENTENCES)


def templates() -> list[str]:
    """The 35: each look with both articles, 10 photos without a look, 5 scenes."""
    photos = [f"a {look} photo of {article} {{}}." for look in LOOKS for article in ("a", "the")]
    plain = ["a", "the", "my", "one", "the cool", "a cool", "a large", "the large", "the small", "a small"]
    scenes = ["there is a", "there is the", "this is a", "this is the", "this is one"]
    return photos + [f"a photo of {which} {{}}." for which in plain] + [f"{s} {{}} in the scene." for s in scenes]


@cache
def text(category: str) -> torch.Tensor:
    """[2, d_e], normal and abnormal, by open_clip's text tower."""
    tokenizer, pair = clip().tokenizer, []
    for states in STATES:
        sentences = [template.format(state.format(category)) for state in states for template in templates()]
        each = F.normalize(theirs().encode_text(tokenizer(sentences)), dim=-1)
        pair.append(F.normalize(each.mean(0), dim=0))
    return torch.stack(pair)


def logits_of(detector: Detector, given: torch.Tensor, categories: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """100 times cosines: of the images [B, 2], of the patches, enlarged, [taps, B, 2, h, w]."""
    pairs = torch.stack([text(category) for category in categories])  # [B, 2, d_e]
    image = F.normalize(theirs().encode_image(given), dim=-1)
    found = theirs().visual.forward_intermediates(given, indices=[1, 3], output_fmt="NLC")["image_intermediates"]
    maps = []
    for tap, tokens in zip((1, 3), found, strict=True):
        layer = detector.projections[str(tap)]
        patches = F.normalize(tokens @ layer.weight.double().T + layer.bias.double(), dim=-1)
        small = torch.einsum("bnd,bcd->bcn", patches, pairs).unflatten(2, (4, 4))
        maps.append(F.interpolate(100 * small, given.shape[2:], mode="bilinear", align_corners=True))
    return 100 * torch.einsum("bd,bcd->bc", image, pairs), torch.stack(maps)


@torch.no_grad()
def test_a_prediction_is_the_published_formula():
    detector, given = made("april-gan", taps=(1, 3)), images((32, 32))
    found = detector(given, CATEGORIES)
    image, maps = logits_of(detector, given, CATEGORIES)
    published = maps.softmax(2)[:, :, 1].sum(0)
    close(found.anomaly_map * 2, published, 1e-10)
    close(found.image_score, image.softmax(1)[:, 1], 1e-10)
    close(found.joint_score, found.image_score, 1e-12)
    assert found.unit == "probability" and found.anomaly_map.std() > 0.05


@torch.no_grad()
def test_the_category_is_read_where_the_config_says_so():
    detector, given = made("april-gan", taps=(1, 3)), images((32, 32))
    close(detector(given).image_margin, detector(given, ["object"] * 3).image_margin, 1e-12)
    assert not torch.equal(detector(given, CATEGORIES).image_margin, detector(given).image_margin)
    other = made("april-gan", taps=(1, 3), class_aware=False)
    assert torch.equal(other(given, CATEGORIES).anomaly_map, other(given).anomaly_map)


def test_the_loss_is_focal_and_the_dice_of_the_abnormal_class_of_every_map():
    detector, given = made("april-gan", taps=(1, 3)).requires_grad_(True), images((32, 32))
    masks = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.7
    (stage,) = detector.stages(TrainingConfig())
    terms = stage.loss(stage.see(given, CATEGORIES), Answers(torch.ones(3), masks, torch.ones(3, dtype=torch.bool)))
    _, maps = logits_of(detector, given, CATEGORIES)
    expected = 0.0
    for p in maps.softmax(2):
        right = torch.where(masks, p[:, 1], p[:, 0])
        expected += ((1 - right) ** 2 * -right.log()).mean()
        hit, both = (p[:, 1] * masks).sum((1, 2)), p[:, 1].sum((1, 2)) + masks.sum((1, 2))
        expected += 1 - ((2 * hit + 1) / (both + 1)).mean()
    assert terms.keys() == {"pixel"}
    torch.testing.assert_close(terms["pixel"], expected, rtol=0, atol=2e-4)  # labels of the focal loss are smoothed
    ours, published = (
        torch.autograd.grad(loss, list(detector.projections.parameters())) for loss in (terms["pixel"], expected)
    )
    for one, other in zip(ours, published, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3 * float(other.abs().max()))


@torch.no_grad()
def test_training_keeps_what_it_cannot_change():
    detector, given = made("april-gan", taps=(1, 3)), images((32, 40))
    (stage,) = detector.stages(TrainingConfig(lr=0.5))
    assert stage.optimiser == "adam" and [group["lr"] for group in stage.groups] == [0.5]
    kept, expected = stage.see_features(stage.keep(given), CATEGORIES), stage.see(given, CATEGORIES)
    for name in ("anomaly_map", "joint_score", "image_margin"):
        close(getattr(kept, name), getattr(expected, name), 1e-12)
    (weighted,) = made("april-gan", taps=(1, 3), head_weights="sigmoid").stages(TrainingConfig(lr=0.5, lr_heads=0.25))
    (tiled,) = made("april-gan", taps=(1, 3), mosaic=0.2).stages(TrainingConfig())
    assert stage.keep is not None and tiled.keep is None and tiled.augment.mosaic == 0.2
    assert weighted.keep is None and [group["lr"] for group in weighted.groups] == [0.5, 0.25]


@pytest.mark.parametrize("changes", [{}, {"mosaic": 0.5}, {"head_weights": "free"}])
def test_a_training_moves_what_is_learned_and_its_run_gives_the_same_bits(changes, dataset, tmp_path):
    detector = build(clip(torch.float32), "april-gan", taps=(1, 3), **changes)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    card = train(detector, dataset, TrainingConfig(epochs=4, batch=4, lr=0.01), tmp_path / "run", cpu=True)
    moved = {name for name, tensor in detector.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == before.keys() and card["steps"] == 4
    losses = pd.read_csv(tmp_path / "run" / "log.csv")["pixel"]
    assert losses.iloc[-1] < losses.iloc[0] or changes.get("mosaic"), "mosaics are other images at every step"
    given = images().float()
    run = load_run(tmp_path / "run", clip(torch.float32))
    assert torch.equal(run.detector(given, CATEGORIES).anomaly_map, detector(given, CATEGORIES).anomaly_map)
    assert run.detector.config == detector.config


@torch.no_grad()
def test_head_weights_of_one_change_nothing_and_others_do():
    given, plain = images(), build(clip(), "april-gan", taps=(1, 3))
    weighted = build(clip(), "april-gan", taps=(1, 3), head_weights="free")
    assert torch.equal(weighted(given).anomaly_map, plain(given).anomaly_map) and plain.head_weights() == {}
    weighted.weights.raw["global"][0, 0] = 3.0
    assert not torch.equal(weighted(given).anomaly_map, plain(given).anomaly_map)
    assert not torch.equal(weighted(given).image_margin, plain(given).image_margin), "CLS passes the heads, too"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"taps": ()}, r"taps is \(\)"),
        ({"taps": (1, 1)}, r"taps is \(1, 1\)"),
        ({"taps": (-1,)}, r"taps is \(-1,\)"),
        ({"taps": (1, 4)}, "block 4 does not exist: tiny has 4"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"mosaic": 1.5}, "mosaic is 1.5"),
        ({"sigma": -1.0}, "sigma is -1.0"),
        ({"alpha": 2.0}, "alpha is 2.0"),
        ({"pool": "mean"}, "pool is 'mean'"),
        ({"head_weights": "some"}, "head_weights is 'some'"),
        ({"local_start": 5}, "APRILGANConfig has no field 'local_start'"),
    ],
)
def test_settings_that_make_no_detector_are_named(fields, said):
    with pytest.raises(ConfigError, match=said):
        build(clip(), "april-gan", **fields)


def test_the_preset_has_the_published_values():
    config = PRESETS["april-gan"]
    assert isinstance(config, APRILGANConfig) and config.taps == (5, 11, 17, 23) and config.temperature == 0.01
    learned = build(load("mini"), "april-gan").requires_grad_(True)
    assert sum(p.numel() for p in learned.parameters()) == 4 * (128 * 128 + 128)
