"""``Backbone``: the two towers of one CLIP, with its tokenizer, its preprocessing, and where its weights came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy, deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headlens import html
from headlens.backbone.config import Architecture
from headlens.backbone.text import PromptCache, TextTower
from headlens.backbone.vision import VisionTower
from headlens.errors import ShapeError


@dataclass(frozen=True)
class Provenance:
    """Which backbone made a result."""

    name: str
    weights: str
    """``"random (seed 0)"``, a pretrained tag, or the name of a local file."""
    sha256: str | None
    """Of the weight file; None for random weights."""
    act_fn: str
    act_fn_known: bool
    """False where nothing about a weight file tells its activation, and the architecture's name was believed."""
    position_rule: str
    image_size: tuple[int, int]
    positions_from: tuple[int, int] | None = None
    """The grid of patches that the file's positions were made for, where loading has resized them."""
    because: str = ""
    """Why this activation is computed, whatever the weights were trained with; empty where it is theirs."""

    @property
    def activation(self) -> str:
        """The activation, and why, or whether anything says that it is the right one."""
        if self.because:
            return f"{self.act_fn}, because: {self.because}"
        return self.act_fn if self.act_fn_known else f"{self.act_fn} (assumed: nothing says what the weights need)"


class Backbone(html.Shown, nn.Module):
    """A frozen CLIP: two hooked towers, the tokenizer and preprocessing that go with them, and where it came from.

    >>> import headlens
    >>> clip = headlens.backbone.load("ViT-S-32")
    >>> clip.encode_text(clip.tokenizer(["a photo of a damaged object"])).shape
    torch.Size([1, 384])
    """

    def __init__(
        self,
        arch: Architecture,
        provenance: Provenance,
        make_tokenizer: Callable[[], Callable[..., Tensor]],
        make_preprocess: Callable[[], Callable[[Any], Tensor]],
    ) -> None:
        super().__init__()
        self.vision, self.text = VisionTower(arch.vision), TextTower(arch.text)
        self.logit_scale = nn.Parameter(torch.empty(()))
        self._make_tokenizer, self._make_preprocess = make_tokenizer, make_preprocess
        self.provenance = provenance
        self._prompts = PromptCache()
        self._base: tuple[Backbone, ...] = ()  # in a tuple: it is no part of this module

    @property
    def tokenizer(self) -> Callable[..., Tensor]:
        """Sentences to token ids [P, n_ctx]; made on first use, because open_clip takes seconds to import."""
        return self._make_tokenizer()

    @cached_property
    def preprocess(self) -> Callable[[Any], Tensor]:
        """PIL image to a normalised tensor [3, h, w]; made on first use."""
        return self._make_preprocess()

    @property
    def base(self) -> Backbone:
        """The CLIP that was loaded: itself, or what ``with_image_weights`` was asked of."""
        return self._base[0] if self._base else self

    def with_image_weights(self, weights: Mapping[str, Tensor]) -> Backbone:
        """The same CLIP with these weights in the image tower, by name; all others are shared with this one.

        Hooks at this image tower are not set at the other.

        Raises:
            ShapeError: a name or a shape that the tower does not have.

        >>> import headlens
        >>> clip = headlens.backbone.load("mini")
        >>> name = "blocks.0.attn.out.weight"
        >>> other = clip.with_image_weights({name: 2 * clip.vision.get_parameter(name)})
        >>> bool((other.vision.blocks[0].attn.W_O == 2 * clip.vision.blocks[0].attn.W_O).all()), other.base is clip
        (True, True)
        """
        known = dict(self.vision.named_parameters())
        for name, weight in weights.items():
            if name not in known or known[name].shape != weight.shape:
                there = f"which is {tuple(known[name].shape)} there" if name in known else "which it does not have"
                raise ShapeError(f"a weight {name} of shape {tuple(weight.shape)} for an image tower, {there}")
        shared = {id(weight): weight for name, weight in known.items() if name not in weights}
        other = copy(self)
        other._modules = {**self._modules, "vision": deepcopy(self.vision, shared)}
        other.vision.reset_hooks()
        for name, weight in weights.items():
            module, _, own = name.rpartition(".")
            setattr(other.vision.get_submodule(module), own, nn.Parameter(weight.detach(), requires_grad=False))
        other._base = (self.base,)
        return other

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        """Normalised images [B, 3, h, w] to embeddings [B, d_e], as open_clip's ``encode_image``."""
        if not isinstance(images, Tensor):
            raise ShapeError(f"images are {type(images).__name__}; expected a tensor, torch.stack of preprocess(image)")
        embedding = self.vision(images).embedding
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def encode_text(self, tokens: Tensor, normalize: bool = False, **options: Any) -> Tensor:
        """Token ids [P, n] to embeddings [P, d_e], as open_clip's ``encode_text``; equal batches are encoded once.

        Args:
            tokens: what ``tokenizer`` returns.
            normalize: to unit length.
            **options: ``context``, ``deep_prompts``, ``extensions`` of ``TextTower.forward``.

        Without gradients equal batches are answered from memory. Weights changed through ``.data`` are not noticed.
        """
        if not isinstance(tokens, Tensor):
            raise ShapeError(f"tokens are {type(tokens).__name__}; expected a tensor, tokenizer(sentences)")
        embedding = self._prompts.encode(self.text, tokens, **options)
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        v, p = self.vision.cfg, self.provenance
        facts = {
            "weights": p.weights,
            "SHA-256": p.sha256 and p.sha256[:12],
            "heads": f"{v.n_layers} layers x {v.n_heads} heads of {v.d_head} channels, counted from 0",
            "image size": f"{p.image_size[0]} x {p.image_size[1]} px in patches of {v.patch_size}",
            "positions": p.positions_from and f"resized from {p.positions_from[0]} x {p.positions_from[1]} patches",
            "activation": p.activation,
        }
        return html.card(f"Backbone {p.name}", facts)

    def __repr__(self) -> str:
        v, p = self.vision.cfg, self.provenance
        resized = f"positions resized from {p.positions_from[0]}x{p.positions_from[1]}, " if p.positions_from else ""
        return (
            f"Backbone({p.name}, weights: {p.weights}; {v.n_layers} layers x {v.n_heads} heads of {v.d_head}, "
            f"patch {v.patch_size}, {p.image_size[0]}x{p.image_size[1]} px, {resized}{p.activation})"
        )


