"""A pre-LayerNorm transformer block with every attention head in view; both towers are made of it.

Shapes: ``B`` images or prompts, ``T`` tokens (0 = CLS), ``H`` heads of ``d`` channels, ``D = H d`` channels in the
residual stream. For one block, with ``w`` what a head is multiplied by (1 in plain CLIP):

    q, k, v = LN1(x) W_Q, LN1(x) W_K, LN1(x) W_V            [B, T, H, d]
    z       = w · softmax(q kᵀ / √d) v                      [B, T, H, d]
    x       = x + Σ_h z_h W_O^h + b_O                       [B, T, D]
    x       = x + MLP(LN2(x))                               [B, T, D]

The local stream ``y`` of dense methods stands beside ``x``: the same ``v``, another attention matrix, no way back into
``x``. Hook points carry TransformerLens's names. With ``hooked=False`` none of them is called.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformer_lens.hook_points import HookPoint

from headlens.backbone.config import Activation, TransformerConfig
from headlens.backbone.hooks import has_hooks
from headlens.backbone.norm import Norm, plus
from headlens.errors import ShapeError

AttentionMatrix = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(q, k, v)``, each [B, T, H, d], to an attention matrix [B, H, T, T] (query, key)."""

TokenMap = Callable[[Tensor], Tensor]
"""A residual stream or some of its tokens, [B, T, D], to [B, T, anything]."""

_LANES = 16  # channels that CPU kernels of attention work on at a time
# Of a single query cuDNN's results vary from call to call, with these they do not. What a caller has chosen by
# ``sdpa_kernel`` is overridden meanwhile, for all threads: torch keeps it in one place.
_REPEATABLE = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass(frozen=True)
class LocalStream:
    """The second way of attending, that dense methods read patches from.

    Args:
        start: first block that has it.
        attention: what attends to what: any of ``"qq"``, ``"kk"``, ``"vv"``, ``"qk"``, whose softmaxes are summed
            (rows sum to their number), or a function of q, k, v, each [B, T, H, d], that returns [B, H, T, T].
        mode: ``"beside"``: a stream of its own, fed by the global one, which stays what it was (AnomalyCLIP);
            ``"replace"``: the global stream itself attends this way from ``start`` on; its hooks, weights and gates
            are the global ones.
        mlp: whether blocks of the local way have their MLP.

    >>> LocalStream(start=5).attention
    ('vv',)
    """

    start: int = 5
    attention: tuple[str, ...] | AttentionMatrix = ("vv",)
    mode: Literal["beside", "replace"] = "beside"
    mlp: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("beside", "replace"):
            raise ShapeError(f"local stream mode {self.mode!r}: choose 'beside' or 'replace'")
        if callable(self.attention):
            return
        pairs = self.attention
        if isinstance(pairs, str) or not pairs or any(pair not in ("qq", "kk", "vv", "qk") for pair in pairs):
            raise ShapeError(f"local attention {pairs!r}: give a tuple of 'qq', 'kk', 'vv', 'qk', or a function")


# How a block reaches its hook points: by name, so that where none is called none is even looked up, which is
# measurable in small models and small batches.
def _call(module: nn.Module, name: str, x: Tensor) -> Tensor:
    return getattr(module, name)(x)


def _skip(module: nn.Module, name: str, x: Tensor) -> Tensor:
    return x


