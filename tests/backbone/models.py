"""Small models of the real kind: open_clip builds them, every parameter is random, float64."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import open_clip
import torch
from open_clip.model import CLIP

TINY = {
    "embed_dim": 20,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 4, "width": 32, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 64, "width": 24, "heads": 3, "layers": 4},
}


# Tiny ones with open_clip's own tokenizer, by names that its list has inside ``listed``.
_NAMED = {"image_size": 224, "vocab_size": 49408, "context_length": 77}
LISTED = {"ViT-T-32": {"patch_size": 32, "quick_gelu": False}, "ViT-T-32-quickgelu": {"patch_size": 32}}


@contextmanager
def listed() -> Iterator[None]:
    """Architectures that are loaded by name, without the millions of weights of those that are published."""
    configs = {name: tiny_config(**_NAMED, **changes) for name, changes in LISTED.items()}
    with patch.dict(open_clip.factory._MODEL_CONFIGS, configs):
        yield


def tiny_config(**changes) -> dict:
    """The tiny model's config, with changes to its vision or text part or to the top level."""
    config = copy.deepcopy(TINY)
    for key, value in changes.items():
        part = next((p for p in ("vision_cfg", "text_cfg") if key in config[p]), None)
        (config[part] if part else config)[key] = value
    return config


def random_clip(config: dict, dtype: torch.dtype = torch.float64, seed: int = 0) -> CLIP:
    """An open_clip model with no bias at 0 and no LayerNorm at 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(**copy.deepcopy(config))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape) * (parameter.std() if parameter.ndim > 1 else 1))
    return model.to(dtype).eval()


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-10) -> None:
    """Equal to within ``tolerance`` of the largest value of ``b``."""
    assert a.shape == b.shape, f"{tuple(a.shape)} against {tuple(b.shape)}"
    assert float((a - b).detach().abs().max()) <= tolerance * max(1.0, float(b.detach().abs().max()))
