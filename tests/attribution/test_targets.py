"""Targets against the detector's own scores, against exact head parts, and against finite differences."""

from __future__ import annotations

import pytest
import torch

from headlens.attribution.targets import SCORES, target_of
from headlens.errors import ConfigError, ShapeError
from headlens.heads import clean_forward, gates
from headlens.heads.direct import image_parts, tap_parts
from tests.attribution.conftest import untouched
from tests.backbone.models import close
from tests.heads.oracles import hooked

EVERY = (*SCORES, "L2H1", "L2H3/local")


@pytest.fixture
def region() -> torch.Tensor:
    mask = torch.zeros(32, 40)
    mask[5:19, 12:30] = 1
    return mask


@pytest.mark.parametrize("name", gates.TARGETS)
def test_scores_are_those_of_the_gates(name, detector, images):
    close(target_of(detector, name)(images), gates.target(detector, images, name))


def test_map_margin_is_the_mean_over_the_region(detector, images, region):
    taps = hooked(detector, images, []).tap_margins
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


@pytest.mark.parametrize("name", EVERY)
def test_gradients_are_finite_differences(name, detector, images):
    target = target_of(detector, name)
    along = torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(target(leaf).sum(), leaf)
    ends = [target(images + step * along) for step in (-1e-5, 1e-5)]
    close((gradient * along).sum((1, 2, 3)), (ends[1] - ends[0]) / 2e-5, 1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_images_are_independent_and_hooks_change_nothing(name, detector, images):
    target = target_of(detector, name)
    together = target(images, hooked=True)
    for row in range(3):
        close(target(images[row : row + 1])[0], together[row])
    assert untouched(detector)


def test_class_aware_prompts_are_those_of_the_thing(make, images):
    detector = make(class_aware=True)
    for thing in ("metal nut", "wood"):
        close(target_of(detector, thing=thing)(images), gates.target(detector, images, things=[thing] * 3))


def test_what_does_not_exist_is_named(detector, make, images):
    with pytest.raises(ConfigError, match="unknown target 'auroc'"):
        target_of(detector, "auroc")
    with pytest.raises(ConfigError, match=r"score_pooling is 0\.5"):
        target_of(make(score_pooling=0.5))
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