@torch.no_grad()
def init_random(backbone: Backbone, seed: int) -> None:
    """CLIP's initialisation, from a seed, the same on every device."""
    generator = torch.Generator().manual_seed(seed)

    def normal(parameter: Tensor, std: float) -> None:
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

    for module in backbone.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.fill_(1)
        if isinstance(module, nn.LayerNorm | nn.Linear):
            module.bias.zero_()
    for tower in (backbone.vision, backbone.text):
        width, depth = tower.cfg.d_model, tower.cfg.n_layers
        for block in tower.blocks:
            normal(block.attn.qkv.weight, width**-0.5)
            normal(block.attn.out.weight, width**-0.5 * (2 * depth) ** -0.5)
            normal(block.mlp.fc.weight, (2 * width) ** -0.5)
            normal(block.mlp.proj.weight, width**-0.5 * (2 * depth) ** -0.5)
        normal(tower.proj, width**-0.5)
    normal(backbone.vision.class_embedding, backbone.vision.cfg.d_model**-0.5)
    normal(backbone.vision.positional_embedding, backbone.vision.cfg.d_model**-0.5)
    normal(backbone.vision.conv1.weight, (3 * backbone.vision.cfg.patch_size**2) ** -0.5)
    normal(backbone.text.token_embedding.weight, 0.02)
    normal(backbone.text.positional_embedding, 0.01)
    backbone.logit_scale.fill_(torch.tensor(1 / 0.07).log())
