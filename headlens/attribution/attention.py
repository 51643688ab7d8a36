"""Attributions to patches by attention matrices, for all heads, a layer or a head; and exact direct effects.

A target reads the global stream ``x`` at CLS, the local stream ``y`` at patches of the taps, or both. Going down, a
row ``r`` of weights over tokens says how much of the read-out comes from which token, in each of the two streams:

    at a tap          r_y gains the patches that are read;  at the top r_x gains CLS
    at a local block  y = y + Ã_loc V(x):  r_x gains r_y Ã_loc,  and r_y stays
    at a block        x = x + Ã V(x):      r_x gains r_x Ã
    at the start      y = x:               r_x gains r_y

What is read weighs as the target's derivative by each margin says, in all 1: for the image margin that is CLS, or all
tokens that are pooled, by their weights; for the map margin the region's patches at every tap, and for the joint margin
a share of both. Methods differ in ``Ã``:

    rollout     ½ mean_h A, and what stays counts ½: where information may come from, whatever the target is
    relevance   mean_h (∂target/∂A ⊙ A)⁺: what speaks for the target

``legrad`` does not follow rows: Σ_l mean_h mean_q (∂target/∂A)⁺ over both streams. LeGrad's gradients are of a score
read after each layer; ours are of the target itself, because our score cannot be read after each layer.

None of these covers MLPs. Maps are [B, h, w]: patches are enlarged as anomaly maps are, and keep their sum. CLS as
a source is left out. One image's matrices are held at once, [H, T, T] a block and stream: 8 GB at ViT-L/14, 518 px.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.attribution.targets import Forward, HeadTarget, ScoreTarget, Target
from headlens.backbone.plan import STREAMS, VisionPlan
from headlens.detectors.scoring import Margins
from headlens.errors import ConfigError, ShapeError
from headlens.heads.clean import CleanRun, clean_forward
from headlens.heads.direct import Part, Parts, pooled_parts, source_maps, tap_parts
from headlens.heads.exactness import check_attends, check_reached
from headlens.heads.variants import Head, heads_of
from headlens.maps import upsample
from headlens.precision import full_precision, wide


@dataclass(frozen=True)
class Attention:
    """What the target made of one image's attention."""

    plan: VisionPlan
    patterns: dict[tuple[str, int], Tensor]  # {(stream, layer): [H, T, T]}, query by key
    gradients: dict[tuple[str, int], Tensor]  # the target's by each of them
    cls: Tensor  # how much of CLS the target reads, []
    taps: dict[int, Tensor]  # how much of every patch, {tap: [N]}
    grid: tuple[int, int]  # rows and columns of patches


def attend(target: Target, image: Tensor) -> Attention:
    """One forward and one backward of an image [1, 3, h, w] with every attention matrix in view."""
    vision, reading = target.detector.backbone.vision, target.reading(image)
    patterns: dict[tuple[str, int], Tensor] = {}
    places = {f"blocks.{layer}.attn.hook_pattern": ("global", layer) for layer in range(vision.cfg.n_layers)}
    if reading.plan.source is None:
        local = reading.plan.local_layers
        places |= {f"blocks.{layer}.attn.hook_local_pattern": ("local", layer) for layer in local}

    def store(pattern: Tensor, *, hook: Any) -> Tensor:
        if not pattern.requires_grad:  # the first: all above it then have a gradient by themselves
            pattern.requires_grad_()
        patterns[places[hook.name]] = pattern
        return pattern

    with torch.enable_grad(), vision.hooks([(point, store) for point in places]):
        forward = target.forward(image.detach(), reading, hooked=True)
        cls, taps = _read(target, forward)
        of_patches = isinstance(target, HeadTarget) and target.head.stream == "local"
        if of_patches or any(weight.any() for weight in taps.values()):
            check_attends(reading.plan, "local", f"maps of attention for {target.name}")
        value = target.read(forward).sum()
        gradients = torch.autograd.grad(value, [*patterns.values()], allow_unused=True, materialize_grads=True)
    return Attention(
        reading.plan,
        {place: wide(pattern.detach()[0]) for place, pattern in patterns.items()},
        {place: wide(gradient[0]) for place, gradient in zip(patterns, gradients, strict=True)},
        cls,
        taps,
        vision.grid(*forward.size),
    )


def _read(target: Target, forward: Forward) -> tuple[Tensor, dict[int, Tensor]]:
    """How much of CLS [] and of one image's patches ``{tap: [N]}`` the target reads; a head is asked for none."""
    if not isinstance(target, ScoreTarget):
        return forward.margins.image.new_zeros(()), {}
    margins = [margin.detach().requires_grad_() for margin in (forward.margins.image, *forward.margins.taps.values())]
    taps = dict(zip(forward.margins.taps, margins[1:], strict=True))
    value = target.read(replace(forward, margins=Margins(margins[0], taps)))
    image, *patches = torch.autograd.grad(value.sum(), margins, allow_unused=True, materialize_grads=True)
    of_cls, of_patches = forward.reading.weights(forward.features, forward.margins.taps)
    read = dict(zip(taps, patches, strict=True))
    read |= {tap: read[tap] + image * weight.detach() for tap, weight in of_patches.items()}
    return (image * of_cls.detach())[0], {tap: weight[0] for tap, weight in read.items()}


