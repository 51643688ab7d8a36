"""Shipped runs predict what they predicted before; ``analyses/golden_numbers.py`` compares all the numbers."""

import numpy as np
import pytest
from golden_numbers import FILE, TOLERANCE, difference, predictions


@pytest.mark.parametrize("name", ["mini-industrial-0", "mini-medical-anomalyclip-1"])
def test_a_shipped_run_predicts_what_it_did_before(name):
    numbers = dict(predictions([name]))
    assert len(numbers) == 8
    with np.load(FILE) as before:
        for key, now in numbers.items():
            assert difference(before[key], now) <= TOLERANCE, key


def test_a_difference_is_seen():
    numbers = np.array([1.0, 2.0])
    assert difference(numbers, numbers + np.array([0.0, 1e-9])) > TOLERANCE
    assert difference(numbers, np.array([1.0, np.nan])) == float("inf")
