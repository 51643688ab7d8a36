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

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformer_lens.hook_points import HookPoint

from headlens.backbone.config import Activation, TransformerConfig
from headlens.backbone.hooks import has_hooks
from headlens.backbone.norm import Norm, plus
from headlens.backbone.plan import AttentionMatrix, LocalStream, Passes, TokenMap
from headlens.errors import ShapeError

_LANES = 16  # channels that CPU kernels of attention work on at a time
# Of a single query cuDNN's results vary from call to call, with these they do not. What a caller has chosen by
# ``sdpa_kernel`` is overridden meanwhile, for all threads: torch keeps it in one place.
_REPEATABLE = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


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


class Linear(nn.Linear):
    """Without initial values: a checkpoint brings them, or ``init_random``; drawing some takes longer than loading."""

    def reset_parameters(self) -> None:
        """Nothing."""


class MLP(nn.Module):
    """Two linear maps around GELU, or around OpenAI's QuickGELU: x · sigmoid(1.702 x).

    Around QuickGELU the maps' weights are read, their modules not called.
    """

    def __init__(self, width: int, hidden: int, act_fn: Activation) -> None:
        super().__init__()
        self.fc = Linear(width, hidden)
        self.proj = Linear(hidden, width)
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
        self.qkv = Linear(width, 3 * width)  # rows: Q, K, V; in each, head by head
        self.out = Linear(width, width)
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
        passes: Passes = (),
    ) -> tuple[Tensor, Tensor]:
        """What heads write into the residual stream together, [B, T, D], and ``z`` before weighting, [B, T, H, d].

        Args:
            q, k, v: the projections of ``project``.
            attention: see ``LocalStream``.
            weight: [B, H] or [1, H], multiplies each head's output (head weight times gate).
            stream: ``"global"`` or ``"local"``: which hook points are called.
            hooked: False calls none of them.
            passes: as of ``VisionPlan.passes``; tokens of one do not attend to those of another.
        """
        mixed = self.mixed(q, k, v, attention, stream, hooked, passes)
        return self.write(mixed, weight, stream, hooked), mixed

    def mixed(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attention: tuple[str, ...] | AttentionMatrix = ("qk",),
        stream: str = "global",
        hooked: bool = True,
        passes: Passes = (),
    ) -> Tensor:
        """``z`` before weighting, [B, T, H, d]; arguments are those of ``forward``."""
        point = "hook_pattern" if stream == "global" else f"hook_{stream}_pattern"
        if hooked and has_hooks(getattr(self, point)):
            pattern = _call(self, point, self.pattern(q, k, v, attention, passes))  # [B, H, T, T]: for who looks
            return torch.einsum("bhqk,bkhd->bqhd", pattern, v)
        return self._apart(q, k, v, attention, passes) if passes else self.mix(q, k, v, attention)

    def write(self, mixed: Tensor, weight: Tensor | None = None, stream: str = "global", hooked: bool = True) -> Tensor:
        """What heads write into the residual stream together, [B, T, D], of what each has mixed, [B, T, H, d].

        Arguments are those of ``forward``.
        """
        prefix = "hook_" if stream == "global" else f"hook_{stream}_"
        at = _call if hooked else _skip
        z = at(self, prefix + "z", mixed if weight is None else mixed * weight[:, None, :, None])
        if hooked and has_hooks(getattr(self, prefix + "result")):
            return at(self, prefix + "result", torch.einsum("bthd,hdm->bthm", z, self.W_O)).sum(2) + self.b_O
        return self.out(z.flatten(2))  # (B, T, H, d) -> (B, T, D)

    def _apart(
        self, q: Tensor, k: Tensor, v: Tensor, attention: tuple[str, ...] | AttentionMatrix, passes: Passes
    ) -> Tensor:
        """As ``mix``, of passes one behind the other, all of one length at once."""
        parts = zip(*(x.split([count * length for count, length in passes], 1) for x in (q, k, v)), strict=True)
        done = []
        for (_, length), part in zip(passes, parts, strict=True):
            q_, k_, v_ = (x.unflatten(1, (-1, length)).flatten(0, 1) for x in part)  # (B W, n, H, d)
            done.append(self.mix(q_, k_, v_, attention).unflatten(0, (q.shape[0], -1)).flatten(1, 2))
        return torch.cat(done, 1)

    def pattern(
        self, q: Tensor, k: Tensor, v: Tensor, attention: tuple[str, ...] | AttentionMatrix, passes: Passes = ()
    ) -> Tensor:
        """The attention matrix, [B, H, T, T] (query, key): rows sum to 1, or to the number of matrices summed.

        Of several passes it has a block for each, and is 0 elsewhere.
        """
        if passes:
            whole, at = q.new_zeros(q.shape[0], self.heads, q.shape[1], q.shape[1]), 0
            for count, length in passes:
                these = slice(at, at := at + count * length)
                q_, k_, v_ = (x[:, these].unflatten(1, (count, length)).flatten(0, 1) for x in (q, k, v))
                blocks = self.pattern(q_, k_, v_, attention).unflatten(0, (-1, count))  # (B, W, H, n, n)
                square = whole[:, :, these, these].unflatten(3, (count, length)).unflatten(2, (count, length))
                square.diagonal(dim1=2, dim2=4).copy_(blocks.permute(0, 2, 3, 4, 1))
            return whole
        if callable(attention):
            pattern = attention(q, k, v)
            if pattern.shape != (expected := (q.shape[0], self.heads, q.shape[1], k.shape[1])):
                made = f"{tuple(pattern.shape)} of q, k, v {tuple(k.shape)} ([B, T, H, d])"
                raise ShapeError(f"the attention function made {made}; expected [B, H, T, T] = {expected}")
            return pattern
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


