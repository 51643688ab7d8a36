"""A block's one step against its hooked forward, part by part: what analyses run is what hooks see, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headlens.backbone import LocalStream
from headlens.backbone.blocks import Block
from tests.backbone.models import close

RULES = {
    "no local stream": None,
    "beside": LocalStream(0),
    "beside, with MLP": LocalStream(0, ("qq", "kk"), mlp=True),
    "replace": LocalStream(0, ("vv",), "replace"),
    "replace, with MLP": LocalStream(0, ("vv", "qk"), "replace", mlp=True),
}
DTYPES = [torch.float64, torch.float32]


def streams(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The global and the local stream of three images, [3, 17, 32] each."""
    x, y = torch.randn(2, 3, 17, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(4)).to(dtype)
    return x, y


def multipliers(dtype: torch.dtype, local: LocalStream | None) -> dict[str, Tensor]:
    """Head weights and additions of every stream that exists."""
    weight, local_weight = (0.5 + torch.rand(2, 3, 4, dtype=torch.float64)).to(dtype)
    add, local_add = torch.randn(2, 3, 17, 32, dtype=torch.float64).to(dtype)
    both = {"weight": weight, "add": add}
    beside = local is not None and local.mode == "beside"
    return both | {"local_weight": local_weight, "local_add": local_add} if beside else both


def half(x: Tensor) -> Tensor:
    """An adapter that mixes tokens."""
    return 0.5 * x + x.mean(1, keepdim=True)


@pytest.fixture
def block(ours) -> Block:
    return ours.vision.blocks[2]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("adapted", [False, True])
def test_a_step_is_the_hooked_forward_to_the_bit(block, rule, dtype, adapted):
    local, (x, y) = RULES[rule], streams(dtype)
    beside = local is not None and local.mode == "beside"
    options = {"local": local, **multipliers(dtype, local)}
    if adapted:
        options |= {"adapter": half, "local_adapter": half if beside else None}
    block.to(dtype)
    expected, expected_y = block(x.clone(), y.clone(), **options)
    done = block.step(x, y, **options)
    assert torch.equal(done.x, expected)
    assert torch.equal(done.y, expected_y if beside else y)
    assert torch.equal(x, streams(dtype)[0]), "a step must not write over what it is given"

    written = block.step(*(stream.clone() for stream in (x, y)), in_place=True, **options)
    assert torch.equal(written.x, expected)
    assert torch.equal(written.y, done.y)


@pytest.mark.parametrize("rule", RULES)
def test_what_a_step_gives_besides_is_what_its_hook_points_carry(block, rule):
    local, (x, y), seen = RULES[rule], streams(torch.float64), {}
    beside = local is not None and local.mode == "beside"
    points = {"mid": block.hook_resid_mid, "z": block.attn.hook_z, "local_z": block.attn.hook_local_z}
    for name, point in points.items():
        point.add_hook(lambda tensor, hook, name=name: seen.update({name: tensor}))
    block(x, y, local=local)
    done = block.step(x, y, local=local, adapter=half, local_adapter=half if beside else None)
    for name, tensor in seen.items():
        assert torch.equal(getattr(done, name), tensor), name
    assert (done.local_z is None) == (done.local_written is None) == (not beside)
    assert torch.equal(done.x, half(done.written))
    if beside:
        assert torch.equal(done.y, half(done.local_written))
        assert torch.equal(block.step(x, None, local=local).y, block.step(x, x, local=local).y), "it begins as x"


def test_z_is_before_weighting(block):
    x, _ = streams(torch.float64)
    weight = torch.rand(3, 4, dtype=torch.float64)
    done, plain = block.step(x, weight=weight), block.step(x)
    assert torch.equal(done.z, plain.z)
    out = torch.einsum("bthd,hdm->btm", done.z * weight[:, None, :, None], block.attn.W_O) + block.attn.b_O
    close(done.mid, x + out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("in_place", [False, True])
def test_cls_alone_is_the_whole_blocks_cls(block, rule, dtype, in_place):
    local, (x, y) = RULES[rule], streams(dtype)
    block.to(dtype)
    options = {"local": local, "weight": multipliers(dtype, local)["weight"]}
    whole = block.step(x, y, **options)
    alone = block.step(x.clone(), y.clone(), cls_only=True, in_place=in_place, **options)
    assert alone.x.shape == (3, 1, 32)
    close(alone.x, whole.x[:, :1], 1e-12 if dtype == torch.float64 else 1e-5)
    assert torch.equal(alone.y, whole.y), "the local stream keeps all its tokens"


def test_in_place_copies_neither_stream(block):
    (x, y), local = streams(torch.float64), LocalStream(0, mlp=True)
    done = block.step(x, y, local=local, in_place=True)
    assert done.x.data_ptr() == x.data_ptr()
    assert done.y.data_ptr() == y.data_ptr()


def test_gradients_pass_a_step(block):
    x, _ = streams(torch.float64)
    gradients = []
    for hooked in (False, True):
        given = x.clone().requires_grad_()
        done = block.step(given, local=LocalStream(0), hooked=hooked)
        gradients.append(torch.autograd.grad(done.x.square().sum() + done.y.square().sum(), given)[0])
    close(*gradients)
