"""One clean forward that keeps what every later question starts from: residual streams and each head's ``z``.

A step of one block, hook-free over the tower's own weights, is written here once; the clean forward and all ablated
ones are made of it, and the tests hold it against the hooked tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headlens.backbone.blocks import AttentionMatrix, Block
from headlens.backbone.norm import plus
from headlens.backbone.plan import STREAMS
from headlens.detectors.detector import Detector
from headlens.detectors.scoring import margin
from headlens.heads.measures import Margins, Targets, check_linear, check_unhooked, enlarge, patch_maps, targets, wide


class Step(NamedTuple):
    """One block: the global stream after attention and after the MLP, the local stream, and heads before weighting."""

    mid: Tensor
    x: Tensor
    y: Tensor | None
    z: Tensor
    local_z: Tensor | None


def step(
    block: Block,
    x: Tensor,
    y: Tensor | None = None,
    *,
    attention: tuple[str, ...] | AttentionMatrix | None = None,
    weight: Tensor | None = None,
    local_weight: Tensor | None = None,
    put: Tensor | None = None,
    local_put: Tensor | None = None,
    cls_only: bool = False,
    in_place: bool = False,
) -> Step:
    """Both streams [R, T, D] through one block.

    Args:
        block: whose weights.
        x, y: the streams before it; without ``y`` the local one begins here, as a copy of ``x``.
        attention: the local stream's; None in blocks where it is not run.
        weight, local_weight: [R, H] or [1, H], what multiplies each head.
        put, local_put: [R, T, D], added to what the heads write.
        cls_only: the global stream's CLS alone, [R, 1, D].
        in_place: write over both streams, so that none is copied; ``y`` is then given, and ``mid`` is lost.
    """
    q, k, v = block.attn.project(block.ln1(x), hooked=False)

    def write(z: Tensor, weight: Tensor | None, put: Tensor | None) -> Tensor:
        out = block.attn.out((z if weight is None else z * weight[:, None, :, None]).flatten(2))
        return out if put is None else out + put

    local_z = None
    if attention is not None:  # first: it begins with the global stream as it comes in
        local_z = block.attn.mix(q, k, v, attention)
        y = plus(x if y is None else y, write(local_z, local_weight, local_put), in_place)
    z = block.attn.mix(q[:, :1] if cls_only else q, k, v)
    mid, seen = block.ln2.after(x[:, :1] if cls_only else x, write(z, weight, put), in_place)
    return Step(mid, plus(mid, block.mlp(seen), in_place), y, local_z=local_z, z=z)


@dataclass(frozen=True)
class Clean:
    """B images through the detector, nothing ablated.

    Args:
        detector: which.
        size: height and width of the images.
        text: [2, d_e] or [B, 2, d_e].
        weights: ``{stream: [L, H]}``, the learned ones, or ones.
        x: L + 1 tensors [B, T, D]: the global stream entering each block, and leaving the last.
        mid: L tensors [B, T, D], between attention and MLP.
        y: L tensors [B, T, D], the local stream after each block; None where it is not run.
        z: ``{stream: L tensors [B, T, H, d]}``, heads before weighting; None where they are not run.
        kept: what later questions work out once.

    Where nobody reads the patches of the last block's global stream, it has the CLS token alone (T = 1).
    """

    detector: Detector
    size: tuple[int, int]
    text: Tensor
    weights: dict[str, Tensor]
    x: list[Tensor]
    mid: list[Tensor]
    y: list[Tensor | None]
    z: dict[str, list[Tensor | None]]
    kept: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.x[0])

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.detector.backbone.vision.grid(*self.size)

    def tapped(self, tap: int) -> Tensor:
        """The stream that is read at ``tap``, patches only, [B, N, D]."""
        y = self.y[tap]
        return (self.x[tap + 1] if y is None else y)[:, 1:]

    def weight(self, stream: str, layer: int) -> Tensor | None:
        """What multiplies the heads of a layer, [1, H]; None where nothing was learned, and nothing is multiplied."""
        return self.weights[stream][layer][None] if stream in self._weighed else None

    @cached_property
    def _weighed(self) -> frozenset[str]:
        return frozenset(self.detector.head_weights())

    def wrote(self, stream: str, layer: int) -> Tensor:
        """Heads as they were: [B, T, H, d], weighted."""
        z = self.z[stream][layer]
        assert z is not None
        return z * self.weights[stream][layer][:, None]

    @cached_property
    def margins(self) -> Margins:
        """Of the image [B] and of every patch {tap: [B, N]}."""
        taps = {tap: read_patches(self.detector, self.tapped(tap), self.text) for tap in self.detector.config.taps}
        return Margins(read_cls(self.detector, self.x[-1][:, 0], self.text), taps)

    @cached_property
    def targets(self) -> Targets:
        """Scores of the whole detector, [B]."""
        return targets(self.detector, self.margins, self.size)

    @cached_property
    def maps(self) -> Tensor:
        """Anomaly maps, [B, h, w]."""
        return enlarge(self.detector, patch_maps(self.margins, self.grid), self.size)


def read_cls(detector: Detector, cls: Tensor, text: Tensor) -> Tensor:
    """CLS of the global stream, raw, [R, D], to image margins [R]; text [2, d_e] or [R, 2, d_e]."""
    vision = detector.backbone.vision
    embedding = vision.readout(cls) if detector.config.cls_norm else cls @ vision.proj
    return margin(wide(embedding), text, detector.config.temperature)


def read_patches(detector: Detector, tokens: Tensor, text: Tensor) -> Tensor:
    """Patches of a tapped stream, raw, [R, N, D], to their margins [R, N]; text [2, d_e] or [R, 2, d_e]."""
    return margin(wide(detector.backbone.vision.readout(tokens)), text, detector.config.temperature)


def reads_last(detector: Detector) -> bool:
    """Whether patches of the last block's global stream are read."""
    last = detector.backbone.vision.cfg.n_layers - 1
    return detector.local is None and last in detector.config.taps


