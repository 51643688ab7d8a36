"""Chance: what one sample draws is its own, and the numbers are as evenly spread as they claim to be."""

from __future__ import annotations

import math
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headlens.data.procedural.draw import Draw, mix

WORD = 0xFFFFFFFF
MANY = 200_000

seeds = st.one_of(st.integers(-5, 5), st.integers(-(2**40), 2**40))
indices = st.one_of(st.integers(-5, 5), st.integers(-(2**31), 2**31 - 1))
quick = settings(deadline=None, max_examples=60, derandomize=True)


# The oracle: lowbias32 and what is built on it, in Python's integers, which know neither sign bits nor overflow.
def mixed(x: int) -> int:
    x &= WORD
    x = (x ^ (x >> 16)) * 0x7FEB352D & WORD
    x = (x ^ (x >> 15)) * 0x846CA68B & WORD
    return x ^ (x >> 16)


def key_of(seed: int, name: str, index: int) -> int:
    return mixed(mixed(seed * 0x9E3779B1 ^ zlib.crc32(name.encode())) ^ mixed(index * 0x85EBCA77 + 1))


def bits_of(key: int, call: int, position: int) -> int:
    return mixed(mixed(position * 0x85EBCA77 + 1) ^ mixed(key + call * 0x9E3779B1))


def unsigned(x: torch.Tensor) -> list[int]:
    return [value & WORD for value in x.flatten().tolist()]


def of(seed: int = 0, name: str = "set", *index: int) -> Draw:
    return Draw.of(seed, name, torch.tensor(index or (0,), dtype=torch.int32))


@quick
@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=20))
def test_mix_against_integers(values):
    """Oracle: the same hash in Python's integers."""
    assert unsigned(mix(torch.tensor(values, dtype=torch.int32))) == [mixed(v) for v in values]


@quick
@given(seeds, st.text(max_size=12), st.lists(indices, min_size=1, max_size=4))
def test_bits_against_integers(seed, name, index):
    """Oracle: the whole way from seed, name and index to the bits of the second call, in a fork too."""
    draw = of(seed, name, *index)
    keys = [key_of(seed, name, i) for i in index]
    assert unsigned(draw.keys) == keys
    draw.bits(2)
    assert unsigned(draw.bits(3, 2)) == [bits_of(key, 2, position) for key in keys for position in range(6)]
    forked = [mixed(key ^ zlib.crc32(b"part")) for key in keys]
    assert unsigned(draw.fork("part").bits(3)) == [bits_of(key, 1, position) for key in forked for position in range(3)]


def test_mix_is_a_bijection_that_avalanches():
    x = torch.randint(-(2**31), 2**31, (4096,), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    assert len(mix(torch.arange(1 << 20, dtype=torch.int32)).unique()) == 1 << 20
    places = torch.arange(32)
    for bit in range(32):
        flip = (1 << bit) - (1 << 32 if bit == 31 else 0)
        changed = ((mix(x) ^ mix(x ^ flip))[:, None] >> places) & 1
        assert (changed.float().mean(0) - 0.5).abs().max() < 0.05  # 6 standard deviations of a fair coin


@quick
@given(seeds, st.lists(indices, min_size=2, max_size=6), st.data())
def test_a_sample_does_not_know_its_batch(seed, index, data):
    row = data.draw(st.integers(0, len(index) - 1))
    together, alone = of(seed, "set", *index), of(seed, "set", index[row])
    palette = torch.arange(15.0).view(5, 3)
    for call in (
        lambda d: d.uniform(-2, 5),
        lambda d: d.uniform(shape=(3, 7)),
        lambda d: d.uniform(shape=(1, 40, 40)),  # past the deck
        lambda d: d.normal((2,)),
        lambda d: d.integers(7),
        lambda d: d.chance(0.5, (4,)),
        lambda d: d.pick(palette),
        lambda d: d.fork("part").uniform(),
        lambda d: d.bits(5),
    ):
        assert torch.equal(call(together)[row], call(alone)[0])


def test_a_fork_is_moved_by_no_earlier_call():
    fresh, used = of(3), of(3)
    used.uniform(shape=(5,)), used.bits(9), used.fork("other").normal()
    assert torch.equal(fresh.fork("part").uniform(shape=(100,)), used.fork("part").uniform(shape=(100,)))
    plain, forked = of(3), of(3)
    forked.fork("part").uniform()
    assert torch.equal(plain.uniform(shape=(100,)), forked.uniform(shape=(100,))), (
        "a fork takes nothing from its parent"
    )


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten().double(), b.flatten().double()]))[0, 1])


def streams() -> dict[str, torch.Tensor]:
    """Numbers that must have nothing to do with each other."""
    shape = (1, 500, 400)  # MANY of them
    draw = of(1, "set", 7)
    found = {"itself": draw.uniform(shape=shape), "next call": draw.uniform(shape=shape)}
    for name in ("a", "b", "light"):
        found[f"fork {name}"] = draw.fork(name).uniform(shape=shape)
    found["fork of a fork"] = draw.fork("a").fork("b").uniform(shape=shape)
    found["the other way round"] = draw.fork("b").fork("a").uniform(shape=shape)
    for what, other in {
        "next seed": of(2, "set", 7),
        "negative seed": of(-1, "set", 7),
        "other name": of(1, "tes", 7),
        "next index": of(1, "set", 8),
        "negative index": of(1, "set", -7),
        "seed and index swapped": of(7, "set", 1),
    }.items():
        found[what] = other.uniform(shape=shape)
    return found


