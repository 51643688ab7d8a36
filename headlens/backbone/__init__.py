"""CLIP with every head in view: two hooked towers, numerically open_clip's.

>>> import torch
>>> from headlens import backbone
>>> clip = backbone.load("ViT-S-32")
>>> out, cache = clip.vision.run_with_cache(torch.zeros(1, 3, 224, 224), names_filter="blocks.5.attn.hook_z")
>>> cache["z", 5].shape                    # [image, token, head, channel]
torch.Size([1, 50, 6, 64])
"""

from headlens.backbone.clip import Backbone, Provenance
from headlens.backbone.config import Architecture, architecture, architecture_from_config
from headlens.backbone.loading import assemble, load
from headlens.backbone.plan import STREAMS, Adapter, AttentionMatrix, LocalStream, VisionPlan
from headlens.backbone.text import TextExtensions, TextTower
from headlens.backbone.vision import VisionOutput, VisionTower

__all__ = [
    "STREAMS",
    "Adapter",
    "Architecture",
    "AttentionMatrix",
    "Backbone",
    "LocalStream",
    "Provenance",
    "TextExtensions",
    "TextTower",
    "VisionOutput",
    "VisionPlan",
    "VisionTower",
    "architecture",
    "architecture_from_config",
    "assemble",
    "load",
]


def __dir__() -> list[str]:
    return __all__
