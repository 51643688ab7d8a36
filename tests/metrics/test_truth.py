"""Truths of several batches as one."""

from __future__ import annotations

import torch

from headlens.metrics import Truth


def test_joined_is_the_truth_of_all_masks():
    masks = torch.rand(7, 9, 5, generator=torch.Generator().manual_seed(0)) < 0.3
    masks[2] = False
    joined = Truth.joined([Truth.of(part) for part in masks.split([1, 3, 1, 2])])
    whole = Truth.of(masks)
    assert joined.shape == whole.shape
    for name in ("index", "region", "area"):
        assert torch.equal(getattr(joined, name), getattr(whole, name))
