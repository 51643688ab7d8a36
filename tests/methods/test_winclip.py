"""WinCLIP against its formula on open_clip's modules, one window after the other; its lens; what it refuses."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor

from headlens.backbone import LocalStream, VisionPlan
from headlens.detectors import PRESETS, Margins, Scoring, TrainingConfig, WinCLIPConfig, build
from headlens.errors import ConfigError, ShapeError
from headlens.heads import Head, clean_forward, map_parts, single_heads
from headlens.heads.direct import source_maps, tap_parts
from headlens.heads.measuring import measure
from headlens.maps import windows
from tests.backbone.models import close, random_clip
from tests.methods.cases import images
from tests.tiny import SENTENCES, clip

CATEGORIES = ["metal_nut", "wood", "metal_nut"]
NORMAL = [
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
]
ABNORMAL = ["damaged {}", "{} with flaw", "{} with defect", "{} with damage"]
PHOTOS = [
    *("a cropped photo of {} {{}}.", "a close-up photo of {} {{}}.", "a bright photo of {} {{}}."),
    *("a dark photo of {} {{}}.", "a jpeg corrupted photo of {} {{}}.", "a blurry photo of {} {{}}."),
    *("a photo of {} {{}}.", "a photo of {} small {{}}.", "a photo of {} large {{}}."),
    *("a photo of {} {{}} for visual inspection.", "a photo of {} {{}} for anomaly detection."),
]


@cache
def theirs() -> CLIP:
    return random_clip(SENTENCES)


@cache
def text(category: str, unit: bool = False) -> Tensor:
    """[2, d_e], by open_clip's text tower."""
    pair = []
    for states in (NORMAL, ABNORMAL):
        said = [p.format(a).format(s.format(category)) for s in states for p in PHOTOS for a in ("a", "the")]
        each = theirs().encode_text(clip().tokenizer(said))
        pair.append((F.normalize(each, dim=-1) if unit else each).mean(0))
    return F.normalize(torch.stack(pair), dim=-1)


def embedded(model: CLIP, given: Tensor, patches: list[int]) -> Tensor:
    """CLS [B, d_e] of a pass that has only these patches of an image of 4 x 4, counted from 0."""
    visual = model.visual
    x = visual.conv1(given).flatten(2).mT
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
    x = visual.transformer(visual.ln_pre(x[:, [0, *(1 + patch for patch in patches)]]))
    return F.normalize(visual.ln_post(x[:, 0]) @ visual.proj, dim=-1)


def probability(model: CLIP, given: Tensor, patches: list[int], temperature: float = 0.07) -> Tensor:
    """Of abnormal, [B]."""
    pairs = torch.stack([text(category) for category in CATEGORIES])
    cosines = torch.einsum("bd,bcd->bc", embedded(model, given, patches), pairs)
    return (cosines / temperature).softmax(-1)[:, 1]


def predicted(model: CLIP, given: Tensor, sides: tuple[int, ...] = (2, 3)) -> tuple[Tensor, Tensor]:
    """Image scores [B] and maps [B, 4, 4]: harmonic means over the windows of a side, then over sides and image."""
    image = probability(model, given, list(range(16)))
    of_sides = []
    for side in sides:
        over = [[[] for _ in range(4)] for _ in range(4)]
        for top in range(5 - side):
            for left in range(5 - side):
                inside = [(r, c) for r in range(top, top + side) for c in range(left, left + side)]
                score = probability(model, given, [4 * r + c for r, c in inside])
                for r, c in inside:
                    over[r][c].append(score)
        rows = [[len(over[r][c]) / sum(1 / score for score in over[r][c]) for c in range(4)] for r in range(4)]
        of_sides.append(torch.stack([torch.stack(row, -1) for row in rows], -2))
    return image, (len(sides) + 1) / (1 / image[:, None, None] + sum(1 / one for one in of_sides))


@torch.no_grad()
def test_a_prediction_is_the_published_formula():
    detector, given = build(clip(), "winclip"), images((32, 32))
    found = detector(given, CATEGORIES)
    image, maps = predicted(theirs(), given)
    close(found.image_score, image, 1e-12)
    expected = F.interpolate(maps[:, None], (32, 32), mode="bilinear", align_corners=False)[:, 0]
    close(found.anomaly_map, expected, 1e-12)
    close(found.joint_score, image, 1e-12)
    close(detector.with_config(alpha=1.0)(given, CATEGORIES).joint_score, expected.flatten(1).amax(1), 1e-12)
    assert found.unit == "probability" and list(detector.stages(TrainingConfig())) == []


@torch.no_grad()
def test_an_ablated_head_is_gone_from_every_window():
    """open_clip's own weights without what that head writes."""
    detector, given, heads = build(clip(), "winclip"), images((32, 32)), [Head("global", 0, 1), Head("global", 3, 2)]
    clean = clean_forward(detector, given, CATEGORIES)
    swept = measure(clean, single_heads(heads))
    for row, head in enumerate(heads):
        model = copy.deepcopy(theirs())
        attn = model.visual.transformer.resblocks[head.layer].attn
        size = attn.embed_dim // attn.num_heads
        attn.out_proj.weight[:, head.head * size : (head.head + 1) * size] = 0
        image, maps = predicted(model, given)
        close(swept.patch_map[row], maps, 1e-10)
        close(swept.image_margin[row], image.logit(), 1e-10)
    assert (swept.patch_map - clean.scoring.patch_maps(clean.margins, clean.grid)).abs().max() > 1e-3