class HookedLayerNorm(Norm):
    """LayerNorm whose scale ``sqrt(var + eps)``, [B, T, 1], can be read and, by a hook, frozen."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__(width, eps=eps)
        self.hook_scale = HookPoint()

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        if not has_hooks(self.hook_scale):
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # as torch's own kernel does
        centred = wide - wide.mean(-1, keepdim=True)
        scale = self.hook_scale((centred.square().mean(-1, keepdim=True) + self.eps).sqrt())
        return (centred / scale).to(x.dtype) * self.weight + self.bias


class MLP(nn.Module):
    """Two linear maps around GELU, or around OpenAI's QuickGELU: x · sigmoid(1.702 x).

    Around QuickGELU the maps' weights are read, their modules not called.
    """

    def __init__(self, width: int, hidden: int, act_fn: Activation) -> None:
        super().__init__()
        self.fc = nn.Linear(width, hidden)
        self.proj = nn.Linear(hidden, width)
        self.act_fn = act_fn

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        if self.act_fn == "gelu":
            return self.proj(F.gelu(self.fc(x)))
        # x · sigmoid(a x) = silu(a x) / a. Both factors ride on the matrix products, so that the activation is one
        # pass over the widest tensor there is, not three.
        a, fc, proj = 1.702, self.fc, self.proj
        hidden = F.silu(torch.addmm(a * fc.bias, x.flatten(0, 1), fc.weight.T, alpha=a))  # (B T, 4 D)
        return torch.addmm(proj.bias, hidden, proj.weight.T, alpha=1 / a).view_as(x)


class Attention(nn.Module):
    """Multi-head attention that shows each head, and can weigh it, before the output projection mixes them."""

    def __init__(self, width: int, heads: int, *, causal: bool = False, local: bool = False) -> None:
        super().__init__()
        self.heads, self.d_head, self.causal = heads, width // heads, causal
        self.qkv = nn.Linear(width, 3 * width)  # rows: Q, K, V; in each, head by head
        self.out = nn.Linear(width, width)
        self.hook_q, self.hook_k, self.hook_v = HookPoint(), HookPoint(), HookPoint()
        self.hook_pattern, self.hook_z, self.hook_result = HookPoint(), HookPoint(), HookPoint()
        if local:
            self.hook_local_pattern, self.hook_local_z, self.hook_local_result = HookPoint(), HookPoint(), HookPoint()

    def project(self, x: Tensor, hooked: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """LN1(x) [B, T, D] to q, k, v, each [B, T, H, d]."""
        at = _call if hooked else _skip
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.d_head)).unbind(2)
        return at(self, "hook_q", q), at(self, "hook_k", k), at(self, "hook_v", v)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attention: tuple[str, ...] | AttentionMatrix = ("qk",),
        weight: Tensor | None = None,
        stream: str = "global",
        hooked: bool = True,
    ) -> Tensor:
        """Heads [B, T, H, d] to what they write into the residual stream together, [B, T, D].

        Args:
            q, k, v: the projections of ``project``.
            attention: see ``LocalStream``.
            weight: [B, H] or [1, H], multiplies each head's output (head weight times gate).
            stream: ``"global"`` or ``"local"``: which hook points are called.
            hooked: False calls none of them.
        """
        prefix = "hook_" if stream == "global" else f"hook_{stream}_"
        at = _call if hooked else _skip
        if hooked and has_hooks(getattr(self, prefix + "pattern")):
            pattern = at(self, prefix + "pattern", self.pattern(q, k, v, attention))  # [B, H, T, T]: for who looks
            z = torch.einsum("bhqk,bkhd->bqhd", pattern, v)
        else:
            z = self.mix(q, k, v, attention)
        if weight is not None:
            z = z * weight[:, None, :, None]
        z = at(self, prefix + "z", z)
        if hooked and has_hooks(getattr(self, prefix + "result")):
            return at(self, prefix + "result", torch.einsum("bthd,hdm->bthm", z, self.W_O)).sum(2) + self.b_O
        return self.out(z.flatten(2))  # (B, T, H, d) -> (B, T, D)

    def pattern(self, q: Tensor, k: Tensor, v: Tensor, attention: tuple[str, ...] | AttentionMatrix) -> Tensor:
        """The attention matrix, [B, H, T, T] (query, key): rows sum to 1, or to the number of matrices summed."""
        if callable(attention):
            own = attention(q, k, v)
            if own.shape != (q.shape[0], self.heads, q.shape[1], k.shape[1]):
                raise ShapeError(
                    f"the attention function made {tuple(own.shape)} of q, k, v {tuple(k.shape)} ([B, T, H, d]); "
                    f"expected [B, H, T, T] = {(q.shape[0], self.heads, q.shape[1], k.shape[1])}"
                )
            return own
        of = {"q": q, "k": k, "v": v}
        matrices = []
        for pair in attention:
            scores = torch.einsum("bqhd,bkhd->bhqk", of[pair[0]], of[pair[1]]) * self.d_head**-0.5
            if self.causal:
                ahead = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
                scores = scores.masked_fill(ahead, -torch.inf)
            matrices.append(scores.softmax(-1))
        return matrices[0] if len(matrices) == 1 else torch.stack(matrices).sum(0)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, attention: tuple[str, ...] | AttentionMatrix = ("qk",)) -> Tensor:
        """z [B, T, H, d], not yet weighted; no attention matrix is held unless ``attention`` is a function."""
        if callable(attention):
            return torch.einsum("bhqk,bkhd->bqhd", self.pattern(q, k, v, attention), v)
        of = {name: x.transpose(1, 2) for name, x in (("q", q), ("k", k), ("v", v))}  # (B, H, T, d)
        padded = q.device.type == "cpu" and self.d_head < _LANES
        if padded:  # empty lanes cost as much, and slow the kernel's backward
            of = {name: F.pad(x, (0, _LANES - self.d_head)) for name, x in of.items()}
        repeatable = sdpa_kernel(_REPEATABLE) if q.is_cuda and q.shape[1] == 1 else nullcontext()
        with repeatable:
            parts = [
                F.scaled_dot_product_attention(
                    of[pair[0]], of[pair[1]], of["v"], is_causal=self.causal, scale=self.d_head**-0.5
                )
                for pair in attention
            ]
        z = (parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)).transpose(1, 2)  # (B, T, H, d)
        return z[..., : self.d_head].contiguous() if padded else z  # whoever keeps z keeps no empty lanes

    # Weights head by head, in TransformerLens's layout; views, not copies.
    @property
    def W_Q(self) -> Tensor:  # noqa: N802
        """[H, D, d]."""
        return self.qkv.weight.unflatten(0, (3, self.heads, self.d_head))[0].transpose(-1, -2)

    @property
    def W_K(self) -> Tensor:  # noqa: N802
        """[H, D, d]."""
        return self.qkv.weight.unflatten(0, (3, self.heads, self.d_head))[1].transpose(-1, -2)

    @property
    def W_V(self) -> Tensor:  # noqa: N802
        """[H, D, d]."""
        return self.qkv.weight.unflatten(0, (3, self.heads, self.d_head))[2].transpose(-1, -2)

    @property
    def W_O(self) -> Tensor:  # noqa: N802
        """[H, d, D]."""
        return self.out.weight.T.unflatten(0, (self.heads, self.d_head))

    @property
    def b_O(self) -> Tensor:  # noqa: N802
        """[D]."""
        return self.out.bias


def _adapted(adapter: TokenMap, x: Tensor) -> Tensor:
    """The stream after an adapter, which may change every token but not their number or width."""
    out = adapter(x)
    if out.shape != x.shape:
        raise ShapeError(f"an adapter made {tuple(out.shape)} of a residual stream {tuple(x.shape)}; expected the same")
    return out


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream; beside it, when there is one, the local stream."""

    def __init__(self, cfg: TransformerConfig, *, causal: bool = False, local: bool = False) -> None:
        super().__init__()
        self.ln1 = Norm(cfg.d_model, eps=cfg.eps)
        self.attn = Attention(cfg.d_model, cfg.n_heads, causal=causal, local=local)
        self.ln2 = Norm(cfg.d_model, eps=cfg.eps)
        self.mlp = MLP(cfg.d_model, cfg.d_mlp, cfg.act_fn)
        self.hook_resid_pre, self.hook_resid_mid, self.hook_resid_post = HookPoint(), HookPoint(), HookPoint()
        self.hook_attn_out, self.hook_mlp_out = HookPoint(), HookPoint()
        if local:
            self.hook_local_attn_out, self.hook_local_mlp_out = HookPoint(), HookPoint()
            self.hook_local_resid_post = HookPoint()

    def forward(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        local: LocalStream | None = None,
        weight: Tensor | None = None,
        local_weight: Tensor | None = None,
        adapter: TokenMap | None = None,
        local_adapter: TokenMap | None = None,
        cls_only: bool = False,
        hooked: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Both residual streams, [B, T, D] each, before the block to after it.

        Args:
            x: the global stream.
            y: the local stream; read and returned only when ``local`` stands beside. None begins one.
            local: the local stream's rule, or None in blocks that have none.
            weight, local_weight: [B, H] or [1, H] multipliers of the heads of each stream.
            adapter, local_adapter: applied to each stream after the block.
            cls_only: return the global stream's CLS alone, [B, 1, D], and compute no more than that.
            hooked: False calls no hook point.
        """
        at = _call if hooked else _skip
        beside = local is not None and local.mode == "beside"
        replaced = local is not None and not beside

        x = at(self, "hook_resid_pre", x)
        if beside and y is None:
            y = x  # the local stream begins as the global one
        q, k, v = self.attn.project(self.ln1(x), hooked)

        attention = local.attention if local is not None and replaced else ("qk",)
        x, asking = (x[:, :1], q[:, :1]) if cls_only else (x, q)
        out = self.attn(asking, k, v, attention, weight, "global", hooked)
        x = at(self, "hook_resid_mid", plus(x, at(self, "hook_attn_out", out)))
        if local is None or beside or local.mlp:
            x = plus(x, at(self, "hook_mlp_out", self.mlp(self.ln2(x))))
        if adapter is not None:
            x = _adapted(adapter, x)
        x = at(self, "hook_resid_post", x)

        if local is not None and beside:
            assert y is not None
            out = self.attn(q, k, v, local.attention, local_weight, "local", hooked)
            y = plus(y, at(self, "hook_local_attn_out", out))
            if local.mlp:
                y = plus(y, at(self, "hook_local_mlp_out", self.mlp(self.ln2(y))))
            if local_adapter is not None:
                y = _adapted(local_adapter, y)
            y = at(self, "hook_local_resid_post", y)
        return x, y
