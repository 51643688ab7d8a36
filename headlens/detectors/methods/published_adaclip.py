"""Published checkpoints of AdaCLIP (arXiv 2407.15795): its prompts and linear maps, in one file.

A file is a state dict with ``clip_model.`` before every name:

    patch_token_layer.head.{i}                 a linear map [d_e, D] of the i-th tap, weight and bias
    cls_token_layer.head.0                     that of the image, [d_e, d_e]
    visual_prompter.static_prompts.{l}         [n, D] of image block l
    text_prompter.static_prompts.{l}           [n, d_e] of text block l; that of block 0 is never read
    dynamic_visual_prompt_generator.head.{j}   a linear map [D, d_e] to the j-th token
    dynamic_text_prompt_generator.head.{j}     the same, [d_e, d_e]

Nothing tells which CLIP they were learned on, at which blocks, or how patches were clustered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from headlens.backbone import Backbone
from headlens.backbone.checkpoint import read_checkpoint
from headlens.detectors.detector import Detector
from headlens.detectors.methods.adaclip import AdaCLIPConfig
from headlens.detectors.methods.plain_gelu import check_activation, loading_rules
from headlens.detectors.methods.registry import build
from headlens.errors import CheckpointError, RunError

PREFIX = "clip_model."
_WHAT = "AdaCLIP's prompts"
_PATCHES, _IMAGE = "patch_token_layer.head", "cls_token_layer.head.0"
_STATIC = {"image": "visual_prompter.static_prompts", "text": "text_prompter.static_prompts"}
_DYNAMIC = {"image": "dynamic_visual_prompt_generator.head", "text": "dynamic_text_prompt_generator.head"}


@dataclass(frozen=True)
class PublishedConditioned:
    """What such a checkpoint holds.

    Args:
        state: its tensors by the names above.
        taps, depth, length: how many taps, blocks with prompts, and tokens in each.
        sha256: of the file.
    """

    state: Mapping[str, Tensor]
    taps: int
    depth: int
    length: int
    sha256: str
    preset: ClassVar[str] = "adaclip"
    not_taken: ClassVar[str] = ""
    rules: ClassVar[Mapping[str, str]] = loading_rules(_WHAT, "bicubic-plain")

    @property
    def contents(self) -> str:
        """What was read, for people."""
        return f"linear maps of {self.taps} taps, prompts of {self.length} tokens in {self.depth} blocks"

    def on(self, backbone: Backbone) -> Detector:
        """As ``conditioned_detector``, at the authors' taps: the last block of each quarter."""
        quarter = backbone.vision.cfg.n_layers // 4
        return conditioned_detector(self, backbone, [quarter * number - 1 for number in (1, 2, 3, 4)])


def read_conditioned(path: str | Path) -> PublishedConditioned:
    """Reads a ``.pth`` file of prompts and maps; nothing in it is executed.

    Raises:
        CheckpointError: missing, damaged, something else, or more than these.
    """
    file = read_checkpoint(path)
    state = {name.removeprefix(PREFIX): value for name, value in file.state.items()}
    first = state.get(f"{_PATCHES}.0.weight")
    what = f"{path} holds no prompts and maps of AdaCLIP"
    if first is None or first.ndim != 2:
        holds = ", ".join(list(file.state)[:3])
        raise CheckpointError(f"{what}: expected {PREFIX}{_PATCHES}.0.weight [d_e, D], …; it holds {holds}")

    def count(part: str) -> int:
        return sum(re.fullmatch(rf"{re.escape(part)}\.\d+(\.weight)?", name) is not None for name in state)

    taps, depth, length = count(_PATCHES), *(max(map(count, parts.values())) for parts in (_STATIC, _DYNAMIC))
    shapes = _shapes(taps, depth, length, *first.shape)
    more = [name for name in file.state if name.removeprefix(PREFIX) not in shapes or not name.startswith(PREFIX)]
    if more := more + list(file.others):
        raise CheckpointError(f"{path} holds {', '.join(more[:5])}, which AdaCLIP has not: nothing was imported")
    for name, shape in shapes.items():
        if name not in state or tuple(state[name].shape) != shape:
            actual = f"it is {list(state[name].shape)}" if name in state else "there is none"
            raise CheckpointError(f"{what}: expected {PREFIX}{name} {list(shape)}; {actual}")
        if not state[name].is_floating_point() or not state[name].float().isfinite().all():
            raise CheckpointError(f"{path}: {PREFIX}{name} has NaN, infinity, or whole numbers; nothing was imported")
    return PublishedConditioned({n: value.float() for n, value in state.items()}, taps, depth, length, file.sha256)


