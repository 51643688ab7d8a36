"""LayerNorm in one pass, against torch's own; the kernel by Triton's interpreter, which needs no GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from headlens.backbone import norm as fused
from headlens.backbone.norm import Norm

HALVES = [torch.float16, torch.bfloat16]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ALONE = pytest.mark.skipif(not INTERPRETED, reason="run by the test above")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")


def made(width, device="cpu"):
    torch.manual_seed(0)
    own = Norm(width, device=device).requires_grad_(False)
    nn.init.normal_(own.weight)
    nn.init.normal_(own.bias)
    return own


def close(found, expected, dtype):
    """Within one unit in the last place of ``dtype``."""
    assert found.dtype == dtype
    room = torch.finfo(dtype).eps * expected.abs() + 1e-6
    assert ((found.float() - expected).abs() <= room).all()


def test_the_kernel_under_the_interpreter():
    """In a process of its own: Triton decides when it is imported."""
    pytest.importorskip("triton")
    if INTERPRETED:
        return
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest", __file__, "-k", "kernel"]
    own = {"TRITON_INTERPRET": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # plugins take long to import
    done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True)
    assert done.returncode == 0 and "9 passed" in done.stdout, done.stdout + done.stderr


def passed(own, *streams, **options):
    return fused.normed(own.weight, own.bias, own.eps, *streams, **options)


@ALONE
@pytest.mark.parametrize("width", [16, 24])
def test_the_kernel_adds_normalises_and_rounds(width):
    own, x, out = made(width), torch.randn(3, 5, width) * 4 + 2, torch.randn(3, 5, width).bfloat16()
    before = x.clone()
    with torch.autocast("cpu", torch.bfloat16):
        added, normed = passed(own, x, out)
        assert torch.equal(added, x + out) and torch.equal(fused.summed(x, out), added) and torch.equal(x, before)
        close(normed, nn.LayerNorm.forward(own, x + out), torch.bfloat16)
        close(passed(own, x)[1], nn.LayerNorm.forward(own, x), torch.bfloat16)
        in_place = passed(own, x[:, 1:3], out[:, 1:3], in_place=True)
        fused.summed(x[:, 4:], out[:, 4:], in_place=True)
    assert torch.equal(x[:, [1, 2, 4]], added[:, [1, 2, 4]]) and torch.equal(x[:, [0, 3]], before[:, [0, 3]])
    assert torch.equal(in_place[1], normed[:, 1:3])


@ALONE
@pytest.mark.parametrize(
    "view", [lambda x: x[:, :1], lambda x: x[:, 1:], lambda x: x[::2], lambda x: x.transpose(0, 1)]
)
def test_the_kernel_reads_views(view):
    own, x = made(16), torch.randn(3, 4, 16)
    out = view(torch.randn(3, 4, 16)).mT.contiguous().mT  # channels apart
    with torch.autocast("cpu", torch.bfloat16):
        for streams in ((view(x),), (view(x), out)):
            added, found = passed(own, *streams)
            assert torch.equal(added, sum(streams)) and found.is_contiguous()
            close(found, nn.LayerNorm.forward(own, added), torch.bfloat16)
    up = torch.randn(16, *view(x).shape[:2]).permute(1, 2, 0)
    leaf = view(x).clone().requires_grad_()
    (expected,) = torch.autograd.grad(nn.LayerNorm.forward(own, leaf), leaf, up)
    torch.testing.assert_close(fused.normed_backward(own.weight, own.eps, view(x), up), expected, rtol=1e-5, atol=1e-6)


@ALONE
@pytest.mark.parametrize("width", [16, 24])
def test_the_kernel_has_the_gradient(width):
    own, x = made(width), (torch.randn(2, 3, width) * 3 + 1).requires_grad_()
    up = torch.randn(2, 3, width)
    (expected,) = torch.autograd.grad(nn.LayerNorm.forward(own, x), x, up)
    found = fused.normed_backward(own.weight, own.eps, x.detach(), up)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_elsewhere_it_is_torchs():
    own, x, out = made(16), torch.randn(2, 3, 16), torch.randn(2, 3, 16)
    plain, expected = nn.LayerNorm.forward(own, x + out), x + out
    added, normed = own.after(x, out)
    assert torch.equal(own(x + out), plain) and torch.equal(normed, plain) and torch.equal(added, expected)
    assert torch.equal(fused.plus(x[:1], out), x[:1] + out)
    assert own.after(x, out, in_place=True)[0] is x and torch.equal(x, expected)


def on_gpu():
    own, draw = made(1000, "cuda"), torch.Generator("cuda").manual_seed(0)
    x, out, up = (torch.randn(4, 1400, 1000, device="cuda", generator=draw) for _ in range(3))
    assert all(fused._works(x.device, dtype) for dtype in HALVES) and x[:3].numel() >= fused._ENOUGH > x[:1].numel()
    return own, x * 5, out, up


@CUDA
@pytest.mark.parametrize("dtype", HALVES)
def test_on_a_gpu(dtype):
    own, x, out, _ = on_gpu()
    out = out.to(dtype)
    plain = nn.LayerNorm.forward(own, x + out)
    with torch.autocast("cuda", dtype):
        added, normed = own.after(x, out)
        close(normed, plain, dtype)
        close(own(added[:, 1:]), plain[:, 1:], dtype)
        assert torch.equal(added, x + out) and torch.equal(fused.plus(x, out), added)
        assert torch.equal(fused.plus(x[:1], out), x[:1] + out)
        assert torch.equal(fused.plus(x.clone(), out, in_place=True), added)
        few = [stream[:1] for stream in (x, out)]
        for found, expected in zip(own.after(*few), (added[:1], plain[:1]), strict=True):  # by torch's own passes
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, expected)
    assert own(x).dtype == torch.float32


@CUDA
@pytest.mark.parametrize("dtype", HALVES)
def test_gradients_on_a_gpu(dtype):
    own, x, out, up = on_gpu()

    def gradients(norm, plus):
        leaves = x.clone().requires_grad_(), out.to(dtype).requires_grad_()
        with torch.autocast("cuda", dtype):
            together = plus(*leaves)
            normed = norm(together)
        return torch.autograd.grad((normed.to(dtype), together), leaves, (up.to(dtype), up))

    for found, expected in zip(
        gradients(own, fused.plus), gradients(lambda x: nn.LayerNorm.forward(own, x), torch.add), strict=True
    ):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected)
    own.requires_grad_()
    with torch.autocast("cuda", dtype):
        assert own(x).dtype == torch.float32  # what is learned goes through torch
