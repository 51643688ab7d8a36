"""The clean run: one forward with nothing ablated, that keeps both residual streams and each head's ``z``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from headlens.backbone.plan import STREAMS, Passes, VisionPlan
from headlens.backbone.vision import VisionTower, replace_extra
from headlens.detectors.detector import Detector, HasDetector, detector_of
from headlens.detectors.reading import Features, Reading
from headlens.detectors.scoring import Margins, Scoring
from headlens.errors import ShapeError
from headlens.heads.exactness import check_attends, check_unhooked

MAPS_AT_ONCE, MAPS_ON_DEVICE = 16, 256  # full-size maps held together: few enough to stay in a CPU's cache


@dataclass(frozen=True)
class Targets:
    """The continuous quantities that heads are measured by, of R images or variants of images.

    See ``headlens.detectors.scoring``; with ``alpha = 0`` the joint margin is the image margin.

    Args:
        image_margin, joint_margin, joint_score: [R].
        map_change: [R], the anomaly map's L1 distance from that of the whole detector, relative to the larger of their
            L1 norms: 0 to 2, also where the whole map is nearly empty; 0 where there is nothing to compare with.
        patch_map: [R, ...], what the anomaly map is enlarged from, as ``Scoring.patch_maps`` has it.
    """

    image_margin: Tensor
    joint_margin: Tensor
    joint_score: Tensor
    map_change: Tensor
    patch_map: Tensor


@dataclass(frozen=True)
class CleanRun:
    """B images through a detector, nothing ablated.

    Args:
        tower: the image tower.
        reading: how the images are read.
        scoring: how their margins become scores.
        size: height and width of the images.
        weights: ``{stream: [L, H]}``, the learned head weights, or ones.
        x: L + 1 tensors [B, T, D]: the global stream entering each block, and leaving the last.
        mid: L tensors [B, T, D], between attention and MLP.
        y: L tensors [B, T, D], the local stream after each block; None where it is not run.
        z: ``{stream: L tensors [B, T, H, d]}``, heads before weighting; None where they are not run.
        written: ``{(stream, layer): [B, T, D]}``, the stream before its adapter, where it has one.
        begin: ``{layer: [B, T, D]}``, what a local stream with a source begins with.

    Where the patches of the last block's global stream are not read, it has the CLS token alone (T = 1).
    """

    tower: VisionTower
    reading: Reading
    scoring: Scoring
    size: tuple[int, int]
    weights: dict[str, Tensor]
    x: list[Tensor]
    mid: list[Tensor] = field(default_factory=list)
    y: list[Tensor | None] = field(default_factory=list)
    z: dict[str, list[Tensor | None]] = field(default_factory=lambda: {stream: [] for stream in STREAMS})
    written: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    begin: dict[int, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.x[0])

    @property
    def plan(self) -> VisionPlan:
        """How the tower was run."""
        return self.reading.plan

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.tower.grid(*self.size)

    @property
    def patches(self) -> slice:
        """Where patches stand among the tokens: after CLS, and before any extra tokens."""
        return slice(1, 1 + self.grid[0] * self.grid[1])

    @property
    def read_at(self) -> slice | Tensor:
        """Which tokens taps read: patches, or the CLS of every view."""
        return self.plan.read_at(self.grid[0] * self.grid[1])

    @property
    def passes(self) -> Passes:
        """How tokens attend, as of ``VisionPlan.passes``."""
        return self.plan.passes(self.x[0].shape[1])

    def tapped(self, tap: int) -> Tensor:
        """The stream that is read at ``tap``, of the tokens that are read, [B, N, D]."""
        y = self.y[tap]
        return (self.x[tap + 1] if y is None else y)[:, self.read_at]

    def weight(self, stream: str, layer: int) -> Tensor | None:
        """What multiplies the heads of a layer, [1, H]; None where nothing was learned, and nothing is multiplied."""
        return self.weights[stream][layer][None] if stream in self.plan.head_weights else None

    def wrote(self, stream: str, layer: int) -> Tensor:
        """Heads as they wrote: [B, T, H, d], weighted."""
        z = self.z[stream][layer]
        assert z is not None
        return z * self.weights[stream][layer][:, None]

    def pattern(self, stream: str, layer: int, head: int | None = None) -> Tensor:
        """The attention matrices of a layer, [B, H, T, T] (query, key); rows add up to the number of matrices summed.

        Of one head alone, [B, T, T], which costs a third of it for ViT-L/14 at 518 px.

        Raises:
            ShapeError: a stream that is not run there.
        """
        attention, block = self.plan.attention(stream, layer), self.tower.blocks[layer]
        if attention is None:
            raise ShapeError(f"layer {layer} has no {stream} stream that is read")
        check_attends(self.plan, stream, f"the attention of layer {layer}")
        q, k, v = block.attn.project(block.ln1(self.x[layer]), hooked=False)
        if head is None:
            return block.attn.pattern(q, k, v, attention, self.passes)
        if callable(attention) or self.passes:  # these make matrices of all heads
            return block.attn.pattern(q, k, v, attention, self.passes)[:, head]
        q, k, v = (x[:, :, head : head + 1] for x in (q, k, v))
        return block.attn.pattern(q, k, v, attention)[:, 0]

    @property
    def features(self) -> Features:
        """Embeddings of CLS and of the patches at every tap."""
        return self.reading.embed(self.x[-1][:, 0], {tap: self.tapped(tap) for tap in self.plan.taps})

    @cached_property
    def margins(self) -> Margins:
        """Of the image [B] and of every patch {tap: [B, N]}."""
        return self.reading.margins(self.features)

    @cached_property
    def targets(self) -> Targets:
        """Scores of the whole detector, [B]."""
        return targets(self.scoring, self.margins, self.grid, self.size)

    @cached_property
    def maps(self) -> Tensor:
        """Anomaly maps, [B, h, w]."""
        return self.scoring.enlarge(self.scoring.patch_maps(self.margins, self.grid), self.size)


def targets(
    scoring: Scoring, margins: Margins, grid: tuple[int, int], size: tuple[int, int], before: Tensor | None = None
) -> Targets:
    """Margins of R = V B variants of B images to their scores, variant by variant.

    Args:
        scoring: how margins become scores.
        margins: of all rows.
        grid: rows and columns of patches.
        size: height and width of the images.
        before: [B, h, w], anomaly maps that the rows' maps are compared with.
    """

    def norm(maps: Tensor) -> Tensor:
        maps = maps.flatten(1)
        return (maps if scoring.unit == "probability" else maps.abs()).sum(1)

    small = scoring.patch_maps(margins, grid)
    scores, changes = [], []
    norm_before = None if before is None else norm(before)
    step = MAPS_AT_ONCE if small.device.type == "cpu" else MAPS_ON_DEVICE
    for first in range(0, len(small), step):
        rows = slice(first, first + step)
        maps = scoring.enlarge(small[rows], size)
        scores.append(scoring.joint(margins.image[rows], maps))
        if before is None or norm_before is None:
            changes.append(torch.zeros_like(scores[-1]))
            continue
        image = torch.arange(first, first + len(maps), device=maps.device) % len(before)
        larger = torch.maximum(norm_before[image], norm(maps))
        changes.append((maps - before[image]).abs_().flatten(1).sum(1) / larger.clamp(min=1e-30))
    score = torch.cat(scores)
    return Targets(margins.image, scoring.joint_margin(score), score, torch.cat(changes), small)


@torch.no_grad()
def clean_forward(
    detector: Detector | HasDetector, images: Tensor, categories: Sequence[str] = (), reading: Reading | None = None
) -> CleanRun:
    """Normalised images [B, 3, h, w] through the detector.

    Args:
        detector: a detector, or a run.
        images: as ``Preprocess`` makes them.
        categories: [B], what the images show, for methods that read it.
        reading: how they are read; as the detector does when None.

    Raises:
        ConfigError: a hook that would not be called.

    >>> from headlens.backbone import load
    >>> from headlens.detectors import build
    >>> clean = clean_forward(build(load("mini")), torch.zeros(1, 3, 28, 28))
    >>> clean.z["local"][5].shape
    torch.Size([1, 5, 16, 8])
    """
    detector = detector_of(detector)
    check_unhooked(detector, "a clean run, which keeps every head,")
    vision, reading = detector.backbone.vision, reading or detector.reading(images, categories)
    plan, depth = reading.plan, vision.cfg.n_layers
    # Whether patches of the last block's global stream are needed: read at a tap, or by an adapter.
    reads_last = (plan.beside is None and depth - 1 in plan.taps) or plan.adapter("global", depth - 1) is not None
    reads_last = reads_last or bool(plan.views) or plan.copies > 1
    ones = vision.proj.new_ones(depth, vision.cfg.n_heads)
    weights = {stream: plan.head_weights.get(stream, ones).to(ones) for stream in STREAMS}
    x, y = vision.embed(images), None
    x = x[:, plan.sources(x.shape[1] - 1)] if plan.views else x
    clean = CleanRun(vision, reading, detector.scoring, (images.shape[2], images.shape[3]), weights, x=[])
    for layer, block in enumerate(vision.blocks):
        if layer in plan.tokens:
            n_patches = clean.grid[0] * clean.grid[1]
            x = replace_extra(x, n_patches, plan.tokens[layer])
            y = None if y is None else replace_extra(y, n_patches, plan.tokens[layer])
        done = block.step(
            x,
            y,
            local=plan.local_at(layer),
            weight=clean.weight("global", layer),
            local_weight=clean.weight("local", layer),
            adapter=plan.adapter("global", layer),
            local_adapter=plan.adapter("local", layer),
            cls_only=layer == depth - 1 and not reads_last,
            passes=plan.passes(x.shape[1]),
            past={block: x if block == layer else clean.x[block] for block in plan.past if block <= layer},
        )
        clean.x.append(x)
        if done.begin is not None:
            clean.begin[layer] = done.begin
        clean.mid.append(done.mid)
        clean.y.append(done.y if done.local_z is not None else None)
        clean.z["global"].append(done.z)
        clean.z["local"].append(done.local_z)
        for stream, written in (("global", done.written), ("local", done.local_written)):
            if written is not None and plan.adapter(stream, layer) is not None:
                clean.written[stream, layer] = written
        x, y = done.x, done.y
    clean.x.append(x)
    return clean
