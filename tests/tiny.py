"""A tiny CLIP of four blocks that reads sentences, and the detector on it that tests of the lens look into."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from headlens.backbone import Backbone, architecture_from_config, assemble
from headlens.detectors import Detector, build
from tests.backbone.models import random_clip, tiny_config

SENTENCES = tiny_config(vocab_size=49408, context_length=32)
EVEN = tiny_config(vocab_size=49408, context_length=32, embed_dim=24)
"""The joint space is as wide as the text tower, so that an image's embedding can stand in a prompt."""
SMALL = {"taps": (1, 3), "local_start": 1, "deep": 2, "deep_tokens": 3, "context": 5}
BOTH = SMALL | {"streams": ("global", "local")}
"""Settings of a small HeadCLIP, with learned head weights in both streams."""


@cache
def weights(even: bool = False) -> dict[str, Tensor]:
    """Of the tiny CLIP, float64."""
    return random_clip(EVEN if even else SENTENCES).state_dict()


def clip(dtype: torch.dtype = torch.float64, even: bool = False) -> Backbone:
    """The tiny CLIP, or the one of ``EVEN``; nobody else has this one."""
    copied = {name: tensor.clone() for name, tensor in weights(even).items()}
    return assemble(architecture_from_config(EVEN if even else SENTENCES, "tiny"), copied, dtype=dtype)


def headclip(dtype: torch.dtype = torch.float64, **changes: object) -> Detector:
    """HeadCLIP whose head weights are not 1, with changes to ``BOTH``; its backbone is nobody else's."""
    detector = build(clip(dtype), "headclip", seed=1, **(BOTH | changes))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in detector.prompts.parameters():
            parameter.mul_(20)  # as large as learned ones become
        for raw in detector.weights.raw.values():
            raw.add_(torch.rand(raw.shape, generator=generator) - 0.5)
    return detector.requires_grad_(False)
