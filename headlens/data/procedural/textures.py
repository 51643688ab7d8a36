"""Surfaces that fill the picture: ``(draw, canvas) -> Scene``."""

from __future__ import annotations

import torch
from torch import Tensor

from headlens.data.procedural.canvas import Canvas, over
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.fields import cells, colour, hsv, noise, ramp, relief, smooth
from headlens.data.procedural.scene import Scene


def surface(image: Tensor) -> Scene:
    """A picture that is all surface: a flaw may be anywhere."""
    return Scene(image.clamp(0, 1), torch.ones_like(image[:, :1]), torch.ones_like(image[:, :1, :1, :1]))


def laid(draw: Draw, at: Canvas, turn: float = 3.1416, scale: tuple[float, float] = (0.7, 1.3)) -> Canvas:
    """A surface seen from somewhere: turned, a little squashed, at some distance."""
    return at.posed(draw, turn, scale, 0.3)


def wood(draw: Draw, at: Canvas) -> Scene:
    """Growth rings cut lengthwise, pores along the grain, now and then a knot."""
    at = laid(draw, at, turn=0.4)
    knot_x, knot_y = draw.uniform(-0.8, 0.8), draw.uniform(-0.8, 0.8)
    has_knot, near = draw.chance(0.5), at.moved(knot_x, knot_y).scaled(1.0, 2.2)
    pull = has_knot * 0.35 * (-near.disc(0.0) * 4).exp()
    rings = at.x + 0.10 * noise(draw, at, 2, 3, stretch=6) + pull * near.x / (near.x.abs() + 0.08)
    phase = rings * draw.uniform(10, 26)
    ring = 0.5 + 0.5 * (phase + 0.8 * (phase * 0.37).sin()).sin()
    pores = smooth(0.9, 1.7, noise(draw, at, 60, 1, stretch=14))
    hue = draw.uniform(0.05, 0.10)
    light = colour(draw, (0.07, 0.1), (0.3, 0.55), (0.7, 0.9))
    dark = light * draw.uniform(0.45, 0.8) * (1 - hue)
    image = ramp(0.15 + 0.7 * ring + 0.15 * noise(draw, at, 5, 3, stretch=8), light, dark)
    image = over(image, dark * 0.6, 0.6 * pores)
    image = over(image, dark * 0.5, has_knot * smooth(0.14, 0.05, near.disc(0.0)))
    return surface(image)


def fabric(draw: Draw, at: Canvas) -> Scene:
    """Plain or twill weave: warp and weft passing over and under each other, some threads of another colour."""
    at = laid(draw, at)
    at = at.bent(0.02 * noise(draw, at, 2, 2), 0.02 * noise(draw, at, 2, 2))
    n, twill = draw.uniform(12, 34), draw.chance(0.4)
    u, v = at.x * n, at.y * n
    # Which thread is on top: a chessboard in plain weave, diagonals in twill.
    over_under = torch.where(
        twill > 0, torch.remainder(u.floor() + v.floor(), 4) < 2, torch.remainder(u.floor() + v.floor(), 2) < 1
    )
    warp, weft = 1 - (2 * torch.remainder(u, 1.0) - 1).square(), 1 - (2 * torch.remainder(v, 1.0) - 1).square()
    top = torch.where(over_under, warp * (0.6 + 0.4 * weft), weft * (0.6 + 0.4 * warp))
    one, other = colour(draw, (0, 1), (0.05, 0.6), (0.25, 0.9)), colour(draw, (0, 1), (0.05, 0.6), (0.2, 0.9))
    same = draw.chance(0.6)
    other = one * (same * 0.85) + other * (1 - same)
    striped = draw.chance(0.4) * smooth(0.2, 0.4, (at.x * draw.uniform(3, 12)).sin())
    image = torch.where(over_under, over(one.expand(-1, -1, at.size, at.size), other * 0.7, striped), other)
    image = image * (0.35 + 0.65 * top) * (1 + 0.08 * noise(draw, at, 30, 2))
    return surface(image)


def leather(draw: Draw, at: Canvas) -> Scene:
    """Grain of small bulging cells between creases, longer folds, a soft sheen."""
    at = laid(draw, at)
    first, second, ident = cells(draw, at.bent(0.03 * noise(draw, at, 6, 2), 0.03 * noise(draw, at, 6, 2)), 22)
    crease = smooth(0.0, 0.28, second - first)
    fold = smooth(0.0, 0.16, noise(draw, at, 2.5, 3).abs())
    height = 0.02 * crease + 0.012 * fold + 0.03 * noise(draw, at, 2, 3)
    base = colour(draw, (0.0, 0.12), (0.2, 0.8), (0.15, 0.75))
    image = base * (0.55 + 0.3 * crease + 0.15 * fold + 0.06 * ident) + 0.16 * relief(height, draw, 1.2)
    return surface(image * (1 + 0.08 * noise(draw, at, 3, 2)))


