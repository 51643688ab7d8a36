"""Augmented images against torchvision and PIL; that masks follow, and that an image's number alone decides."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from PIL import ImageEnhance
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from headlens import data
from headlens.detectors.stages import Augment
from headlens.errors import ConfigError
from headlens.training.augmenting import affine, augmented, chance, moved

CPU, SIZE = torch.device("cpu"), 56
ALL = Augment(colour=0.7, rotation=0.5, translation=0.5, flip=0.5)
NEAREST = {"interpolation": InterpolationMode.NEAREST}
PREPROCESS = data.Preprocess(SIZE)


@pytest.fixture(scope="module")
def batch() -> data.Batch:
    industrial = data.open("procedural:industrial/aux", per_category=2, size=SIZE)
    return next(iter(data.Loader(industrial, PREPROCESS, 12, normalise=False)))


def some(batch, *rows) -> data.Batch:
    """These images of a batch."""
    rows = list(rows)
    names = ("images", "masks", "has_mask", "labels", "index")
    tensors = {name: getattr(batch, name)[rows] for name in names}
    return replace(batch, **tensors, records=tuple(batch.records[row] for row in rows))


def changed(batch, augment=ALL, seed=0, epoch=0):
    return augmented(batch, augment, PREPROCESS, CPU, seed, epoch)


def noise(size=SIZE) -> torch.Tensor:
    return torch.randint(1, 256, (3, size, size), generator=torch.Generator().manual_seed(size), dtype=torch.uint8)


def by(image, angle=0.0, shift=(0, 0), flips=(1, 1)) -> torch.Tensor:
    """In degrees and pixels."""
    size = image.shape[-1]
    theta = affine(math.radians(angle), [2 * pixels / size for pixels in shift], flips)
    return moved(image[None].float(), torch.tensor([theta]))[0].to(torch.uint8)


def alike(one, two) -> float:
    return float((one == two).float().mean())


@pytest.mark.parametrize("size", [55, 56])
@pytest.mark.parametrize("angle", [-30, -17.3, 0, 8.1, 30, 90])
def test_rotation_is_that_of_torchvision_and_pil(angle, size):
    image = noise(size)
    ours = by(image, angle)
    assert alike(ours, TF.rotate(image, angle, **NEAREST)) > 0.997  # a pixel may lie between two
    assert alike(ours, pil_to_tensor(to_pil_image(image).rotate(angle))) > 0.99
    assert angle % 90 or torch.equal(ours, TF.rotate(image, angle, **NEAREST))


@pytest.mark.parametrize("size", [55, 56, 518])
def test_translation_and_flips_are_exact(size):
    image = noise(size)
    assert torch.equal(by(image), image)
    for shift in ((8, 0), (0, -3), (-5, 7)):
        expected = TF.affine(image, 0.0, list(shift), 1.0, [0.0, 0.0], **NEAREST)
        assert torch.equal(by(image, shift=shift), expected)
    for flips, axes in {(-1, 1): [-1], (1, -1): [-2], (-1, -1): [-1, -2]}.items():
        assert torch.equal(by(image, flips=flips), image.flip(axes))


@pytest.mark.parametrize("flips", [(1, 1), (-1, 1), (1, -1)])
def test_all_at_once_is_one_after_the_other(flips):
    """But where pixels left the image and would have come back."""
    image = torch.cat([noise(), torch.ones(1, SIZE, SIZE, dtype=torch.uint8)])
    ours = by(image, 21.0, (6, -4), flips)
    theirs = TF.affine(TF.rotate(image, 21.0, **NEAREST), 0.0, [6, -4], 1.0, [0.0, 0.0], **NEAREST)
    theirs = theirs.flip([axis for axis, flip in zip((-1, -2), flips, strict=True) if flip < 0])
    inside = theirs[3] == 1
    assert inside.float().mean() > 0.6 and alike(ours[:, inside], theirs[:, inside]) > 0.997
    assert (ours[:3, ours[3] == 0] == 0).all()


def test_draws_are_as_often_and_as_large_as_they_should_be(batch):
    """Of an image whose brightest column says where it went."""
    column = torch.zeros(2000, 3, 20, 20, dtype=torch.uint8)
    column[..., 8] = 255
    many = replace(batch, images=column, masks=None, index=torch.arange(2000))
    _, images = augmented(many, Augment(translation=0.5, share=0.15), data.Preprocess(20), CPU, 0, 0)
    shifts = images[:, 0, 10].argmax(-1) - 8
    counts = [float((shifts == shift).float().mean()) for shift in range(-4, 5)]
    expected = [0, *[0.5 * share for share in (1 / 12, 1 / 6, 1 / 6)]]  # of whole pixels; the last one is half as wide
    assert counts == pytest.approx([*expected, 0.5 + 0.5 / 6, *expected[::-1]], abs=0.03)
    _, images = augmented(many, Augment(flip=0.3), data.Preprocess(20), CPU, 0, 0)
    assert (images[:, 0, 10].argmax(-1) == 11).float().mean() == pytest.approx(0.3, abs=0.03)


def test_colours_are_those_of_pil(batch):
    augment = Augment(colour=0.7, strength=0.5)
    _, images = changed(batch, augment)
    different = 0
    for number, image, ours in zip(batch.index.tolist(), batch.images, images, strict=True):
        draw, theirs = chance("colour", 0, 0, number), to_pil_image(image)
        for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            if draw.random() < 0.7:
                theirs = enhancer(theirs).enhance(1 + draw.uniform(-0.5, 0.5))
        levels = 255 * PREPROCESS.denormalise(ours) - pil_to_tensor(theirs)
        assert levels.abs().max() < 3.5  # each rounds in its way, and the next one may double it
        different += not torch.allclose(ours, PREPROCESS.normalise(image))
    assert different >= 10


def test_the_mask_follows_its_image(batch):
    """Where an image is white on grey exactly where its mask is."""
    white = torch.where(batch.masks, 255, 9).to(torch.uint8)[:, None].repeat(1, 3, 1, 1)
    answers, images = changed(replace(batch, images=white), replace(ALL, colour=0.0))
    assert answers.masks.dtype == torch.bool and batch.masks.any(2).any(1).sum() >= 5
    assert torch.equal(answers.masks, images[:, 0] > 1) and not torch.equal(answers.masks, batch.masks)
    assert torch.equal(answers.labels, batch.labels) and torch.equal(answers.has_mask, batch.has_mask)
    outside = (images == 0).all(1)  # the mean colour
    assert outside.any() and not answers.masks[outside].any()


def test_the_number_of_an_image_decides_and_not_its_batch(batch):
    answers, images = changed(batch)
    for rows in ([3], [7, 0, 3], [*range(11, -1, -1)]):
        some_answers, some_images = changed(some(batch, *rows))
        assert torch.equal(some_images, images[rows]) and torch.equal(some_answers.masks, answers.masks[rows])
    for other in ({"epoch": 1}, {"seed": 1}):
        assert sum(torch.equal(one, two) for one, two in zip(images, changed(batch, **other)[1], strict=True)) <= 1


def test_without_masks_images_are_the_same(batch):
    answers, images = changed(replace(batch, masks=None))
    assert answers.masks is None and torch.equal(images, changed(batch)[1])


def test_nothing_is_done_unless_it_is_asked_for(batch):
    answers, images = changed(batch, Augment())
    assert answers is batch and torch.equal(images, PREPROCESS.normalise(batch.images))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"mosaic": 1.5}, "mosaic is 1.5; it is from 0 to 1"),
        ({"flip": -0.1}, "flip is -0.1; it is from 0 to 1"),
        ({"degrees": 200}, "degrees is 200; it is from 0 to 180"),
        ({"colour": "much"}, "colour is 'much'; it is a finite number"),
    ],
)
def test_bad_settings_are_named(values, named):
    with pytest.raises(ConfigError, match=named):
        Augment(**values)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_the_host_waits_for_nothing(batch):
    device = torch.device("cuda")
    for mode in ("default", "error"):
        torch.cuda.set_sync_debug_mode(mode)
        try:
            pinned = replace(batch, images=batch.images.pin_memory(), masks=batch.masks.pin_memory())
            answers, images = augmented(pinned, ALL, PREPROCESS, device, 0, 0)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    cpu_answers, cpu_images = changed(batch)
    assert ((images.cpu() - cpu_images).abs() < 0.05).float().mean() > 0.99
    assert alike(answers.masks.cpu(), cpu_answers.masks) > 0.99
