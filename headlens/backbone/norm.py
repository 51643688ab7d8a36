"""LayerNorm between residual streams in float32 and products in half precision, in one pass over the stream.

Torch's autocast adds, normalises and rounds in three passes, of twice the memory traffic in all: a tenth of a forward
at full size. The normalised stream differs by no more than the last bit of the half precision.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


class Norm(nn.LayerNorm):
    """``nn.LayerNorm``; where CUDA's autocast rounds what comes next, the result is rounded already.

    >>> Norm(4)(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).detach().round(decimals=2)
    tensor([[-1.3400, -0.4500,  0.4500,  1.3400]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        kernel = self._fused(x)
        return super().forward(x) if kernel is None else kernel(self, x)[1]

    def after(self, x: Tensor, out: Tensor, in_place: bool = False) -> tuple[Tensor, Tensor]:
        """``x + out``, written over ``x`` if asked for, and what the norm makes of it; [R, T, D] each."""
        kernel = self._fused(x, out)
        if kernel is not None:
            return kernel(self, x, out, in_place)
        x = x.add_(out) if in_place else x + out
        return x, self(x)

    def _fused(self, x: Tensor, *others: Tensor) -> Any:
        """What does it in one pass; None where torch must: gradients, other types, other devices."""
        if not (x.is_cuda and x.dtype == self.weight.dtype == torch.float32 and x.numel()):
            return None
        if not torch.is_autocast_enabled("cuda") or torch.compiler.is_compiling():
            return None
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, self.weight, self.bias, *others)):
            return None
        return one_pass if _works(x.device) else None


def one_pass(norm: nn.LayerNorm, x: Tensor, out: Tensor | None = None, in_place: bool = False) -> tuple[Tensor, Tensor]:
    """``x``, or ``x + out``, and it normalised in the precision of autocast; x [..., D] float32, out [..., D]."""
    width = x.shape[-1]
    rows = x if x.ndim == 3 else x.reshape(1, -1, width)  # (R, T, D), in any strides but the last
    rows = rows if rows.stride(2) == 1 else rows.contiguous()
    added = rows if out is None or in_place else torch.empty(rows.shape, dtype=x.dtype, device=x.device)
    other = rows if out is None else out.reshape(rows.shape)
    other = other if other.stride(2) == 1 else other.contiguous()
    normed = torch.empty(rows.shape, dtype=torch.get_autocast_dtype(x.device.type), device=x.device)
    strides = [stride for tensor in (rows, other, added) for stride in tensor.stride()[:2]]
    block = 1 << (width - 1).bit_length()
    kernel = _kernel()[(rows.shape[1], rows.shape[0])]
    kernel(rows, other, added, normed, norm.weight, norm.bias, *strides, norm.eps, out is not None, width, block)
    return (x if out is None or in_place else added.view(x.shape)), normed.view(x.shape)


@cache
def _works(device: torch.device) -> bool:
    """Whether Triton is there, knows the card, and finds the compiler that it needs."""
    x = torch.zeros(1, 1, 16, device=device)
    try:
        one_pass(nn.LayerNorm(16, device=device), x, x)
    except Exception:  # many kinds, of several packages; torch's own passes give the same
        return False
    return True


@cache
def _kernel() -> Any:
    """One token a program."""
    import triton
    import triton.language as tl

    @triton.jit
    def normed(  # type: ignore[no-untyped-def]
        x, out, added, result, weight, bias, x_row, x_token, out_row, out_token, added_row, added_token,
        eps, add: tl.constexpr, width: tl.constexpr, block: tl.constexpr
    ):  # fmt: skip
        token, row, at = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.arange(0, block)
        there = at < width
        own = tl.load(x + row * x_row + token * x_token + at, there, 0.0)
        if add:
            own += tl.load(out + row * out_row + token * out_token + at, there, 0.0).to(tl.float32)
            tl.store(added + row * added_row + token * added_token + at, own, there)
        away = tl.where(there, own - tl.sum(own) / width, 0.0)
        unit = away * tl.rsqrt(tl.sum(away * away) / width + eps)
        unit = unit * tl.load(weight + at, there, 0.0) + tl.load(bias + at, there, 0.0)
        tl.store(result + (row * tl.num_programs(0) + token) * width + at, unit, there)

    return normed