def local_here(detector: Detector, layer: int) -> tuple[str, ...] | AttentionMatrix | None:
    """The local stream's attention in ``layer``; None below its start, and above the last tap, where nobody reads."""
    local = detector.local
    return local.attention if local is not None and local.start <= layer <= max(detector.config.taps) else None


def weights_of(detector: Detector) -> dict[str, Tensor]:
    """Head weights ``{stream: [L, H]}`` in the tower's precision; ones where none are learned."""
    vision = detector.backbone.vision
    ones = vision.proj.new_ones(vision.cfg.n_layers, vision.cfg.n_heads)
    learned = {stream: weight.detach().to(ones) for stream, weight in detector.head_weights().items()}
    return {stream: learned.get(stream, ones) for stream in STREAMS}


@torch.no_grad()
def clean_forward(detector: Detector, images: Tensor, categories: Sequence[str] = ()) -> Clean:
    """Normalised images [B, 3, h, w] through the detector.

    Args:
        detector: any.
        images: as ``Preprocess`` makes them.
        categories: [B]; they only matter to class-aware prompts.

    Raises:
        ConfigError: a detector whose image margin is no function of CLS.

    >>> from headlens.backbone import load

    >>> from headlens.detectors import HeadCLIP
    >>> clean = clean_forward(HeadCLIP(load("mini")), torch.zeros(1, 3, 28, 28))
    >>> clean.z["local"][5].shape
    torch.Size([1, 5, 16, 8])
    """
    check_linear(detector)
    check_unhooked(detector, "a forward that keeps every head")
    vision, weights = detector.backbone.vision, weights_of(detector)
    last = vision.cfg.n_layers - 1
    x, y = vision.embed(images), None
    clean = Clean(
        detector,
        (images.shape[2], images.shape[3]),
        detector.text_of(categories or ["object"] * len(images)),
        weights,
        x=[x],
        mid=[],
        y=[],
        z={stream: [] for stream in STREAMS},
    )
    for layer, block in enumerate(vision.blocks):
        done = step(
            block,
            x,
            y,
            attention=local_here(detector, layer),
            weight=clean.weight("global", layer),
            local_weight=clean.weight("local", layer),
            cls_only=layer == last and not reads_last(detector),
        )
        x, y = done.x, done.y
        clean.x.append(x)
        clean.mid.append(done.mid)
        clean.y.append(y if done.local_z is not None else None)
        clean.z["global"].append(done.z)
        clean.z["local"].append(done.local_z)
    return clean
