"""Whether a tower has hooks: the one place that looks, for all that would compute without calling them."""

from __future__ import annotations

from torch import nn


def has_hooks(point: nn.Module) -> bool:
    """Whether a module has hooks, through TransformerLens or plain torch."""
    return bool(point._forward_hooks or point._forward_pre_hooks or point._backward_hooks or point._backward_pre_hooks)


def is_changed(module: nn.Module) -> bool:
    """Whether a module has hooks, or another ``forward`` has been put in its place."""
    return has_hooks(module) or "forward" in vars(module)


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
    return [point for point, part in module.named_modules(prefix=name) if is_changed(part)]
