"""How a method runs the image tower: where patches are read, and what is added on the way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from operator import index
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from headlens.errors import ShapeError

STREAMS = ("global", "local")

AttentionMatrix = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(q, k, v)``, each [B, T, H, d], to an attention matrix [B, H, T, T] (query, key)."""

TokenMap = Callable[[Tensor], Tensor]
"""A residual stream [B, T, D] to one of the same shape."""

Passes = tuple[tuple[int, int], ...]
"""Passes of one image, one behind the other: pairs of how many, and of how many tokens each."""


class Adapter(Protocol):
    """A module after a block that changes a residual stream. Any ``TokenMap`` runs; direct effects need ``pull``."""

    def __call__(self, x: Tensor) -> Tensor:
        """The stream [B, T, D] to what goes on, [B, T, D]."""

    def pull(self, x: Tensor, covector: Tensor) -> Tensor | None:
        """``r`` with ``<adapter(x), covector> = <x, r> + what does not depend on x``, masks and norms held; [B, T, D].

        This is per token: an adapter that mixes tokens has no such ``r``.

        Args:
            x: the stream before the adapter, [B, T, D].
            covector: what is read after it, [B, T, D].

        Returns:
            None where no such ``r`` exists.
        """


class Sourced(NamedTuple):
    """What a ``Source`` makes of B images.

    Args:
        z: what each head of the block writes at every token, before weighting, [B, T, H, d].
        begin: what the stream begins with, [B, T, D].
    """

    z: Tensor
    begin: Tensor


class Source(ABC):
    """Where the heads of a local stream of one block take what they write, other than by an attention matrix there.

    The stream is ``begin + Σ_h z_h W_O^h + b_O`` of that block: linear in its heads, and read where it ends.
    """

    @property
    @abstractmethod
    def past(self) -> tuple[int, ...]:
        """Blocks whose entering global stream it looks back at; the stream's own block may be one of them."""

    @abstractmethod
    def __call__(self, block: Any, past: Mapping[int, Tensor]) -> Sourced:
        """The heads' outputs at all T tokens; no image has a part in another's.

        Args:
            block: the ``Block`` where the stream is.
            past: ``{block: [B, T, D]}``, as ``past`` says.
        """


class MoreHeads(Protocol):
    """What heads of a block write at as many more tokens as there are patches: a second copy of each."""

    def __call__(self, block: Any, mid: Tensor) -> Tensor:
        """Of the global stream between the block's attention and its MLP [R, T, D], heads [R, N, H, d], unweighted.

        Rows are R / B variants of the B images that it was made of, variant by variant.
        """


@dataclass(frozen=True)
class LocalStream:
    """A second kind of attention, from which dense methods read patches.

    Args:
        start: first block that has it.
        attention: what attends to what: any of ``"qq"``, ``"kk"``, ``"vv"``, ``"qk"``, whose softmaxes are summed
            (rows sum to their number), or a function of q, k, v, each [B, T, H, d], that returns [B, H, T, T].
        mode: ``"beside"``: a second stream in parallel, fed by the global one, which does not change (AnomalyCLIP's
            dual path); ``"replace"``: the global stream itself uses this attention from ``start`` on, with the hooks,
            weights and gates of the global stream.
        mlp: whether local blocks apply their MLP.
        source: what its heads write, in place of an attention; the stream is then that of block ``start`` alone.
        more: in the block of the only tap, its heads also write at a second copy of every patch, which begins at
            nothing and stands behind all other tokens; taps read both copies.

    Raises:
        ShapeError: an unknown mode or attention; a source for anything but a plain parallel stream.

    >>> LocalStream(start=5).attention
    ('vv',)
    """

    start: int = 5
    attention: tuple[str, ...] | AttentionMatrix = ("vv",)
    mode: Literal["beside", "replace"] = "beside"
    mlp: bool = False
    source: Source | None = None
    more: MoreHeads | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("beside", "replace"):
            raise ShapeError(f"local stream mode {self.mode!r}: choose 'beside' or 'replace'")
        added = self.source is not None or self.more is not None
        if added and (self.mode != "beside" or self.mlp or None not in (self.source, self.more)):
            raise ShapeError(
                "a local stream with a source stands beside the global one, and has no MLP; so does one with more "
                "tokens, which has no source"
            )
        pairs = self.attention
        if callable(pairs):
            return
        if isinstance(pairs, str) or not pairs or any(pair not in ("qq", "kk", "vv", "qk") for pair in pairs):
            raise ShapeError(f"local attention {pairs!r}: give a tuple of 'qq', 'kk', 'vv', 'qk', or a function")


