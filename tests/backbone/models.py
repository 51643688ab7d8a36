"""Small models of the real kind: open_clip builds them, every parameter is random, float64."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import open_clip
import torch
from open_clip.model import CLIP
from torch import Tensor

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
    assert not a.numel() or float((a - b).detach().abs().max()) <= tolerance * max(1.0, float(b.detach().abs().max()))


def transformers_file(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of open_clip's by transformers' names; written from its documentation, not from our reader."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        tower = "vision_model" if name.startswith("visual.") else "text_model"
        leaf = name.removeprefix("visual.")
        if block := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", leaf):
            here = f"{tower}.encoder.layers.{block[1]}"
            kind, ending = block[2].rsplit(".", 1)[0], block[2].rsplit("_" if "in_proj" in block[2] else ".", 1)[1]
            if "in_proj" in block[2]:
                for letter, own in zip("qkv", value.chunk(3), strict=True):
                    found[f"{here}.self_attn.{letter}_proj.{ending}"] = own.clone()
                continue
            to = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2"}
            to |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
            found[f"{here}.{to[kind]}.{ending}"] = value
            continue
        alone = {
            "visual.class_embedding": "vision_model.embeddings.class_embedding",
            "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
            "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
            "visual.proj": "visual_projection.weight",
            "positional_embedding": "text_model.embeddings.position_embedding.weight",
            "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
            "text_projection": "text_projection.weight",
            "logit_scale": "logit_scale",
            **{f"visual.ln_pre.{w}": f"vision_model.pre_layrnorm.{w}" for w in ("weight", "bias")},
            **{f"visual.ln_post.{w}": f"vision_model.post_layernorm.{w}" for w in ("weight", "bias")},
            **{f"ln_final.{w}": f"text_model.final_layer_norm.{w}" for w in ("weight", "bias")},
        }
        if name != "attn_mask":
            found[alone[name]] = value.T.contiguous() if "proj" in name else value
    return found
