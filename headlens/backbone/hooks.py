"""Whether anything listens at a tower: one place asks, for whoever would pass hooks by."""

from __future__ import annotations

from torch import nn


def has_hooks(point: nn.Module) -> bool:
    """Whether anything listens at a module, through TransformerLens or plain torch."""
    return bool(point._forward_hooks or point._forward_pre_hooks or point._backward_hooks or point._backward_pre_hooks)


def hooked(module: nn.Module, name: str = "") -> list[str]:
    """Names of all modules, ``module`` among them, with hooks of either kind, or with a ``forward`` put in its place.

    Args:
        module: a tower, or anything that holds one.
        name: how the module itself is called; names of its parts begin with it.

    >>> from headlens.backbone import load
    >>> tower = load("mini").vision
    >>> with tower.hooks([("blocks.20.hook_resid_post", lambda tensor, *, hook: 0.5 * tensor)]):
    ...     hooked(tower, "vision")
    ['vision.blocks.20.hook_resid_post']
    >>> hooked(tower)
    []
    """
    return [own for own, part in module.named_modules(prefix=name) if has_hooks(part) or "forward" in vars(part)]