@dataclass(frozen=True)
class VisionPlan:
    """One pass of the image tower for a method. An empty plan is plain CLIP.

    Args:
        taps: blocks after which patch tokens are read, counted from 0.
        local: the local stream; None reads taps from the global stream.
        head_weights: ``{stream: [L, H]}``, multiply each head's output before the output projection.
        adapters: ``{stream: {block: adapter}}``, applied to the stream after that block.
        tokens: ``{block: [n, D] or [B, n, D]}``; extra tokens appended after the patches from that block on; they
            replace the extra tokens of an earlier block.
        views: short passes over some patches of the image, each with its own CLS: for each kind the indices of the
            patches, [W, n]. They are appended after the tokens of the image, CLS first, and attend only among
            themselves. Taps then read their CLS, not patches.

    >>> plan = VisionPlan(taps=(5, 11), local=LocalStream(start=3))
    >>> plan.streams, plan.local_layers
    (('global', 'local'), range(3, 12))
    """

    taps: tuple[int, ...] = ()
    local: LocalStream | None = None
    head_weights: Mapping[str, Tensor] = field(default_factory=dict)
    adapters: Mapping[str, Mapping[int, Adapter | TokenMap]] = field(default_factory=dict)
    tokens: Mapping[int, Tensor] = field(default_factory=dict)
    views: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "taps", tuple(index(tap) for tap in self.taps))
        if self.views and (self.tokens or self.local is not None):
            raise ShapeError(
                "views have neither extra tokens nor a local stream: they are passes of CLIP's global stream"
            )
        if self.source is not None and self.local is not None and max(self.taps, default=-1) > self.local.start:
            raise ShapeError(
                f"tap {max(self.taps)} lies above block {self.local.start}, where the local stream begins and ends: a "
                "stream with a source is read in its one block"
            )

        if self.copies > 1 and (len(self.taps) != 1 or self.tokens or self.adapters.get("local")):
            raise ShapeError("a local stream with more tokens has one tap, neither extra tokens nor adapters")

    @property
    def copies(self) -> int:
        """How many tokens taps read for each patch."""
        return 1 if self.local is None or self.local.more is None else 2

    @property
    def in_views(self) -> int:
        """How many tokens stand in views."""
        return sum(view.numel() + len(view) for view in self.views)

    def passes(self, tokens: int) -> Passes:
        """How so many tokens attend: pairs of how many passes, one behind the other, and of how many tokens each.

        Empty without views: all attend to all.

        >>> VisionPlan(views=(torch.tensor([[0, 1], [1, 2]]),)).passes(4 + 6)
        ((1, 4), (2, 3))
        """
        if not self.views:
            return ()
        return (1, tokens - self.in_views), *((len(view), 1 + view.shape[1]) for view in self.views)

    def sources(self, n_patches: int) -> Tensor:
        """Which of the image's tokens each token is a copy of, with views: CLS, patches, and then the views; [T]."""
        views = [torch.cat([view.new_zeros(len(view), 1), 1 + view], 1).flatten() for view in self.views]
        return torch.cat([torch.arange(1 + n_patches, device=self.views[0].device), *views])

    def read_at(self, n_patches: int) -> slice | Tensor:
        """Which tokens taps read: patches, once or twice, or the CLS of every view."""
        if not self.views:
            return slice(1, 1 + self.copies * n_patches)
        at, starts = 1 + n_patches, []
        for count, length in self.passes(1 + n_patches + self.in_views)[1:]:
            starts.append(torch.arange(count, device=self.views[0].device) * length + at)
            at += count * length
        return torch.cat(starts)

    @property
    def beside(self) -> LocalStream | None:
        """The rule of a local stream that runs next to the global one; None where there is no second stream."""
        return self.local if self.local is not None and self.local.mode == "beside" else None

    @property
    def source(self) -> Source | None:
        """Where heads of the local stream take what they write, if that is no attention."""
        return None if self.local is None else self.local.source

    @property
    def past(self) -> tuple[int, ...]:
        """Blocks whose entering global stream is looked back at."""
        return () if self.source is None else self.source.past

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that exist."""
        return STREAMS if self.beside is not None else STREAMS[:1]

    @property
    def local_layers(self) -> range:
        """Layers of the local stream that a tap reads: from its start to the last tap; empty without such a stream."""
        if self.beside is None:
            return range(0)
        return range(self.beside.start, max(self.beside.start, max(self.taps, default=-1) + 1))

    def attention(self, stream: str, layer: int) -> tuple[str, ...] | AttentionMatrix | None:
        """What attends to what in a block of a stream; None where the stream is not run, or not read any more.

        Of a local stream with a source, nothing does: empty.
        """
        rule = self.local_at(layer)
        if stream == "local":
            if rule is not None and rule.source is not None:
                return ()
            return rule.attention if rule is not None and rule.mode == "beside" else None
        return rule.attention if rule is not None and rule.mode == "replace" else ("qk",)

    def local_at(self, layer: int) -> LocalStream | None:
        """The local rule in a block; None before its start, and for a stream beside, above the last tap."""
        started = self.local is not None and layer >= self.local.start
        if self.local is None or not started or not (self.beside is None or layer in self.local_layers):
            return None
        return self.local if self.copies == 1 or layer in self.taps else replace(self.local, more=None)

    def writers(self, tap: int) -> dict[str, range]:
        """Layers of each stream whose heads write into what is read at a tap: the local stream begins as the global.

        >>> VisionPlan(taps=(5, 11), local=LocalStream(start=3)).writers(5)
        {'global': range(0, 3), 'local': range(3, 6)}
        """
        if self.beside is None or tap < self.beside.start:
            return {"global": range(tap + 1)}
        if self.source is not None:  # what it begins with is no stream that is read at the same tokens
            return {"local": range(tap, tap + 1)}
        return {"global": range(self.beside.start), "local": range(self.beside.start, tap + 1)}

    def has_mlp(self, stream: str, layer: int) -> bool:
        """Whether a block of that stream has its MLP."""
        if self.local is None or layer < self.local.start:
            return stream == "global"
        return (stream == "global" and self.local.mode == "beside") or self.local.mlp

    def adapter(self, stream: str, layer: int) -> Adapter | TokenMap | None:
        """What is applied to a stream after a block, if anything is."""
        return self.adapters.get(stream, {}).get(layer)

    @property
    def local_is_linear(self) -> bool:
        """Whether what a local head writes reaches every tap above it as it is: no MLP and no adapter on the way."""
        return self.beside is None or not (self.beside.mlp or self.adapters.get("local"))