def _shapes(taps: int, depth: int, length: int, d_embed: int, width: int) -> dict[str, tuple[int, ...]]:
    """Of all that a file holds: static and dynamic prompts of both towers, as the authors train them."""
    shapes: dict[str, tuple[int, ...]] = {}
    layers = {f"{_PATCHES}.{i}": (d_embed, width) for i in range(taps)} | {_IMAGE: (d_embed, d_embed)}
    for tower, width_of_tower in (("image", width), ("text", d_embed)):
        shapes |= {f"{_STATIC[tower]}.{block}": (length, width_of_tower) for block in range(depth)}
        layers |= {f"{_DYNAMIC[tower]}.{token}": (width_of_tower, d_embed) for token in range(length)}
    for name, sizes in layers.items():
        shapes |= {f"{name}.weight": sizes, f"{name}.bias": sizes[:1]}
    return shapes


def conditioned_detector(published: PublishedConditioned, backbone: Backbone, taps: Sequence[int]) -> Detector:
    """The detector that its authors evaluate, on ``backbone``, but for prompts rounded to half (``half_prompts``).

    Args:
        published: of ``read_conditioned``.
        backbone: computed with GELU, as theirs, or with another activation and a reason.
        taps: the blocks after which patches are read, counted from 0.

    Raises:
        RunError: a backbone of another width or activation, or another number of taps.
        ConfigError: a block that the backbone does not have.
    """
    vision, text, name = backbone.vision.cfg, backbone.text.cfg, backbone.provenance.name
    check_activation(backbone, _WHAT)
    if len(taps) != published.taps:
        raise RunError(f"the file has maps of {published.taps} taps, not {len(taps)}; name their blocks with taps=")
    theirs = [*published.state[f"{_PATCHES}.0.weight"].shape]
    if theirs != [vision.d_embed, vision.d_model] or text.d_model != vision.d_embed:
        raise RunError(
            f"the maps are {theirs}, those of {name} are {[vision.d_embed, vision.d_model]}, and its text is "
            f"{text.d_model} wide: load the CLIP that they were learned on (ViT-L-14-336-quickgelu with weights openai)"
        )
    config = AdaCLIPConfig(taps=tuple(taps), depth=published.depth, length=published.length)
    detector = build(backbone, config)
    detector.load_state_dict(renamed(published, config))
    return detector.requires_grad_(False).eval()


def renamed(published: PublishedConditioned, config: AdaCLIPConfig) -> dict[str, Tensor]:
    """The state dict of a detector: one map to all tokens of a prompt, and no prompt of text block 0."""
    theirs = published.state
    state = {f"image.{end}": theirs[f"{_IMAGE}.{end}"] for end in ("weight", "bias")}
    for number, tap in enumerate(config.taps):
        state |= {f"projections.{tap}.{end}": theirs[f"{_PATCHES}.{number}.{end}"] for end in ("weight", "bias")}
    for tower, blocks in config.blocks.items():
        static = (theirs[f"{_STATIC[tower]}.{block}"] for block in blocks)
        state |= {f"{tower}_prompts.static.{number}": prompt for number, prompt in enumerate(static)}
        for end in ("weight", "bias"):
            tokens = [theirs[f"{_DYNAMIC[tower]}.{token}.{end}"] for token in range(config.length)]
            state[f"{tower}_prompts.dynamic.{end}"] = torch.cat(tokens)
    return state
