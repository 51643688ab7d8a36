"""Head weights that one run learned, on another detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from headlens.detectors.detector import Detector
from headlens.detectors.reading import Reading
from headlens.detectors.scoring import Margins
from headlens.errors import ConfigError
from headlens.heads.clean import Targets, targets
from headlens.heads.exactness import TEXT, held_before
from headlens.heads.variants import heads_of, stream_layers

Weights = Mapping[str, Tensor]
"""``{stream: [L, H]}``; heads of other streams have no weight."""


def check_hosts(detector: Detector, weights: Weights, name: str) -> None:
    """Whether the detector can have the head weights of ``name`` and be what it would be with them.

    Raises:
        ConfigError: no such stream, or something that was computed from each image before weights are applied.
    """
    there = [stream for stream, layers in stream_layers(detector).items() if len(layers)]
    if not set(weights) & set(there):
        raise ConfigError(
            f"{name} has weights for heads of the {' and '.join(weights)} stream, and {detector.method} has only the "
            f"{' and '.join(there)} stream: it cannot host them"
        )
    if before := [what for what in held_before(detector) if what != TEXT]:
        raise ConfigError(
            f"{detector.method} cannot host the head weights of {name}: what it computes from each image beforehand "
            f"({before[0]}) would not follow them; rank heads by importance instead"
        )


def shuffled_weights(detector: Detector, weights: Weights, seed: int) -> dict[str, Tensor]:
    """The same weights, dealt at random to the heads of their stream that the detector reads.

    Args:
        detector: whose heads.
        weights: of streams that it has.
        seed: of the draw.
    """
    generator, dealt = torch.Generator().manual_seed(seed), {}
    for stream, grid in weights.items():
        heads = heads_of(detector, streams=[stream])
        at = tuple(torch.tensor([head[axis] for head in heads], device=grid.device) for axis in (1, 2))
        order = torch.randperm(len(heads), generator=generator).to(grid.device)
        dealt[stream] = grid.clone()
        dealt[stream][at] = grid[at][order]
    return dealt


@torch.no_grad()
def weighted(
    detector: Detector, images: Tensor, categories: Sequence[str], choices: Sequence[Weights]
) -> tuple[Targets, Targets]:
    """Scores of B images without head weights, [B], and with each of V choices of them, [V, B].

    A text that depends on the images is that of the features with these weights.

    Args:
        detector: whose own weights, if any, are replaced.
        images: normalised, [B, 3, h, w].
        categories: [B].
        choices: V.
    """
    reading, size = detector.reading(images, categories), (images.shape[2], images.shape[3])
    scoring, grid = detector.scoring, detector.backbone.vision.grid(*size)
    every = [_margins(detector, images, reading, weights) for weights in ({}, *choices)]
    before = scoring.enlarge(scoring.patch_maps(every[0], grid), size)
    taps = {tap: torch.cat([margins.taps[tap] for margins in every]) for tap in every[0].taps}
    rows = targets(scoring, Margins(torch.cat([margins.image for margins in every]), taps), grid, size, before)
    values = {name: values.unflatten(0, (len(every), -1)) for name, values in vars(rows).items()}
    none = Targets(**{name: rows[0] for name, rows in values.items()})
    return none, Targets(**{name: rows[1:] for name, rows in values.items()})


def _margins(detector: Detector, images: Tensor, reading: Reading, weights: Weights) -> Margins:
    like = detector.backbone.vision.proj
    plan = replace(reading.plan, head_weights={stream: grid.to(like) for stream, grid in weights.items()})
    reading = replace(reading, plan=plan)
    features = reading.features(detector.see(images, reading))
    if reading.follow is not None:
        reading = replace(reading, text=reading.follow(features))
    return reading.margins(features)
