"""PIL's bytes without PIL."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from headlens.data import Loader, Pixels, Preprocess
from headlens.data.loading import ahead
from headlens.data.resizing import as_pil, resized
from headlens.data.samples import DataSet, Record

CPU = torch.device("cpu")
SIZES = [
    ((70, 102), (52, 52)),
    ((102, 70), (52, 52)),
    ((30, 41), (56, 56)),
    ((41, 30), (56, 56)),
    ((56, 100), (56, 20)),
    ((10, 10), (9, 11)),
    ((900, 20), (14, 14)),
    ((23, 23), (23, 23)),
]


@pytest.mark.parametrize(("native", "size"), SIZES)
@pytest.mark.parametrize("way", ["bilinear", "bicubic"])
def test_the_bytes_are_pils(native, size, way):
    draw = np.random.default_rng(1)
    noise, edges = (
        draw.integers(0, 256, (*native, 3), dtype=np.uint8),
        (draw.random((*native, 3)) < 0.5) * np.uint8(255),
    )
    assert as_pil(native, size, way, CPU)
    for picture in (noise, edges):
        expected = np.array(Image.fromarray(picture).resize(size[::-1], getattr(Image.Resampling, way.upper())))
        found = resized(torch.from_numpy(picture).permute(2, 0, 1), size, way)
        assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


def test_preprocessing_is_the_same_on_a_device():
    preprocess, generator = Preprocess(56), torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 3, 90, 70), dtype=torch.uint8, generator=generator)
    masks = torch.rand(2, 90, 70, generator=generator) < 0.3
    assert preprocess.same_on_device((90, 70), CPU) and not Preprocess(56, fit="pad").same_on_device((90, 70), CPU)
    prepared = [preprocess(Pixels(image, mask)) for image, mask in zip(images, masks, strict=True)]
    assert torch.equal(preprocess.images_on_device(images), torch.stack([one.image for one in prepared]))
    assert torch.equal(preprocess.masks_on_device(masks), torch.stack([one.mask for one in prepared]))


class Noise(DataSet):
    has_masks = True

    def pixels(self, i):
        generator = torch.Generator().manual_seed(i)
        side = (60, 80, 56)[i % 3]
        image = torch.randint(256, (3, side, side), dtype=torch.uint8, generator=generator)
        return Pixels(image, torch.rand(side, side, generator=generator) < (0.2 if i % 2 else 0.0))

    def where(self, keep):
        raise NotImplementedError


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_batches_that_are_resized_on_a_gpu():
    noise = Noise("noise", "industrial", [Record(f"a/{i}", "a", i % 2 == 1) for i in range(12)])
    here = Loader(noise, Preprocess(56), 5, normalise=False)
    there = Loader(noise, Preprocess(56), 5, normalise=False, device=torch.device("cuda"))
    for a, b in zip(here, there, strict=True):
        assert b.images.is_cuda and torch.equal(a.images, b.images.cpu())
        assert torch.equal(a.masks, b.masks)


def test_items_made_ahead_end_with_who_asks():
    closed = []

    def items():
        try:
            for i in range(100):
                if i == 5:
                    raise ValueError("the sixth")
                yield i
        finally:
            closed.append(True)

    found = []
    with pytest.raises(ValueError, match="the sixth"):
        found.extend(ahead(items()))
    assert closed == [True]
    assert next(ahead(items())) == 0  # leaves early
    assert closed == [True, True]
