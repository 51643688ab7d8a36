"""Adding to a residual stream in float32 what products in half precision made, and normalising it for the next ones.

Torch's autocast adds, normalises and rounds in three passes, of twice the memory traffic in all: a tenth of a forward
at full size. Here each is one, and both together can be, for large streams under CUDA's autocast. The normalised stream
differs by no more than the last bit of the half precision. Everywhere else all of it is torch's own.
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_ENOUGH = 2**22  # numbers: with fewer, a launch by Triton takes the CPU longer than the pass saves the GPU


class Norm(nn.LayerNorm):
    """``nn.LayerNorm``; of a large stream, where CUDA's autocast rounds what comes next, it is rounded already.

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
    unseen = in_place and torch.is_grad_enabled()  # autograd would not notice what a kernel overwrites
    if x.dtype == out.dtype or x.shape != out.shape or unseen or not _in_one_pass(x, x, out):
        return x.add_(out) if in_place else x + out
    return summed(x, out, in_place)


def _in_one_pass(x: Tensor, *others: Tensor) -> bool:
    """Whether it is: a large stream in float32 on CUDA with autocast around it, and no gradients of ``others``."""
    if not (x.is_cuda and x.dtype == torch.float32 and torch.is_autocast_enabled("cuda") and x.numel() >= _ENOUGH):
        return False
    if x.ndim != 3 or x.stride(2) != 1 or torch.compiler.is_compiling():  # a compiler does it by itself
        return False
    if torch.is_grad_enabled() and any(other.requires_grad for other in others):
        return False
    return _works(x.device, torch.get_autocast_dtype("cuda"))


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
    """``x``, or ``x + out``, and it normalised in the precision of autocast.

    Args:
        weight, bias, eps: of the norm, [D].
        x: [R, T, D] float32, channels side by side.
        out: [R, T, D].
        in_place: write the sum over ``x``.
    """
    added = x if out is None or in_place else _new(x, x.dtype)
    result = _new(x, torch.get_autocast_dtype(x.device.type))
    _launch("forward", x, x if out is None else _dense(out), added, result, weight, bias, eps, out is not None)
    return added, result


def normed_backward(weight: Tensor, eps: float, x: Tensor, grad: Tensor) -> Tensor:
    """The gradient at ``x`` [R, T, D] of ``grad`` [R, T, D] at what ``normed`` made of it, float32."""
    result = _new(x, x.dtype)
    _launch("backward", x, _dense(grad), result, weight, eps)
    return result


def summed(x: Tensor, out: Tensor, in_place: bool = False) -> Tensor:
    """``x + out`` in the precision of ``x``; both [R, T, D], ``x`` with its channels side by side."""
    added = x if in_place else _new(x, x.dtype)
    _launch("sum", x, _dense(out), added)
    return added


def _new(like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty(like.shape, dtype=dtype, device=like.device)  # contiguous, whatever ``like`` is a view of


def _dense(x: Tensor) -> Tensor:
    """Channels side by side; tokens and rows may lie anywhere."""
    return x if x.stride(2) == 1 else x.contiguous()


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
def _works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether Triton is installed, knows the card and this precision, and finds the compiler that it needs."""
    x, weight = torch.zeros(1, 1, 16, device=device), torch.ones(16, device=device)
    try:
        normed(weight, weight, 1e-5, summed(x, x.to(dtype)), x.to(dtype))
        normed_backward(weight, 1e-5, x, x.to(dtype))
    except ImportError:
        return False
    except torch.OutOfMemoryError:  # it will pass, and is not remembered
        raise
    except Exception as error:  # of many kinds and several packages; torch's own passes do the same
        warnings.warn(f"streams are normalised by torch, more slowly: Triton fails with {error!r}", stacklevel=2)
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
        inside = at < width
        values = tl.load(x + row * x_row + token * x_token + at, inside, 0.0)
        if add:
            values += tl.load(out + row * out_row + token * out_token + at, inside, 0.0).to(tl.float32)
            tl.store(added + row * added_row + token * added_token + at, values, inside)
        away = tl.where(inside, values - tl.sum(values) / width, 0.0)
        unit = away * tl.rsqrt(tl.sum(away * away) / width + eps)
        unit = unit * tl.load(weight + at, inside, 0.0) + tl.load(bias + at, inside, 0.0)
        tl.store(result + row * result_row + token * result_token + at, unit, inside)

    @triton.jit
    def backward(  # type: ignore[no-untyped-def]
        x, x_row, x_token, grad, grad_row, grad_token, result, result_row, result_token,
        weight, eps, width: tl.constexpr, block: tl.constexpr,
    ):
        token, row, at = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.arange(0, block)
        inside = at < width
        values = tl.load(x + row * x_row + token * x_token + at, inside, 0.0)
        away = tl.where(inside, values - tl.sum(values) / width, 0.0)
        scale = tl.rsqrt(tl.sum(away * away) / width + eps)
        unit = away * scale
        up = tl.load(grad + row * grad_row + token * grad_token + at, inside, 0.0).to(tl.float32)
        up *= tl.load(weight + at, inside, 0.0)
        down = scale * (up - tl.sum(up) / width - unit * (tl.sum(up * unit) / width))
        tl.store(result + row * result_row + token * result_token + at, down, inside)

    @triton.jit
    def plus(  # type: ignore[no-untyped-def]
        x, x_row, x_token, out, out_row, out_token, added, added_row, added_token,
        width: tl.constexpr, block: tl.constexpr,
    ):
        token, row, at = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.arange(0, block)
        inside = at < width
        values = tl.load(x + row * x_row + token * x_token + at, inside, 0.0)
        values += tl.load(out + row * out_row + token * out_token + at, inside, 0.0).to(tl.float32)
        tl.store(added + row * added_row + token * added_token + at, values, inside)
    # fmt: on

    return {"forward": forward, "backward": backward, "sum": plus}
