"""Planted truth: in a model edited so that head 3 of block 7 carries the signal, every method ranks it first."""

from __future__ import annotations

import pytest
import torch

from headlens import heads
from headlens.backbone import architecture_from_config, assemble
from headlens.detectors.detector import Detector
from headlens.detectors.methods.headclip import HeadCLIP
from headlens.detectors.methods.registry import preset
from headlens.detectors.readout import Readout
from tests.backbone.models import random_clip, tiny_config
from tests.tiny import BOTH

LAYER, HEAD = 7, 3


@pytest.fixture
def planted() -> Detector:
    """Every other head and every MLP whispers; this head reads one direction and writes it into the margin."""
    config = tiny_config(vocab_size=49408, context_length=32, layers=9)
    clip = assemble(architecture_from_config(config, "tiny"), random_clip(config, torch.float32).state_dict())
    detector = HeadCLIP(clip, preset("headclip", **(BOTH | {"taps": (4, 8), "local_start": 3})), seed=1)
    with torch.no_grad():
        for block in clip.vision.blocks:
            for part in (block.attn.out, block.mlp.proj):
                part.weight.mul_(0.01)
                part.bias.mul_(0.01)
        normal, abnormal = detector.text()[0]
        towards = Readout.of(clip.vision).folded.matrix @ (abnormal - normal)  # where the margin rises fastest
        attn = clip.vision.blocks[LAYER].attn
        own = slice(HEAD * attn.d_head, (HEAD + 1) * attn.d_head)
        value = slice(2 * 32 + own.start, 2 * 32 + own.stop)  # rows of qkv that make this head's v
        attn.qkv.weight[value] = torch.randn(32, generator=torch.Generator().manual_seed(5))
        attn.out.weight[:, own] = 0.05 * (towards / towards.norm())[:, None]
    return detector.requires_grad_(False)


def test_contributions_find_it(planted, pictures):
    frame = heads.contributions(planted, pictures, check_sums=True).frame.query("kind == 'head'")
    size = frame.assign(size=frame["value"].abs()).groupby(["metric", "stream", "layer", "head"])["size"].mean()
    for metric, stream in (("image_margin", "global"), ("tap_margin_8", "local")):
        ranked = size[metric].sort_values(ascending=False)
        assert ranked.index[0] == (stream, LAYER, HEAD)
        assert ranked.iloc[0] > 3 * ranked.iloc[1]


def test_ablation_finds_it(planted, pictures):
    variants = heads.single_heads(heads.heads_of(planted))
    summary = heads.ablate(planted, pictures, variants, metrics=(), replicates=10).summary.query("category == 'mean'")
    for metric, first in (("image_margin", "L7H3"), ("anomaly_map", "L7H3/local")):
        ranked = summary[summary["metric"] == metric].set_index("variant")["magnitude"].sort_values(ascending=False)
        assert ranked.index[0] == first
        assert ranked.iloc[0] > 3 * ranked.iloc[1]
    assert set(summary.query("metric == 'joint_margin'")["variant"].iloc[:2]) == {"L7H3", "L7H3/local"}


def test_importance_finds_it(planted, pictures):
    summary = heads.importance(planted, pictures, metrics=("image_margin", "joint_margin")).summary
    for metric in ("image_margin", "joint_margin"):
        ranked = summary[summary["metric"] == metric].sort_values("importance", ascending=False)
        assert tuple(ranked.iloc[0][["layer", "head"]]) == (LAYER, HEAD)
