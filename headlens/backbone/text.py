"""CLIP's text transformer, numerically open_clip's, with room for learned prompts, and a memory of what it encoded.

    tokens [P, n_ctx] -> embeddings, with context inserted [P, n, D] -> blocks, deep prompts between them
      -> the end-of-text token -> ln_final -> proj -> [P, d_e]

Attention is causal, so nothing behind the end-of-text token can matter: a batch is cut to its longest prompt.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from headlens.backbone.blocks import HookedLayerNorm, TokenMap
from headlens.backbone.config import TextConfig, check_blocks
from headlens.backbone.hooks import has_hooks
from headlens.backbone.tower import HookedTower
from headlens.errors import ShapeError

_CHUNK = 256  # prompts encoded at a time
Context = Mapping[int, Tensor] | Sequence[tuple[Tensor, Tensor]]
"""Learned tokens by the position they are inserted at, or pairs of positions [P], one for each prompt, and tokens."""


@dataclass(frozen=True)
class TextExtensions:
    """What a method adds to the tower without editing it. Empty, it changes nothing.

    Args:
        adapters: ``{block: f}``; ``f`` maps the residual stream after that block, [P, n, D], to what goes on.
        projection: replaces ``proj``: maps the end-of-text token after ln_final, [P, D], to [P, d_e].
    """

    adapters: Mapping[int, TokenMap] = field(default_factory=dict)
    projection: TokenMap | None = None


class TextTower(HookedTower):
    """CLIP's text encoder.

    Hook points, besides those of each block: ``hook_embed`` [P, n, D] and ``ln_final.hook_scale`` [P, n, 1].

    >>> from headlens.backbone.config import architecture
    >>> tower = TextTower(architecture("ViT-S-32").text)
    >>> tower(torch.tensor([[49406, 320, 49407, 0]])).shape
    torch.Size([1, 384])
    """

    cfg: TextConfig

    def __init__(self, cfg: TextConfig) -> None:
        super().__init__(cfg, causal=True)
        # Weights come later; torch's own initialisation on the meta device would import sympy, which takes a second.
        self.token_embedding = nn.Embedding.from_pretrained(torch.empty(cfg.d_vocab, cfg.d_model), freeze=False)
        self.positional_embedding = nn.Parameter(torch.empty(cfg.n_ctx, cfg.d_model))
        self.ln_final = HookedLayerNorm(cfg.d_model, eps=cfg.eps)
        self.proj = nn.Parameter(torch.empty(cfg.d_model, cfg.d_embed))
        self.hook_embed = HookPoint()
        self.setup()

    def forward(
        self,
        tokens: Tensor,
        *,
        context: Context | None = None,
        deep_prompts: Mapping[int, Tensor] | None = None,
        extensions: TextExtensions | None = None,
        hooked: bool = True,
    ) -> Tensor:
        """Encode prompts, [P, up to n_ctx] token ids to [P, d_e]; without options, open_clip's ``encode_text``.

        Args:
            tokens: ids, each prompt ending in its highest id (end of text), then padding. Left on the CPU, as they come
                from the tokenizer, they cost a GPU no wait: what follows from them is worked out there.
            context: learned tokens to insert, ``{position: [n, D] or [P, n, D]}``; they stand before the token that
                was at that position (0: before start-of-text, 1: after it) and push the rest along. Where the
                position differs from prompt to prompt, give pairs ``(positions [P], context)`` instead.
            deep_prompts: ``{block: [n, D] or [P, n, D]}``, which overwrite positions 1..n before that block
                (AnomalyCLIP: arXiv 2310.18961).
            extensions: what a method adds.
            hooked: False calls no hook point.

        Raises:
            ShapeError: prompts that do not fit ``n_ctx`` once context is inserted, or tensors that do not fit.
        """
        for what, given in (("context", context), ("deep_prompts", deep_prompts)):
            if isinstance(given, Tensor):
                raise ShapeError(f"{what} is a tensor; expected a dict of where it goes, such as {{1: tensor}}")
        extensions, deep_prompts = extensions or TextExtensions(), deep_prompts or {}
        check_blocks(list(deep_prompts), self.cfg.n_layers, "deep prompts")
        check_blocks(list(extensions.adapters), self.cfg.n_layers, "text adapters")
        n_ctx = self.cfg.n_ctx
        whole = tokens.ndim == 2 and len(tokens) and 0 < tokens.shape[1] <= n_ctx
        if not whole or tokens.is_floating_point():
            shape = f"tokens have shape {tuple(tokens.shape)}, {tokens.dtype}"
            raise ShapeError(f"{shape}; expected integers [P, up to {n_ctx}]")
        ids = tokens.cpu()
        if int(ids.min()) < 0 or int(ids.max()) >= self.cfg.d_vocab:
            raise ShapeError(f"token ids must lie in 0..{self.cfg.d_vocab - 1}; got up to {int(ids.max())}")

        x, ends = self._insert(self.token_embedding(_on_device_of(self.proj, ids)), ids.argmax(-1), context)
        longest = int(ends.max()) + 1
        if longest > n_ctx:
            raise ShapeError(f"a prompt has {longest} tokens once context is inserted; the tower reads {n_ctx}")
        x = x[:, :longest] + self.positional_embedding[:longest]
        x = self.hook_embed(x) if hooked else x
        for number, block in enumerate(self.blocks):
            if number in deep_prompts:
                x = _overwrite(x, deep_prompts[number], room=int(ends.min()) - 1)
            x, _ = block(x, adapter=extensions.adapters.get(number), hooked=hooked)
        normed = self.ln_final(x) if hooked else nn.LayerNorm.forward(self.ln_final, x)
        read = normed[torch.arange(x.shape[0], device=x.device), _on_device_of(x, ends)]  # (P, n, D) -> (P, D)
        return extensions.projection(read) if extensions.projection else read @ self.proj

    def _insert(self, x: Tensor, ends: Tensor, context: Context | None) -> tuple[Tensor, Tensor]:
        """Embeddings with context between them, and where each prompt's end of text now stands; ``ends`` on the CPU."""
        prompts, length, width = x.shape
        pairs = list(context.items()) if isinstance(context, Mapping) else list(context or ())
        if not pairs:
            return x, ends
        # Every token has a key, context keys lie half a step before their position: a stable sort puts all in place.
        keys = [torch.arange(length, dtype=torch.float, device=ends.device).expand(prompts, -1)]
        parts, shift = [x], torch.zeros_like(ends)
        for at, learned in pairs:
            where = torch.as_tensor(at).to(ends.device).expand(prompts)
            shape = tuple(learned.shape)
            if len(shape) < 2 or shape[-1] != width or shape[:-2] not in ((), (1,), (prompts,)):
                raise ShapeError(f"context has shape {shape}; expected [n, {width}] or [{prompts}, n, {width}]")
            if bool((where < 0).any()) or bool((where > ends).any()):
                end = int(ends.min())
                raise ShapeError(f"context position {at}: must lie in 0..{end}, the end of the shortest prompt")
            parts.append(learned.to(x).expand(prompts, -1, -1))
            keys.append((where.float() - 0.5)[:, None].expand(-1, shape[-2]))
            shift = shift + shape[-2]
        order = _on_device_of(x, torch.cat(keys, dim=1).argsort(dim=1, stable=True))  # (P, length + n)
        x = torch.cat(parts, dim=1).gather(1, order[..., None].expand(-1, -1, width))
        return x, ends + shift


