"""What no learned parameter influences while no head is weighted, or only local ones: computed once for each image.

The local stream is linear in its head weights: the global stream that feeds it stays as it is, nothing flows back, and
there is no MLP on the way. With ``z`` what each head reads and ``s`` the block at which the stream begins,

    y(tap) = x(s) + Σ_{s <= l <= tap} (Σ_h w[l, h] z[l, h] W_O[l, h] + b_O[l])
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from headlens.backbone.plan import STREAMS, VisionPlan
from headlens.backbone.vision import VisionTower
from headlens.detectors.reading import Features, Reading

LOCAL = STREAMS[1]


@dataclass(frozen=True)
class LocalParts:
    """Of ``B`` images of ``size`` (height, width), unweighted."""

    cls: Tensor  # [B, d_e]
    fixed: dict[int, Tensor]  # {tap: [B, N, d_e]}, of taps that no weight changes
    z: dict[int, Tensor]  # {block: [B, N, H, d]}, what every weighted head reads
    start: Tensor | None  # [B, N, D], patches where the local stream begins; None where no head is weighted
    size: tuple[int, int]


def local_parts(vision: VisionTower, reading: Reading, images: Tensor) -> LocalParts:
    """Normalised images [B, 3, h, w] to the parts of their local stream, which is linear where heads are weighted."""
    local, taps, size = reading.plan.beside, reading.plan.taps, (images.shape[2], images.shape[3])
    if LOCAL not in reading.plan.head_weights:
        features = reading.features(vision(images, reading.plan, hooked=vision.must_call_hooks()))
        return LocalParts(features.cls, features.taps, {}, None, size)
    assert local is not None
    begin = f"blocks.{local.start}.hook_resid_pre"
    names = {f"blocks.{block}.attn.hook_local_z": block for block in reading.plan.local_layers}
    below = replace(reading, plan=VisionPlan(tuple(tap for tap in taps if tap < local.start), local))
    out, cache = vision.run_with_cache(images, below.plan, names_filter=lambda name: name in names or name == begin)
    features = below.features(out)
    return LocalParts(
        cls=features.cls,
        fixed=features.taps,
        z={block: cache[name][:, 1:] for name, block in names.items()},  # CLS is read from the global stream
        start=cache[begin][:, 1:],
        size=size,
    )


def assemble(vision: VisionTower, reading: Reading, parts: LocalParts) -> Features:
    """The features that ``reading`` finds in the whole tower, up to rounding, under its present head weights."""
    y, patches = parts.start, dict(parts.fixed)
    for block, z in parts.z.items():
        assert y is not None
        weighted = z * reading.plan.head_weights[LOCAL][block, :, None]
        weighted = weighted.to(vision.proj.dtype)  # z may have been kept in another precision
        y = y + vision.blocks[block].attn.out(weighted.flatten(2))  # [B, N, D]
        if block in reading.plan.taps:
            patches[block] = reading.taps[block](y)
    return Features(parts.cls, patches)
