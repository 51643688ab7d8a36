"""Prompt batches are encoded once, and again only when a weight or an input has changed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from headlens.backbone.hooks import has_hooks
from headlens.backbone.text import TextTower

_CHUNK = 256  # prompts encoded at a time


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
        learned = _tensors_in(options)
        weights = list(tower.parameters())
        if (
            (torch.is_grad_enabled() and any(t.requires_grad for t in (*learned, *weights)))
            or options.get("extensions") is not None
            or torch.is_autocast_enabled(tower.proj.device.type)
            or any(has_hooks(module) for module in tower.modules())
            or any(weight.is_inference() for weight in weights)
        ):
            return tower(tokens, **options)

        hooked = bool(options.get("hooked", True))
        key = (hooked, _layout(options), *map(_content, (tokens, *learned)), *map(_identity, weights))
        if key not in self._seen:
            # Ordinary tensors even inside inference_mode, so that a later training step may use them.
            with torch.inference_mode(False), torch.no_grad():
                parts = [tokens] if _layout(options) else tokens.split(_CHUNK)
                encoded = torch.cat([tower(part, **options) for part in parts])
            self._seen[key] = encoded, [weight.detach() for weight in weights]
            while len(self._seen) > self.size:
                self._seen.popitem(last=False)
        self._seen.move_to_end(key)
        return self._seen[key][0].clone()


def _content(tensor: Tensor) -> tuple:
    """All of a small tensor."""
    raw = tensor.detach().contiguous().view(-1).view(torch.uint8).cpu().numpy().tobytes()
    return raw, tensor.dtype, tensor.device, tuple(tensor.shape)


def _identity(weight: Tensor) -> tuple:
    """Changes with the memory of a large tensor, and with in-place writes, which torch counts (but through .data)."""
    return weight.data_ptr(), weight._version, weight.dtype, weight.device


def _layout(options: Mapping[str, Any]) -> tuple:
    """Where each learned tensor goes."""
    context, deep = options.get("context"), options.get("deep_prompts") or {}
    at = tuple(context) if isinstance(context, Mapping) else tuple("per prompt" for _ in context or ())
    return (*at, *(("deep", block) for block in deep))


def _tensors_in(options: Mapping[str, Any]) -> list[Tensor]:
    context, deep = options.get("context"), options.get("deep_prompts") or {}
    pairs = context.values() if isinstance(context, Mapping) else [t for pair in context or () for t in pair]
    return [torch.as_tensor(tensor) for tensor in (*pairs, *deep.values())]
