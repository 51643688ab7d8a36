"""Adding to a residual stream in float32 what products in half precision made, and normalising it for the next ones.

Torch's autocast adds, normalises and rounds in three passes, of twice the memory traffic in all: a tenth of a forward
at full size. Here each is one, and both together can be. The normalised stream differs by no more than the last bit of
the half precision. Without CUDA's autocast all of it is torch's own.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_ENOUGH = 2**22  # numbers: with fewer, a launch by Triton takes the CPU longer than the pass saves the GPU


class Norm(nn.LayerNorm):
    """``nn.LayerNorm``; where CUDA's autocast rounds what comes next, the result is rounded already.

    >>> Norm(4)(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).detach().round(decimals=2)
    tensor([[-1.3400, -0.4500,  0.4500,  1.3400]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        if not _in_one_pass(x, self.weight, self.bias):
            return super().forward(x)
        if torch.is_grad_enabled() and x.requires_grad:
            return _Normed.apply(x, self.weight, self.bias, self.eps)
        return normed(self.weight, self.bias, self.eps, x)[1]

    def after(self, x: Tensor, out: Tensor, in_place: bool = False) -> tuple[Tensor, Tensor]:
        """``plus(x, out, in_place)``, and what the norm makes of it; [R, T, D] each."""
        if x.shape == out.shape and _in_one_pass(x, self.weight, self.bias) and not torch.is_grad_enabled():
            return normed(self.weight, self.bias, self.eps, x, out, in_place)
        x = plus(x, out, in_place)
        return x, self(x)


def plus(x: Tensor, out: Tensor, in_place: bool = False) -> Tensor:
    """``x + out``, written over ``x`` if asked for: a stream [R, T, D] and what is added to it.

    >>> plus(torch.ones(1, 1, 2), torch.ones(1, 1, 2))
    tensor([[[2., 2.]]])
    """
    if x.dtype == out.dtype or x.shape != out.shape or not _in_one_pass(x, x, out):
        return x.add_(out) if in_place else x + out
    return summed(x, out, in_place)


def _in_one_pass(x: Tensor, *others: Tensor) -> bool:
    """Whether it is: a large stream in float32 on CUDA with autocast around it, and no gradients of ``others``."""
    if not (x.is_cuda and x.dtype == torch.float32 and torch.is_autocast_enabled("cuda") and x.numel() >= _ENOUGH):
        return False
    if torch.is_grad_enabled() and any(other.requires_grad for other in others):
        return False
    return not torch.compiler.is_compiling() and _works(x.device)  # a compiler does it by itself


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return normed(weight, bias, eps, x)[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, weight = ctx.saved_tensors
        return normed_backward(weight, ctx.eps, x, grad), None, None, None


def normed(
    weight: Tensor, bias: Tensor, eps: float, x: Tensor, out: Tensor | None = None, in_place: bool = False
) -> tuple[Tensor, Tensor]:
    """``x``, or ``x + out``, and it normalised in the precision of autocast; x [..., D] float32, out as x."""
    rows = _rows(x)
    added = rows if out is None or in_place else torch.empty(rows.shape, dtype=x.dtype, device=x.device)
    result = torch.empty(rows.shape, dtype=torch.get_autocast_dtype(x.device.type), device=x.device)
    _launch("forward", rows, rows if out is None else _rows(out), added, result, weight, bias, eps, out is not None)
    return (x if out is None or in_place else added.view(x.shape)), result.view(x.shape)


def normed_backward(weight: Tensor, eps: float, x: Tensor, grad: Tensor) -> Tensor:
    """The gradient at ``x`` [..., D] of ``grad`` [..., D] at what ``normed`` made of it, float32."""
    result = torch.empty(_rows(x).shape, dtype=x.dtype, device=x.device)
    _launch("backward", _rows(x), _rows(grad), result, weight, eps)
    return result.view(x.shape)


def summed(x: Tensor, out: Tensor, in_place: bool = False) -> Tensor:
    """``x + out``, both [..., D], in the precision of ``x``."""
    rows = _rows(x)
    added = rows if in_place else torch.empty(rows.shape, dtype=x.dtype, device=x.device)
    _launch("sum", rows, _rows(out), added)
    return x if in_place else added.view(x.shape)


def _rows(x: Tensor) -> Tensor:
    """(R, T, D), in any strides but the last."""
    rows = x if x.ndim == 3 else x.reshape(1, -1, x.shape[-1])
    return rows if rows.stride(2) == 1 else rows.contiguous()


def _launch(name: str, *args: Any) -> None:
    """One token a program; streams [R, T, D] among ``args`` are followed by their strides."""
    rows, tokens, width = args[0].shape
    given: list[Any] = []
    for arg in args:
        given += [arg, *arg.stride()[:2]] if isinstance(arg, Tensor) and arg.ndim == 3 else [arg]
    block = 1 << (width - 1).bit_length()
    with torch.cuda.device(args[0].device) if args[0].is_cuda else nullcontext():  # else another card may be meant
        _kernels()[name][(tokens, rows)](*given, width, block)


@cache
def _works(device: torch.device) -> bool:
    """Whether Triton is there, knows the card, and finds the compiler that it needs."""
    x, weight = torch.zeros(1, 1, 16, device=device), torch.ones(16, device=device)
    try:
        normed(weight, weight, 1e-5, summed(x, x), x)
        normed_backward(weight, 1e-5, x, x)
    except Exception:  # of many kinds and several packages; torch's own passes do the same
        return False
    return True


@cache
def _kernels() -> dict[str, Any]:
    import triton
    import triton.language as tl

    # fmt: off
    @triton.jit
    def forward(  # type: ignore[no-untyped-def]
        x, x_row, x_token, out, out_row, out_token, added, added_row, added_token, result, result_row, result_token,
        weight, bias, eps, add: tl.constexpr, width: tl.constexpr, block: tl.constexpr,
    ):
        token, row, at = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.arange(0, block)
        there = at < width
        own = tl.load(x + row * x_row + token * x_token + at, there, 0.0)
        if add:
            own += tl.load(out + row * out_row + token * out_token + at, there, 0.0).to(tl.float32)
            tl.store(added + row * added_row + token * added_token + at, own, there)
        away = tl.where(there, own - tl.sum(own) / width, 0.0)
        unit = away * tl.rsqrt(tl.sum(away * away) / width + eps)
        unit = unit * tl.load(weight + at, there, 0.0) + tl.load(bias + at, there, 0.0)
        tl.store(result + row * result_row + token * result_token + at, unit, there)

    @triton.jit
    def backward(  # type: ignore[no-untyped-def]
        x, x_row, x_token, grad, grad_row, grad_token, result, result_row, result_token,
        weight, eps, width: tl.constexpr, block: tl.constexpr,
    ):
        token, row, at = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.arange(0, block)
        there = at < width
        own = tl.load(x + row * x_row + token * x_token + at, there, 0.0)
        away = tl.where(there, own - tl.sum(own) / width, 0.0)
        scale = tl.rsqrt(tl.sum(away * away) / width + eps)
        unit = away * scale
        up = tl.load(grad + row * grad_row + token * grad_token + at, there, 0.0).to(tl.float32)
        up *= tl.load(weight + at, there, 0.0)
        down = scale * (up - tl.sum(up) / width - unit * (tl.sum(up * unit) / width))
        tl.store(result + row * result_row + token * result_token + at, down, there)

    @triton.jit
    def plus(  # type: ignore[no-untyped-def]
        x, x_row, x_token, out, out_row, out_token, added, added_row, added_token,
        width: tl.constexpr, block: tl.constexpr,
    ):
        token, row, at = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.arange(0, block)
        there = at < width
        own = tl.load(x + row * x_row + token * x_token + at, there, 0.0)
        own += tl.load(out + row * out_row + token * out_token + at, there, 0.0).to(tl.float32)
        tl.store(added + row * added_row + token * added_token + at, own, there)
    # fmt: on

    return {"forward": forward, "backward": backward, "sum": plus}