@torch.no_grad()
def test_implementations_differ_by_switches():
    detector, given = build(clip(), "winclip"), images((32, 32))
    margins = detector.margins(given, CATEGORIES)
    p, at = margins.taps[3].sigmoid(), windows((4, 4), 2)

    def small(**changes: object) -> Tensor:
        return detector.with_config(windows=(2,), **changes).scoring.patch_maps(
            Margins(margins.image, {3: margins.taps[3][:, : len(at)]}), (4, 4)
        )

    covering = [(at == patch).any(1).nonzero().flatten() for patch in range(16)]
    normal = torch.stack([1 - len(ws) / (1 / (1 - p[:, ws])).sum(1) for ws in covering], 1)
    close(small(of_normal=True, with_image=False).flatten(1), normal, 1e-12)
    abnormal = torch.stack([len(ws) / (1 / p[:, ws]).sum(1) for ws in covering], 1)
    close(small(with_image=False).flatten(1), abnormal, 1e-12)
    unit = detector.with_config(unit_sentences=True)
    close(unit.text(["wood"])[0], text("wood", unit=True), 1e-12)
    close(detector.text(["wood"])[0], text("wood"), 1e-12)
    assert not torch.equal(detector.with_config(templates="anomalib").text(["wood"]), detector.text(["wood"]))
    other = detector.with_config(class_aware=False)
    assert torch.equal(other(given, CATEGORIES).anomaly_map, other(given).anomaly_map)


@torch.no_grad()
def test_parts_of_a_map_are_those_of_its_windows():
    detector, given = build(clip(), "winclip"), images()
    clean = clean_forward(detector, given)
    of_windows = tap_parts(clean, 3).total
    close(of_windows, clean.margins.taps[3])
    spread, start = torch.zeros(3, 20, dtype=torch.float64), 0
    for side in (2, 3):
        at = windows((4, 5), side)
        for patch in range(20):
            spread[:, patch] += of_windows[:, start : start + len(at)][:, (at == patch).any(1)].mean(1) / 2
        start += len(at)
    close(clean.scoring.on_patches(of_windows, (4, 5)), spread, 1e-12)
    close(detector(given).tap_margins[3].flatten(1), spread, 1e-12)
    parts = map_parts(detector, torch.zeros(3, 32, 32, dtype=torch.uint8), size=32)
    assert len(parts.frame) == (4 * 4 + 1) * 16, "a row for each head and patch, and the rest"


@torch.no_grad()
def test_windows_neither_see_each_other_nor_move_the_image():
    detector, given = build(clip(), "winclip"), images()
    clean, plain = clean_forward(detector, given), clean_forward(detector.with_config(windows=()), given)
    close(clean.margins.image, plain.margins.image, 1e-12)
    close(source_maps(clean, 2)[..., :21], source_maps(plain, 2), 1e-12)
    pattern, passes = clean.pattern("global", 1), torch.zeros(clean.x[0].shape[1], dtype=torch.long)
    assert clean.passes == ((1, 21), (12, 5), (6, 10))
    for number, start in enumerate([*range(21, 81, 5), *range(81, 141, 10)], 1):
        passes[start:] = number
    apart = passes[:, None] != passes
    assert (pattern[..., apart] == 0).all() and (pattern[..., ~apart] > 0).all()
    close(pattern.sum(-1), torch.ones_like(pattern[..., 0]), 1e-12)
    close(clean.pattern("global", 1, head=2), pattern[:, 2], 0)


def test_an_image_smaller_than_a_window_is_one_window():
    assert windows((1, 2), 3).tolist() == [[0, 1]]
    assert build(clip(), "winclip")(images((8, 16))).anomaly_map.shape == (3, 8, 16)


def test_the_preset_has_the_published_values():
    config = PRESETS["winclip"]
    assert isinstance(config, WinCLIPConfig)
    assert (config.windows, config.temperature, config.with_image, config.alpha) == ((2, 3), 0.07, True, 0.0)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"windows": (2, 2)}, r"windows is \(2, 2\)"),
        ({"windows": (0,)}, r"windows is \(0,\)"),
        ({"windows": (2, 5)}, "windows of 5 x 5 patches: tiny has 4 x 4 patches"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"templates": "all"}, "templates is 'all'"),
        ({"alpha": 2.0}, "alpha is 2.0"),
        ({"taps": (3,)}, "WinCLIPConfig has no field 'taps'"),
    ],
)
def test_settings_that_make_no_detector_are_named(fields, said):
    with pytest.raises(ConfigError, match=said):
        build(clip(), "winclip", **fields)


def test_windows_are_scored_as_probabilities_and_read_in_the_one_stream():
    with pytest.raises(ConfigError, match=r"windows is \(2,\)"):
        Scoring("mean margin", windows=(2,))
    views = (torch.tensor([[0, 1]]),)
    for other in ({"local": LocalStream(1)}, {"tokens": {1: torch.zeros(1, 32)}}):
        with pytest.raises(ShapeError, match="views have neither extra tokens nor a local stream"):
            VisionPlan((3,), views=views, **other)
