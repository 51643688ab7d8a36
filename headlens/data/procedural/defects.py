"""What goes wrong with goods: ``(draw, canvas, scene, severity) -> Flaw``.

Every defect keeps what lies under it where it can (it bends, blurs, tints or shades the surface), so that a defect is
something that does not belong, not merely something bright.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.data.procedural.canvas import Canvas, blur, over
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.fields import cells, centre, colour, hsv, noise, ramp, relief, smooth
from headlens.data.procedural.scene import Flaw, FlawPainter, Scene


def place(draw: Draw, at: Canvas, scene: Scene) -> Canvas:
    """A canvas around a random place of the region, turned at random."""
    return at.moved(*centre(draw, scene.region)).turned(draw.uniform(0, 6.2832))


def blob(draw: Draw, near: Canvas, low: float, high: float, rough: float = 0.35) -> Tensor:
    """Distance [B, 1, S, S] to the outline of an irregular spot of radius ``low``..``high`` around the origin."""
    bend = rough * noise(draw, near, 3, 3) * 0.3
    return near.ellipse(draw.uniform(low, high) * draw.uniform(0.6, 1.4), draw.uniform(low, high)) + bend * high


def soft(distance: Tensor, width: Tensor | float) -> Tensor:
    """1 inside an outline, falling to exactly 0 at ``width`` outside it."""
    return 1 - smooth(-width, width, distance)


def shifted(image: Tensor, at: Canvas, dx: Tensor, dy: Tensor) -> Tensor:
    """The image with every pixel taken from (dx, dy) further on, in canvas units."""
    grid = torch.cat([at.x + dx, at.y + dy], 1).permute(0, 2, 3, 1)  # (B, S, S, 2)
    return F.grid_sample(image, grid, "bilinear", "reflection", align_corners=False)


def _light_or_dark(draw: Draw, image: Tensor, amount: Tensor) -> Tensor:
    """The surface made lighter or darker, never only clipped: dark surfaces get lighter more often."""
    level = image.mean(1, keepdim=True)
    sign = (draw.uniform() > level).to(image.dtype) * 2 - 1
    return (image + sign * amount).clamp(0, 1)


def scratch(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """One to three nearly straight, thin lines side by side, light or dark, fading at their ends."""
    near = place(draw, at, scene)
    length, width = draw.uniform(0.2, 0.9), 0.010 + 0.022 * severity * draw.uniform(0.4, 1)
    bow = draw.uniform(-0.3, 0.3)
    alpha = near.x * 0
    for i in range(3):
        offset = i * draw.uniform(0.03, 0.09)
        stroke = near.line(near.y + bow * near.x.square() - offset, width) * soft(near.x.abs() - length / 2, 0.05)
        alpha = alpha + stroke * (draw.chance(0.35) if i else 1)
    return Flaw(_light_or_dark(draw, scene.image, 0.14 + 0.4 * severity), alpha.clamp(0, 1))


def crack(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """A dark, jagged line with branches, thinning out."""
    x, y = centre(draw, scene.region)
    angle, length = draw.uniform(0, 6.2832), draw.uniform(0.25, 1.0)
    width = 0.010 + 0.030 * severity * draw.uniform(0.4, 1)
    alpha = at.line(at.walk(draw, x, y, angle, length, 0.6, 10), width)
    for turn in (2.8, 0.9, -0.9):
        branch = at.walk(draw, x, y, angle + turn + draw.uniform(-0.3, 0.3), length * draw.uniform(0.2, 0.6), 0.7, 5)
        alpha = alpha.maximum(at.line(branch, width * 0.7) * draw.chance(0.6))
    return Flaw(scene.image * (0.62 - 0.5 * severity), alpha)


def hole(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """A pit or puncture: dark inside, one side of its rim catching light."""
    near = place(draw, at, scene)
    outline = blob(draw, near, 0.035, 0.12, 0.3) - 0.04 * severity
    inside = scene.image * (0.55 - 0.45 * severity) * (1 + 0.2 * noise(draw, at, 20, 2))
    rim = near.line(outline, 0.03) * smooth(-0.05, 0.05, near.y)
    return Flaw(over(inside, (scene.image * 1.5 + 0.1).clamp(0, 1), rim), soft(outline, 0.02))


def stain(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """Something soaked in or dried up: a tint that multiplies, darker towards its edge, wide or small."""
    near = place(draw, at, scene)
    outline = blob(draw, near, 0.08, 0.45)
    tint = colour(draw, (0, 1), (0.2, 0.9), (0.35, 0.9))
    strength = (0.25 + 0.65 * severity) * (0.7 + 0.3 * soft(outline.abs(), 0.06))
    return Flaw(scene.image * (1 + (tint - 1) * strength), soft(outline, draw.uniform(0.02, 0.12)))


def dent(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """The surface pushed in: a light and a dark side, the pattern drawn together."""
    near = place(draw, at, scene)
    outline = blob(draw, near, 0.08, 0.28)
    bowl = soft(outline, 0.12)
    pull = 0.10 * (0.4 + severity) * bowl * (1 - bowl) * 4
    angle = draw.uniform(0, 6.2832)
    image = shifted(scene.image, at, pull * angle.cos(), pull * angle.sin())
    return Flaw((image + (0.12 + 0.34 * severity) * relief(0.12 * bowl, draw, 2.0)).clamp(0, 1), smooth(0.0, 0.3, bowl))


def contamination(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """Foreign matter lying on top: crumbs, chips, drops of a colour that is not the surface's, with a shadow."""
    near = place(draw, at, scene)
    first, _, ident = cells(draw, near.scaled(draw.uniform(0.7, 1.4)), 11, 0.9)
    where = soft(blob(draw, near, 0.08, 0.30), 0.02)
    size = 0.22 + 0.2 * severity
    bit = near.fill((first - size * (0.6 + 0.8 * ident)) / 6) * (where > 0.5)
    bits = hsv(draw.uniform() + 0.1 * ident, draw.uniform(0.1, 0.9), draw.uniform(0.15, 0.95))
    image = over(scene.image, bits * (1.1 - 0.5 * first), 0.35 + 0.6 * severity)
    return Flaw(image, bit)