def _on_device_of(like: Tensor, numbers: Tensor) -> Tensor:
    """Numbers from the CPU on the device of ``like``, without waiting for it to take them."""
    return numbers.to(like.device, non_blocking=like.device.type != "cpu")


def _overwrite(x: Tensor, prompt: Tensor, room: int) -> Tensor:
    """The residual stream [P, n, D] with a deep prompt [k, D] or [P, k, D] at positions 1..k, k <= room."""
    if prompt.ndim not in (2, 3) or prompt.shape[-1] != x.shape[-1] or prompt.shape[-2] > room:
        expected = f"[k, {x.shape[-1]}] with k <= {room}, the room between start and end of the shortest prompt"
        raise ShapeError(f"deep prompt has shape {tuple(prompt.shape)}; expected {expected}")
    k = prompt.shape[-2]
    return torch.cat([x[:, :1], prompt.to(x).expand(x.shape[0], -1, -1), x[:, 1 + k :]], dim=1)


class PromptCache:
    """Encodes prompts with a text tower and remembers the last few batches.

    Nothing is remembered, and everything computed, when gradients are wanted, when a hook is attached, under autocast,
    or when extensions are given: functions cannot be compared.

    Args:
        size: how many batches are remembered.
    """

    def __init__(self, size: int = 16) -> None:
        self.size = size
        # A key holds the weights' addresses; the entry keeps the weights, so that no address is given out again.
        self._seen: OrderedDict[Any, tuple[Tensor, list[Tensor]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def encode(self, tower: TextTower, tokens: Tensor, **options: Any) -> Tensor:
        """[P, n_ctx] token ids to [P, d_e]; ``options`` are those of ``TextTower.forward``."""
        tower.check_options(options)
        places, learned = _learned(options)
        weights = list(tower.parameters())
        if (
            (torch.is_grad_enabled() and any(t.requires_grad for t in (*learned, *weights)))
            or options.get("extensions") is not None
            or torch.is_autocast_enabled(tower.proj.device.type)
            or any(map(has_hooks, tower.modules()))
            or any(weight.is_inference() for weight in weights)
        ):
            return tower(tokens, **options)

        hooked = bool(options.get("hooked", True))
        key = (hooked, places, *map(_content, (tokens, *learned)), *map(_identity, weights))
        if key not in self._seen:
            # Ordinary tensors even inside inference_mode, so that a later training step may use them.
            with torch.inference_mode(False), torch.no_grad():
                parts = [tokens] if places else tokens.split(_CHUNK)
                encoded = torch.cat([tower(part, **options) for part in parts])
            self._seen[key] = encoded, [weight.detach() for weight in weights]
            while len(self._seen) > self.size:
                self._seen.popitem(last=False)
        self._seen.move_to_end(key)
        return self._seen[key][0].clone()


def _content(tensor: Tensor) -> tuple:
    raw = tensor.detach().contiguous().view(-1).view(torch.uint8).cpu().numpy().tobytes()
    return raw, tensor.dtype, tensor.device, tuple(tensor.shape)


def _identity(weight: Tensor) -> tuple:
    """Changes with the memory of a large tensor, and with in-place writes, which torch counts (but through .data)."""
    return weight.data_ptr(), weight._version, weight.dtype, weight.device


def _learned(options: Mapping[str, Any]) -> tuple[tuple, list[Tensor]]:
    """Where each learned tensor goes, and all tensors that say so."""
    deep = options.get("deep_prompts") or {}
    context: Any = () if options.get("context") is None else options["context"]
    places = tuple(context) if isinstance(context, Mapping) else ("per prompt",) * len(context)
    tensors = context.values() if isinstance(context, Mapping) else [tensor for pair in context for tensor in pair]
    places = (*places, *(("deep", block) for block in deep))
    return places, [torch.as_tensor(tensor) for tensor in (*tensors, *deep.values())]
