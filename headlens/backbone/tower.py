"""What both towers share: TransformerLens's hooks and cache over a stack of blocks."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens import ActivationCache
from transformer_lens.HookedRootModule import HookedRootModule

from headlens.backbone.blocks import Block
from headlens.backbone.config import TransformerConfig
from headlens.backbone.hooks import hooked, is_changed
from headlens.errors import ConfigError, HookNameError, ShapeError

NamesFilter = None | str | Iterable[str] | Callable[[str], bool]
Hook = tuple[str | Callable[[str], bool], Callable]
"""A name, or a function of the name, and what is called there."""
_INSTEAD = {  # options of TransformerLens's own models
    "return_cache_object": "run_with_cache returns an ActivationCache; cache.cache_dict is its dict",
    "stop_at_layer": "all blocks are run; names_filter='blocks.3.hook_resid_pre' stores the input of block 3",
    "start_at_layer": "start_at=3 resumes at block 3, from the residual stream given in place of the input",
    "return_type": "the return type is always the same; see forward",
    **dict.fromkeys(
        ("taps", "local", "head_weights", "adapters"), "it is a field of the plan: plan=VisionPlan(taps=(5, 11))"
    ),
    "incl_bwd": "an output is not a scalar; reduce it, and read gradients by bwd_hooks or torch.autograd.grad",
}

# [B, H, T, T] and [B, T, H, D] a layer: 115 and 86 MiB for one image at ViT-L/14, 518 px.
HUGE = ("pattern", "result")


class Cache(ActivationCache):
    """TransformerLens's, which says what there is where something is asked for that it does not hold."""

    def __getitem__(self, key: Any) -> Tensor:
        """By name, or by TransformerLens's short form, ``cache["z", 5]``."""
        try:
            return super().__getitem__(key)
        except KeyError as error:
            name = str(error.args[0])
            if name in self.model.hook_dict:
                huge = "patterns and results are stored only if names_filter names them"
                why = huge if name.endswith(HUGE) else "names_filter excluded it, or it was not reached"
            else:
                near = difflib.get_close_matches(name, self.cache_dict, n=3) or list(self.cache_dict)[:3]
                why = f"unknown hook point; similar names: {', '.join(near)}"
            raise HookNameError(f"the cache has no {name!r}: {why}") from None


