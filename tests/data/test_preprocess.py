"""Preprocessing against torchvision and open_clip, and maps that come back to where they were."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from headlens.data.preprocess import CLIP_MEAN, CLIP_STD, Preprocess
from headlens.data.samples import Pixels
from headlens.errors import DataError, ShapeError

quick = settings(deadline=None, max_examples=40, derandomize=True)
sides = st.integers(1, 90)


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def blobs(height: int, width: int, seed: int = 0) -> Tensor:
    coarse = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0, 0] > 0.6


def picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


@quick
@given(sides, sides, st.sampled_from([14, 56, 70]))
def test_images_have_the_bytes_of_torchvision(height, width, size):
    image = noise(height, width)
    resized = transforms.Resize((size, size), InterpolationMode.BICUBIC)(picture(image))
    assert torch.equal(Preprocess(size).image(image), transforms.functional.pil_to_tensor(resized))


def test_large_images_are_resized_channel_by_channel_to_the_same_bytes(monkeypatch):
    for fit in ("squash", "pad"):
        images = [noise(91, 57, seed) for seed in range(3)]
        whole = [Preprocess(28, fit).image(image) for image in images]
        with monkeypatch.context() as large:
            large.setattr("headlens.data.preprocess._LARGE", 1)
            assert all(torch.equal(Preprocess(28, fit).image(i), w) for i, w in zip(images, whole, strict=True))


@pytest.mark.parametrize("height, width", [(700, 900), (300, 200), (518, 518)])
def test_normalised_images_are_open_clips(height, width):
    from open_clip.transform import PreprocessCfg, image_transform_v2

    image, preprocess = noise(height, width), Preprocess()
    theirs = image_transform_v2(PreprocessCfg(size=518, resize_mode="squash", interpolation="bicubic"), is_train=False)
    assert torch.equal(preprocess.normalise(preprocess.image(image)), theirs(picture(image)))
    assert (PreprocessCfg().mean, PreprocessCfg().std) == (CLIP_MEAN, CLIP_STD), "those of a backbone without a recipe"


@quick
@given(sides, sides, st.sampled_from([14, 56, 70]), st.integers(0, 5))
def test_masks_are_those_of_published_code(height, width, size, seed):
    """Resize with torchvision's default filter, CenterCrop, ToTensor, then > 0.5."""
    mask = blobs(height, width, seed)
    published = transforms.Compose(
        [transforms.Resize((size, size)), transforms.CenterCrop(size), transforms.ToTensor(), lambda x: x[0] > 0.5]
    )
    assert torch.equal(Preprocess(size).mask(mask), published(Image.fromarray(mask.to(torch.uint8).mul(255).numpy())))


@quick
@given(sides, sides, st.sampled_from([14, 56, 70]))
def test_padding_keeps_the_shape(height, width, size):
    preprocess = Preprocess(size, fit="pad")
    top, left, rows, columns = preprocess.frame((height, width))
    assert max(rows, columns) == size
    assert (
        abs(rows * width / height - columns) <= max(width / height, height / width) / 2 + 0.5 or min(rows, columns) == 1
    )
    assert abs(2 * top + rows - size) <= 1, "centred"
    assert abs(2 * left + columns - size) <= 1
    inside = preprocess.inside((height, width))
    assert int(inside.sum()) == rows * columns
    assert bool(inside[top : top + rows, left : left + columns].all())

    image = preprocess.image(noise(height, width))
    resized = transforms.Resize((rows, columns), InterpolationMode.BICUBIC)(picture(noise(height, width)))
    assert torch.equal(image[:, inside], transforms.functional.pil_to_tensor(resized).flatten(1))
    assert float(preprocess.normalise(image)[:, ~inside].abs().max() if not inside.all() else 0) < 0.01
    full = preprocess.mask(torch.ones(height, width, dtype=torch.bool))
    assert torch.equal(full, inside), "padding is never a flaw, and all of the picture can be one"


def test_pad_of_a_square_is_squash():
    image, mask = noise(80, 80), blobs(80, 80)
    squash, pad = (Preprocess(56, fit)(Pixels(image, mask)) for fit in ("squash", "pad"))
    assert torch.equal(squash.image, pad.image)
    assert torch.equal(squash.mask, pad.mask)


@quick
@given(st.integers(30, 120), st.integers(30, 120), st.sampled_from(["squash", "pad"]), st.floats(0.2, 0.8))
def test_restore_brings_a_spot_back_to_its_place(height, width, fit, at):
    """The centre of mass of a resized spot, restored, is that of the spot."""
    preprocess = Preprocess(56, fit)
    y, x = torch.arange(height)[:, None], torch.arange(width)[None]
    row, column = at * height, (1 - at) * width
    spot = ((y - row) / height).square() + ((x - column) / width).square() < 0.15**2
    back = preprocess.restore(preprocess.mask(spot).float()[None, None], (height, width))
    assert back.shape == (1, 1, height, width)
    for axis, steps in ((-2, y), (-1, x)):
        mean = [float((m * steps).sum() / m.sum()) for m in (spot.float(), back[0, 0])]
        assert abs(mean[0] - mean[1]) < 0.02 * back.shape[axis] + 0.5
    assert float((back[0, 0].round() == spot).float().mean()) > 0.95


def test_restore_leaves_constants_and_padding_out():
    preprocess, native = Preprocess(56, fit="pad"), (20, 80)
    inside = preprocess.inside(native)
    maps = torch.where(inside, 0.25, 9.0)
    torch.testing.assert_close(preprocess.restore(maps, native), torch.full(native, 0.25))
    with pytest.raises(ShapeError, match=r"\(28, 28\); expected \[\.\.\., 56, 56\]"):
        preprocess.restore(torch.zeros(28, 28), native)


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_native_masks_are_left_alone(fit):
    mask = blobs(31, 47)
    prepared = Preprocess(14, fit, "native")(Pixels(noise(31, 47), mask))
    assert torch.equal(prepared.mask, mask)
    assert prepared.native == (31, 47)
    assert prepared.image.shape == (3, 14, 14)
    assert Preprocess(14)(Pixels(noise(31, 47), None)).mask is None


def test_what_is_refused():
    with pytest.raises(DataError, match=r"the mask is 30x40 .* its image 40x30"):
        Preprocess(14)(Pixels(noise(40, 30), blobs(30, 40)))
    for wrong in ({"fit": "crop"}, {"masks": "nearest"}, {"size": 0}, {"size": "56"}, {"size": 56.0}):
        with pytest.raises(DataError, match=str(next(iter(wrong.values())))):
            Preprocess(**wrong)
    assert math.isclose(float(Preprocess(4).normalise(torch.zeros(3, 1, 1)).mean()), -1.6365, abs_tol=0.05)
