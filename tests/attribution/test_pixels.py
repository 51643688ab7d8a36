"""Pixel methods against loops, quadrature by hand, and a linear target whose attribution is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headlens.attribution import pixels
from headlens.attribution.pixels import BASELINES, baseline_of, seeded
from headlens.attribution.targets import target_of
from headlens.errors import ConfigError, ShapeError
from tests.attribution.conftest import untouched
from tests.backbone.models import close

ROUNDED = 1e-6  # Captum's weights of the quadrature are float32, and so are its sums over windows


@pytest.mark.parametrize("kind", BASELINES)
def test_of_a_linear_target_every_method_knows_the_answer(kind, linear, images):
    change = linear.weight * (images - baseline_of(linear, images, kind))
    own = change.sum(1)
    close(pixels.integrated_gradients(linear, images, baseline=kind, steps=3), own, ROUNDED)
    close(pixels.gradient_shap(linear, images, baseline=kind, samples=3, noise=0.0, batch=2), own)
    squares = own.unflatten(1, (-1, 8)).unflatten(3, (-1, 8)).sum((2, 4))  # (B, 4, 5)
    spread = squares.repeat_interleave(8, 1).repeat_interleave(8, 2) / 64
    close(pixels.patch_ablation(linear, images, baseline=kind, batch=3), spread)


def test_gradients_times_the_image(linear, images):
    own = (linear.weight * images).sum(1)
    close(pixels.input_x_gradient(linear, images), own)
    close(pixels.smooth_grad(linear, images, noise=1e-9), own, 1e-7)


@pytest.mark.parametrize("name", ["image_margin", "L2H1", "L2H3/local"])
def test_integrated_gradients_are_the_integral(name, detector, images):
    target, blur = target_of(detector, name), baseline_of(target_of(detector), images)
    nodes, weights = np.polynomial.legendre.leggauss(4)
    total = torch.zeros_like(images)
    for piece in range(3):
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            leaf = (blur + (piece + node) / 3 * (images - blur)).requires_grad_()
            total += weight / 3 * torch.autograd.grad(target(leaf).sum(), leaf)[0]
    own = (total * (images - blur)).sum(1)
    close(pixels.integrated_gradients(target, images, steps=12, most=12, batch=5), own, ROUNDED)
    assert untouched(detector)


def test_integrated_gradients_are_complete(detector, images):
    target = target_of(detector, "image_margin")
    change = target(images) - target(baseline_of(target, images))

    def missed(**options):
        return ((pixels.integrated_gradients(target, images, **options).sum((1, 2)) - change) / change).abs()

    assert float(missed(steps=2, most=2).max()) > 1e-3 >= float(missed(steps=2).max())
    assert float(missed(tolerance=1e-5).max()) <= 1e-5


def test_a_kink_is_found_with_few_steps(detector, images):
    """max(0, way - 0.3) bends once: equal steps err by their own length, halving finds the place."""
    blur, calls = baseline_of(target_of(detector), images[:1]), []
    change = (images[:1] - blur).square().sum()

    def bent(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x) if x.requires_grad else 0)
        way = ((x - blur) * (images[:1] - blur)).sum((1, 2, 3)) / change
        return (way - 0.3).clamp(min=0)

    bent.detector = detector
    found = pixels.integrated_gradients(bent, images[:1], tolerance=1e-4)
    assert abs(float(found.sum()) - 0.7) <= 0.7e-4 and 32 < sum(calls) <= 32 + 12 * 8
    together = pixels.integrated_gradients(bent, images[:1], tolerance=1e-4, batch=32)
    close(together, found)  # how many are held together is a question of memory alone
    calls.clear()
    pixels.integrated_gradients(bent, images[:1], tolerance=0, most=99)
    assert sum(calls) == 96
    assert sum(calls) < 150 and float(pixels.integrated_gradients(bent, images[:1], most=32).sum()) != float(
        found.sum()
    )


def test_where_nothing_changes_nothing_is_missed(detector):
    calls, grey = [], torch.full((1, 3, 16, 16), 0.3, dtype=torch.float64)
    target = target_of(detector, "image_margin")

    def counted(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x) if x.requires_grad else 0)
        return target(x)

    counted.detector = detector
    pixels.integrated_gradients(counted, grey, steps=8)
    assert sum(calls) == 8


def test_ablation_against_a_loop(detector, images):
    target = target_of(detector, "image_margin")
    base, whole = baseline_of(target, images, "mean"), target(images)
    windows, covered = torch.zeros(3, 32, 40, dtype=torch.float64), torch.zeros(32, 40)
    for top in range(0, 17, 8):
        for left in range(0, 25, 8):
            changed = images.clone()
            changed[:, :, top : top + 16, left : left + 16] = base[:, :, top : top + 16, left : left + 16]
            windows[:, top : top + 16, left : left + 16] += (whole - target(changed))[:, None, None]
            covered[top : top + 16, left : left + 16] += 1
    close(pixels.occlusion(target, images, baseline="mean", batch=4), windows / covered / 256, ROUNDED)


def test_squares_that_do_not_fit_are_as_large_as_they_are(linear, images):
    found = pixels.patch_ablation(linear, images, cells=2)  # 24 px: 2 x 2 squares, the last of 8 x 16
    own = (linear.weight * (images - baseline_of(linear, images))).sum(1)
    close(found.sum((1, 2)), own.sum((1, 2)))
    close(found[:, 24:, 24:].mean((1, 2)), own[:, 24:, 24:].mean((1, 2)))


@pytest.mark.parametrize("method", [pixels.gradient_shap, pixels.smooth_grad])
def test_draws_depend_on_the_seed_alone(method, detector, images):
    target = target_of(detector, "image_margin")
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    together = method(target, images, samples=4)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    close(method(target, images[1:2], samples=4)[0], together[1])
    assert not torch.allclose(method(target, images[:1], samples=4, seed=1)[0], together[0])


def test_draws_are_put_back_after_an_error():
    before = torch.random.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded(3):
        torch.rand(3)
        1 / 0  # noqa: B018
    assert torch.equal(before, torch.random.get_rng_state())


def test_no_more_images_at_once_than_asked_for(linear, images):
    one = images[:1]
    for run in (
        lambda: pixels.integrated_gradients(linear, one, steps=7, batch=3),  # linear: complete at once
        lambda: pixels.gradient_shap(linear, one, samples=7, batch=3),
        lambda: pixels.smooth_grad(linear, one, samples=7, batch=3),
        lambda: pixels.patch_ablation(linear, one, batch=3),
        lambda: pixels.occlusion(linear, one, batch=3),
    ):
        linear.batches.clear()
        run()
        assert 1 < max(linear.batches) <= 3


def test_baselines(detector, images):
    target = target_of(detector)
    grey = torch.full((1, 3, 16, 16), 0.7, dtype=torch.float64)
    close(baseline_of(target, grey, "blur"), grey)
    black = baseline_of(target, images, "black")
    assert black.dtype == images.dtype and float(black.max()) < 0 and float(black.std((0, 2, 3)).max()) == 0
    with pytest.raises(ConfigError, match="unknown baseline 'white'"):
        pixels.integrated_gradients(target, images, baseline="white")
    with pytest.raises(ShapeError, match="steps is 0"):
        pixels.integrated_gradients(target, images, steps=0)
    with pytest.raises(ShapeError, match="cells is -1"):
        pixels.occlusion(target, images, cells=-1)


def test_edges_know_the_image_alone(detector, images):
    step = torch.zeros(1, 3, 8, 8)
    step[..., 4:] = 1
    found = pixels.edges(target_of(detector), step)[0]
    assert found[:, 3:5].min() == 4 and found[:, :3].max() == 0 == found[:, 5:].max()
    assert torch.equal(pixels.edges(target_of(detector), images), pixels.edges(target_of(detector, "L2H1"), images))