def metal(draw: Draw, at: Canvas) -> Scene:
    """Brushed or turned metal: streaks one way or in circles, broad reflections across them, bolts at times."""
    flat = laid(draw, at)
    turned = draw.chance(0.3)
    radius = flat.moved(draw.uniform(-0.6, 0.6), draw.uniform(-0.6, 0.6)).disc(0.0)
    across = torch.where(turned > 0, radius, flat.y)
    along = torch.where(turned > 0, 0.2 * torch.atan2(flat.y, flat.x), flat.x)
    streaks = noise(draw, Canvas(across, along, flat.pixel), 70, 2, 0.7, stretch=40)
    sheen = (across * draw.uniform(2, 6) + draw.uniform(0, 6.28) + 0.4 * noise(draw, flat, 2, 2)).sin()
    tone = draw.uniform(0.35, 0.7)
    tint = 1 + 0.25 * (colour(draw, (0, 1), (0.1, 0.5), (1, 1)) - 1) * draw.chance(0.4)
    image = (tone + 0.09 * streaks + draw.uniform(0.05, 0.16) * sheen) * tint
    bolts = Canvas(torch.remainder(flat.x + 0.4, 0.8) - 0.4, torch.remainder(flat.y + 0.4, 0.8) - 0.4, flat.pixel)
    drilled = draw.chance(0.35)
    image = over(image, image * 0.45, drilled * bolts.fill(bolts.disc(0.075)))
    image = over(
        image, tone * 1.15 * tint, drilled * bolts.fill(bolts.disc(0.055)) * (0.6 + 0.4 * relief(bolts.x, draw))
    )
    return surface(image)


def concrete(draw: Draw, at: Canvas) -> Scene:
    """Cast concrete: clouds of grey, sand, air pores, joints between slabs now and then."""
    at = laid(draw, at)
    image = colour(draw, (0.05, 0.15), (0.02, 0.14), (0.4, 0.75)) * (1 + 0.22 * noise(draw, at, 2.5, 5, 0.65))
    image = image * (1 + 0.10 * noise(draw, at, 60, 2, 0.8))
    first, _, ident = cells(draw, at, 14)
    pores = (ident < draw.uniform(0.05, 0.4)) * at.fill((first - 0.05 - 0.22 * ident) / 7)
    image = over(image, image * 0.4, pores)
    joint = at.line(torch.remainder(at.x + draw.uniform(0, 1), 1.3) - 0.65, draw.uniform(0.01, 0.035))
    image = over(image, image * 0.35, draw.chance(0.35) * joint)
    return surface(image)


def carpet(draw: Draw, at: Canvas) -> Scene:
    """Tufts of yarn, loops side by side, a woven pattern of two or three colours under them."""
    at = laid(draw, at)
    first, second, ident = cells(draw, at, 30, 0.7)
    rings = (8 * (at.x.abs() + at.y.abs()) * draw.uniform(0.3, 1.2)).sin()
    motif = draw.chance(0.5) * smooth(-0.1, 0.1, rings + 0.4 * noise(draw, at, 3, 2))
    one, two = colour(draw, (0, 1), (0.1, 0.7), (0.25, 0.75)), colour(draw, (0, 1), (0.1, 0.7), (0.2, 0.8))
    image = over(one.expand(-1, -1, at.size, at.size), two, motif)
    image = image * (1.05 - 0.6 * first + 0.5 * (ident - 0.5)) * (1 + 0.12 * noise(draw, at, 50, 1))
    return surface(image * (0.8 + 0.4 * smooth(0.0, 0.3, second - first)))


def marble(draw: Draw, at: Canvas) -> Scene:
    """Polished stone: a light or dark ground and veins, thick and thin, that bend and branch."""
    at = laid(draw, at)
    bent = at.bent(0.25 * noise(draw, at, 2, 4), 0.25 * noise(draw, at, 2, 4))
    thick = 1 - smooth(0.0, draw.uniform(0.08, 0.25), noise(draw, bent, 1.6, 3).abs())
    thin = 1 - smooth(0.0, 0.07, noise(draw, bent, 3.5, 3).abs())
    dark = draw.chance(0.35)
    ground = colour(draw, (0, 1), (0.02, 0.2), (0.75, 0.95)) * (1 - 0.75 * dark)
    vein = colour(draw, (0.02, 0.15), (0.05, 0.5), (0.25, 0.6)) * (1 - dark) + 0.85 * dark
    image = over(ground * (1 + 0.10 * noise(draw, at, 3, 4)), vein, 0.75 * thick * draw.uniform(0.4, 1))
    return surface(over(image, vein, 0.6 * thin * smooth(-0.5, 0.8, noise(draw, at, 2, 2))))


