"""Attention methods against references of a few lines: matrices over both streams, multiplied out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from headlens.attribution.attention import contributions, enlarged, legrad, relevance, rollout
from headlens.attribution.targets import target_of
from headlens.detectors.scoring import Margins
from headlens.errors import ConfigError, ShapeError
from headlens.heads.clean import clean_forward
from headlens.heads.direct import image_parts, source_maps, tap_parts
from headlens.heads.variants import Head, heads_of
from tests.attribution.conftest import untouched
from tests.backbone.models import close

DEPTH, TOKENS = 4, 21


def pooled_by(detector, seen):
    """What CLS and each patch weigh in the image feature, as the derivative of the margin by their parts in it."""
    share = detector.config.score_pooling
    if not share:
        return 1.0, torch.zeros(1, dtype=torch.float64)
    cls, taps = seen.features.cls, seen.features.taps
    anomalous = (sum(seen.margins.taps.values()) / len(taps)).sigmoid()[0]  # (N)
    units = sum(F.normalize(e[0], dim=-1) for e in taps.values()) / len(taps)
    pooled = anomalous @ units
    length = ((1 - share) * F.normalize(cls[0], dim=-1) + share * F.normalize(pooled, dim=-1)).norm()
    return (1 - share) / length, share * anomalous / len(taps) / pooled.norm() / length


def watched(target, image):
    """Attention of both streams [H, T, T] by hook name, its gradients, and how much CLS and patches are read."""
    kept = {}

    def keep(pattern, hook):
        kept[hook.name] = pattern
        return pattern

    vision, plan = target.detector.backbone.vision, target.detector.plan
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(DEPTH)]
    names += [f"blocks.{layer}.attn.hook_local_pattern" for layer in plan.local_layers]
    with vision.hooks([(name, keep) for name in names]):
        seen = target.forward(image.clone().requires_grad_(), hooked=True)
        gradients = torch.autograd.grad(target.read(seen).sum(), [*kept.values()], allow_unused=True)
    full = [torch.zeros_like(x) if g is None else g for x, g in zip(kept.values(), gradients, strict=True)]
    attention = {name: own[0].detach() for name, own in kept.items()}
    leaves = {tap: margin.detach().requires_grad_() for tap, margin in seen.margins.taps.items()}
    image_margin = seen.margins.image.detach().requires_grad_()
    value = target.read(replace(seen, margins=Margins(image_margin, leaves)))
    by_margin = torch.autograd.grad(value.sum(), [image_margin, *leaves.values()], allow_unused=True)
    cls, *patches = [0.0 if g is None else g[0] for g in by_margin]
    of_cls, of_patch = pooled_by(target.detector, seen)
    read = [(patch + cls * of_patch).detach() * torch.ones(TOKENS - 1) for patch in patches]
    cls = torch.as_tensor(cls * of_cls).detach()
    return attention, dict(zip(kept, [g[0] for g in full], strict=True)), [cls, *read]


def reference(target, image, matrix, keep: float):
    """The row of what is read, times one matrix over [x; y] for each layer: the tokens of x above those of y."""
    attention, gradients, (cls, *patches) = watched(target, image)
    start, taps = target.detector.config.local_start, target.detector.config.taps
    total = cls + sum(p.sum() for p in patches)
    row = torch.zeros(2 * TOKENS, dtype=torch.float64)
    row[0] = cls / total
    eye, none = torch.eye(TOKENS, dtype=torch.float64), torch.zeros(TOKENS, TOKENS, dtype=torch.float64)
    for layer in reversed(range(DEPTH)):
        if layer in taps:
            first = TOKENS + 1 if 0 <= start <= layer else 1  # below its start there is no local stream to read
            row[first : first + TOKENS - 1] += patches[taps.index(layer)] / total
        own = matrix(attention, gradients, f"blocks.{layer}.attn.hook_pattern")
        local = f"blocks.{layer}.attn.hook_local_pattern"
        beside = [none, eye]
        if local in attention:
            beside = [keep * matrix(attention, gradients, local), keep * eye]
        row = row @ torch.cat([torch.cat([keep * (eye + own), none], 1), torch.cat(beside, 1)])
        if layer == start:
            row = row @ torch.cat([torch.cat([eye, none], 1), torch.cat([eye, none], 1)])
    return row


def mean_attention(attention, gradients, name):
    own = attention[name].mean(0)
    return own / own.sum(-1, keepdim=True)


def weighed_attention(attention, gradients, name):
    return (attention[name] * gradients[name]).clamp(min=0).mean(0)


CASES = [(name, {}) for name in ("image_margin", "map_margin", "joint_margin")]
CASES += [
    ("joint_margin", {"local_start": -1, "streams": ("global",)}),
    ("map_margin", {"local_attention": ("qq", "vv")}),
]
CASES += [("map_margin", {"taps": (0, 2)})]
CASES += [(name, {"score_pooling": 0.5}) for name in ("image_margin", "joint_margin")]


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_rollout_and_relevance_against_matrices(name, changes, make, images):
    detector = make(**changes)
    target = target_of(detector, name)
    for method, matrix, keep in ((rollout, mean_attention, 0.5), (relevance, weighed_attention, 1.0)):
        rows = [reference(target, image, matrix, keep) for image in images.split(1)]
        own = torch.stack([row[1:TOKENS].view(4, 5) for row in rows])
        close(method(target, images), enlarged(own, images))
        if method is rollout:  # nothing is lost on the way
            assert all(abs(float(row[:TOKENS].sum()) - 1) < 1e-12 for row in rows)
    assert untouched(detector)


def test_for_the_image_margin_relevance_is_the_textbook(detector, images):
    target = target_of(detector, "image_margin")
    attention, gradients, _ = watched(target, images[:1])
    total = torch.eye(TOKENS, dtype=torch.float64)
    for layer in range(DEPTH):
        total = total + weighed_attention(attention, gradients, f"blocks.{layer}.attn.hook_pattern") @ total
    close(relevance(target, images[:1]), enlarged(total[0, 1:].view(1, 4, 5), images))


def test_legrad_against_a_loop(detector, images):
    target = target_of(detector)
    _, gradients, _ = watched(target, images[:1])
    total = torch.zeros(TOKENS, dtype=torch.float64)
    for own in gradients.values():
        for head in own:
            for query in head:
                total += query.clamp(min=0) / (len(own) * TOKENS)
    close(legrad(target, images[:1]), enlarged(total[1:].view(1, 4, 5), images))


def test_single_heads_add_up(detector, images):
    target, every = target_of(detector), heads_of(detector)
    close(sum(legrad(target, images, heads=[head]) for head in every), legrad(target, images))
    target, layer = target_of(detector, "image_margin"), heads_of(detector, [2], streams=["global"])
    one = [relevance(target, images, heads=[head]) for head in layer]
    close(sum(one), relevance(target, images, heads=layer))
    assert all(float(own.min()) >= 0 for own in one)


def test_rollout_of_one_head_is_its_row(detector, images):
    """With all else passed over, CLS comes half from itself and half from where the head looks."""
    target = target_of(detector, "image_margin")
    attention, _, _ = watched(target, images[:1])
    row = attention["blocks.2.attn.hook_pattern"][1, 0, 1:] / 2
    close(rollout(target, images[:1], heads=[Head("global", 2, 1)]), enlarged(row.view(1, 4, 5), images))


def test_contributions_and_the_rest_are_the_margin(detector, images):
    clean, target = clean_forward(detector, images), target_of(detector, "map_margin")
    rest = sum(tap_parts(clean, tap).rest for tap in (1, 3)) / 2
    every = sum(contributions(target, images, heads=[head]) for head in heads_of(detector))
    close(every, contributions(target, images))
    mean = torch.stack(list(clean.margins.taps.values())).mean(0)
    close(every + enlarged(rest.view(3, 4, 5) / 20, images), enlarged(mean.view(3, 4, 5) / 20, images))
    close(every.sum((1, 2)) + rest.mean(1), target(images))


def test_contributions_to_a_pooled_image_margin(make, images):
    """What patches are read for counts at the patches; from CLS as a source nothing is drawn."""
    detector = make(score_pooling=0.5)
    clean, target = clean_forward(detector, images), target_of(detector, "image_margin")
    from_cls = sum(source_maps(clean, layer)[:, :, 0].sum(1) for layer in range(DEPTH))
    found = contributions(target, images)
    close(found.sum((1, 2)) + from_cls + image_parts(clean).rest, target(images))
    close(sum(contributions(target, images, heads=[head]) for head in heads_of(detector)), found)
    local = contributions(target, images, heads=[Head("local", 2, 1)])
    close(local.sum((1, 2)), image_parts(clean).terms["head", "local", 2][:, 1])
    assert local.abs().max() > 1e-6


def test_contributions_of_heads_are_their_direct_effects(detector, images):
    clean = clean_forward(detector, images)
    effects = image_parts(clean).heads["global"]
    local = target_of(detector, "L2H3/local")
    close(contributions(local, images).sum((1, 2)), local(images))
    one = target_of(detector, "L2H1")
    same = contributions(target_of(detector, "image_margin"), images, heads=[Head("global", 2, 1)])
    close(contributions(one, images), same)
    assert (same.sum((1, 2)) - effects[:, 2, 1]).abs().max() > 1e-6  # CLS is a source too, and is left out


def test_a_head_as_a_target(detector, images):
    target = target_of(detector, "L2H1")
    upper = legrad(target, images, heads=heads_of(detector, [3], streams=["global"]))
    assert float(legrad(target, images).max()) > float(upper.max()) > 0  # upper blocks move the scale of the read-out
    for method in (rollout, relevance):
        with pytest.raises(ConfigError, match="L2H1 is one head"):
            method(target, images)
    with pytest.raises(ConfigError, match="leave heads out"):
        contributions(target, images, heads=[Head("global", 2, 1)])


def test_what_does_not_exist_is_named(detector, images):
    target = target_of(detector)
    with pytest.raises(ShapeError, match="L0H0/local does not exist"):
        relevance(target, images, heads=[Head("local", 0, 0)])
    with pytest.raises(ShapeError, match="no head to follow"):
        legrad(target, images, heads=[])
    with pytest.raises(ConfigError, match="joint_margin is not a sum over heads"):
        contributions(target, images)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4))
def test_enlarging_keeps_the_sum(rows, columns, patch):
    maps = torch.randn(2, rows, columns, dtype=torch.float64)
    close(enlarged(maps, torch.zeros(2, 3, rows * patch, columns * patch)).sum((1, 2)), maps.sum((1, 2)))