class HookedTower(HookedRootModule):
    """A stack of ``blocks`` under TransformerLens's hook machinery.

    Subclasses define ``blocks`` first, then their other modules, and call ``setup()`` last.
    """

    blocks: Sequence[Block]
    cfg: TransformerConfig

    def __init__(self, cfg: TransformerConfig, *, causal: bool = False, local: bool = False) -> None:
        super().__init__()
        self.cfg = cfg
        self._options = tuple(inspect.signature(self.forward).parameters)[1:]  # the first is its input
        blocks = nn.ModuleList(Block(cfg, causal=causal, local=local) for _ in range(cfg.n_layers))
        self.blocks = blocks  # type: ignore[assignment]  # a ModuleList of one type, for readers and checkers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """``forward``; raises ShapeError for an option that it does not have."""
        self.check_options(kwargs)
        return super().__call__(*args, **kwargs)

    def run_with_cache(
        self,
        *args: Any,
        names_filter: NamesFilter = None,
        remove_batch_dim: bool = False,
        device: str | torch.device | None = None,
        pos_slice: Any = None,
        **kwargs: Any,
    ) -> tuple[Any, ActivationCache]:
        """The tower's output and the activations it passed through.

        Args:
            *args: what ``forward`` takes; ``**kwargs`` too.
            names_filter: a hook name, several, or a function of the name. None stores everything except attention
                patterns and head results, which are computed only when asked for.
            remove_batch_dim: drop the batch axis of a batch of one.
            device, pos_slice: TransformerLens's.

        Raises:
            ShapeError: a hook name or an option that does not exist.
        """
        small = [name for name in self.hook_dict if not name.endswith(HUGE)]
        wanted = self._wanted(small if names_filter is None else names_filter)
        self.check_options(kwargs, hooked=True)
        if remove_batch_dim and args and len(args[0]) != 1:
            raise ShapeError(f"remove_batch_dim drops the axis of a batch of one, and this one has {len(args[0])}")
        options = {"remove_batch_dim": remove_batch_dim, "device": device, "pos_slice": pos_slice}
        out, cache = super().run_with_cache(*args, names_filter=wanted, **options, **kwargs)
        named = (
            [wanted] if isinstance(wanted, str) else [] if names_filter is None or callable(wanted) else wanted or []
        )
        if missing := [name for name in named if name not in cache]:
            local = "hook points of the local stream exist only from its start block on"
            raise ShapeError(f"{missing[0]} was not reached: {local}; blocks below start_at are not run")
        return out, Cache(cache, self, has_batch_dim=not remove_batch_dim)

    def run_with_hooks(
        self,
        *args: Any,
        fwd_hooks: Sequence[Hook] = (),
        bwd_hooks: Sequence[Hook] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        **kwargs: Any,
    ) -> Any:
        """The tower's output with hooks for this run only, as in TransformerLens: ``fwd_hooks=[(name, fn), …]``.

        Raises:
            ShapeError: a hook name or an option that does not exist, or ``hooked=False``.
        """
        self.check_options(kwargs, hooked=True)
        with self.hooks(fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts):
            return self(*args, **kwargs)

    def hooks(
        self,
        fwd_hooks: Sequence[Hook] | None = None,
        bwd_hooks: Sequence[Hook] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> AbstractContextManager:
        """Hooks for as long as the context lasts, as in TransformerLens: ``fn(tensor, *, hook)``.

        A hook must not write in place: cached tensors are views.

        Raises:
            ShapeError: a hook name that does not exist, or what is no list of names and functions.
        """
        forward, backward = list(fwd_hooks or ()), list(bwd_hooks or ())
        for hook in (*forward, *backward):
            if not (isinstance(hook, tuple | list) and len(hook) == 2 and callable(hook[1])):
                raise ShapeError(f"hooks are pairs of a name and a function, [(name, fn), …], not {hook!r}")
            self._wanted(hook[0])
        return super().hooks(forward, backward, *args, **kwargs)

    def add_hook(self, name: str | Callable[[str], bool], *args: Any, **kwargs: Any) -> None:
        """A hook that stays until ``reset_hooks()``, as in TransformerLens.

        Raises:
            ShapeError: a hook name that does not exist.
        """
        self._wanted(name)
        super().add_hook(name, *args, **kwargs)

    def get_caching_hooks(self, names_filter: NamesFilter = None, *args: Any, **kwargs: Any) -> Any:
        """TransformerLens's; raises ShapeError for a hook name that does not exist."""
        return super().get_caching_hooks(self._wanted(names_filter), *args, **kwargs)

    def add_caching_hooks(self, names_filter: NamesFilter = None, *args: Any, **kwargs: Any) -> Any:
        """TransformerLens's; raises ShapeError for a hook name that does not exist."""
        return super().add_caching_hooks(self._wanted(names_filter), *args, **kwargs)

    def must_call_hooks(self) -> bool:
        """Whether there are hooks that a forward must call, and so must be ``hooked``.

        Raises:
            ConfigError: a hook at a module whose weights a forward takes without calling it.
        """
        if not any(map(is_changed, self.mod_dict.values())):
            return False
        if missed := [name for name in hooked(self) if name.endswith(self.bypassed)]:
            why = f"a forward takes the weights of {missed[0]} without calling it, so that the hook there would not run"
            raise ConfigError(f"{why}: hook a block instead, or one of the points in hook_dict")
        return True

    @property
    def bypassed(self) -> tuple[str, ...]:
        """Ends of the names of modules whose weights a forward reads without calling them."""
        return (".mlp.fc", ".mlp.proj") if self.cfg.act_fn == "quick_gelu" else ()

    def accumulated_bias(self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True) -> Tensor:
        """Sum of the output biases of all blocks before ``layer``, [D] (``ActivationCache`` decomposes with it)."""
        total = torch.zeros_like(self.blocks[0].attn.b_O)
        for block in self.blocks[:layer]:
            total = total + block.attn.b_O + (block.mlp.proj.bias if include_mlp_biases else 0)
        return total + self.blocks[layer].attn.b_O if mlp_input else total

    def _wanted(self, names: NamesFilter) -> str | list[str] | Callable[[str], bool] | None:
        """The names, which must exist; of a function, it must take some."""
        if callable(names):
            if not any(map(names, self.hook_dict)):
                some = ", ".join(list(self.hook_dict)[:4])
                raise ShapeError(f"the function of names selects no hook point; available: {some}, …: see .hook_dict")
            return names
        if names is None:
            return None
        if not isinstance(names, str | Iterable):
            raise ShapeError(f"{names!r} names no hook point: give a name, several, or a function of the name")
        several = [names] if isinstance(names, str) else list(names)
        for name in several:
            if name not in self.hook_dict:
                within = [point for point in self.hook_dict if point.startswith(f"{name}.")]
                near = within[:4] or difflib.get_close_matches(str(name), self.hook_dict, n=3)
                where = f"near it: {', '.join(near)}" if near else "see .hook_dict"
                layers = f"layers are 0..{self.cfg.n_layers - 1}"
                raise ShapeError(f"unknown hook point {name!r}; {where} ({layers})")
        return names if isinstance(names, str) else several

    def check_options(self, options: Mapping[str, Any], hooked: bool = False) -> None:
        """Raises ShapeError for what ``forward`` does not take, and, where hooks must be called, for hooked=False."""
        if hooked and not options.get("hooked", True):
            raise ShapeError("hooked=False calls no hook point: leave it out to run with hooks or a cache")
        for name in options:
            if name not in self._options:
                near = difflib.get_close_matches(name, self._options, n=1)
                names = f"near it: {near[0]}" if near else f"there are {', '.join(self._options)}"
                raise ShapeError(f"{type(self).__name__} has no option {name!r}: {_INSTEAD.get(name) or names}")