class Step(NamedTuple):
    """One block of both streams; tensors are [R, T, D], heads [R, T, H, d].

    Args:
        x, y: the global and the local stream after the block; ``y`` is None where there is none.
        mid: the global stream between attention and MLP.
        z, local_z: heads before weighting.
        written, local_written: each stream before its adapter: the stream itself where there is none.
        begin: what a local stream with a source begins with; None where there is none.
    """

    x: Tensor
    y: Tensor | None
    mid: Tensor
    z: Tensor
    local_z: Tensor | None
    written: Tensor
    local_written: Tensor | None
    begin: Tensor | None = None


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream; next to it, when there is one, the local stream."""

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

    def forward(self, x: Tensor, y: Tensor | None = None, **options: Any) -> tuple[Tensor, Tensor | None]:
        """Both residual streams after the block; hook points are called, unless ``step`` is told otherwise."""
        done = self.step(x, y, **{"hooked": True, **options})
        return done.x, done.y

    def step(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        local: LocalStream | None = None,
        weight: Tensor | None = None,
        local_weight: Tensor | None = None,
        adapter: TokenMap | None = None,
        local_adapter: TokenMap | None = None,
        add: Tensor | None = None,
        local_add: Tensor | None = None,
        cls_only: bool = False,
        in_place: bool = False,
        hooked: bool = False,
        passes: Passes = (),
        past: Mapping[int, Tensor] | None = None,
    ) -> Step:
        """Both residual streams, [R, T, D] each, before the block to after it: the block's arithmetic, written once.

        Args:
            x: the global stream.
            y: the local stream; read and returned only when ``local`` stands beside. None begins one, as ``x``.
            local: the local stream's rule, or None in blocks that have none.
            weight, local_weight: [R, H] or [1, H] multipliers of the heads of each stream.
            adapter, local_adapter: applied to each stream after the block.
            add, local_add: [R, T, D], added to what the heads of each stream write; of CLS alone where that is all.
            cls_only: the global stream's CLS alone, [R, 1, D], and no more than that is computed.
            in_place: write over both streams, so that none is copied; ``y`` is then given, and ``mid`` is lost.
            hooked: call the hook points; nothing is then written in place.
            passes: as of ``VisionPlan.passes``: which tokens of the global stream attend to each other.
            past: what the source of a local stream looks back at; none of it is written over.
        """
        at = _call if hooked else _skip
        beside = local is not None and local.mode == "beside"
        x = at(self, "hook_resid_pre", x)
        q, k, v = self.attn.project(self.ln1(x), hooked)

        local_z = local_written = begin = None
        if local is not None and beside:  # first: it begins with the global stream as it comes in
            if local.source is not None:
                local_z, begin = local.source(self, past or {})
            else:
                local_z = self.attn.mixed(q, k, v, local.attention, "local", hooked)
            y = begin if begin is not None else x if y is None else y
            if local.more is None:  # which is made of what the block's attention leaves
                out = self.attn.write(local_z, local_weight, "local", hooked)
                out = out if local_add is None else out + local_add
                y = local_written = plus(y, at(self, "hook_local_attn_out", out), in_place and begin is None)
                if local.mlp:
                    y = local_written = plus(y, at(self, "hook_local_mlp_out", self.mlp(self.ln2(y))), in_place)
                if local_adapter is not None:
                    y = _adapted(local_adapter, y)
                y = at(self, "hook_local_resid_post", y)

        attention = local.attention if local is not None and not beside else ("qk",)
        asking = q[:, :1] if cls_only and attention == ("qk",) else q  # other matrices need every query
        out, z = self.attn(asking, k, v, attention, weight, "global", hooked, passes)
        x, out, z = (x[:, :1], out[:, :1], z[:, :1]) if cls_only else (x, out, z)
        out = out if add is None else out + add
        if hooked:
            mid = at(self, "hook_resid_mid", plus(x, at(self, "hook_attn_out", out)))
            seen = self.ln2(mid)
        else:
            mid, seen = self.ln2.after(x, out, in_place)
        if local is not None and local.more is not None and local_z is not None and y is not None:
            local_z = torch.cat([local_z, local.more(self, mid)], 1)
            out = self.attn.write(local_z, local_weight, "local", hooked)
            out = at(self, "hook_local_attn_out", out if local_add is None else out + local_add)
            y = at(self, "hook_local_resid_post", out + F.pad(y, (0, 0, 0, out.shape[1] - y.shape[1])))
            local_written = y
        written = mid
        if local is None or beside or local.mlp:
            written = plus(mid, at(self, "hook_mlp_out", self.mlp(seen)), in_place)
        x = written if adapter is None else _adapted(adapter, written)
        x = at(self, "hook_resid_post", x)
        return Step(x, y, mid, z, local_z, written, local_written, begin)


def _adapted(adapter: TokenMap, x: Tensor) -> Tensor:
    """The stream after an adapter, which may change every token but not their number or width."""
    out = adapter(x)
    if out.shape != x.shape:
        raise ShapeError(f"an adapter made {tuple(out.shape)} of a residual stream {tuple(x.shape)}; expected the same")
    return out
