"""Shipped runs say what they said before; ``analyses/golden_numbers.py`` compares all the numbers."""

import numpy as np
import pytest
import torch
from golden_numbers import COUNTED, FILE, LENS, TOLERANCE, UNTRAINED, Stored, difference, frames, predictions, tolerance

from headlens.detectors import build
from headlens.training.run import load_run


def same(numbers: dict[str, np.ndarray]) -> None:
    """Raises AssertionError for numbers that are not those of the file."""
    with np.load(FILE) as before:
        for key, now in numbers.items():
            assert difference(before[key], now) <= tolerance(key), key


@pytest.mark.parametrize("name", ["mini-industrial-0", "mini-medical-anomalyclip-1"])
def test_a_shipped_run_predicts_what_it_did_before(name):
    numbers = dict(predictions(name, load_run(name, dtype=torch.float64).detector))
    assert len(numbers) == 8
    same(numbers)


@pytest.mark.parametrize("preset", UNTRAINED)
def test_a_preset_predicts_what_it_did_before(preset):
    backbone = load_run("mini-medical-0", dtype=torch.float64).detector.backbone
    same(dict(predictions(f"{preset} on mini-medical", build(backbone, preset, prompts="ensemble"))))


def test_the_lens_sees_what_it_saw_before():
    same(dict(frames(LENS[0], load_run(LENS[0], dtype=torch.float64).detector)))


def test_the_images_are_stored_with_their_masks():
    for domain in ("industrial", "medical"):
        stored = Stored(domain)
        assert stored.images.shape == (8, 3, 112, 112)
        assert [bool(stored.pixels(i).mask.any()) for i in range(8)] == [record.anomalous for record in stored.records]
        assert stored.where(lambda record: record.anomalous).images.equal(stored.images[1::2])


def test_a_difference_is_seen():
    numbers = np.array([1.0, 2.0])
    assert difference(numbers, numbers + np.array([0.0, 1e-9])) > TOLERANCE
    assert difference(numbers, np.array([1.0, np.nan])) == float("inf")
    assert tolerance("ablate zero, summary") == TOLERANCE < tolerance(f"ablate zero, {COUNTED}")
