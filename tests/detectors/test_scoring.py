"""Maps and scores of margins, against ``F.interpolate`` and softmax."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from headlens.detectors import Margins, Scoring
from headlens.errors import ConfigError
from tests.backbone.models import close
from tests.methods.formula import smooth

GRID, SIZE, FUSED = (3, 4), (24, 40), "probability of mean margin"


def margins(taps: int = 2, images: int = 3) -> Margins:
    drawn = torch.randn(1 + taps, images, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Margins(drawn[0, :, 0], {5 * tap: 9 * drawn[1 + tap] for tap in range(taps)})


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("sigma", [0.0, 30.0])
def test_taps_fused_at_pixels_are_enlarged_as_logits(corners, sigma):
    given, scoring = margins(), Scoring(sigma=sigma, alpha=0.3, fuse_at="pixels", corners=corners)
    expected = 0
    for each in given.taps.values():
        logits = torch.stack([-each / 2, each / 2], 1).unflatten(2, GRID)  # of two classes, this far apart
        large = F.interpolate(logits, SIZE, mode="bilinear", align_corners=corners)
        expected = expected + large.softmax(1)[:, 1] / 2
    expected = smooth(expected, SIZE, sigma * 40 / 518)  # of that size already: nothing but the Gaussian
    found = scoring(given, GRID, SIZE)
    close(found.anomaly_map, expected, 1e-12)
    close(found.joint_score, 0.7 * given.image.sigmoid() + 0.3 * expected.flatten(1).amax(1), 1e-12)
    other = Scoring(sigma=sigma, corners=corners)(given, GRID, SIZE).anomaly_map
    assert (found.anomaly_map - other).abs().max() > 0.05, "the order of the two steps matters"


@pytest.mark.parametrize("sigma", [0.0, 30.0])
def test_the_probability_of_a_mean_margin_is_taken_of_enlarged_logits(sigma):
    given, scoring = margins(), Scoring(FUSED, sigma, 0.3, fuse_at="pixels", corners=True)
    large = [
        F.interpolate(each.unflatten(1, GRID)[:, None], SIZE, mode="bilinear", align_corners=True)[:, 0]
        for each in given.taps.values()
    ]
    two = torch.stack([-sum(large) / 4, sum(large) / 4], 1)  # two classes, the mean of two taps apart
    expected = smooth(two.softmax(1)[:, 1], SIZE, sigma * 40 / 518)
    found = scoring(given, GRID, SIZE)
    close(found.anomaly_map, expected, 1e-12)
    close(found.joint_score, 0.7 * given.image.sigmoid() + 0.3 * expected.flatten(1).amax(1), 1e-12)
    assert found.unit == "probability" and scoring.patch_maps(given, GRID).shape == (3, 1, *GRID)


def test_corners_alone_change_how_the_grid_is_enlarged():
    given = margins()
    small = sum(each.sigmoid().unflatten(1, GRID) for each in given.taps.values()) / 2
    expected = F.interpolate(small[:, None], SIZE, mode="bilinear", align_corners=True)[:, 0]
    close(Scoring(sigma=0.0, corners=True)(given, GRID, SIZE).anomaly_map, expected, 1e-12)


@pytest.mark.parametrize("fields", [{}, {"fuse_at": "pixels"}, {"fuse_at": "pixels", "fuse": FUSED}])
def test_no_pixel_lies_out_of_bounds(fields):
    scoring = Scoring(**fields)
    small = scoring.patch_maps(margins(), GRID)
    maps, (low, high) = scoring.enlarge(small, SIZE).flatten(1), scoring.bounds(small)
    assert low.shape == high.shape == (3,)
    assert (
        (maps >= low[:, None] - 1e-12) & (maps <= high[:, None] + 1e-12)
    ).all() and 0 <= low.min() <= high.max() <= 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sigma": -1.0}, "sigma is -1.0"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"top": 0.0}, "top is 0.0"),
        ({"fuse": "mean margin", "fuse_at": "pixels"}, "the same map wherever taps are fused"),
        ({"fuse": FUSED}, "taken at pixels: fuse_at is 'pixels'"),
    ],
)
def test_what_makes_no_scores_is_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        Scoring(**fields)