def rollout(target: Target, images: Tensor, *, heads: Iterable[Head | str] | None = None) -> Tensor:
    """Attention rollout (arXiv 2005.00928) from what the target reads down to the patches, [B, h, w].

    Args:
        target: one of ``SCORES``.
        images: normalised, [B, 3, h, w].
        heads: the mean over these of each layer; layers without any are skipped. All when None.

    Raises:
        ConfigError: a head as a target.
        ShapeError: a head that does not exist, or none at all.
    """

    def step(attention: Attention, place: tuple[str, int], numbers: Sequence[int]) -> Tensor:
        pattern = attention.patterns[place][list(numbers)].mean(0)
        return pattern / pattern.sum(-1, keepdim=True)  # of matrices that are summed, rows have their number

    return _walked(target, images, heads, step, skip=0.5)


def relevance(target: Target, images: Tensor, *, heads: Iterable[Head | str] | None = None) -> Tensor:
    """Gradient-weighted relevance (arXiv 2103.15679) from what the target reads down to the patches, [B, h, w].

    Args:
        target, images: as for ``rollout``, and so are errors.
        heads: others are treated as the identity; each head has 1 / H of its layer, so that the heads of one layer add
            up to the layer, except for patches that are read, which count themselves each time. All when None. For
            large models upper layers only are reported to be less noisy: ``heads_of(detector, range(12, 24))``.
    """

    def step(attention: Attention, place: tuple[str, int], numbers: Sequence[int]) -> Tensor:
        pattern, gradient = (of[place][list(numbers)] for of in (attention.patterns, attention.gradients))
        return (pattern * gradient).clamp(min=0).sum(0) / len(attention.patterns[place])

    return _walked(target, images, heads, step, skip=1.0)


def legrad(target: Target, images: Tensor, *, heads: Iterable[Head | str] | None = None) -> Tensor:
    """Positive gradients by attention, summed over layers (after arXiv 2404.03214), [B, h, w].

    Args:
        target: any.
        images: normalised, [B, 3, h, w].
        heads: the sum over these heads; maps of single heads add up to that of all. All when None.

    Raises:
        ShapeError: a head that does not exist, or none at all.
    """
    chosen, maps = _chosen(target, heads), []
    for image in images.split(1):
        attention = attend(target, image)
        rows, columns = attention.grid
        parts = []
        for place, numbers in chosen.items():
            if place not in attention.gradients:  # it attends to nothing, and is not read: that would be refused
                continue
            received = attention.gradients[place].clamp(min=0).mean(1)  # over queries: (H, T)
            parts.append(_at_patches(attention.plan, received[numbers].sum(0), rows * columns) / len(received))
        maps.append(torch.stack(parts).sum(0).view(rows, columns))
    return enlarged(torch.stack(maps), images)


def contributions(target: Target, images: Tensor, *, heads: Iterable[Head | str] | None = None) -> Tensor:
    """Direct effects of heads by position, [B, h, w]: on the image margin by source, on the map margin by patch.

    If the image feature also pools patches, effects at CLS are assigned to their source, and effects at a patch to that
    patch, each with its weight in the feature. The sum over all heads is their total direct effect; MLPs, biases and
    the embedding contribute the rest of the margin, and heads also read from CLS, which has no position.

    Args:
        target: ``image_margin``, ``map_margin``, or a head.
        images: normalised, [B, 3, h, w].
        heads: the sum over these heads; all that affect the margin when None.

    Raises:
        ConfigError: another target, heads given with a head as target, or heads below an adapter that is not linear.
        ShapeError: a head that does not exist, or none at all.
    """
    name = target.name
    if isinstance(target, HeadTarget):
        if heads is not None:
            raise ConfigError(f"the target is the head {name} itself: leave heads out")
        heads, name = [target.head], "map_margin" if target.head.stream == "local" else "image_margin"
    if name not in ("image_margin", "map_margin"):
        raise ConfigError(
            f"{name} is not a sum over heads; contributions explain image_margin, map_margin, or one head"
        )
    chosen = _chosen(target, heads)
    clean = clean_forward(target.detector, images, reading=target.reading(images))
    if name == "map_margin":
        taps = clean.plan.taps
        maps = [_drawn(clean, chosen, tap, tap_parts(clean, tap)) / len(taps) for tap in taps]
        total = clean.scoring.on_patches(torch.stack(maps).sum(0), clean.grid) * target.share(clean.size)
    else:
        maps = [_drawn(clean, chosen, tap, parts) for tap, parts in pooled_parts(clean).items()]
        maps = [drawn.unflatten(1, (clean.plan.copies, -1)).sum(1) for drawn in maps]
        for (stream, layer), numbers in chosen.items():
            if stream == "global" and clean.reading.pooling.reads_cls:
                maps.append(source_maps(clean, layer)[:, numbers, clean.patches].sum(1))
        total = torch.stack(maps).sum(0)
    return enlarged(total.unflatten(1, clean.grid), images)