def terrazzo(draw: Draw, at: Canvas) -> Scene:
    """Chips of stone of several colours and sizes in a ground of cement."""
    at = laid(draw, at)
    ground = colour(draw, (0, 1), (0.02, 0.25), (0.5, 0.92))
    image = ground * (1 + 0.05 * noise(draw, at, 4, 4))
    hue, spread = draw.uniform(), draw.uniform(0.05, 0.6)
    for n, size in ((18, 0.5), (9, 0.62)):
        bent = at.bent(0.02 * noise(draw, at, 14, 2), 0.02 * noise(draw, at, 14, 2))
        first, second, ident = cells(draw, bent, n)
        chip = smooth(0.0, 0.1, size - first) * smooth(0.04, 0.14, second - first) * (ident < 0.6)
        tone = torch.remainder(ident * 37, 1.0)
        image = over(image, hsv(hue + spread * tone, 0.45 * torch.remainder(ident * 91, 1.0), 0.25 + 0.7 * tone), chip)
    return surface(image)


def mesh(draw: Draw, at: Canvas) -> Scene:
    """Woven wire or perforated sheet before something dark or bright: bars with a round shade, holes between."""
    at = laid(draw, at)
    n, bar = draw.uniform(4, 11), draw.uniform(0.16, 0.3)
    cell = Canvas(torch.remainder(at.x * n, 1.0) - 0.5, torch.remainder(at.y * n, 1.0) - 0.5, at.pixel * n)
    behind = colour(draw, (0, 1), (0.0, 0.5), (0.04, 0.9)) * (1 + 0.2 * noise(draw, at, 3, 3))
    steel = colour(draw, (0.05, 0.65), (0.0, 0.35), (0.35, 0.85))
    punched = draw.chance(0.4)
    ex, ey = 0.5 - cell.x.abs(), 0.5 - cell.y.abs()  # distance to the middle of a bar
    upper = torch.remainder((at.x * n + 0.5).floor() + (at.y * n + 0.5).floor(), 2.0) < 1
    round_x, round_y = (1 - (ex / bar).square()).clamp(min=0), (1 - (ey / bar).square()).clamp(min=0)
    shade = torch.where(upper, torch.where(round_x > 0, round_x, round_y), torch.where(round_y > 0, round_y, round_x))
    wires = torch.maximum(cell.fill(ex - bar), cell.fill(ey - bar))
    sheet = 1 - cell.fill(cell.disc(0.5 - bar))
    solid = torch.where(punched > 0, sheet, wires)
    shade = torch.where(punched > 0, 0.75 + 0.1 * noise(draw, at, 40, 1), shade.sqrt())
    return surface(over(behind, steel * (0.25 + 0.75 * shade) * (1 + 0.1 * noise(draw, at, 6, 3)), solid))


def tile(draw: Draw, at: Canvas) -> Scene:
    """Glazed tiles: grout, bevels, each tile of its own tone, a printed motif on some floors."""
    at = laid(draw, at)
    n, gap = draw.uniform(1.2, 4), draw.uniform(0.02, 0.05)
    u, v = at.x * n, at.y * n
    u = u + 0.5 * draw.chance(0.4) * torch.remainder(v.floor(), 2.0)
    cell = Canvas(torch.remainder(u, 1.0) - 0.5, torch.remainder(v, 1.0) - 0.5, at.pixel * n)
    own = 0.5 + 0.5 * (u.floor() * 12.99 + v.floor() * 78.23 + draw.uniform(0, 6.28)).sin()
    edge = cell.box(0.5 - gap, 0.5 - gap, 0.03)
    glaze, second = colour(draw, (0, 1), (0.05, 0.7), (0.4, 0.95)), colour(draw, (0, 1), (0.1, 0.8), (0.2, 0.9))
    motif = draw.chance(0.5) * (cell.line(cell.disc(draw.uniform(0.2, 0.4)), 0.05) + cell.fill(cell.polygon(4, 0.12)))
    image = over(glaze * (0.82 + 0.25 * own) * (1 + 0.05 * noise(draw, at, 5, 4)), second, motif.clamp(0, 1))
    image = image + 0.15 * relief(0.06 * smooth(-0.06, 0, edge), draw, 1.5)
    grout = colour(draw, (0.05, 0.15), (0, 0.2), (0.2, 0.85)) * (1 + 0.15 * noise(draw, at, 50, 1))
    return surface(over(image, grout, 1 - cell.fill(edge)))


