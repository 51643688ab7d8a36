"""From a category, a flaw and a key to a picture and its mask."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headlens.data.procedural import camera
from headlens.data.procedural.canvas import Canvas, blur, over
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.scene import Category, FlawPainter, Scene

ATTEMPTS = 3  # places tried for a flaw; the last one may lie anywhere in the picture


@dataclass(frozen=True)
class Rendered:
    """Pictures of one category, all with one flaw or all without.

    Args:
        scene: [B, 3, S, S] in 0..1, before distractors: outside the mask it is the normal twin's.
        image: [B, 3, S, S] in 0..1, as the camera shows it.
        mask: [B, 1, S, S] bool, the flaw.
        severity: [B] in 0..1, 0 for normal pictures.
        region: [B, 1, S, S], where flaws may be.
    """

    scene: Tensor
    image: Tensor
    mask: Tensor
    severity: Tensor
    region: Tensor


def render(category: Category, flaw: FlawPainter | None, draw: Draw, size: int, ease: float = 0.0) -> Rendered:
    """Pictures [B, 3, size, size] of ``category``; with ``flaw`` None the normal twins of the same draws.

    Args:
        category: what is painted.
        flaw: from ``DEFECTS`` or ``LESIONS``.
        draw: of B samples.
        size: pixels along a side; the same draws make the same picture at any size.
        ease: severities are drawn from ``ease``..1: above 0 subtle flaws are left out.
    """
    at = Canvas.blank(len(draw.keys), size, draw.device)
    normal = category.paint(draw.fork("scene"), at)
    normal = replace(normal, region=(normal.region > 0.5).float())
    shown = draw.fork("camera")
    cover, colours = camera.frame(shown, at)
    scene, mask = normal.image, torch.zeros_like(normal.region, dtype=torch.bool)
    severity = torch.zeros_like(at.pixel)
    if flaw is not None:
        severity = draw.fork("severity").uniform(ease, 1.0)
        scene, mask = _flawed(flaw, draw, at, normal, (cover == 0).float(), severity)
    image = scene if category.finish is None else category.finish(draw.fork("finish"), at, scene)
    image = camera.marks(shown, at, camera.light(shown, at, image).clamp(0, 1)).clamp(0, 1)
    image = camera.sensor(shown, at, camera.lens(shown, camera.tone(shown, image)))
    image = camera.jpeg(shown, over(image, colours, cover)).clamp(0, 1)
    return Rendered(scene, image, mask, severity.flatten(), normal.region)


def _flawed(
    flaw: FlawPainter, draw: Draw, at: Canvas, normal: Scene, bare: Tensor, severity: Tensor
) -> tuple[Tensor, Tensor]:
    """The scene with a flaw that is neither invisible nor a few pixels, where it is ``bare`` of frames.

    A picture that is called anomalous must be: a change that would drown in the tissue or texture under it, in a grey
    picture or because it is small, is amplified, and a flaw under 1/1500 of the picture is painted elsewhere.
    """
    grey = normal.image.mean(1, keepdim=True)
    rough = (grey - blur(grey, at.size / 56)).abs()
    scene = normal.image
    mask = torch.zeros_like(normal.region, dtype=torch.bool)
    done = torch.zeros_like(severity, dtype=torch.bool)
    for attempt in range(ATTEMPTS):
        region = bare * normal.region if attempt + 1 < ATTEMPTS else bare
        painted = flaw(draw.fork(f"flaw {attempt}"), at, Scene(normal.image, region, normal.contrast), severity)
        alpha = ((painted.alpha * region - 0.1) / 0.9).clamp(0, 1)  # its faintest fringe is not in the mask
        here = alpha > 0
        change = (painted.image.clamp(0, 1) - normal.image) * alpha
        area = here.double().mean((1, 2, 3), keepdim=True)
        share = here / area.clamp(min=1e-9)
        seen = torch.maximum(change.mean(1, keepdim=True).abs(), 0.6 * change.abs().mean(1, keepdim=True))
        visible = (seen.double() * share).mean((1, 2, 3), keepdim=True)
        hidden = (rough.double() * share).mean((1, 2, 3), keepdim=True)
        wanted = (0.06 + 0.06 * severity + 0.08 * (1 - area / 0.01).clamp(0, 1)) + 0.6 * hidden
        gain = (wanted / visible.clamp(min=1e-3)).clamp(1, 5).float()
        flawed = torch.where(here, (normal.image + change * gain).clamp(0, 1), normal.image)
        fits = ((area > 1 / 1500) & (visible > 0.01)) if attempt + 1 < ATTEMPTS else torch.ones_like(done)
        fresh = fits & ~done
        scene, mask = torch.where(fresh, flawed, scene), torch.where(fresh, here, mask)
        done = done | fits
        if bool(done.all()):
            break
    return scene, mask


COLOURS = ("black", "grey", "white", "brown", "red", "orange", "yellow", "green", "blue", "purple", "pink")


def colour_of(image: Tensor, region: Tensor) -> Tensor:
    """The colour of what is shown, by name: [B] int64 into ``COLOURS``."""
    weight = region.double() + 1e-6
    rgb = (image.double() * weight).sum((2, 3)) / weight.sum((2, 3))  # (B, 3)
    value, low = rgb.amax(1), rgb.amin(1)
    chroma = value - low
    r, g, b = rgb.unbind(1)
    safe = chroma.clamp(min=1e-6)
    hue = torch.where(value == r, (g - b) / safe, torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    hue = torch.remainder(hue / 6, 1.0)
    edges = torch.tensor([0.03, 0.11, 0.19, 0.45, 0.70, 0.83, 0.94], dtype=hue.dtype, device=hue.device)
    named = torch.tensor([4, 5, 6, 7, 8, 9, 10, 4], device=hue.device)[torch.bucketize(hue, edges)]
    named = torch.where((named == 5) & (value < 0.65), 3, named)  # a dark orange is called brown
    plain = torch.where(value < 0.22, 0, torch.where(value > 0.78, 2, 1))
    return torch.where((chroma < 0.15 * value.clamp(min=0.2)) | (value < 0.12), plain, named)


def place_of(mask: Tensor) -> Tensor:
    """Where the flaw is: [B] int64 into ``PLACES``, -1 without one."""
    size = mask.shape[-1]
    axis = torch.linspace(-1, 1, size, dtype=torch.float64, device=mask.device)
    weight = mask[:, 0].double()
    total = weight.sum((1, 2))
    x = (weight.sum(1) * axis).sum(1) / total.clamp(min=1)
    y = (weight.sum(2) * axis).sum(1) / total.clamp(min=1)
    sideways = x.abs() > y.abs()
    place = torch.where(sideways, torch.where(x < 0, 1, 2), torch.where(y < 0, 3, 4))
    place = torch.where(torch.maximum(x.abs(), y.abs()) < 0.3, 0, place)
    return torch.where(total > 0, place, -1)


PLACES = ("in the middle", "on the left", "on the right", "at the top", "at the bottom")


def as_bytes(image: Tensor) -> Tensor:
    """0..1 to uint8, rounded."""
    return (image * 255).round().clamp(0, 255).to(torch.uint8)
