"""What is painted: every category and flaw, and the camera that looks at them."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headlens.data.procedural import camera
from headlens.data.procedural.canvas import Canvas
from headlens.data.procedural.catalogue import CATEGORIES, FAMILIES
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.render import (
    COLOURS,
    PLACES,
    as_bytes,
    colour_of,
    place_of,
    render,
)

SIZE, FEW = 56, 3
quick = settings(deadline=None, max_examples=40, derandomize=True)


def keyed(*keys: int) -> Draw:
    return Draw.of(0, "camera", torch.tensor(keys, dtype=torch.int32))


def picture(size: int) -> torch.Tensor:
    """Something like a photograph, [3, S, S]: smooth colours, an edge, a little noise."""
    y, x = np.mgrid[0:size, 0:size] / size
    noise = 0.02 * np.random.default_rng(0).standard_normal((3, size, size))
    disc = ((x - 0.5) ** 2 + (y - 0.45) ** 2 < 0.08) * 0.3
    smooth = np.stack([0.3 + 0.3 * x, 0.5 + 0.2 * np.sin(6 * y), 0.6 - 0.3 * x * y])
    return torch.from_numpy((smooth + disc + noise).clip(0, 1)).float()


# Painters
@pytest.mark.parametrize("name", CATEGORIES)
def test_every_painter(name, draws):
    category = CATEGORIES[name]
    draw, at = draws(category, FEW).fork("scene"), Canvas.blank(FEW, SIZE)
    scene = category.paint(draw, at)
    assert scene.image.shape == (FEW, 3, SIZE, SIZE)
    assert scene.region.shape == (FEW, 1, SIZE, SIZE)
    assert scene.contrast.shape == (FEW, 1, 1, 1)
    shown = [] if category.finish is None else [category.finish(draw.fork("finish"), at, scene.image)]
    for x in (scene.image, scene.region, *shown):
        assert torch.isfinite(x).all()
        assert float(x.min()) >= 0
        assert float(x.max()) <= 1
    assert (scene.region > 0.5).flatten(1).sum(1).min() >= SIZE * SIZE / 200
    assert scene.image.flatten(1).std(1).min() > 0.005, "a picture of nothing"
    assert not torch.equal(scene.image[0], scene.image[1])


@pytest.mark.parametrize("name", CATEGORIES)
def test_every_flaw_paints_something(name, draws):
    category = CATEGORIES[name]
    draw, at = draws(category, FEW), Canvas.blank(FEW, SIZE)
    scene = category.paint(draw.fork("scene"), at)
    severity = torch.full((FEW, 1, 1, 1), 0.9)
    assert category.flaws
    for family in category.flaws:
        flaw = FAMILIES[category.domain][family](draw.fork("flaw 0"), at, scene, severity)
        assert flaw.image.shape == scene.image.shape, family
        assert flaw.alpha.shape == scene.region.shape, family
        assert torch.isfinite(flaw.image).all(), family
        assert 0 <= float(flaw.alpha.min()) <= float(flaw.alpha.max()) <= 1, family
        seen = ((flaw.image.clamp(0, 1) - scene.image).abs().amax(1, keepdim=True) * flaw.alpha).flatten(1).amax(1)
        assert float(seen.max()) > 0.03, (family, seen)  # not each: where the region is small, ``render`` tries again
        assert float(flaw.alpha.mean()) < 0.6, family  # a flaw is a part of the picture


@pytest.mark.parametrize("name", ["wood", "screw", "brain_mri", "dermoscopy"])
def test_a_picture_looks_the_same_at_any_size(name, draws):
    """The scene and the mask at 112 px, pooled to 28, are those at 56 px, pooled to 28."""
    category = CATEGORIES[name]
    flaw = FAMILIES[category.domain][category.flaws[0]]
    large, small = (render(category, flaw, draws(category, 4), size) for size in (112, 56))
    a, b = (torch.nn.functional.adaptive_avg_pool2d(r.scene, 28) for r in (large, small))
    assert float((a - b).abs().mean()) < 0.05
    assert torch.equal(large.severity, small.severity)


def test_ease_leaves_subtle_flaws_out():
    category = CATEGORIES["tile"]
    draw = Draw.of(0, "x", torch.arange(64, dtype=torch.int32))
    severity = render(category, FAMILIES["industrial"]["hole"], draw, 14, ease=0.6).severity
    assert 0.6 <= float(severity.min()) < 0.7
    assert 0.9 < float(severity.max()) < 1
    assert float(render(category, FAMILIES["industrial"]["hole"], draw, 14).severity.min()) < 0.1


# What is known about a picture
@quick
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_colour_names_against_colorsys(r, g, b):
    """Oracle: hue, saturation and value from the standard library, away from the borders between names."""
    hue, saturation, value = colorsys.rgb_to_hsv(r, g, b)
    image = torch.tensor([r, g, b]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    name = COLOURS[int(colour_of(image, torch.ones(1, 1, 8, 8)))]
    if (saturation < 0.1 and value > 0.25) or value < 0.1:
        assert name in ("black", "grey", "white")
        assert (name == "black") == (value < 0.22)
        assert name != "white" or value > 0.75
    if saturation > 0.3 and value > 0.3:
        names = {
            "red": (-0.06, 0.03),
            "orange": (0.03, 0.11),
            "brown": (0.03, 0.11),
            "yellow": (0.11, 0.19),
            "green": (0.19, 0.45),
            "blue": (0.45, 0.7),
            "purple": (0.7, 0.83),
            "pink": (0.83, 0.94),
        }
        low, high = names[name]
        assert low - 1e-3 <= (hue - 1 if name == "red" and hue > 0.5 else hue) <= high + 1e-3


@pytest.mark.parametrize(
    "rgb, name",
    [
        ((0, 0, 0), "black"),
        ((0.5, 0.5, 0.5), "grey"),
        ((1, 1, 1), "white"),
        ((0.9, 0, 0), "red"),
        ((1, 0.5, 0), "orange"),
        ((0.4, 0.2, 0.05), "brown"),
        ((1, 0.95, 0), "yellow"),
        ((0, 0.7, 0.1), "green"),
        ((0.1, 0.2, 0.9), "blue"),
        ((0.5, 0, 0.7), "purple"),
        ((1, 0.4, 0.75), "pink"),
    ],
)
def test_colours_that_everyone_calls_so(rgb, name):
    """Only the region counts; the rest of the picture is of the opposite colour."""
    region = torch.zeros(1, 1, 20, 20)
    region[..., 5:15, 5:15] = 1
    inside = torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1)
    assert COLOURS[int(colour_of(region * inside + (1 - region) * (1 - inside), region))] == name


@pytest.mark.parametrize("row, column, place", [(10, 10, 0), (10, 1, 1), (9, 18, 2), (1, 12, 3), (18, 10, 4)])
def test_places(row, column, place):
    mask = torch.zeros(2, 1, 20, 20, dtype=torch.bool)
    mask[0, 0, row - 1 : row + 1, column - 1 : column + 1] = True
    assert place_of(mask).tolist() == [place, -1]
    assert PLACES[place] == ("in the middle", "on the left", "on the right", "at the top", "at the bottom")[place]


def test_bytes_are_rounded():
    assert as_bytes(torch.tensor([0.0, 0.5 / 255 + 1e-4, 0.4 / 255, 1.0])).tolist() == [0, 1, 0, 255]


# Camera
@pytest.mark.parametrize("key", range(6))
@pytest.mark.parametrize("size", [64, 75])
def test_jpeg_against_pillow(key, size):
    """Oracle: libjpeg at the nearest whole quality. Its damage is ours, in place and in amount."""
    quality = float(keyed(key).uniform(25, 92))
    image = as_bytes(picture(size)[None]).float() / 255
    ours = as_bytes(camera.jpeg(keyed(key), image, p=1.0).clamp(0, 1))[0].double()
    original = as_bytes(image)[0]
    file = io.BytesIO()
    Image.fromarray(original.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=round(quality), subsampling=2)
    theirs = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).double()
    error, reference = (ours - original).square().mean(), (theirs - original).square().mean()
    assert 0.7 < float(error / reference) < 1.4, (quality, float(error), float(reference))
    assert float((ours - theirs).square().mean()) < 0.4 * float(reference), quality
    assert 10 * float((255**2 / (ours - theirs).square().mean()).log10()) > 32


def test_jpeg_is_for_some_and_worse_at_low_quality():
    image = picture(32).expand(400, 3, 32, 32)
    draw = keyed(*range(400))
    assert torch.equal(camera.jpeg(keyed(*range(400)), image, p=0.0), image)
    changed = (camera.jpeg(keyed(*range(400)), image) != image).flatten(1).any(1).float().mean()
    assert abs(float(changed) - 0.4) < 0.1
    error = (camera.jpeg(draw, image, p=1.0) - image).square().flatten(1).mean(1)
    quality = keyed(*range(400)).uniform(25, 92).flatten()
    assert float(torch.corrcoef(torch.stack([quality, error]))[0, 1]) < -0.7


@quick
@given(st.integers(-1000, 1000), st.integers(1, 10))
def test_text_stays_in_its_box(key, n):
    at = Canvas.blank(1, 120).scaled(0.2)  # the picture is 10 x 10 units wide
    ink = camera.text(keyed(key), at, n)
    assert ink.shape == (1, 1, 120, 120)
    assert set(ink.unique().tolist()) == {0.0, 1.0}
    outside = (at.x.abs() > 0.35 * n) | (at.y.abs() > 0.5)
    assert float((ink * outside).sum()) == 0
    per_glyph = [(ink * (((at.x + 0.35 * n) / 0.7).floor() == i)).sum() for i in range(n)]
    assert all(float(x) > 0 for x in per_glyph), "every character is there"


def test_text_can_be_read():
    """What stands in the 3 x 5 cells of each character is one of the glyphs, and 7 is among them and upright."""
    size, n, found = 560, 8, set()
    for key in range(12):
        at = Canvas.blank(1, size).scaled(1 / 2.8)
        ink = camera.text(keyed(key), at, n)[0, 0]
        for i in range(n):
            rows = []
            for row in range(5):
                y = (row + 0.5 + 1) / 7 - 0.5
                cells = [(i + (column + 0.5 + 0.5) / 4) * 0.7 - 0.35 * n for column in range(3)]
                pixels = [int(ink[round((y / 2.8 + 1) * size / 2), round((x / 2.8 + 1) * size / 2)]) for x in cells]
                rows.append("".join(map(str, pixels)))
            found.add("".join(rows))
    assert found <= {f"{glyph:015b}" for glyph in camera._GLYPHS}
    assert len(found) == len(camera._GLYPHS)
    assert "111001010010010" in found


def test_frame_covers_between_nothing_and_all():
    n = 400
    cover, colours = camera.frame(keyed(*range(n)), Canvas.blank(n, 28))
    assert cover.shape == (n, 1, 28, 28)
    assert colours.shape == (n, 3, 28, 28)
    for x in (cover, colours):
        assert torch.isfinite(x).all()
        assert 0 <= float(x.min()) <= float(x.max()) <= 1
    framed = cover.flatten(1).amax(1) > 0
    assert 0.12 < float(framed.float().mean()) < 0.28  # 22 percent; wide apertures reach beyond the picture
    assert float(cover.flatten(1).amax(1).max()) == 1
    assert float(cover[:, :, 10:18, 10:18].max()) == 0, "the middle of the picture is always seen"


@pytest.mark.parametrize("part", ["light", "marks", "tone", "lens", "sensor"])
def test_every_part_of_the_camera_is_harmless_to_most(part):
    n, image = 24, picture(SIZE).expand(24, 3, SIZE, SIZE)
    draw, at = keyed(*range(n)), Canvas.blank(n, SIZE)
    work = getattr(camera, part)
    out = work(draw, image) if part in ("tone", "lens") else work(draw, at, image)
    assert out.shape == image.shape
    assert torch.isfinite(out).all()
    change = (out - image).abs().flatten(1).mean(1)
    assert float((out - image).abs().max()) > 0.02, "it does something"
    assert float(change.median()) < 0.2
