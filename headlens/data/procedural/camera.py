"""What makes photographs and scans hard to read, flaw or no flaw: light, marks, lens, sensor, JPEG, frames.

Each part is on for some samples only. All of it is drawn apart from the flaw, so that a sample and its normal twin
have the same.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.data.procedural.canvas import Canvas, blur, over
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.fields import colour, grain, noise, relief, smooth

# Digits and some capitals as 3 x 5 bits, row by row from the top left.
_GLYPHS = (
    *(0b111101101101111, 0b010110010010111, 0b111001111100111, 0b111001111001111, 0b101101111001001),
    *(0b111100111001111, 0b111100111101111, 0b111001010010010, 0b111101111101111, 0b111101111001111),
    *(0b010101111101101, 0b111100110100111, 0b101101111101101, 0b100100100100111, 0b110101110101101, 0b111010010010010),
)
# The quantisation tables of the JPEG standard (ITU T.81, annex K), for quality 50.
_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61),
    *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77),
    *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101),
    *(72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    *(17, 18, 24, 47, 99, 99, 99, 99),
    *(18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99),
    *(47, 66, 99, 99, 99, 99, 99, 99),
    *(99, 99, 99, 99, 99, 99, 99, 99),
    *(99, 99, 99, 99, 99, 99, 99, 99),
    *(99, 99, 99, 99, 99, 99, 99, 99),
    *(99, 99, 99, 99, 99, 99, 99, 99),
)


def text(draw: Draw, at: Canvas, n: int = 8) -> Tensor:
    """Coverage of one line of ``n`` characters, [0, 1] high and centred at the origin."""
    u, v = (at.x + 0.35 * n) / 0.7, (at.y + 0.5) * 7 - 1
    column, row = torch.remainder(u, 1.0) * 4 - 0.5, v
    glyphs = torch.tensor(_GLYPHS, device=at.x.device)
    chosen = glyphs[draw.integers(len(_GLYPHS), (n,))]  # (B, n)
    which = u.floor().clamp(0, n - 1).long().flatten(1)
    bits = chosen.gather(1, which).view_as(u)
    bit = 14 - (row.floor().clamp(0, 4) * 3 + column.floor().clamp(0, 2)).long()
    inside = (u >= 0) & (u < n) & (row >= 0) & (row < 5) & (column >= 0) & (column < 3)
    return torch.bitwise_right_shift(bits, bit).bitwise_and(1) * inside.float()


def light(draw: Draw, at: Canvas, image: Tensor) -> Tensor:
    """Light falling off to one side or to the corners, shadows of things outside the picture, glare."""
    angle = draw.uniform(0, 6.2832)
    slope = draw.uniform(0, 0.35) * draw.chance(0.6) * (angle.cos() * at.x + angle.sin() * at.y)
    corners = draw.uniform(0, 0.35) * draw.chance(0.3) * (at.x.square() + at.y.square()) / 2
    image = image * (1 + slope - corners)
    edge = at.turned(draw.uniform(0, 6.2832)).y - draw.uniform(-0.7, 0.9) + 0.15 * noise(draw, at, 2, 2)
    width = draw.uniform(0.01, 0.25)
    image = image * (1 - draw.chance(0.25) * draw.uniform(0.15, 0.5) * smooth(-width, width, edge))
    spot = at.moved(draw.uniform(-1, 1), draw.uniform(-1, 1)).turned(draw.uniform(0, 3.14))
    shape = spot.ellipse(draw.uniform(0.05, 0.5), draw.uniform(0.05, 0.3)) + 0.04 * noise(draw, at, 5, 2)
    glare = draw.chance(0.25) * draw.uniform(0.2, 0.9) * smooth(draw.uniform(0.05, 0.3), -0.02, shape)
    return image + (1 - image) * glare


def marks(draw: Draw, at: Canvas, image: Tensor) -> Tensor:
    """Print, scale bars, rulers, crosses and hairs over the picture; dust and smears on the lens."""
    ink = draw.chance(0.6).expand(-1, 3, -1, -1) * colour(draw, (0, 1), (0, 0.5), (0.8, 1)) + 0.04
    size = draw.uniform(0.05, 0.12)
    upright = draw.uniform() < 0.7
    x, y = draw.uniform(-0.7, 0.7), draw.uniform(0.75, 0.95) * draw.uniform(-1, 1).sign()
    line = at.moved(x, y).turned(torch.where(upright, 0.0, draw.uniform(-1.6, 1.6))).scaled(size)
    for shift in (0.0, 1.3):
        image = over(image, ink, draw.chance(0.22) * text(draw, line.moved(0.0, -shift * y.sign()), 7))
    bar = at.moved(draw.uniform(-0.6, 0.6), draw.uniform(0.7, 0.95) * draw.uniform(-1, 1).sign())
    length = draw.uniform(0.1, 0.35)
    ticks = (
        (torch.remainder(bar.x / draw.uniform(0.03, 0.06), 1.0) < 0.3) & (bar.y.abs() < 0.03) & (bar.x.abs() < length)
    )
    ruler = bar.fill(bar.box(length, 0.008)).maximum(ticks.float() * draw.chance(0.5))
    image = over(image, ink, draw.chance(0.15) * ruler)
    cross = at.moved(draw.uniform(-0.9, 0.9), draw.uniform(-0.9, 0.9))
    plus = cross.fill(cross.box(0.045, 0.006)).maximum(cross.fill(cross.box(0.006, 0.045)))
    image = over(image, ink, draw.chance(0.12) * plus)
    start = draw.uniform(-1, 1), draw.uniform(-1, 1), draw.uniform(0, 6.2832), draw.uniform(0.6, 2.0)
    hair = draw.chance(0.2) * at.line(at.walk(draw, *start, 0.4, 6), draw.uniform(0.006, 0.014))
    image = over(image, image * 0.25, hair)
    dust = smooth(1.75, 2.1, noise(draw, at, 26, 1)) * draw.chance(0.2)
    image = over(image, image * draw.uniform(0.3, 1.6), dust)
    smear = smooth(0.4, 1.6, noise(draw, at.turned(draw.uniform(0, 3.14)), 4, 2, stretch=5)) * draw.chance(0.15)
    return over(image, image * 0.75 + 0.2, 0.6 * smear)


def frame(draw: Draw, at: Canvas) -> tuple[Tensor, Tensor]:
    """Borders, bands beside the picture, round apertures: what covers it [B, 1, S, S], and with what [B, 3, S, S]."""
    width, height = draw.uniform(0.78, 0.97), draw.uniform(0.78, 0.97)
    sides = draw.integers(3)  # all round, left and right, above and below
    inner = at.box(torch.where(sides == 2, 2.0, width), torch.where(sides == 1, 2.0, height), draw.uniform(0, 0.08))
    inner = torch.where(draw.uniform() < 0.3, at.disc(draw.uniform(0.95, 1.25)), inner)
    shadow = 0.25 * relief(inner.clamp(-0.03, 0.03), draw)
    plain = colour(draw, (0, 1), (0, 0.3), (0, 1)) * draw.chance(0.65) * (1 + 0.08 * noise(draw, at, 6, 3))
    return draw.chance(0.22) * (1 - at.fill(inner)), (plain + shadow * draw.chance(0.5)).clamp(0, 1)


def tone(draw: Draw, image: Tensor) -> Tensor:
    """White balance, exposure, contrast and gamma; some pictures are grey, or pale."""
    grey = image.mean(1, keepdim=True)
    image = over(image, grey.expand_as(image), draw.chance(0.2) * draw.uniform(0.6, 1.4).clamp(max=1))
    image = image * (1 + draw.chance(0.5) * draw.uniform(-0.1, 0.1, (3, 1, 1)))
    image = (image - 0.5) * draw.uniform(0.75, 1.15) + 0.5 + draw.uniform(-0.08, 0.08)
    return image.clamp(1e-4, 1) ** draw.uniform(0.75, 1.35)


def lens(draw: Draw, image: Tensor) -> Tensor:
    """Out of focus a little, or sharpened so that edges ring."""
    unit = image.shape[-1] / 224
    soft, softer = blur(image, 0.7 * unit), blur(image, 1.6 * unit)
    kind, amount = draw.uniform(), draw.uniform()
    image = torch.where(kind < 0.35, over(image, soft, amount), image)
    image = torch.where(kind > 0.9, over(soft, softer, amount), image)
    return torch.where((kind > 0.75) & (kind < 0.9), image + amount * (image - softer), image)


def sensor(draw: Draw, at: Canvas, image: Tensor) -> Tensor:
    """Noise: white, coarser and coloured, stronger where it is bright (photons)."""
    white = grain(draw, at, 3)
    coarse = 2 * blur(grain(draw, at, 3), 0.9 * at.size / 224)
    level = draw.uniform(0, 0.045) * draw.chance(0.75)
    mono = draw.chance(0.5)
    mixed = over(white, coarse, draw.chance(0.4))
    mixed = over(mixed, mixed[:, :1].expand_as(mixed), mono)
    return image + level * mixed * (0.6 + 0.6 * image.clamp(0, 1).sqrt())


def jpeg(draw: Draw, image: Tensor, p: float = 0.4) -> Tensor:
    """Rounded in blocks of 8 x 8 cosines (JPEG's own scheme and tables, colour at half resolution)."""
    h, w = image.shape[-2:]
    quality = draw.uniform(25, 92)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)
    padded = F.pad(image, (0, -w % 16, 0, -h % 16), mode="replicate")
    r, g, blue = (padded.clamp(0, 1) * 255).unbind(1)
    y = 0.299 * r + 0.587 * g + 0.114 * blue
    red, cyan = F.avg_pool2d(torch.stack([0.5643 * (blue - y), 0.7133 * (r - y)], 1), 2).unbind(1)
    y = _rounded(y - 128, scale, _LUMINANCE) + 128
    cb, cr = (
        F.interpolate(_rounded(c, scale, _CHROMINANCE)[:, None], scale_factor=2.0, mode="bilinear")[:, 0]
        for c in (red, cyan)
    )
    decoded = torch.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], 1) / 255
    return torch.where(draw.uniform() < p, decoded[..., :h, :w], image)


def _rounded(plane: Tensor, scale: Tensor, table: tuple[int, ...]) -> Tensor:
    """A plane [B, H, W] through the cosine transform of its 8 x 8 blocks and back, coefficients rounded."""
    u = torch.arange(8, dtype=torch.float32, device=plane.device)
    basis = ((2 * u + 1) * u[:, None] * (math.pi / 16)).cos() * 0.5
    basis[0] *= 0.5**0.5
    steps = torch.tensor(table, device=plane.device).view(8, 8)
    steps = (steps * scale.view(-1, 1, 1, 1, 1)).clamp(min=1)
    blocks = plane.unflatten(2, (-1, 8)).unflatten(1, (-1, 8)).transpose(2, 3)  # (B, H/8, W/8, 8, 8)
    blocks = basis.T @ ((basis @ blocks @ basis.T / steps).round() * steps) @ basis
    return blocks.transpose(2, 3).flatten(3).flatten(1, 2)