def test_different_streams_are_independent():
    found = torch.stack([numbers.flatten().double() for numbers in streams().values()])
    off = torch.corrcoef(found) - torch.eye(len(found))
    assert off.abs().max() < 5 / math.sqrt(MANY), list(streams())
    equal = (found[:, None] == found[None]).double().mean(-1) - torch.eye(len(found))
    assert equal.max() < 1e-4  # numbers on 24 bits meet once in 16 million


@quick
@given(seeds, seeds, indices, indices)
def test_other_seeds_names_and_indices_differ(seed, other, index, another):
    here = of(seed, "set", index).uniform(shape=(8,))
    if (seed - other) % 2**32:
        assert not torch.equal(here, of(other, "set", index).uniform(shape=(8,)))
    if index != another:
        assert not torch.equal(here, of(seed, "set", another).uniform(shape=(8,)))
    assert not torch.equal(here, of(seed, "Set", index).uniform(shape=(8,)))
    assert torch.equal(here, of(seed, "set", index).uniform(shape=(8,)))


def test_no_two_of_many_samples_are_alike():
    keys = torch.cat([Draw.of(seed, "set", torch.arange(2000, dtype=torch.int32)).keys for seed in range(10)])
    assert len(keys.unique()) >= 20_000 - 2  # 32 bits: 0.05 pairs expected


@pytest.mark.parametrize("along", ["positions", "calls", "samples", "seeds", "wide"])
def test_uniform_is_even(along):
    """Mean, variance, serial correlation, and counts in 64 bins, whichever way the numbers are lined up."""
    if along == "positions":
        x = of(5).uniform(shape=(MANY,))
    elif along == "wide":
        x = (of(5).uniform(-3, 7, shape=(MANY,)) + 3) / 10
    elif along == "samples":
        x = Draw.of(5, "set", torch.arange(MANY, dtype=torch.int32)).bits(1).float() * 2.0**-32 + 0.5
    elif along == "calls":
        draw = Draw.of(5, "set", torch.arange(20, dtype=torch.int32))
        x = torch.cat([draw.uniform().flatten(1) for _ in range(MANY // 20)], 1)
    else:
        x = torch.cat([of(seed).uniform(shape=(100,)) for seed in range(MANY // 100)], 1)
    x = x.flatten().double()
    n = len(x)
    assert n == MANY
    assert float(x.min()) >= 0
    assert float(x.max()) < 1
    assert abs(float(x.mean()) - 0.5) < 4.5 * math.sqrt(1 / 12 / n)
    assert abs(float(x.var()) - 1 / 12) < 4.5 * math.sqrt(1 / 180 / n)
    for lag in (1, 2, 7, 64, 100, 4096):
        assert abs(correlation(x[:-lag], x[lag:])) < 4.5 / math.sqrt(n), f"lag {lag}"
    bins = torch.histc(x, 64, 0, 1)
    assert float(((bins - n / 64).square() / (n / 64)).sum()) < 63 + 4.5 * math.sqrt(2 * 63)


def test_normal_is_normal():
    x = of(5).normal((MANY,)).double().flatten()
    assert torch.isfinite(x).all()
    assert abs(float(x.mean())) < 4.5 / math.sqrt(MANY)
    assert abs(float(x.var()) - 1) < 4.5 * math.sqrt(2 / MANY)
    assert abs(float((x.abs() < 1).double().mean()) - 0.682689) < 0.005
    assert abs(float((x > 2).double().mean()) - 0.022750) < 0.002
    assert abs(correlation(x[:-1], x[1:])) < 4.5 / math.sqrt(MANY)


@quick
@given(seeds, indices, st.integers(1, 1000), st.floats(-100, 100), st.floats(0.001, 100))
def test_ranges(seed, index, high, low, width):
    draw = of(seed, "set", index)
    whole = draw.integers(high, (500,))
    assert whole.dtype == torch.int64
    assert 0 <= int(whole.min()) <= int(whole.max()) < high
    x = draw.uniform(low, low + width, (500,))
    slack = 1e-6 * (abs(low) + width)  # float32
    assert low - slack <= float(x.min()) <= float(x.max()) <= low + width + slack
    flips = draw.chance(0.3, (500,))
    assert set(flips.unique().tolist()) == {0.0, 1.0}
    assert set(draw.chance(0.0, (50,)).tolist()[0]) == {0.0}
    assert set(draw.chance(1.0, (50,)).tolist()[0]) == {1.0}
    assert draw.uniform().shape == draw.normal().shape == draw.integers(3).shape == draw.chance(0.5).shape == (1,) * 4


def test_integers_and_chance_are_fair():
    draw = of(5)
    counts = torch.bincount(draw.integers(6, (MANY,)).flatten(), minlength=6).double()
    assert len(counts) == 6
    assert float((counts - MANY / 6).abs().max()) < 4.5 * math.sqrt(MANY / 6)
    assert abs(float(draw.chance(0.3, (MANY,)).mean()) - 0.3) < 4.5 * math.sqrt(0.21 / MANY)


def test_pick_takes_whole_rows_evenly():
    values = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]])
    picked = Draw.of(0, "set", torch.arange(3000, dtype=torch.int32)).pick(values)
    assert picked.shape == (3000, 3, 1, 1)
    rows = (picked.view(-1, 1, 3) == values).all(2)
    assert torch.equal(rows.sum(1), torch.ones(3000, dtype=torch.int64))
    assert rows.float().mean(0).sub(1 / 3).abs().max() < 0.04
