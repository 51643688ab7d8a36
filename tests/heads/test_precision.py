"""A backbone in half precision: results in float32, near those in float32."""

from __future__ import annotations

import numpy as np
import torch

from headlens import heads


def test_half_precision_answers_every_question(make, pictures):
    half, single = make(torch.bfloat16), make(torch.float32)
    variants = heads.single_heads(heads.heads_of(half, [1, 3]))
    for ask in (
        lambda detector: heads.contributions(detector, pictures, check_sums=True).frame["value"],
        lambda detector: heads.importance(detector, pictures, metrics=("image_margin",)).frame["value"],
        lambda detector: heads.ablate(detector, pictures, variants, metrics=(), replicates=5).frame["value"],
    ):
        a, b = ask(half).to_numpy(), ask(single).to_numpy()
        assert a.dtype == np.float32
        assert np.abs(a - b).mean() < 0.05 * np.abs(b).mean()