def missing(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """A piece broken off or never put on: what lies behind shows (the colour at the picture's corners)."""
    near = place(draw, at, scene)
    edge = near.y + 0.12 * noise(draw, near, 4, 2) - draw.uniform(0.0, 0.1)
    bite = blob(draw, near, 0.10, 0.34, 0.3) - 0.08 * severity
    outline = torch.where(draw.chance(0.5) > 0, edge.maximum(bite), bite)
    corner = F.adaptive_avg_pool2d(scene.image[..., :6, :6], 1)
    behind = corner * (1 + 0.06 * noise(draw, at, 12, 3)) * (1 - 0.4 * soft(-outline, 0.05))
    return Flaw(over(scene.image, behind, 0.5 + 0.5 * severity).clamp(0, 1), near.fill(outline))


def cut(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """A straight slit, open in the middle, dark inside, its lips bent apart."""
    near = place(draw, at, scene)
    length = draw.uniform(0.2, 0.7)
    opening = (0.016 + 0.05 * severity) * (1 - (2 * near.x / length).square()).clamp(min=0)
    gap = near.fill(near.y.abs() - opening) * (opening > 0)
    lips = soft(near.y.abs() - 2.2 * opening, 0.01) * (opening > 0.004)
    image = shifted(scene.image, at, opening * near.y.sign(), opening)
    image = over((image * 1.12 + 0.05).clamp(0, 1), scene.image * (0.5 - 0.4 * severity), gap)
    return Flaw(image, lips.maximum(gap))


def worn(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """Rubbed off: pattern and colour fade to a dull, smooth patch."""
    near = place(draw, at, scene)
    outline = blob(draw, near, 0.10, 0.35)
    dull = blur(scene.image, at.size / 25)
    grey = dull.mean(1, keepdim=True)
    faded = dull + (grey - dull) * 0.6 + draw.uniform(-0.15, 0.2)
    patchy = smooth(-0.9, 0.3, noise(draw, near, 12, 3) + 0.8)
    return Flaw(over(scene.image, faded, (0.45 + 0.55 * severity) * patchy).clamp(0, 1), soft(outline, 0.08))


def deformed(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """Bent out of shape: the pattern swirls or bulges where it should run straight."""
    near = place(draw, at, scene)
    weight = soft(near.disc(draw.uniform(0.12, 0.35)), 0.12)
    swirl, push = draw.uniform(-0.8, 0.8), draw.uniform(0, 6.2832)
    amount = weight * (0.5 + severity)
    dx = amount * (0.7 * swirl * near.y + 0.10 * push.cos())
    dy = amount * (-0.7 * swirl * near.x + 0.10 * push.sin())
    image = shifted(scene.image, at, dx, dy) * (1 + 0.1 * amount)
    return Flaw(image.clamp(0, 1), smooth(0.0, 0.25, weight))


def misprint(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """The pattern printed twice, a little apart, in part of the picture."""
    near = place(draw, at, scene)
    where = near.fill(near.box(draw.uniform(0.1, 0.4), draw.uniform(0.1, 0.3), 0.05))
    shift = draw.uniform(0.03, 0.08)
    ghost = shifted(scene.image, at, shift, draw.uniform(-0.05, 0.05)).minimum(scene.image * 1.1)
    tint = 1 - 0.35 * severity * colour(draw, (0, 1), (0.4, 1), (1, 1))
    return Flaw(over(scene.image, ghost * tint, 0.6 + 0.4 * severity).clamp(0, 1), where)


def discoloured(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """A wide, faint change of tone or hue with no edge to speak of."""
    near = place(draw, at, scene)
    outline = blob(draw, near, 0.2, 0.6)
    gain = 1 + (0.22 + 0.5 * severity) * draw.uniform(-1, 1, (3, 1, 1)).sign() * draw.uniform(0.3, 1, (3, 1, 1))
    return Flaw((scene.image * gain).clamp(0, 1), soft(outline, 0.2))


def residue(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """Glue, wax or oil: a clear film that brightens, bends what is under it and shines along its edge."""
    near = place(draw, at, scene)
    outline = blob(draw, near, 0.08, 0.3, 0.5)
    film = soft(outline, 0.03)
    image = shifted(scene.image, at, 0.03 * film, -0.03 * film)
    image = image * (1 - 0.15 * severity) + 0.08 + 0.16 * severity
    shine = near.line(outline + 0.02, 0.02) + 0.5 * soft(near.moved(0.04, 0.02).disc(0.03), 0.03)
    return Flaw((image + 0.5 * (0.3 + severity) * shine).clamp(0, 1), film)


def thread(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """A loose fibre lying across, of its own colour, with its shadow beside it."""
    x, y = centre(draw, scene.region)
    distance = at.walk(draw, x, y, draw.uniform(0, 6.2832), draw.uniform(0.5, 1.6), 0.7, 12)
    width = 0.012 + 0.014 * severity
    fibre, shadow = at.line(distance, width), at.line(distance, 2.6 * width)
    tone = colour(draw, (0, 1), (0, 0.8), (0.1, 0.95))
    return Flaw(over(scene.image * (1 - 0.35 * severity), tone, fibre * (0.35 + 0.65 * severity)), shadow)


def burn(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """Scorched: charred in the middle, brown around it."""
    near = place(draw, at, scene)
    outline = blob(draw, near, 0.08, 0.26, 0.5)
    depth = smooth(0.10, -0.16, outline + 0.03 * noise(draw, near, 12, 2))
    browns = (
        ((0.1, 0.13), (0.2, 0.4), (0.9, 1.0)),
        ((0.04, 0.08), (0.6, 0.8), (0.4, 0.6)),
        ((0, 1), (0, 0.3), (0.06, 0.14)),
    )
    char = ramp(depth, *(colour(draw, *brown) for brown in browns))
    return Flaw(over(scene.image, scene.image * char, 0.3 + 0.7 * severity), soft(outline, 0.1))


def corrosion(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """Rust or mould: rough patches eating in from many seeds at once."""
    near = place(draw, at, scene)
    within = soft(blob(draw, near, 0.12, 0.4), 0.15)
    seeds = noise(draw, near, 9, 4, 0.7)
    rough = hsv(draw.uniform(0.02, 0.10) + 0.3 * draw.chance(0.2), 0.75, 0.45 + 0.2 * noise(draw, near, 40, 2))
    alpha = smooth(0.15, 0.5, within * (1.2 + seeds) - 0.4)
    return Flaw(over(scene.image, rough, 0.3 + 0.6 * severity).clamp(0, 1), alpha)


def bubble(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """Blisters under a coat: round swellings, each with a light and a dark flank."""
    near = place(draw, at, scene)
    first, _, ident = cells(draw, near.scaled(draw.uniform(0.7, 1.4)), 5.5, 0.7)
    radius = 0.22 + 0.22 * ident
    dome = (1 - (first / radius).square()).clamp(min=0) * (near.disc(draw.uniform(0.15, 0.4)) < 0)
    image = scene.image + (0.15 + 0.45 * severity) * relief(0.05 * dome.clamp(min=1e-6).sqrt(), draw, 2.0)
    return Flaw(image.clamp(0, 1), smooth(0.0, 0.15, dome))


def fold(draw: Draw, at: Canvas, scene: Scene, severity: Tensor) -> Flaw:
    """A crease: a long ridge with a light and a dark side, the pattern jumping across it."""
    near = place(draw, at, scene)
    across = near.y + 0.05 * noise(draw, near, 1.5, 2)
    width, length = draw.uniform(0.04, 0.10), draw.uniform(0.3, 1.0)
    ridge = (1 - (across / width).square()).clamp(min=0) * soft(near.x.abs() - length, 0.1)
    image = shifted(scene.image, at, 0.08 * ridge * draw.uniform(-1, 1), 0.08 * ridge)
    image = image + (0.12 + 0.3 * severity) * ridge * (across / width * 2).tanh()
    return Flaw(image.clamp(0, 1), smooth(0.0, 0.2, ridge))


DEFECTS: dict[str, FlawPainter] = {
    painter.__name__: painter
    for painter in (
        *(scratch, crack, hole, stain, dent, contamination, missing, cut, worn, deformed, misprint, discoloured),
        *(residue, thread, burn, corrosion, bubble, fold),
    )
}

DEFECT_WORDS: dict[str, tuple[str, ...]] = {
    "scratch": ("a scratch", "scratches"),
    "crack": ("a crack", "a fracture line"),
    "hole": ("a hole", "a pit"),
    "stain": ("a stain", "a spill"),
    "dent": ("a dent", "an impact mark"),
    "contamination": ("contamination", "foreign particles"),
    "missing": ("a missing part", "a piece broken off"),
    "cut": ("a cut", "a slit"),
    "worn": ("wear", "a worn patch"),
    "deformed": ("a deformation", "a bent part"),
    "misprint": ("a misprint", "a double print"),
    "discoloured": ("a discoloured area", "a wrong colour"),
    "residue": ("residue", "glue"),
    "thread": ("a loose thread", "a fibre"),
    "burn": ("a burn", "a scorch mark"),
    "corrosion": ("corrosion", "rust"),
    "bubble": ("a bubble", "blisters"),
    "fold": ("a fold", "a crease"),
}