def _drawn(clean: CleanRun, chosen: dict[tuple[str, int], list[int]], tap: int, of: Parts) -> Tensor:
    """What the heads draw together at the patches of a tap, whose parts are given, [B, N]."""
    parts, writers = of.terms, clean.plan.writers(tap)
    total = torch.zeros_like(clean.margins.taps[tap])
    for (stream, layer), numbers in chosen.items():
        if layer in writers.get(stream, ()):
            check_reached([part[1:] for part in parts if part.kind == "head"], stream, layer)
            total = total + parts[Part("head", stream, layer)][..., numbers].sum(-1)
    return total


def enlarged(maps: Tensor, images: Tensor) -> Tensor:
    """Maps of patches [B, rows, columns] at the size of their images, bilinear; sums stay what they were.

    >>> float(enlarged(torch.eye(2)[None], torch.zeros(1, 3, 6, 6)).sum())
    2.0
    """
    size = (images.shape[2], images.shape[3])
    return upsample(maps, size, 0.0) * (maps[0].numel() / (size[0] * size[1]))


def _walked(target: Target, images: Tensor, heads: Iterable[Head | str] | None, step: Any, skip: float) -> Tensor:
    """The row of what is read, walked down to the patches: what stays counts ``skip``, what moves ``skip Ã``."""
    if not isinstance(target, ScoreTarget):
        raise ConfigError(
            f"{target.name} is one head, and no row of tokens is read by it alone; "
            "legrad, contributions and all methods of pixels take a head as a target"
        )
    chosen, maps = _chosen(target, heads), []
    for image in images.split(1):
        attention = attend(target, image)
        with full_precision(image.device):
            maps.append(_row(attention, chosen, step, skip).view(attention.grid))
    return enlarged(torch.stack(maps), images)


def _row(attention: Attention, chosen: dict[tuple[str, int], list[int]], step: Any, skip: float) -> Tensor:
    """What stands at each patch at the start of the global stream, [N], of what is read of one image, in all 1."""
    plan, total = attention.plan, attention.cls + sum(read.sum() for read in attention.taps.values())
    tokens = 1 + attention.grid[0] * attention.grid[1]
    x, y = (attention.cls.new_zeros(tokens) for _ in STREAMS)
    x[0] = attention.cls / total
    for layer in reversed(range(1 + max(layer for _, layer in attention.patterns))):
        x, y = (F.pad(row, (0, attention.patterns["global", layer].shape[-1] - len(row))) for row in (x, y))
        if layer in attention.taps:
            row = y if "local" in plan.writers(layer) else x
            row[plan.read_at(tokens - 1)] += attention.taps[layer] / total
        moved, share = torch.zeros_like(x), {"global": 1.0, "local": 1.0}
        for stream, row in (("global", x), ("local", y)):
            if (stream, layer) in chosen and (stream, layer) in attention.patterns:
                moved = moved + skip * (row @ step(attention, (stream, layer), chosen[stream, layer]))
                share[stream] = skip
        x, y = share["global"] * x + moved, share["local"] * y
        if plan.beside is not None and layer == plan.beside.start:
            x, y = x + y, torch.zeros_like(y)
        if layer in plan.tokens:  # extra tokens that come in here have nothing of the image
            x, y = x[:tokens], y[:tokens]
    return _at_patches(plan, x, tokens - 1)


def _at_patches(plan: VisionPlan, row: Tensor, n_patches: int) -> Tensor:
    """What tokens have [T], at the patches [N] of which they are, or are copies of."""
    if not plan.views:
        return row[1 : 1 + n_patches]
    return row.new_zeros(1 + n_patches).index_add(0, plan.sources(n_patches), row)[1:]


def _chosen(target: Target, heads: Iterable[Head | str] | None) -> dict[tuple[str, int], list[int]]:
    """The numbers of the heads of each stream and layer."""
    every = heads_of(target.detector)
    asked = every if heads is None else [Head.of(head) if isinstance(head, str) else head for head in heads]
    asked = list(dict.fromkeys(asked))
    if unknown := set(asked) - set(every):
        name, last = min(map(str, unknown)), every[-1]
        raise ShapeError(f"head {name} does not exist, or is not read; the first is {every[0]}, the last {last}")
    if not asked:
        raise ShapeError("no head to follow; give at least one, such as heads_of(detector, [18], [7]), or None for all")
    numbers: dict[tuple[str, int], list[int]] = {}
    for head in asked:
        numbers.setdefault((head.stream, head.layer), []).append(head.head)
    return numbers
