"""What no learned parameter influences while only the local stream is weighted: kept once, put together for every step.

The local stream is linear in its head weights: the global stream that feeds it stays as it is, nothing flows back, and
there is no MLP on the way. With ``z`` what each head reads and ``s`` the block at which the stream begins,

    y(tap) = x(s) + Σ_{s <= l <= tap} (Σ_h w[l, h] z[l, h] W_O[l, h] + b_O[l])
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from headlens.backbone.vision import STREAMS
from headlens.detectors.headclip import Detector, Features
from headlens.errors import ConfigError

GLOBAL, LOCAL = STREAMS


@dataclass(frozen=True)
class LocalParts:
    """Of ``B`` images of ``size``, unweighted.

    Args:
        cls: [B, d_e].
        start: [B, N, D], the patches of the global stream where the local one begins.
        z: {block: [B, N, H, d]}, what every local head reads.
        below: {tap: [B, N, d_e]}, of taps where there is no local stream yet.
        size: height and width of the images.
    """

    cls: Tensor
    start: Tensor
    z: dict[int, Tensor]
    below: dict[int, Tensor]
    size: tuple[int, int]


def only_local(detector: Detector) -> bool:
    """Whether the image tower is learned in its local stream alone."""
    return detector.weights is not None and set(detector.config.streams) == {LOCAL}


def local_parts(detector: Detector, images: Tensor) -> LocalParts:
    """Normalised images [B, 3, h, w] to the parts of their local stream.

    Raises:
        ConfigError: a detector that weighs global heads.
    """
    local = detector.local
    if not only_local(detector) or local is None:
        raise ConfigError(f"streams is {detector.config.streams}: parts are those of a local stream weighted alone")
    vision, taps = detector.backbone.vision, detector.config.taps
    begin = f"blocks.{local.start}.hook_resid_pre"
    names = {f"blocks.{block}.attn.hook_local_z": block for block in range(local.start, max(taps) + 1)}
    out, cache = vision.run_with_cache(
        images,
        taps=[tap for tap in taps if tap < local.start],
        local=local,
        names_filter=lambda name: name in names or name == begin,
    )
    return LocalParts(
        cls=detector.image_feature(out),
        start=cache[begin][:, 1:],  # CLS is read from the global stream
        z={block: cache[name][:, 1:] for name, block in names.items()},
        below={tap: tokens.float() for tap, tokens in out.patches.items()},
        size=(images.shape[2], images.shape[3]),
    )


def assemble(detector: Detector, parts: LocalParts) -> Features:
    """The features of ``detector.features``, up to rounding, under its head weights as they are now."""
    vision, weights = detector.backbone.vision, detector.head_weights()[LOCAL]
    y, patches = parts.start, dict(parts.below)
    for block, z in parts.z.items():
        weighted = (z * weights[block, :, None]).to(vision.proj.dtype)  # z may have been kept in another precision
        y = y + vision.blocks[block].attn.out(weighted.flatten(2))  # [B, N, D]
        if block in detector.config.taps:
            patches[block] = vision.readout(y).float()
    return Features(parts.cls, patches, parts.size)
