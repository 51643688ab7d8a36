"""What both towers share: TransformerLens's hooks and cache over a stack of blocks."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens import ActivationCache
from transformer_lens.HookedRootModule import HookedRootModule

from headlens.backbone.blocks import Block
from headlens.backbone.config import TransformerConfig
from headlens.backbone.hooks import has_hooks, hooked
from headlens.errors import ConfigError, ShapeError

NamesFilter = None | str | Iterable[str] | Callable[[str], bool]

# [B, H, T, T] and [B, T, H, D] a layer: 115 and 86 MiB for one image at ViT-L/14, 518 px.
HUGE = ("pattern", "result")


class HookedTower(HookedRootModule):
    """A stack of ``blocks`` under TransformerLens's hook machinery.

    Subclasses define ``blocks`` (first), then whatever else they have, and call ``setup()`` last.
    """

    blocks: Sequence[Block]
    cfg: TransformerConfig

    def __init__(self, cfg: TransformerConfig, *, causal: bool = False, local: bool = False) -> None:
        super().__init__()
        self.cfg = cfg
        blocks = nn.ModuleList(Block(cfg, causal=causal, local=local) for _ in range(cfg.n_layers))
        self.blocks = blocks  # type: ignore[assignment]  # a ModuleList of one type, for readers and checkers

    def run_with_cache(
        self, *args: Any, names_filter: NamesFilter = None, remove_batch_dim: bool = False, **kwargs: Any
    ) -> tuple[Any, ActivationCache]:
        """The tower's output and the activations it passed through.

        Args:
            *args: what ``forward`` takes; ``**kwargs`` too, and TransformerLens's ``device``, ``pos_slice``.
            names_filter: a hook name, several, or a function of the name. None keeps everything but attention
                patterns and head results, which are computed only when asked for.
            remove_batch_dim: drop the batch axis of a batch of one.

        Raises:
            ShapeError: a hook name that does not exist.
        """
        if names_filter is None:
            wanted: str | list[str] | Callable[[str], bool] = [n for n in self.hook_dict if not n.endswith(HUGE)]
        elif isinstance(names_filter, str) or callable(names_filter):
            wanted = names_filter
        else:
            wanted = list(names_filter)
        named = [] if names_filter is None or callable(wanted) else [wanted] if isinstance(wanted, str) else wanted
        self._check_names(named)
        self._check_hooked(kwargs)
        out, cache = super().run_with_cache(*args, names_filter=wanted, remove_batch_dim=remove_batch_dim, **kwargs)
        if missing := [name for name in named if name not in cache]:
            raise ShapeError(
                f"{missing[0]} was not reached: the local stream's points exist from its start block on, where one "
                "stands beside; blocks below start_at are not run"
            )
        return out, ActivationCache(cache, self, has_batch_dim=not remove_batch_dim)

    def run_with_hooks(self, *args: Any, **kwargs: Any) -> Any:
        """The tower's output with hooks for this run only, as in TransformerLens: ``fwd_hooks=[(name, fn), …]``.

        Raises:
            ShapeError: a hook name that does not exist, or ``hooked=False``.
        """
        self._check_hooked(kwargs)
        return super().run_with_hooks(*args, **kwargs)

    def hooks(
        self,
        fwd_hooks: list[tuple[str | Callable[[str], bool], Callable]] | None = None,
        bwd_hooks: list[tuple[str | Callable[[str], bool], Callable]] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> AbstractContextManager:
        """Hooks for as long as the context lasts, as in TransformerLens: ``fn(tensor, *, hook)``.

        A hook must not write in place: cached tensors are views.

        Raises:
            ShapeError: a hook name that does not exist.
        """
        fwd, bwd = list(fwd_hooks or ()), list(bwd_hooks or ())
        self._check_names([name for name, _ in fwd + bwd if isinstance(name, str)])
        return super().hooks(fwd, bwd, *args, **kwargs)

    def heeds(self) -> bool:
        """Whether a forward has hooks to heed, and so must be ``hooked``.

        Raises:
            ConfigError: a hook at a module that a forward reads past.
        """
        if not any(map(has_hooks, self.mod_dict.values())):
            return False
        if deaf := [name for name in hooked(self) if name.endswith(self.passed_by)]:
            raise ConfigError(
                f"a forward reads past {deaf[0]}, so the hook there would not be heeded everywhere: hook a block "
                "instead, or one of the points in hook_dict"
            )
        return True

    @property
    def passed_by(self) -> tuple[str, ...]:
        """Ends of the names of modules whose weights a forward reads without calling them."""
        return (".mlp.fc", ".mlp.proj") if self.cfg.act_fn == "quick_gelu" else ()

    def accumulated_bias(self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True) -> Tensor:
        """Sum of the output biases of all blocks before ``layer``, [D] (``ActivationCache`` decomposes with it)."""
        total = torch.zeros_like(self.blocks[0].attn.b_O)
        for block in self.blocks[:layer]:
            total = total + block.attn.b_O + (block.mlp.proj.bias if include_mlp_biases else 0)
        return total + self.blocks[layer].attn.b_O if mlp_input else total

    @staticmethod
    def _check_hooked(kwargs: dict[str, Any]) -> None:
        if not kwargs.get("hooked", True):
            raise ShapeError("hooked=False calls no hook point: leave it out to run with hooks or a cache")

    def _check_names(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.hook_dict:
                near = difflib.get_close_matches(name, self.hook_dict, n=3)
                raise ShapeError(
                    f"no hook point is called {name!r}; {'near it: ' + ', '.join(near) if near else 'see .hook_dict'} "
                    f"(layers are 0..{self.cfg.n_layers - 1})"
                )
