"""Clips of parts that pass a camera on a belt, painted from a seed; in half of them something happens.

    contamination   crumbs lie on a part and around it
    missing         a part is not there
    spill           something has run out over the belt
    dark            the lamp gets dim
    standstill      the belt stands still: no single frame shows it

A clip is one long picture of the belt, of which every frame shows a square. Lengths along the belt are in half widths
of a frame: part k is at 2 k.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headlens.data.procedural import camera
from headlens.data.procedural.backdrops import backdrop
from headlens.data.procedural.canvas import Canvas, blur, over
from headlens.data.procedural.defects import blob, soft
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.fields import cells, colour, hsv
from headlens.data.procedural.render import as_bytes
from headlens.data.procedural.scene import Category, Scene

NORMAL = "good"
KINDS = ("contamination", "missing", "spill", "dark", "standstill")
SHORTEST, LONGEST = 16, 48
_SEEN = 0.8  # how far from the middle of a frame the middle of something is seen
_TRIES = 4  # to paint a part that no border cuts
_SPACE = 0.85  # what a part takes of its place


@dataclass(frozen=True)
class Clip:
    """A clip.

    Args:
        frames: [n, 3, S, S] uint8.
        anomalous: [n] bool, in which frames something happens.
    """

    frames: Tensor
    anomalous: Tensor


def truth(kind: str, draw: Draw) -> tuple[Tensor, Tensor, int]:
    """How far the belt has travelled at every frame [n], in which frames something happens [n], and to which part."""
    count = SHORTEST + int(draw.fork("length").integers(LONGEST - SHORTEST + 1))
    moves = draw.fork("belt")
    speed, length = float(moves.uniform(0.14, 0.22)), 5 + int(moves.integers(4))
    begin = 3 + int(moves.integers(count - length - 5))
    time = torch.arange(count)
    during = (time >= begin) & (time < begin + length)
    still = during if kind == "standstill" else torch.zeros_like(during)
    steps = (~still).float()
    travelled = speed * (steps.cumsum(0) - steps[0])
    part = 1 + int(moves.integers(max(1, int(travelled[-1] / 2))))
    if kind in ("dark", "standstill"):
        return travelled, during, part
    passing = (2 * part - travelled).abs() < _SEEN
    return travelled, passing if kind != NORMAL else torch.zeros_like(passing), part


def clip(category: Category, kind: str, draw: Draw, size: int) -> Clip:
    """Paints a clip.

    Args:
        category: of the parts.
        kind: one of ``KINDS``, or ``NORMAL``.
        draw: of this clip alone.
        size: pixels along a side.
    """
    travelled, anomalous, part = truth(kind, draw)
    strip = _strip(category, kind, part, draw, size, places=int(travelled[-1] / 2) + 2)
    begins = (travelled * (size / 2)).round().long().tolist()
    frames = torch.stack([strip[..., begin : begin + size] for begin in begins])
    dim = draw.fork("dark").uniform(0.2, 0.4).flatten() if kind == "dark" else torch.ones(1)
    return Clip(_filmed(frames, torch.where(anomalous, dim, torch.ones(1)), draw), anomalous)


def _strip(category: Category, kind: str, part: int, draw: Draw, size: int, places: int) -> Tensor:
    """The belt and all parts on it, [3, S, places S]."""
    at = Canvas.blank(1, size)
    normal = _part(category, draw, at)
    ground = _apart(backdrop(draw.fork("backdrop"), at), normal)
    belt = torch.cat([ground.flip(-1) if k % 2 else ground for k in range(places)], -1)
    if kind == "spill":
        wide = Canvas(
            torch.cat([at.x + 2 * (k - part) for k in range(places)], -1), at.y.repeat(1, 1, 1, places), at.pixel
        )
        belt = _spilt(draw.fork("spill"), wide, belt)
    turns = draw.fork("turns").integers(4, (places,)).flatten().tolist()
    for k, turn in enumerate(turns):
        if k == part and kind == "missing":
            continue
        place = (..., slice(k * size, (k + 1) * size))
        region = normal.region
        cover = (2 * blur(region, size / 112) - 1).clamp(
            0, 1
        )  # without its outermost pixels, which show another ground
        shade = 1 - 0.45 * blur(region, size / 20)
        lying, cover, shade = (torch.rot90(one, turn, (2, 3)) for one in (normal.image, cover, shade))
        belt[place] = over(belt[place] * shade, lying, cover)
        if k == part and kind == "contamination":
            belt[place] = _littered(draw.fork("crumbs"), at, belt[place])
    return camera.lens(draw.fork("lens"), belt.mT)[0].mT  # by its height, which is that of a frame


def _part(category: Category, draw: Draw, at: Canvas) -> Scene:
    """One part in the middle of its place."""
    scene = category.paint(draw.fork("part 0"), at.scaled(_SPACE))
    for attempt in range(1, _TRIES):
        region = scene.region > 0.5
        if not (region[..., [0, -1], :].any() or region[..., [0, -1]].any()):
            break
        scene = category.paint(draw.fork(f"part {attempt}"), at.scaled(_SPACE))
    return scene


def _apart(ground: Tensor, lying: Scene) -> Tensor:
    """The ground, lighter or darker where a part on it would not be seen."""
    level, share = ground.mean(), lying.region.mean().clamp(min=1e-6)
    away = level - (lying.image * lying.region).mean() / share
    more = (0.2 - away.abs()).clamp(min=0) * torch.where(level > 0.5, -1.0, 1.0)
    return (ground + more).clamp(0, 1) if away.abs() < 0.2 else ground


def _spilt(draw: Draw, near: Canvas, belt: Tensor) -> Tensor:
    """Something that has run out, darker at its edge, with a gleam."""
    outline = blob(draw, near, 0.7, 0.95, 0.5)
    value = (0.6, 0.9) if belt.mean() < 0.4 else (0.05, 0.25)
    tint = colour(draw, (0, 1), (0.4, 0.9), value)
    gleam = soft(near.moved(-0.2, -0.25).ellipse(0.25, 0.08), 0.08)
    wet = belt * 0.2 + tint * (0.8 - 0.2 * soft(outline.abs(), 0.06)) + 0.3 * gleam
    return over(belt, wet, 0.9 * soft(outline, 0.03)).clamp(0, 1)


def _littered(draw: Draw, near: Canvas, belt: Tensor) -> Tensor:
    """Crumbs and chips of a colour that is not the part's, on it and around it."""
    first, _, ident = cells(draw, near, 6, 0.9)
    within = blob(draw, near, 0.7, 0.9) < 0
    crumb = near.fill((first - 0.32 * (0.6 + 0.8 * ident)) / 3) * within
    tone = hsv(draw.uniform() + 0.1 * ident, draw.uniform(0.4, 0.95), draw.uniform(0.2, 0.95))
    return over(belt, tone * (1.1 - 0.5 * first), 0.9 * crumb).clamp(0, 1)


def _filmed(frames: Tensor, lamp: Tensor, draw: Draw) -> Tensor:
    """Frames [n, 3, S, S] as a camera that stands still has them, with a lamp [n] that flickers; uint8."""
    shown, at = draw.fork("camera"), Canvas.blank(1, frames.shape[-1])
    flicker = lamp * (1 + 0.02 * shown.normal((len(frames),)).flatten())
    lit = camera.light(shown, at, frames).clamp(0, 1) * flicker[:, None, None, None]
    image = camera.tone(shown, lit.clamp(0, 1))
    noise = draw.fork("noise").uniform(-1, 1, tuple(frames.flatten(0, 1).shape)).unflatten(1, frames.shape[:2])[0]
    return as_bytes((image + shown.uniform(0, 0.05) * noise).clamp(0, 1))
