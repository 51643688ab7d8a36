"""SC-CLIP against its formula on open_clip's modules, patch by patch, in float64; outliers against scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from torch import Tensor

from headlens.backbone import LocalStream, VisionPlan
from headlens.detectors import PRESETS, HeadCLIP, SCCLIPConfig, TrainingConfig, build
from headlens.detectors.parts.outliers import local_outlier_factor, outliers, repaired
from headlens.detectors.parts.self_calibration import SelfCalibration, self_calibrated
from headlens.errors import ConfigError, ShapeError
from headlens.heads import contributions, heads_of, map_parts
from headlens.heads.clean import clean_forward
from headlens.heads.direct import tap_parts
from headlens.heads.exactness import held
from tests.backbone.models import close, random_clip
from tests.methods.cases import CASES, images
from tests.tiny import SENTENCES, SMALL, clip

GRID, HEADS = (4, 4), 4
NEIGHBOURS, SHARE = 5, 0.2


@cache
def theirs() -> CLIP:
    return random_clip(SENTENCES)


@cache
def sc_clip():
    return CASES["sc-clip"]()


def factor_of(points: np.ndarray, k: int) -> np.ndarray:
    """``K_i mean_j 1 / K_j``, one point after the other, [N]."""
    found = NearestNeighbors(n_neighbors=k).fit(points)
    distances, which = found.kneighbors()  # of points without themselves
    reach = distances[:, -1] ** 2
    return np.array([reach[i] * np.mean([1 / reach[j] for j in which[i]]) for i in range(len(points))])


def mended(points: Tensor, wrong: set[int]) -> Tensor:
    """Points [N, D] of a grid; wrong ones become the mean of their right neighbours, where they have any."""
    rows, columns = GRID
    done = points.clone()
    for i in wrong:
        row, column = divmod(i, columns)
        around = [
            (r, c) for r in range(row - 1, row + 2) for c in range(column - 1, column + 2) if (r, c) != (row, column)
        ]
        right = [
            r * columns + c for r, c in around if 0 <= r < rows and 0 <= c < columns and r * columns + c not in wrong
        ]
        if right:
            done[i] = torch.stack([points[j] for j in right]).mean(0)
    return done


def like(points: Tensor) -> Tensor:
    """Cosines, [N, N]."""
    return F.cosine_similarity(points[:, None], points[None], dim=-1)


def gathered(similarity: Tensor, points: Tensor) -> Tensor:
    """Points as means of those that they are like, by more than 0.4."""
    kept = similarity * (similarity >= 0.4)
    return torch.stack([(row[:, None] * points).sum(0) / row.sum() for row in kept])


def calibrated(model: CLIP, given: Tensor, levels: tuple[int, ...] = (1, 2, 3)) -> Tensor:
    """Patches of one image before ``ln_post``, [N, D]: a tower of 4 blocks, whose last is the third from 0."""
    visual = model.visual
    x = visual.conv1(given[None]).flatten(2).mT
    x = torch.cat([visual.class_embedding.expand(1, 1, -1), x], 1) + visual.positional_embedding
    after = [visual.ln_pre(x)]
    for block in visual.transformer.resblocks[:-1]:
        after.append(block(after[-1]))
    f = [tokens[0] for tokens in after]  # f[b] enters block b
    block, last = visual.transformer.resblocks[-1], f[3][1:]
    factor = factor_of(last.numpy(), NEIGHBOURS)
    wrong = set(np.flatnonzero(factor > np.quantile(factor, 1 - SHARE)).tolist())
    assert len(wrong) == 3
    alike = like(mended(f[3][1:], wrong))  # 9 of 12 blocks are 3 of 4
    x = gathered(alike, mended(last, wrong))
    shared = 3 * (alike - alike.mean())
    shared = torch.where(shared < 0, -torch.inf, shared).softmax(-1)

    def attention(patches: Tensor) -> Tensor:
        attn = block.attn
        _, k, v = (block.ln_1(patches) @ attn.in_proj_weight.T + attn.in_proj_bias).chunk(3, -1)
        size, heads = k.shape[1] // HEADS, []
        for head in range(HEADS):
            at = slice(head * size, (head + 1) * size)
            heads.append((shared + (k[:, at] @ k[:, at].T / size**0.5).softmax(-1)) / 2 @ v[:, at])
        return attn.out_proj(torch.cat(heads, 1))

    coarse = like(f[1][1:])
    x = gathered(coarse, attention(x) + 0.3 * f[3][0])
    if not levels:
        return x
    several = torch.stack([f[level] for level in levels]).sum(0)
    return x + gathered(coarse, attention(several[1:]) + 0.3 * several[0])


@torch.no_grad()
@pytest.mark.parametrize("levels", [(4, 6, 9), ()])
def test_a_prediction_is_the_formula(levels):
    detector, given = sc_clip().with_config(levels=levels), images((32, 32))
    found, visual = detector(given), theirs().visual
    pair = detector.text()[0]
    patches = torch.stack([calibrated(theirs(), one, (1, 2, 3) if levels else ()) for one in given])
    unit = F.normalize(visual.ln_post(patches) @ visual.proj, dim=-1)
    close(found.tap_margins[3].flatten(1), (unit @ pair[1] - unit @ pair[0]) / 0.025, 1e-10)
    cls = F.normalize(theirs().encode_image(given), dim=-1)
    close(found.image_score, (cls @ pair.T / 0.025).softmax(-1)[:, 1], 1e-10)
    assert list(detector.stages(TrainingConfig())) == []


@pytest.mark.parametrize("k", [2, 7])
def test_outlier_factors_are_those_of_scikit_learn(k):
    points = torch.randn(3, 25, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 5
    points[:, 3] += 4
    textbook, coded = local_outlier_factor(points, k, textbook=True), local_outlier_factor(points, k)
    for image, found, other in zip(points.numpy(), textbook, coded, strict=True):
        known = LocalOutlierFactor(k, metric="sqeuclidean", algorithm="brute").fit(image)
        close(found, torch.from_numpy(-known.negative_outlier_factor_), 1e-8)
        close(other, torch.from_numpy(factor_of(image, k)), 1e-10)
    for found in (textbook, coded):
        assert (found.argmax(1) == 3).all()
    far = outliers(points, 0.05, k)
    assert (far.sum(1) == 2).all() and far[:, 3].all() and not outliers(points, 0.0, k).any()


def test_tokens_that_are_alike_or_alone_are_no_outliers():
    assert not outliers(torch.ones(2, 9, 4)).any()
    assert not outliers(torch.randn(2, 1, 4)).any()
    assert local_outlier_factor(torch.zeros(1, 9, 4)).isfinite().all()


def test_outliers_become_the_mean_of_their_right_neighbours():
    points = torch.randn(2, 16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wrong = torch.zeros(2, 16, dtype=torch.bool)
    wrong[0, [0, 1, 4, 5, 15]] = True  # the first has no right neighbour
    wrong[1, [6]] = True
    found = repaired(points, wrong, GRID)
    for one, image, which in zip(found, points, wrong, strict=True):
        close(one, mended(image, set(which.nonzero().flatten().tolist())), 1e-12)
    assert torch.equal(found[0, 0], points[0, 0]) and torch.equal(found[1, 7], points[1, 7])


@torch.no_grad()
def test_an_image_is_calibrated_by_itself_in_any_order():
    detector, given = sc_clip(), images()
    expected = detector(given).anomaly_map
    close(detector(given.flip(0)).anomaly_map.flip(0), expected, 1e-12)
    others = torch.cat([given[:1], 100 * given[1:]])
    close(detector(others).anomaly_map[:1], expected[:1], 1e-12)


@torch.no_grad()
def test_what_a_patch_begins_with_is_one_part():
    detector, given = sc_clip(), images()
    clean = clean_forward(detector, given)
    parts = tap_parts(clean, 3)
    assert {part.kind for part in parts.terms} == {"head", "bias", "below", "readout"}
    assert parts.layers == {"local": range(3, 4)}
    cls = sum(clean.x[block][:, :1] for block in (1, 2, 3, 3))  # the last block's, and the levels'
    b_o = detector.backbone.vision.blocks[3].attn.b_O
    close(clean.begin[3], (0.3 * cls + b_o).expand_as(clean.begin[3]), 1e-12)
    assert "similarities of patches" in held(detector)
    assert {str(head) for head in heads_of(detector, streams=("local",))} == {f"L3H{head}/local" for head in range(4)}


class Calibrated(HeadCLIP):
    """HeadCLIP that reads its patches from the calibrated stream, with head weights in it."""

    @property
    def plan(self) -> VisionPlan:
        return VisionPlan((3,), self_calibrated(4, outlying=0.2, neighbours=5), self.head_weights())


def test_any_method_may_have_the_stream(dataset):
    detector = Calibrated(clip(), build(clip(), "headclip", **SMALL).config, seed=1).requires_grad_(False)
    detector = detector.with_config(taps=(3,))
    detector.weights.raw["local"].mul_(torch.linspace(0.5, 1.5, 4))
    found = contributions(detector, dataset, check_sums=True, size=32).frame
    assert set(found[found["metric"] == "tap_margin_3"]["kind"]) >= {"head", "below"}
    plain = Calibrated(clip(), replace(detector.config, head_weights="none"), seed=1)
    given = images((32, 32))
    assert (detector(given).anomaly_map - plain(given).anomaly_map).abs().max() > 1e-4
    assert map_parts(detector, dataset.pixels(0).image, size=32).margin.shape == (4, 4)


def test_the_preset_has_the_published_values():
    config = PRESETS["sc-clip"]
    assert isinstance(config, SCCLIPConfig)
    assert (config.outlying, config.neighbours, config.threshold, config.sharpness, config.cls) == (
        0.05,
        30,
        0.4,
        3,
        0.3,
    )
    assert (config.similar, config.mixed, config.levels) == (9, 4, (4, 5, 6, 7, 8, 9, 10))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"outlying": 1.0}, "outlying is 1.0"),
        ({"neighbours": 0}, "neighbours is 0"),
        ({"similar": 12}, "similar is 12"),
        ({"levels": (0,)}, r"levels is \(0,\)"),
        ({"threshold": 1.0}, "threshold is 1.0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"alpha": 2.0}, "alpha is 2.0"),
    ],
)
def test_settings_that_make_no_detector_are_named(fields, said):
    with pytest.raises(ConfigError, match=said):
        build(clip(), "sc-clip", **fields)


@torch.no_grad()
def test_a_stream_with_a_source_is_read_in_its_block_and_looks_back():
    source = SelfCalibration(2, 1, 1)
    with pytest.raises(ShapeError, match="tap 3 lies above block 2, where the local stream begins and ends"):
        VisionPlan((3,), LocalStream(2, source=source))
    with pytest.raises(ShapeError, match="stands beside the global one, and has no MLP"):
        LocalStream(2, mode="replace", source=source)
    vision, given, plan = clip().vision, images(), VisionPlan((2,), LocalStream(2, source=source))
    with pytest.raises(ShapeError, match="20 patches are not 4 x 4: give SelfCalibration the grid"):
        vision(given, plan)
    stream = vision.embed(images((32, 32)))
    with pytest.raises(ShapeError, match="start_at=2 lies above block 1, which is looked back at: give past"):
        vision(stream, plan, start_at=2)
