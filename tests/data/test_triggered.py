"""Twins with a trigger: the pattern in every pixel within its bound, everything else as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headlens import data
from headlens.data import Loader, Preprocess, Trigger, triggered
from headlens.errors import DataError

SIZE = 28


@pytest.fixture(scope="module")
def clean():
    return data.open("procedural:industrial", category="screw", per_category=4, size=40)


def drawn(limit: int, seed: int = 0, size: int = SIZE) -> Trigger:
    generator = torch.Generator().manual_seed(seed)
    return Trigger(torch.randint(-limit, limit + 1, (3, size, size), generator=generator), limit)


@given(limit=st.integers(1, 127), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_the_pattern_is_added_and_stays_within_black_and_white(limit, seed):
    trigger = drawn(limit, seed)
    images = np.random.default_rng(seed).integers(0, 256, (2, 3, SIZE, SIZE), dtype=np.uint8)
    expected = np.clip(images.astype(float) + trigger.pattern.numpy(), 0, 255)
    assert np.array_equal(trigger.added(torch.from_numpy(images)).numpy(), expected.astype(np.uint8))


def test_it_is_the_papers_formula_in_normalised_space(clean):
    """clamp(x + δ, the range of images), with δ in the units of CLIP's deviation."""
    trigger, preprocess = drawn(8), Preprocess(SIZE)
    (plain,), (under,) = (Loader(one, preprocess, 4) for one in (clean, triggered(clean, trigger)))
    mean, std = (torch.tensor(values).double()[:, None, None] for values in (preprocess.mean, preprocess.std))
    delta = trigger.pattern.double() / 255 / std
    expected = torch.maximum(torch.minimum(plain.images.double() + delta, (1 - mean) / std), -mean / std)
    torch.testing.assert_close(under.images.double(), expected, rtol=0, atol=1e-6)
    assert (under.images != plain.images).any()
    assert torch.equal(under.masks, plain.masks) and torch.equal(under.labels, plain.labels)


def test_records_parts_and_prints_are_those_of_the_set(clean):
    twin = triggered(clean, drawn(4))
    assert twin.records == clean.records and twin.has_masks and twin.domain == "industrial"
    flawed = twin.where(lambda record: bool(record.anomalous))
    assert torch.equal(flawed[0].image, twin[2].image) and len(flawed) == 2
    prints = {one.fingerprint for one in (clean, twin, triggered(clean, drawn(4, 1)), flawed)}
    assert len(prints) == 4 and triggered(clean, drawn(4)).fingerprint == twin.fingerprint


def test_a_trigger_is_saved_whole(tmp_path, clean):
    trigger = Trigger(drawn(5).pattern, 5, "anomalous")
    path = trigger.save(tmp_path / "trigger.safetensors")
    again = Trigger.load(path)
    assert torch.equal(again.pattern, trigger.pattern) and (again.limit, again.wants) == (5, "anomalous")
    assert torch.equal(triggered(clean, path)[1].image, triggered(clean, trigger)[1].image)
    assert path.stat().st_size < 3 * SIZE**2 + 300


@pytest.mark.parametrize(
    ("pattern", "limit", "wants", "named"),
    [
        (torch.zeros(3, 4, 5), 4, "normal", r"a trigger is \[3, S, S\], of square images; this one is \[3, 4, 5\]"),
        (torch.full((3, 4, 4), 0.5), 4, "normal", "whole levels of an 8-bit image; round it"),
        (torch.full((3, 4, 4), torch.nan), 4, "normal", "whole levels"),
        (torch.full((3, 4, 4), -5), 4, "normal", "the limit of this trigger is 4 levels, but it reaches 5"),
        (torch.zeros(3, 4, 4), 0, "normal", "is 0 levels; it is from 1 to 127"),
        (torch.zeros(3, 4, 4), 4, "good", "wants images to be normal or anomalous, not 'good'"),
    ],
)
def test_what_is_no_trigger_is_named(pattern, limit, wants, named):
    with pytest.raises(DataError, match=named):
        Trigger(pattern, limit, wants)


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_file_that_is_no_trigger_is_named(content, tmp_path, clean):
    path = tmp_path / "other.safetensors"
    for_sure_missing = tmp_path / "missing.safetensors"
    path.write_bytes(content)
    for file in (path, for_sure_missing):
        with pytest.raises(DataError, match=f"{file.name}: not a trigger"):
            triggered(clean, file)
