"""More kinds of ultrasound, for pre-training alone: none is a category of the catalogue.

Four of them (``random_soft_tissue``, ``random_muscle``, ``random_abdomen``, ``random_organ``) are endless: layers,
organs, vessels, gas, bone, gain and grain are drawn, so that no two images share an anatomy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headlens.data.procedural.canvas import Canvas, over
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.fields import cells, noise, smooth
from headlens.data.procedural.scans import bright, grey, speckle, walks
from headlens.data.procedural.scene import Category, Finish, Scene, ScenePainter
from headlens.data.procedural.sections import echo, probe, wobble


def _heard(draw: Draw, at: Canvas, field: Tensor, tone: Tensor, region: Tensor, bright_share: float) -> Scene:
    """The scene as the probe shows it: gain and grain are drawn; masses are dark but for ``bright_share`` of images."""
    size = draw.uniform(0.5, 1.4)
    grain = noise(draw, at.scaled(size, size * draw.uniform(0.7, 1.2)), 26, 2, 0.8, stretch=0.5)
    tone = draw.uniform(0.85, 1.3) * tone.clamp(min=0) * (1 + draw.uniform(0.05, 0.3) * grain)
    contrast = -bright(draw) * (1 - 2 * draw.chance(bright_share))
    return grey(draw, field * echo(draw, at, tone), field * region, contrast)


def _uneven(draw: Draw, at: Canvas, low: float, high: float) -> Canvas:
    """The same canvas with every outline irregular: nearly even in some images, bent in others."""
    bend = draw.uniform(low, high)
    return at.bent(bend * noise(draw, at, 3, 2), bend * noise(draw, at, 3, 2))


def _fibres(draw: Draw, at: Canvas, lean: Tensor) -> Tensor:
    """Fine bright strands in 0..1 that run along x, turned by ``lean``."""
    return smooth(0.6, 0.0, noise(draw, at.turned(lean), 2.5, 3, 0.8, stretch=0.12).abs())


def _covered(draw: Draw, at: Canvas, tone: Tensor, end: Tensor) -> Tensor:
    """Skin, and fat with its septa, over ``tone`` down to the depth ``end``, where a fascia is."""
    septa = smooth(0.25, 0.0, noise(draw, at, 4, 2, 0.5, stretch=0.4).abs())
    tone = over(tone, draw.uniform(0.12, 0.45) + draw.uniform(0.05, 0.3) * septa, smooth(0.015, -0.015, at.y - end))
    tone = tone + draw.uniform(0.1, 0.5) * smooth(0.03, 0.0, (at.y - end).abs())
    return tone + draw.uniform(0.2, 0.6) * smooth(draw.uniform(0.03, 0.12), 0.0, (at.y + 0.88).abs())


def _walled(draw: Draw, tone: Tensor, distance: Tensor, value: Tensor, rim: float = 0.4) -> Tensor:
    """A body of tone ``value`` over ``tone``, with a bright wall that ``rim`` makes strong."""
    tone = over(tone, value, smooth(0.015, -0.015, distance))
    return tone + rim * draw.uniform(0.3, 1) * smooth(0.028, 0.0, distance.abs())


def _vessels(draw: Draw, at: Canvas, tone: Tensor, many: int, share: float = 0.5) -> tuple[Tensor, Tensor]:
    """Dark vessels with bright walls, cut across or along, over ``tone``; and the distance to them."""
    count = (many, 1, 1)
    here = at.moved(draw.uniform(-0.85, 0.85, count), draw.uniform(-0.6, 0.8, count))
    half = draw.uniform(0.025, 0.1, count)
    long = 1 + draw.chance(0.4, count) * draw.uniform(2, 9, count)
    each = here.turned(draw.uniform(-0.7, 0.7, count)).ellipse(half * long, half)
    near = (each + 9 * (1 - draw.chance(share, count))).amin(1, keepdim=True)
    return _walled(draw, tone, near, draw.uniform(0.0, 0.1) + 0 * at.x, 0.5), near


def _reflector(draw: Draw, at: Canvas, tone: Tensor, near: Canvas, half: Tensor, there: Tensor) -> list[Tensor]:
    """Bone or gas over ``tone``, its surface at y = 0 of ``near``, ``half`` wide; and 1 where it hides what is below.

    Bone casts a clean shadow; gas, in half of the images, a dirty one with a few fading echoes of the surface.
    """
    rough = noise(draw, at, 7, 2)
    depth = near.y - draw.uniform(-0.2, 0.6) * near.x.square() / half + draw.uniform(0.005, 0.03) * rough
    across = there * smooth(half, half * draw.uniform(0.3, 0.9), near.x.abs() - 0.1 * depth.clamp(min=0))
    below = across * smooth(-0.01, 0.06, depth)
    echoes = (0.5 + 0.5 * (depth * draw.uniform(15, 50) + rough).cos()) * (-depth.clamp(min=0) * 5).exp()
    dirt = (echoes + draw.uniform(0.1, 0.4)) * (1 + 0.5 * noise(draw, near, 5, 2, stretch=3))
    tone = tone * (1 - draw.uniform(0.7, 0.97) * below) + draw.uniform(0.2, 0.5) * draw.chance(0.5) * below * dirt
    surface = across * smooth(draw.uniform(0.02, 0.06), 0.0, depth.abs())
    return [tone + draw.uniform(0.5, 0.9) * surface, torch.maximum(below, surface)]


def _enhanced(draw: Draw, tone: Tensor, near: Canvas, wide: Tensor, end: Tensor) -> Tensor:
    """What lies behind fluid is brighter: below y = ``end`` of ``near``, as wide as the fluid is."""
    behind = smooth(wide, 0.7 * wide, near.x.abs()) * smooth(0.0, 0.1, near.y - end)
    return tone * (1 + draw.uniform(0.3, 1.0) * behind * (-(near.y - end).clamp(min=0)).exp())


def random_soft_tissue(draw: Draw, at: Canvas) -> Scene:
    """Soft tissue of no place: skin, fat, muscle layers between fasciae, glands, vessels, at times bone or gas."""
    at, field = probe(draw, at)
    at = _uneven(draw, at, 0.01, 0.07)
    depth = at.y + draw.uniform(-0.35, 0.35) * at.x + draw.uniform(-0.3, 0.3) * at.x.square()
    edge = draw.uniform(-0.8, -0.3)
    top, tone = edge, 0.3 + 0 * at.x
    for _ in range(4):
        flesh = draw.uniform(0.1, 0.5) + draw.uniform(0.0, 0.35) * _fibres(draw, at, draw.uniform(-0.4, 0.4))
        tone = over(tone, flesh, smooth(-0.015, 0.015, depth - edge))
        tone = tone + draw.uniform(0.1, 0.6) * smooth(draw.uniform(0.015, 0.04), 0.0, (depth - edge).abs())
        edge = edge + draw.uniform(0.12, 0.6)
    glands = torch.full_like(at.x, 9.0)
    for number in range(4):
        near = at.moved(draw.uniform(-0.7, 0.7), draw.uniform(-0.5, 0.6)).turned(draw.uniform(-0.6, 0.6))
        size = draw.uniform(0.14, 0.5)
        gland = near.ellipse(size, size * draw.uniform(0.35, 0.9)) + (9 * (1 - draw.chance(0.35)) if number else 0)
        grain = draw.uniform(0.02, 0.12) * noise(draw, at, 10, 2, 0.8)
        tone = _walled(draw, tone, gland, draw.uniform(0.15, 0.7) + grain)
        glands = torch.minimum(glands, gland)
    tone, vessels = _vessels(draw, at, tone, 6)
    tone = _covered(draw, at, tone, top + 0 * at.y)
    hidden = torch.zeros_like(at.x)
    for _ in range(2):
        near = at.moved(draw.uniform(-0.9, 0.9), draw.uniform(-0.2, 0.8)).turned(draw.uniform(-0.3, 0.3))
        tone, below = _reflector(draw, at, tone, near, draw.uniform(0.12, 0.5), draw.chance(0.3))
        hidden = torch.maximum(hidden, below)
    aimed = draw.chance(0.6)  # lesions of a gland, or anywhere below the fat
    region = torch.where(aimed > 0, smooth(0.0, -0.03, glands), 1 + 0 * at.x) * smooth(0.0, 0.04, at.y - top)
    return _heard(draw, at, field, tone, region * (1 - hidden) * smooth(0.0, 0.03, vessels), 0.25)


def random_muscle(draw: Draw, at: Canvas) -> Scene:
    """Muscles along or across their fibres, between fasciae, with tendon and, in some images, the surface of a bone."""
    at, field = probe(draw, at)
    at = _uneven(draw, at.turned(draw.uniform(-0.25, 0.25)), 0.01, 0.06)
    bow = draw.uniform(-0.35, 0.35)
    edge = draw.uniform(-0.8, -0.4)
    top, tone, across = edge, 0.2 + 0 * at.x, draw.chance(0.4)
    for side in (-1, 1, -1):
        slant = side * draw.uniform(0.0, 0.5)
        stars = smooth(0.5, 1.2, noise(draw, at, 20, 2, 0.7, stretch=0.5))
        strands = torch.where(across > 0, stars, _fibres(draw, at, slant + 0.3 * at.x * draw.uniform(-1, 1)))
        flesh = draw.uniform(0.12, 0.42) + draw.uniform(0.15, 0.45) * strands + 0.05 * noise(draw, at, 4, 2)
        line = at.y - edge + bow * at.x.square() + draw.uniform(-0.2, 0.2) * at.x
        tone = over(tone, flesh, smooth(-0.01, 0.01, line))
        tone = tone + draw.uniform(0.3, 0.7) * smooth(draw.uniform(0.02, 0.05), 0.0, line.abs())
        edge, bow = edge + draw.uniform(0.25, 0.7), bow * draw.uniform(0.2, 1)
    rope = at.moved(draw.uniform(-0.7, 0.7), draw.uniform(-0.3, 0.5)).turned(draw.uniform(-0.25, 0.25))
    tendon = rope.ellipse(draw.uniform(0.25, 1.2), draw.uniform(0.05, 0.13)) + 9 * (1 - draw.chance(0.5))
    bright_strands = 0.35 + 0.4 * _fibres(draw, rope, 0 * top)
    tone = _walled(draw, tone, tendon, bright_strands * draw.uniform(0.7, 1.2), 0.3)
    tone, vessels = _vessels(draw, at, tone, 4, 0.35)
    tone = _covered(draw, at, tone, top - 0.06 * noise(draw, at, 3))
    near = at.moved(draw.uniform(-0.6, 0.6), draw.uniform(0.2, 0.75)).turned(draw.uniform(-0.2, 0.2))
    tone, hidden = _reflector(draw, at, tone, near, draw.uniform(0.25, 1.2), draw.chance(0.5))
    region = smooth(0.05, 0.1, at.y - top) * (1 - hidden) * smooth(0.0, 0.03, vessels)
    return _heard(draw, at, field, tone, region, 0.35)


def random_abdomen(draw: Draw, at: Canvas) -> Scene:
    """A belly of no patient: wall, organs with vessels, loops of gut with gas or fluid, free fluid, large vessels."""
    at, field = probe(draw, at)
    at = _uneven(draw, at, 0.02, 0.08)
    tone = draw.uniform(0.25, 0.5) + 0.12 * noise(draw, at, 5, 3, 0.7, stretch=0.6)
    gut, hidden, organs = torch.full_like(at.x, 9.0), torch.zeros_like(at.x), torch.full_like(at.x, 9.0)
    for _ in range(4):
        near = at.moved(draw.uniform(-0.9, 0.9), draw.uniform(-0.4, 0.9)).turned(draw.uniform(-0.8, 0.8))
        size = draw.uniform(0.25, 0.7)
        organ = near.ellipse(size, size * draw.uniform(0.4, 1.0)) + 9 * (1 - draw.chance(0.65))
        grain = draw.uniform(0.02, 0.09) * noise(draw, at.scaled(draw.uniform(0.6, 1.5)), 14, 2, 0.8)
        tone = _walled(draw, tone, organ, draw.uniform(0.15, 0.65) + grain)
        organs = torch.minimum(organs, organ)
    tone, vessels = _vessels(draw, at, tone, 8)
    fluid = at.moved(draw.uniform(-0.6, 0.6), draw.uniform(-0.3, 0.5)).turned(draw.uniform(-0.5, 0.5))
    wide, there = draw.uniform(0.12, 0.4), draw.chance(0.5)
    pool = fluid.ellipse(wide, wide * draw.uniform(0.3, 0.8)) + 9 * (1 - there)
    tone = over(tone, _enhanced(draw, tone, fluid, wide, 0.4 * wide), there)
    tone = _walled(draw, tone, pool, draw.uniform(0.0, 0.12) + 0 * at.x)
    for _ in range(3):
        near, there = at.moved(draw.uniform(-0.8, 0.8), draw.uniform(-0.5, 0.6)), draw.chance(0.4)
        size = draw.uniform(0.1, 0.28)
        loop = near.turned(draw.uniform(-0.6, 0.6)).ellipse(size * draw.uniform(1.0, 2.2), size) + 9 * (1 - there)
        loop = loop + draw.uniform(0.0, 0.05) * noise(draw, at, 7, 2)
        content = draw.uniform(0.05, 0.6) + 0.2 * noise(draw, at, 10, 2)
        tone = _walled(draw, tone, loop, draw.uniform(0.05, 0.2) + 0 * at.x, 0.5)  # the wall of a loop is dark
        tone = over(tone, content, smooth(0.01, -0.015, loop + draw.uniform(0.03, 0.06)))
        top = near.moved(0.0, -draw.uniform(0.0, 0.6) * size)
        tone, below = _reflector(draw, at, tone, top, size * draw.uniform(0.8, 1.6), there * draw.chance(0.6))
        gut, hidden = torch.minimum(gut, loop), torch.maximum(hidden, below)
    end = draw.uniform(-0.8, -0.45)
    tone = _covered(draw, at, tone, end + 0.03 * noise(draw, at, 3))
    fair = smooth(0.0, 0.03, torch.minimum(vessels, torch.minimum(gut, pool))) * (1 - hidden)
    aimed = torch.where((draw.chance(0.6) > 0) & (organs.amin((2, 3), keepdim=True) < -0.1), organs, -9.0)
    region = fair * smooth(0.0, -0.04, aimed) * smooth(0.05, 0.1, at.y - end)
    return _heard(draw, at, field, tone, region, 0.35)


def random_organ(draw: Draw, at: Canvas) -> Scene:
    """An organ that fills the field: capsule, grain of any size, lobules, dark and walled vessels, a hilus."""
    at, field = probe(draw, at)
    at = _uneven(draw, at.turned(draw.uniform(-0.5, 0.5)), 0.02, 0.08)
    tone = draw.uniform(0.15, 0.55) + 0.15 * noise(draw, at, 5, 3, 0.7, stretch=0.3)
    near = at.moved(draw.uniform(-0.3, 0.3), draw.uniform(-0.15, 0.3))
    organ = near.ellipse(draw.uniform(0.6, 1.2), draw.uniform(0.45, 0.95)) + 0.03 * noise(draw, at, 6, 2)
    base = draw.uniform(0.2, 0.65)
    grain = noise(draw, at.scaled(draw.uniform(0.5, 2.0)), 14, 3, 0.85)
    first, second, lot = cells(draw, near.scaled(draw.uniform(0.6, 1.5)), 7)
    lobules = draw.chance(0.4) * (0.15 * (lot - 0.5) + draw.uniform(0.0, 0.25) * smooth(0.12, 0.0, second - first))
    flesh = base + draw.uniform(0.02, 0.1) * grain + lobules - draw.uniform(-0.1, 0.15) * smooth(0.0, -0.4, organ)
    tone = _walled(draw, tone, organ, flesh, 0.6)
    root_x, root_y, apart = draw.uniform(-0.4, 0.4), draw.uniform(-0.3, 0.5), draw.uniform(0.02, 0.8)
    hilus = near.moved(root_x, root_y)
    many = (8, 1, 1)
    x, y = apart * draw.uniform(-1, 1, many), apart * draw.uniform(-1, 1, many)
    curved = wobble(draw, hilus, 0.04, 6)
    tree = walks(draw, curved, x, y, draw.uniform(0, 6.3, many), (0.3, 1.1), 0.6, 4)
    width = draw.uniform(0.008, 0.05, many) * smooth(1.2, 0.0, hilus.disc(0.0))
    inside = smooth(0.0, -0.04, organ) * draw.chance(0.8)
    walls = (smooth(width + 0.03, width, tree) * draw.chance(0.5, many)).amax(1, keepdim=True) * inside
    lumen = smooth(width + 0.008, 0.7 * width, tree).amax(1, keepdim=True) * inside
    tone = over(tone + 0.25 * walls, draw.uniform(0.02, 0.12), draw.uniform(0.5, 1) * lumen)
    sinus = hilus.turned(draw.uniform(-0.8, 0.8)).ellipse(draw.uniform(0.15, 0.4), draw.uniform(0.03, 0.12))
    sinus = sinus + 0.04 * noise(draw, at, 9, 2)
    tone = over(tone, draw.uniform(0.5, 0.95), draw.chance(0.35) * smooth(0.03, -0.03, sinus) * inside)
    tone = _covered(draw, at, tone, draw.uniform(-0.95, -0.55) + 0 * at.y)
    rim = at.moved(draw.uniform(-1, 1), draw.uniform(0.4, 0.9)).turned(draw.uniform(-0.6, 0.6))
    tone, hidden = _reflector(draw, at, tone, rim, draw.uniform(0.15, 0.6), draw.chance(0.3))
    return _heard(draw, at, field, tone, smooth(0.0, -0.05, organ) * (1 - hidden) * smooth(-0.6, -0.5, at.y), 0.4)


def bladder_ultrasound(draw: Draw, at: Canvas) -> Scene:
    """Ultrasound of the bladder: black urine in a wall, haze below the front wall, brightness and an organ behind."""
    at, field = probe(draw, at)
    at = wobble(draw, at.turned(draw.uniform(-0.2, 0.2)), 0.05, 3)
    tone = draw.uniform(0.3, 0.5) + 0.14 * noise(draw, at, 4, 3, 0.7, stretch=0.4)
    near = at.moved(draw.uniform(-0.15, 0.15), draw.uniform(-0.25, 0.0))
    wide, high = draw.uniform(0.35, 0.85), draw.uniform(0.25, 0.5)
    wedge = Canvas(near.x * (1 - draw.uniform(-0.6, 0.6) * near.y), near.y, near.pixel)
    outer = over(wedge.ellipse(wide, high), wedge.box(wide, high, 0.24), draw.uniform(0, 0.8))
    outer = outer + draw.uniform(0.0, 0.06) * noise(draw, at, 3, 2)
    tone = _enhanced(draw, tone, near, wide, high)
    organ = near.moved(draw.uniform(-0.2, 0.2), high + draw.uniform(0.1, 0.25)).turned(draw.uniform(-0.3, 0.3))
    behind = organ.ellipse(draw.uniform(0.25, 0.5), draw.uniform(0.14, 0.26))
    tone = _walled(draw, tone, behind, draw.uniform(0.25, 0.5) + 0.06 * noise(draw, at, 10, 2, 0.8), 0.3)
    tone = over(tone, draw.uniform(0.5, 0.8), 0.6 * draw.chance(0.5) * smooth(0.03, -0.02, organ.box(0.2, 0.015)))
    wall = draw.uniform(0.02, 0.07)
    tone = _walled(draw, tone, outer, draw.uniform(0.25, 0.55) + 0.05 * noise(draw, at, 12, 2), 0.25)
    haze = draw.uniform(0.0, 0.6) * smooth(0.3 * high, -high, near.y) * (0.7 + 0.3 * (near.y * 30).cos())
    urine = draw.uniform(0.0, 0.05) + haze + 0.02 * noise(draw, at, 20, 2)
    tone = over(tone, urine, smooth(0.01, -0.02, outer + wall))
    tone = _covered(draw, at, tone, draw.uniform(-0.85, -0.65) + 0.03 * noise(draw, at, 3))
    region = torch.maximum(smooth(0.0, -0.02, outer), smooth(0.0, -0.03, behind))
    return _heard(draw, at, field, tone, region * smooth(-0.68, -0.6, at.y), 0.6)


def testis_ultrasound(draw: Draw, at: Canvas) -> Scene:
    """Ultrasound of a testis: an even oval in its bright coat, a bright line in it, epididymis, thin fluid, skin."""
    at, field = probe(draw, at)
    at = wobble(draw, at.moved(draw.uniform(-0.2, 0.2), draw.uniform(-0.1, 0.15)), 0.03, 3)
    tone = draw.uniform(0.2, 0.4) + 0.15 * noise(draw, at, 4, 3, 0.7, stretch=0.25)
    near = at.turned(draw.uniform(-0.35, 0.35))
    wide, high = draw.uniform(0.45, 0.8), draw.uniform(0.3, 0.45)
    oval = near.ellipse(wide, high)
    tone = _walled(draw, tone, oval - draw.uniform(0.06, 0.12), draw.uniform(0.3, 0.5) + 0.06 * noise(draw, at, 10, 2))
    fluid = draw.chance(0.6) * draw.uniform(0.0, 0.08) * (0.4 + noise(draw, at, 1.5, 2))
    tone = over(tone, draw.uniform(0.02, 0.1), smooth(0.01, -0.01, oval - fluid))
    flesh = draw.uniform(0.4, 0.65) + draw.uniform(0.02, 0.05) * noise(draw, at, 16, 3, 0.9)
    tone = _walled(draw, tone, oval, flesh, 0.6)
    flank = 1 - 2 * draw.chance(0.5)
    cap = near.moved(flank * wide * draw.uniform(0.85, 1.0), -high * draw.uniform(0.3, 0.8)).turned(flank * 0.8)
    tail = torch.maximum(cap.ellipse(draw.uniform(0.16, 0.26), draw.uniform(0.1, 0.18)), 0.02 - oval)
    tone = _walled(draw, tone, tail, draw.uniform(0.3, 0.55) + 0.06 * noise(draw, at, 12, 2), 0.3)
    band = near.moved(draw.uniform(-0.1, 0.1), draw.uniform(-0.1, 0.2)).turned(draw.uniform(-0.2, 0.2))
    line = band.ellipse(0.6 * wide, draw.uniform(0.012, 0.03))
    tone = tone + draw.uniform(0.1, 0.35) * draw.chance(0.6) * smooth(0.03, -0.01, line)
    many = (5, 1, 1)
    x, y = draw.uniform(-0.4, 0.4, many), draw.uniform(-0.3, 0.3, many)
    tree = walks(draw, near, x, y, draw.uniform(0, 6.3, many), (0.3, 0.7), 0.4, 3).amin(1, keepdim=True)
    tone = tone * (1 - draw.uniform(0.0, 0.4) * smooth(0.02, 0.005, tree) * smooth(0.0, -0.04, oval))
    tone = tone + draw.uniform(0.2, 0.6) * smooth(0.08, 0.0, (at.y + 0.85).abs())
    return _heard(draw, at, field, tone, torch.maximum(smooth(0.0, -0.03, oval), smooth(0.0, -0.02, tail)), 0.25)


def ovary_ultrasound(draw: Draw, at: Canvas) -> Scene:
    """Ultrasound of an ovary: a grey oval with black follicles of any number, gut and fat around it, a large vein."""
    at, field = probe(draw, at)
    at = wobble(draw, at, 0.06, 3)
    tone = draw.uniform(0.3, 0.55) + draw.uniform(0.05, 0.18) * noise(draw, at, 4, 3, 0.7, stretch=0.5)
    near = at.moved(draw.uniform(-0.25, 0.25), draw.uniform(-0.2, 0.2)).turned(draw.uniform(-0.7, 0.7))
    wide, high = draw.uniform(0.4, 0.65), draw.uniform(0.28, 0.42)
    ovary = near.ellipse(wide, high) + 0.02 * noise(draw, at, 7, 2)
    tone = _walled(draw, tone, ovary, draw.uniform(0.25, 0.45) + 0.07 * noise(draw, at, 12, 3, 0.8), 0.35)
    many = (12, 1, 1)
    turn, far = draw.uniform(0, 6.2832, many), draw.uniform(0.2, 0.75, many)
    spot = near.moved(far * wide * turn.cos(), far * high * turn.sin())
    size = draw.uniform(0.025, 0.11, many)
    each = spot.ellipse(size, size * draw.uniform(0.7, 1.0, many))
    shown = draw.uniform(0, 1, many) < draw.uniform(0.15, 0.9)
    follicles = torch.maximum(torch.where(shown, each, 9.0).amin(1, keepdim=True), ovary + 0.02)
    tone = _walled(draw, tone, follicles, draw.uniform(0.0, 0.08) + 0 * at.x, 0.2)
    vein = at.moved(0.0, draw.uniform(0.45, 0.75)).turned(draw.uniform(-0.5, 0.5))
    dark = vein.ellipse(draw.uniform(0.5, 1.5), draw.uniform(0.05, 0.12)) + 9 * (1 - draw.chance(0.6))
    dark = torch.maximum(dark, 0.03 - ovary)
    tone = _walled(draw, tone, dark, draw.uniform(0.02, 0.1) + 0 * at.x, 0.4)
    gas = at.moved(draw.uniform(-0.9, 0.9), draw.uniform(-0.4, 0.6))
    shaded, _ = _reflector(draw, at, tone, gas, draw.uniform(0.1, 0.3), draw.chance(0.5))
    tone = over(shaded, tone, smooth(0.06, 0.0, ovary))
    return _heard(draw, at, field, tone, smooth(0.0, -0.03, ovary) * smooth(-0.01, 0.02, follicles), 0.4)


def uterus_ultrasound(draw: Draw, at: Canvas) -> Scene:
    """Ultrasound of a uterus along its length: a pear of grey muscle, a bright stripe in it, gut or bladder nearby."""
    at, field = probe(draw, at)
    flip = 1 - 2 * draw.chance(0.5)
    at = wobble(draw, Canvas(at.x * flip, at.y, at.pixel), 0.05, 3)
    tone = draw.uniform(0.3, 0.5) + draw.uniform(0.05, 0.15) * noise(draw, at, 4, 3, 0.7, stretch=0.4)
    near = at.moved(draw.uniform(-0.15, 0.15), draw.uniform(-0.05, 0.25)).turned(draw.uniform(-0.5, 0.7))
    urine = near.moved(draw.uniform(0.1, 0.5), -draw.uniform(0.45, 0.6)).turned(draw.uniform(-0.3, 0.3))
    bladder = urine.ellipse(draw.uniform(0.3, 0.6), draw.uniform(0.1, 0.3)) + 9 * (1 - draw.chance(0.6))
    tone = _walled(draw, tone, bladder, draw.uniform(0.0, 0.08) + 0 * at.x)
    long, thick = draw.uniform(0.55, 0.75), draw.uniform(0.25, 0.4)
    pear = Canvas(near.x, near.y / (1 - 0.4 * (near.x / long).clamp(-1, 1)), near.pixel)
    womb = pear.moved(0.0, 0.06 * (3 * near.x).cos()).ellipse(long, thick)
    flesh = draw.uniform(0.25, 0.5) + 0.05 * noise(draw, at, 12, 3, 0.8) + 0.06 * noise(draw, near, 5, 2, stretch=0.4)
    tone = _walled(draw, tone, womb, flesh, 0.35)
    lining = pear.moved(-0.1, 0.05 * (3 * near.x).cos()).ellipse(0.65 * long, thick * draw.uniform(0.08, 0.35))
    lining = lining + 0.015 * noise(draw, at, 8, 2)
    tone = over(tone, tone * draw.uniform(0.6, 1.0), smooth(0.05, 0.02, lining))
    tone = over(tone, draw.uniform(0.3, 0.8) + 0.06 * noise(draw, at, 14, 2), smooth(0.015, -0.02, lining))
    middle = pear.moved(-0.1, 0.05 * (3 * near.x).cos()).ellipse(0.6 * long, 0.01)
    tone = tone + draw.uniform(0.0, 0.4) * smooth(0.02, 0.0, middle)
    gas = at.moved(draw.uniform(-0.9, 0.9), draw.uniform(0.3, 0.7))
    shaded, _ = _reflector(draw, at, tone, gas, draw.uniform(0.15, 0.4), draw.chance(0.5))
    tone = over(shaded, tone, smooth(0.06, 0.0, womb))
    tone = _covered(draw, at, tone, draw.uniform(-0.95, -0.65) + 0.03 * noise(draw, at, 3))
    region = smooth(0.0, -0.03, womb) * smooth(0.0, 0.03, bladder) * smooth(-0.65, -0.55, at.y)
    return _heard(draw, at, field, tone, region, 0.3)


def shoulder_ultrasound(draw: Draw, at: Canvas) -> Scene:
    """Ultrasound of a shoulder: a muscle, a thin bursa, the striped tendon on the round surface of a bone, shadow."""
    at, field = probe(draw, at)
    flip = 1 - 2 * draw.chance(0.5)
    at = wobble(draw, Canvas(at.x * flip, at.y, at.pixel).moved(draw.uniform(-0.1, 0.4), 0.0), 0.03, 3)
    size = draw.uniform(0.8, 1.4)
    ball = at.moved(0.0, draw.uniform(0.15, 0.4) + size)
    bone = ball.disc(size) + 0.015 * noise(draw, at, 9, 2)
    around = Canvas(torch.atan2(ball.x, -ball.y) * size, -bone, at.pixel)
    muscle = draw.uniform(0.12, 0.3) + draw.uniform(0.2, 0.4) * _fibres(draw, at, draw.uniform(-0.35, 0.35))
    thick = draw.uniform(0.2, 0.4) * smooth(1.4, 0.1, around.x + draw.uniform(0.3, 0.7))
    cord = draw.uniform(0.35, 0.6) + draw.uniform(0.15, 0.35) * _fibres(draw, around, draw.uniform(-0.06, 0.06))
    cord = cord * (1 - draw.uniform(0.0, 0.4) * smooth(0.2, 0.9, around.x.abs()))  # slanted fibres send no echo back
    tone = over(muscle, cord, smooth(0.015, -0.015, bone - thick))
    bursa = bone - thick - draw.uniform(0.02, 0.04)
    tone = tone * (1 - draw.uniform(0.4, 0.9) * smooth(0.02, 0.005, bursa.abs()))
    tone = tone + draw.uniform(0.2, 0.5) * smooth(0.025, 0.0, (bursa - 0.03).abs())
    cartilage = draw.uniform(0.0, 0.04)
    tone = tone * (1 - 0.8 * draw.chance(0.5) * smooth(0.01, -0.01, bone - cartilage))
    tone = over(tone, draw.uniform(0.01, 0.1) + 0.1 * smooth(-0.3, 0.0, bone), smooth(0.01, -0.02, bone))
    tone = tone + draw.uniform(0.5, 0.8) * smooth(0.035, 0.0, bone.abs())
    tone = _covered(draw, at, tone, draw.uniform(-0.8, -0.5) + 0.1 * at.x * draw.uniform(-1, 1))
    roof = at.moved(-draw.uniform(0.7, 1.1), -draw.uniform(0.25, 0.5)).turned(draw.uniform(-0.3, 0.1))
    tone, hidden = _reflector(draw, at, tone, roof, draw.uniform(0.25, 0.4), draw.chance(0.5))
    region = smooth(0.01, 0.03, bone) * smooth(-0.5, -0.4, at.y) * (1 - hidden)
    return _heard(draw, at, field, tone, region, 0.2)


def _of(paint: ScenePainter, finish: Finish, words: tuple[str, ...], *flaws: str, texture: bool = False) -> Category:
    return Category(paint.__name__, "medical", words, paint, flaws, finish, texture)


# fmt: off
ECHOES: dict[str, Category] = {category.name: category for category in (
    _of(random_soft_tissue, speckle, ("soft tissue ultrasound", "ultrasound image of soft tissue"), "mass", "nodule",
        "cyst", "effusion", "haemorrhage", "oedema"),
    _of(random_muscle, speckle, ("muscle ultrasound", "ultrasound image of a muscle"), "mass", "haemorrhage", "oedema",
        "cyst", "infiltrate", "effusion"),
    _of(random_abdomen, speckle, ("abdominal ultrasound", "ultrasound image of the abdomen"), "mass", "nodule", "cyst",
        "effusion", "infiltrate"),
    _of(random_organ, speckle, ("organ ultrasound", "ultrasound image of an organ"), "mass", "nodule", "cyst",
        "infiltrate", "haemorrhage"),
    _of(bladder_ultrasound, speckle, ("bladder ultrasound", "ultrasound image of the bladder"), "mass", "nodule",
        "haemorrhage"),
    _of(testis_ultrasound, speckle, ("testis ultrasound", "ultrasound image of the testis"), "mass", "nodule", "cyst",
        "infiltrate", "haemorrhage"),
    _of(ovary_ultrasound, speckle, ("ovary ultrasound", "ultrasound image of the ovary"), "mass", "cyst", "nodule",
        "haemorrhage"),
    _of(uterus_ultrasound, speckle, ("uterus ultrasound", "ultrasound image of the uterus"), "mass", "nodule", "cyst",
        "infiltrate"),
    _of(shoulder_ultrasound, speckle, ("shoulder ultrasound", "ultrasound image of a tendon"), "effusion", "oedema",
        "haemorrhage", "cyst", "nodule"),
)}
# fmt: on
"""By name; of the same kind as the catalogue's, which they are not part of."""
