"""What objects lie on, where they lie, and the shadow they throw."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.data.procedural.canvas import Canvas, blur, over
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.fields import colour, noise, ramp, relief, smooth
from headlens.data.procedural.scene import Scene


def either(draw: Draw, *options: Tensor) -> Tensor:
    """One of ``options`` for each sample, all equally likely; name one twice to see it twice as often."""
    kind = draw.integers(len(options))
    chosen = options[0]
    for i, option in enumerate(options[1:], 1):
        chosen = torch.where(kind == i, option, chosen)
    return chosen


def periodic(t: Tensor) -> Tensor:
    """-0.5..0.5, the place of ``t`` within its period of 1."""
    return t - (t + 0.5).floor()


def backdrop(draw: Draw, at: Canvas) -> Tensor:
    """A table, mat, belt or plate [B, 3, S, S], dark to bright, seen from anywhere."""
    upright, at = at, at.posed(draw, 3.1416, (0.7, 1.5), 0.3)
    fine, soft = noise(draw, at, 36, 2), noise(draw, at, 3, 3)
    fibre = noise(draw, at, 44, 1, stretch=16)
    pitch = draw.uniform(4, 16)  # of whatever repeats, in 1/canvas
    u, v = at.x * pitch, at.y * pitch
    row = v.floor()
    du, dv = periodic(u) / pitch, periodic(v) / pitch
    wide = draw.uniform(0.08, 0.22) / pitch

    lines = torch.maximum(at.line(du, 0.4 * wide), at.line(dv, 0.4 * wide))
    major = torch.minimum((periodic(u / 5) / pitch * 5).abs(), (periodic(v / 5) / pitch * 5).abs())
    mat = torch.maximum(lines * 0.6, at.line(major, 0.9 * wide))
    weave = 0.5 + 0.25 * ((6.2832 * 2.5 * u).sin() + (6.2832 * 2.5 * v).sin() * draw.uniform(-1, 1)) + 0.15 * fine
    wood = 0.5 + 0.4 * (6.2832 * (u * 0.6 + 0.5 * soft)).sin() + 0.2 * fibre
    edge = draw.uniform(0.5, 1.1)
    rails = at.fill(edge - at.x.abs())
    belt = 0.25 * smooth(0.2, 0.5, periodic(v).abs()) + 0.08 * fine + rails * (0.6 + 0.2 * fibre)
    half = at.moved(draw.uniform(-0.6, 0.6), 0.0)
    table = at.fill(half.x) * 0.85 + 0.3 * (-half.x.clamp(min=0) * 12).exp() + 0.05 * fibre
    stagger = periodic(u + 0.5 * torch.remainder(row, 2)) / pitch
    off_centre = (v - row - 0.5) / pitch
    hole = (stagger.square() + off_centre.square() + 1e-12).sqrt() - draw.uniform(0.18, 0.4) / pitch
    plate = at.fill(hole) + 0.1 * fibre * at.fill(-hole)
    tone = periodic((row * 12.9898 + (u + 0.5 * torch.remainder(row, 2)).floor() * 78.233).sin() * 43.7)
    boards = 0.4 + 0.5 * tone + 0.15 * fibre + 0.4 * at.line(off_centre.abs() - 0.5 / pitch, wide)
    pattern = either(
        draw,
        0.1 + 0.05 * fine,  # plain
        0.5 + 0.45 * at.x + 0.03 * fine,  # gradient
        weave,
        wood,
        mat,
        0.45 + 0.35 * fibre + 0.1 * soft,  # brushed metal
        belt,
        table,
        smooth(0.5, 1.1, fine) + 0.1 * soft,  # speckled
        plate,
        boards,
        0.5 + 0.5 * torch.tanh(3 * periodic(0.5 * u) * 4),  # wide stripes
    )
    grey = colour(draw, (0, 1), (0.0, 0.12), (0.04, 0.95))
    base = either(draw, grey, grey, colour(draw, (0, 1), (0.15, 0.7), (0.15, 0.9)))
    other = colour(draw, (0, 1), (0.0, 0.6), (0.05, 0.95))
    kin = (base * draw.uniform(0.25, 1.5) + draw.uniform(-0.1, 0.2)).clamp(0, 1)
    image = ramp(pattern, base, either(draw, kin, kin, other))
    emboss = relief(0.012 * pattern, draw.fork("light"), draw.uniform(0, 1.2))
    side = draw.uniform(0, 6.2832)
    lamp = draw.uniform(0, 0.35) * (side.cos() * upright.x + side.sin() * upright.y)
    return (image * (1 + 0.35 * emboss + lamp)).clamp(0, 1)


def placed(draw: Draw, at: Canvas) -> Canvas:
    """Where an object painted in the unit disc lies: mostly once, anywhere, at any angle.

    In a quarter of the samples it lies in rows of copies, whose neighbours are cut by the border of the picture.
    """
    several = draw.chance(0.25)
    alone = 1 - several
    cell = alone + several * draw.uniform(0.42, 0.9)
    at = at.turned(several * draw.uniform(0, 6.2832)).moved(
        several * draw.uniform(-1, 1), several * draw.uniform(-1, 1)
    )
    column, line = ((at.x / cell + 1) / 2).floor(), ((at.y / cell + 1) / 2).floor()
    at = Canvas(at.x / cell - 2 * column, at.y / cell - 2 * line, at.pixel / cell)
    tumbled = several * draw.chance(0.5)
    at = at.turned(tumbled * (column * 2.4 + line * 1.7))
    reach = alone * 0.2
    at = at.moved(reach * draw.uniform(-1, 1), reach * draw.uniform(-1, 1)).scaled(
        1 - alone * draw.uniform(-0.05, 0.33)
    )
    return at.posed(draw, scale=(0.64, 0.86), shift=0.06)


def stand(draw: Draw, at: Canvas, image: Tensor, cover: Tensor) -> Scene:
    """An object [B, 3, S, S] seen where ``cover`` [B, 1, S, S] says so, on a backdrop, with its shadow.

    Args:
        draw: the shadow falls away from the light of ``draw.fork("light")``, by which objects are shaded.
        at: the upright canvas.
        image, cover: the object.
    """
    below = backdrop(draw.fork("backdrop"), at)
    angle, far = draw.fork("light").uniform(0, 6.2832), draw.uniform(0.0, 0.09)
    grid = torch.cat([at.x + far * angle.cos(), at.y + far * angle.sin()], 1).permute(0, 2, 3, 1)
    shade = F.grid_sample(blur(cover, 0.016 * at.size), grid, "bilinear", "border", align_corners=False)
    below = below * (1 - draw.uniform(0.2, 0.75) * shade)
    image = over(below, image.clamp(0, 1), cover)
    return Scene(image.clamp(0, 1), (cover > 0.5).to(image.dtype), torch.ones_like(at.pixel))