def brick(draw: Draw, at: Canvas) -> Scene:
    """A wall in running bond: burnt clay of changing tone, rough faces, mortar."""
    at = laid(draw, at, turn=0.3)
    at = at.bent(0.008 * noise(draw, at, 12, 2), 0.008 * noise(draw, at, 12, 2))
    n = draw.uniform(2.5, 5)
    v = at.y * n
    u = at.x * n * draw.uniform(0.38, 0.5) + 0.5 * torch.remainder(v.floor(), 2.0)
    cell = Canvas(2.2 * (torch.remainder(u, 1.0) - 0.5), torch.remainder(v, 1.0) - 0.5, at.pixel * n)
    own = 0.5 + 0.5 * (u.floor() * 45.16 + v.floor() * 94.67 + draw.uniform(0, 6.28)).sin()
    clay = hsv(draw.uniform(0, 0.07) + 0.03 * own, 0.35 + 0.3 * own, draw.uniform(0.4, 0.7) * (0.7 + 0.5 * own))
    rough = 1 + 0.16 * noise(draw, at, 20, 3, 0.8)
    image = clay * rough + 0.1 * relief(0.02 * noise(draw, at, 16, 3, 0.8), draw)
    mortar = colour(draw, (0.05, 0.12), (0.02, 0.2), (0.5, 0.85)) * rough
    return surface(over(mortar, image, cell.fill(cell.box(1.04, 0.44, 0.05))))


def cardboard(draw: Draw, at: Canvas) -> Scene:
    """Corrugated board: flutes showing through the liner, fibres, printed bars or a tape at times."""
    at = laid(draw, at, turn=0.5)
    flutes = (at.x * draw.uniform(25, 60)).sin()
    base = colour(draw, (0.07, 0.11), (0.2, 0.5), (0.5, 0.8))
    image = base * (1 + draw.uniform(0.02, 0.1) * flutes + 0.06 * noise(draw, at, 3, 4))
    image = over(image, base * 0.7, smooth(1.0, 1.6, noise(draw, at, 45, 1, stretch=5)))
    bars = (torch.remainder(at.x * 9, 1.0) < 0.3 + 0.4 * torch.remainder((at.x * 9).floor() * 0.618, 1.0)).float()
    window = at.moved(draw.uniform(-0.6, 0.6), draw.uniform(-0.6, 0.6))
    image = over(image, 0.12, draw.chance(0.35) * bars * window.fill(window.box(0.35, 0.18)))
    tape = at.fill((at.y - draw.uniform(-0.8, 0.8)).abs() - draw.uniform(0.1, 0.25))
    return surface(over(image, colour(draw, (0, 1), (0.1, 0.6), (0.6, 0.95)), 0.6 * draw.chance(0.3) * tape))


def random_surface(draw: Draw, at: Canvas) -> Scene:
    """No material anyone knows: cells, waves and clouds mixed at random, in random colours."""
    at = laid(draw, at)
    bend = draw.uniform(0, 0.2)
    bent = at.bent(bend * noise(draw, at, 3, 3), bend * noise(draw, at, 3, 3))
    first, second, ident = cells(draw, bent.scaled(draw.uniform(0.5, 2)), 10, 0.9)
    waves = (bent.x * draw.uniform(5, 60)).sin() * (bent.y * draw.uniform(0, 40) + draw.uniform(0, 6)).cos()
    clouds = noise(draw, bent, 3, 5, 0.7)
    fine = noise(draw, bent, 25, 2, 0.8, stretch=4)
    parts = torch.cat([first - 0.5, second - first - 0.3, ident - 0.5, 0.5 * waves, 0.4 * clouds, 0.4 * fine], 1)
    weight = draw.uniform(-1, 1, (6, 1, 1)) * draw.chance(0.6, (6, 1, 1)) + 0.15
    mixed = 0.5 + (parts * weight).sum(1, keepdim=True)
    stops = [colour(draw, (0, 1), (0, 0.7), (0.1, 0.95)) for _ in range(3)]
    near = draw.uniform(0.2, 0.8)  # how far apart the colours are
    image = ramp(mixed, *[stops[0] + (stop - stops[0]) * near for stop in stops])
    return surface(image + draw.chance(0.5) * 0.12 * relief(0.03 * mixed, draw, 1.2))
