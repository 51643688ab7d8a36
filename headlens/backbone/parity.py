"""Is this tower open_clip's? Measured, on any architecture, with any weights, on the machine at hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from headlens.backbone import embedded
from headlens.backbone.checkpoint import NOT_WEIGHTS
from headlens.backbone.clip import Backbone
from headlens.backbone.config import PositionRule, architecture
from headlens.backbone.loading import assemble

LIMITS = {torch.float64: 1e-10, torch.float32: 2e-5}
"""Largest deviation, relative to open_clip's largest value, that counts as equal."""

SIZES: tuple[tuple[int, int] | None, ...] = (None, (518, 518), (336, 518))
"""Image sizes looked at: the architecture's own, the field's, and one that is not square."""


def parity(
    name: str,
    state: Mapping[str, Tensor] | None = None,
    sizes: Iterable[tuple[int, int] | None] = SIZES,
    dtypes: Iterable[torch.dtype] = tuple(LIMITS),
    position_rule: PositionRule = "bicubic",
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """Deviations from open_clip's own model holding the same weights, a row for each size and precision.

    Args:
        name: an architecture.
        state: weights by open_clip's names; random ones, biases and LayerNorms included, when None.
        sizes: (height, width) of the images; None is the size the architecture was trained at.
        dtypes: precisions.
        position_rule: the rule for other sizes; open_clip is asked for the same.
        seed: of random weights and images.

    Yields:
        ``architecture, size, dtype``, then the largest deviation relative to the reference's largest value of
        ``image`` (hooked), ``image_fast`` (hook-free), ``text``, ``heads`` (Σ head results + b_O against attn_out) and
        ``residual`` (embedding + all parts against the stream after the last block), and ``limit``.
    """
    arch = architecture(name)
    arch = replace(arch, vision=replace(arch.vision, position_rule=position_rule))
    generator = torch.Generator().manual_seed(seed)
    state = stirred_state(name, seed) if state is None else state
    tokens = torch.randint(1, arch.text.d_vocab - 1, (3, arch.text.n_ctx), generator=generator)
    tokens[0, 9], tokens[1, 20], tokens[2, -1] = (arch.text.d_vocab - 1,) * 3
    for dtype in dtypes:
        ours = assemble(arch, state, dtype=dtype)
        for size in sizes:
            height, width = size or arch.vision.image_size
            images = torch.randn(2, 3, height, width, generator=generator).to(dtype)
            theirs = open_clip_model(name, state, (height, width), dtype, position_rule)
            yield {
                "architecture": name,
                "size": f"{height}x{width}",
                "dtype": str(dtype).removeprefix("torch."),
                **_deviations(ours, theirs, images, tokens),
                "limit": LIMITS[dtype],
            }


@torch.no_grad()
def _deviations(ours: Backbone, theirs: Any, images: Tensor, tokens: Tensor) -> dict[str, float]:
    image, text = theirs.encode_image(images), theirs.encode_text(tokens)
    last = ours.vision.cfg.n_layers - 1
    wanted = ("hook_embed", "hook_attn_out", "hook_mlp_out", f"blocks.{last}.attn.hook_z", f"{last}.hook_resid_post")
    out, cache = ours.vision.run_with_cache(images, names_filter=lambda hook: hook.endswith(wanted))
    attn, attn_out = ours.vision.blocks[last].attn, cache["attn_out", last]
    by_head = attn.b_O.expand_as(attn_out).clone()
    for head in range(attn.heads):
        by_head += cache["z", last][:, :, head] @ attn.W_O[head]
    parts = cache["hook_embed"] + sum(cache[kind, i] for i in range(last + 1) for kind in ("attn_out", "mlp_out"))
    return {
        "image": relative(out.embedding, image),
        "image_fast": relative(ours.vision(images, hooked=False).embedding, image),
        "text": relative(ours.text(tokens), text),
        "heads": relative(by_head, attn_out),
        "residual": relative(parts, cache["resid_post", last]),
    }


def relative(ours: Tensor, reference: Tensor) -> float:
    """Largest absolute deviation over the reference's largest absolute value."""
    return float((ours - reference).abs().max() / reference.abs().max())


def open_clip_model(
    name: str,
    state: Mapping[str, Tensor],
    size: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    position_rule: PositionRule = "bicubic",
) -> Any:
    """open_clip's own model with these weights, its positions resized by its own code."""
    from open_clip.model import CLIP, resize_pos_embed

    config = _config(name)
    config["vision_cfg"]["image_size"] = size
    model = CLIP(**config).to(dtype)
    # Half precisions are resized in float32, which is how open_clip loads them.
    wide = torch.promote_types(dtype, torch.float32)
    state = {key: value.to(wide) for key, value in state.items() if key not in NOT_WEIGHTS}
    mode = position_rule.removesuffix("-plain")
    resize_pos_embed(state, model, interpolation=mode, antialias=position_rule == "bicubic")
    model.load_state_dict(state)
    return model.eval()


def _config(name: str) -> dict[str, Any]:
    import open_clip

    return dict(embedded.config(name)["model_cfg"] if name in embedded.NAMES else open_clip.get_model_config(name))


def stirred_state(name: str, seed: int = 0) -> dict[str, Tensor]:
    """Random weights of an architecture by open_clip's names, with no bias at 0 and no LayerNorm at 1."""
    from open_clip.model import CLIP

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = CLIP(**_config(name)).state_dict()
        for key, value in state.items():
            if value.ndim == 1 and key != "visual.class_embedding":
                value += 0.1 * torch.randn(value.shape)
    return state
