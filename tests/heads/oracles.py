"""The plain way: one forward with hooks for every variant, scored by a formula written down apart."""

from __future__ import annotations

import torch
from torch import Tensor

from headlens.detectors.detector import Detector
from headlens.detectors.scoring import Prediction
from headlens.heads.variants import Variant
from tests.methods.formula import predicted

HOOKS = {"global": "blocks.{}.attn.hook_z", "local": "blocks.{}.attn.hook_local_z"}


def hooked(detector: Detector, images: Tensor, hooks: list, categories: list[str] | None = None) -> Prediction:
    """A prediction in the images' precision with hooks in the way."""
    reading = detector.reading(images, categories or ["object"] * len(images))
    out = detector.backbone.vision.run_with_hooks(images, reading.plan, fwd_hooks=hooks)
    return predicted(detector.backbone.vision, out, reading.text.text, detector.config, tuple(images.shape[2:]))


def cached(detector: Detector, images: Tensor):
    """The hooked tower's output and everything that it passed through, patterns and results included."""
    return detector.backbone.vision.run_with_cache(images, detector.plan, names_filter=lambda _: True)


def naive(detector: Detector, images: Tensor, variant: Variant, kind: str, instead=None, categories=None):
    """The detector with heads ablated; ``instead`` is what stands in, ``{hook name: z}``, weighted."""
    weights = detector.head_weights()
    hooks = []
    for head in variant.heads:
        name = HOOKS[head.stream].format(head.layer)

        def replace(z, hook, head=head, name=name):
            z = z.clone()
            if kind == "zero":
                z[:, :, head.head] = 0
            elif kind == "revert":
                z[:, :, head.head] /= weights[head.stream][head.layer, head.head]
            else:
                z[:, :, head.head] = instead[name][:, :, head.head]
            return z

        hooks.append((name, replace))
    return hooked(detector, images, hooks, categories)


def stand_ins(cache, kind: str) -> dict[str, Tensor]:
    """Weighted ``z`` of another image (the next), or the mean over images and patches, CLS kept apart."""
    found = {}
    for name, z in cache.items():
        if not name.endswith(("hook_z", "hook_local_z")):
            continue
        if kind == "resample":
            found[name] = z.roll(1, 0)
        else:
            patches = z[:, 1:].mean((0, 1), keepdim=True).expand(1, z.shape[1] - 1, -1, -1)
            found[name] = torch.cat([z[:, :1].mean(0, keepdim=True), patches], 1).expand(len(z), -1, -1, -1)
    return found
