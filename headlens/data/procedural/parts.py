"""Machined parts of metal and plastic, and what all objects are made with: materials, light, lettering.

An object is painted in the unit disc of its own canvas.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headlens.data.procedural.backdrops import either, periodic, placed, stand
from headlens.data.procedural.canvas import Canvas, over
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.fields import colour, noise, relief, smooth
from headlens.data.procedural.scene import Scene


def folded(at: Canvas, count: Tensor | int) -> Canvas:
    """``count`` copies, around the centre, of what is painted on the positive x axis."""
    step = 2 * torch.pi / count
    angle, radius = periodic(torch.atan2(at.y, at.x) / step) * step, at.disc(0.0)
    return Canvas(radius * angle.cos(), radius * angle.sin(), at.pixel)


def around(at: Canvas, radius: Tensor | float) -> Canvas:
    """The plane wound up: y = 0 becomes the circle of ``radius``, x the way along it, up is outward."""
    return Canvas(torch.atan2(at.y, at.x) * radius, -at.disc(radius), at.pixel)


def lettering(draw: Draw, at: Canvas, columns: int, rows: int = 1) -> Tensor:
    """Coverage of ``rows`` lines of made-up letters, each line from x = -1 to 1."""
    wide, high = 2 / columns, 3.2 / columns
    u, v = (at.x + 1) / wide, at.y / high + rows / 2
    column, row = u.floor(), v.floor()
    inside = ((column >= 0) & (column < columns) & (row >= 0) & (row < rows)).to(at.x.dtype)
    letter = row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)
    strokes = draw.chance(0.6, (8 * rows * columns,))  # of a letter: three bars, four half stems, a diagonal
    x, y, half, tall = (u - column - 0.5) * wide, (v - row - 0.5) * high, 0.3 * wide, 0.33 * high

    def drawn(which: Tensor, distance: Tensor) -> Tensor:
        on = strokes.gather(1, (letter * 8 + which).long().flatten(1)).view_as(distance)
        return distance + 9 * (1 - on)

    bar = (y / tall).round().clamp(-1, 1)  # only the nearest stroke of each kind can be seen at a point
    bars = drawn(bar + 1, torch.maximum((y - bar * tall).abs(), x.abs() - half))
    stems = drawn(3 + 2.0 * (x > 0) + (y > 0), torch.maximum((x.abs() - half).abs(), y.abs() - tall))
    diagonal = torch.maximum((y + x * (tall / half)).abs() * 0.48, y.abs() - tall)
    diagonal = drawn(torch.full_like(x, 7.0), diagonal)
    return at.line(torch.minimum(torch.minimum(bars, stems), diagonal), 0.16 * wide) * inside


def bevel(distance: Tensor, width: Tensor | float, depth: Tensor | float = 1.0) -> Tensor:
    """Height of a body whose rim is rounded over ``width``; ``depth`` is how high, in widths."""
    t = (-distance / width).clamp(0, 1)
    return t * (2 - t) * width * depth


def lit(draw: Draw, at: Canvas, image: Tensor, height: Tensor, gloss: Tensor | float = 0.3) -> Tensor:
    """``image`` under the light of this sample, with ``height`` in the units of ``at``."""
    shade = relief(height * (2 / at.size) / at.pixel, draw.fork("light"), 1.0)
    return image * (1 + 0.6 * shade) + gloss * shade.clamp(min=0).square()


def metal(draw: Draw, at: Canvas) -> Tensor:
    """Steel, brass, copper, black oxide or anodised metal [B, 3, S, S]; brushed, turned, milled, cast or blank."""
    steel = colour(draw, (0.5, 0.65), (0.0, 0.1), (0.45, 0.85))
    tone = either(
        draw,
        steel,
        steel,
        steel,
        colour(draw, (0.1, 0.14), (0.3, 0.65), (0.55, 0.9)),
        colour(draw, (0.03, 0.07), (0.4, 0.65), (0.5, 0.85)),
        colour(draw, (0, 1), (0.0, 0.2), (0.1, 0.25)),
        colour(draw, (0, 1), (0.3, 0.8), (0.3, 0.8)),
    )
    brushed = noise(draw, at, 50, 1, stretch=20)
    radius = at.disc(0.0)
    turned = (radius * draw.uniform(60, 160) + 2 * brushed).sin() * 0.5 + 0.8 * brushed * 0.4
    milled = (at.moved(draw.uniform(-1.5, 1.5), 1.5).disc(0.0) * draw.uniform(50, 110)).sin() * 0.7
    cast = noise(draw, at, 30, 2)
    # Two opposite bright sectors, as on every turned face under one lamp.
    flare = (2 * (torch.atan2(at.y, at.x) - draw.uniform(0, 3.1416))).cos()
    marks = either(draw, brushed, turned, milled, cast, 0.2 * cast, turned + 1.2 * flare)
    mirror = (at.x * draw.uniform(-2, 2) + at.y * draw.uniform(-2, 2) + draw.uniform(0, 6)).sin()
    return tone * (1 + draw.uniform(0.04, 0.2) * marks + 0.15 * mirror)


def plastic(draw: Draw, at: Canvas) -> Tensor:
    """Moulded plastic or paint of any colour, plain, rough, marbled or speckled [B, 3, S, S]."""
    tone = colour(draw, (0, 1), (0.0, 0.95), (0.12, 0.95))
    rough, veins = noise(draw, at, 36, 1), noise(draw, at, 4, 4)
    marble = smooth(0.25, 0.0, veins.abs())
    other = colour(draw, (0, 1), (0.0, 0.5), (0.1, 0.95))
    image = tone * (1 + draw.uniform(0.01, 0.08) * rough + 0.05 * veins)
    return over(image, other, either(draw, 0 * marble, 0 * marble, 0.6 * marble, 0.8 * smooth(0.8, 1.1, rough)))


def merge(a: Tensor, b: Tensor, soft: Tensor | float) -> Tensor:
    """Distance of the union of two shapes, the inner corner filled over ``soft``."""
    h = (0.5 + 0.5 * (b - a) / soft).clamp(0, 1)
    return b + (a - b) * h - soft * h * (1 - h)


def outline(draw: Draw, at: Canvas) -> Tensor:
    """Distance of a random simple shape: box, bar, polygon, disc, lobed disc or superformula."""
    angle, radius = torch.atan2(at.y, at.x), at.disc(0.0)
    fold = draw.integers(9) * 0.25 * angle
    power = (fold.cos().abs() + 1e-3) ** draw.uniform(0.7, 4) + (fold.sin().abs() + 1e-3) ** draw.uniform(0.7, 4)
    formula = power ** (-1 / draw.uniform(0.8, 4))
    lobes = 0.8 + draw.uniform(0.05, 0.2) * torch.tanh(draw.uniform(0.6, 3) * ((2 + draw.integers(8)) * angle).cos())
    narrow = draw.uniform(0.2, 0.5)
    bar = at.box(0.95, narrow, narrow * draw.chance(0.6))
    box = at.box(draw.uniform(0.5, 0.78), draw.uniform(0.5, 0.78), draw.uniform(0.0, 0.35))
    corners = draw.uniform(0.0, 0.2)
    polygon = at.polygon(3 + draw.integers(6), draw.uniform(0.5, 0.75) - corners) - corners
    return either(
        draw, bar, box, box, polygon, radius - 0.9, 0.8 * (radius - lobes), 0.7 * (radius - formula.clamp(0.3, 1))
    )


def part(draw: Draw, at: Canvas) -> Scene:
    """A machined, moulded or cast part of no fixed kind.

    Outlines joined and cut, bores and slots, steps, pockets, ribs, knurling, inserts of another material, print or
    engraving.
    """
    on = placed(draw, at)
    shape = outline(draw, on)
    # Ears, arms or lobes around the body, then notches and bores: copies of one shape each.
    count = 1 + draw.integers(6)
    ears = folded(on.turned(draw.uniform(0, 6)), count).moved(draw.uniform(0.45, 0.75), 0.0)
    ear = outline(draw, ears.scaled(draw.uniform(0.15, 0.4))) * 0.25
    shape = torch.where(draw.chance(0.5) > 0, merge(shape, ear, draw.uniform(0.005, 0.15)), shape)
    notches = folded(on.turned(draw.uniform(0, 6)), 1 + draw.integers(8)).moved(draw.uniform(0.7, 0.95), 0.0)
    notch = either(
        draw, notches.disc(draw.uniform(0.05, 0.2)), notches.box(draw.uniform(0.1, 0.4), draw.uniform(0.03, 0.12))
    )
    shape = torch.where(draw.chance(0.45) > 0, torch.maximum(shape, -notch), shape)
    ring, width = draw.uniform(0.35, 0.7), draw.uniform(0.04, 0.16)
    satellites = folded(on.turned(draw.uniform(0, 6)), 2 + draw.integers(8)).moved(ring, 0.0)
    small = either(
        draw,
        satellites.disc(width),
        satellites.box(width * 1.6, width * 0.6, width * 0.6),
        satellites.polygon(6, width),
    )
    bore = either(
        draw,
        on.disc(draw.uniform(0.1, 0.35)),
        on.polygon(3 + draw.integers(5), draw.uniform(0.1, 0.3)),
        on.box(draw.uniform(0.1, 0.4), draw.uniform(0.05, 0.2), 0.05),
        torch.minimum(on.disc(0.25), on.moved(0.2, 0.0).box(0.15, 0.06)),
    )
    drilled, bored = draw.chance(0.55), draw.chance(0.55)
    shape = torch.where(drilled > 0, torch.maximum(shape, -small), shape)
    shape = torch.where(bored > 0, torch.maximum(shape, -bore), shape)

    # Relief: the rim, a step that follows the outline, a pocket or boss, ribs.
    height = bevel(shape, draw.uniform(0.02, 0.16), draw.uniform(0.4, 1.4))
    inset = draw.uniform(0.08, 0.25)
    step = draw.chance(0.5) * draw.uniform(-1, 1)
    height = height + 0.06 * step * smooth(0, 0.03, -shape - inset)
    face = outline(draw, on.turned(draw.uniform(0, 6)).scaled(draw.uniform(0.3, 0.75)))
    sunk = draw.chance(0.6) * draw.uniform(-1, 1)
    height = height + 0.07 * sunk * smooth(0, 0.06, -face)
    bumps = draw.uniform(15, 50)
    knurl = ((on.x + on.y) * bumps).sin() * ((on.x - on.y) * bumps).sin()
    ribs = (draw.integers(24) * torch.atan2(on.y, on.x)).cos()
    grooves = (on.disc(0.0) * bumps).sin()
    where = either(draw, on.fill(face), on.fill(-face), smooth(-0.02, 0.02, -shape - inset))
    texture = either(draw, 0 * knurl, 0 * knurl, knurl, ribs, (on.x * bumps).sin(), grooves)
    height = height + draw.uniform(0.3, 1) * where * texture / bumps * 0.6

    steel, moulded = metal(draw, on), plastic(draw, on)
    body = either(draw, steel, steel, moulded)
    insert = either(draw, moulded, steel)
    image = over(body, insert, draw.chance(0.35) * on.fill(face))
    image = image * (
        1 - 0.35 * (sunk.abs() > 0) * on.line(face, 0.02) - 0.3 * (step.abs() > 0) * on.line(shape + inset, 0.02)
    )
    collar = draw.chance(0.5) * drilled * on.fill(small - draw.uniform(0.01, 0.06))
    image = over(image, steel * draw.uniform(0.6, 1.5), collar)
    stripe = draw.chance(0.25) * on.fill((on.x - draw.uniform(-0.5, 0.5)).abs() - draw.uniform(0.04, 0.2))
    ink = colour(draw, (0, 1), (0.0, 0.9), (0.05, 1.0))
    image = over(image, ink, stripe)
    words = lettering(
        draw, on.turned(draw.uniform(0, 6)).moved(0.0, draw.uniform(-0.5, 0.5)).scaled(draw.uniform(0.25, 0.5)), 6
    )
    mark = draw.chance(0.4)
    engraved = draw.chance(0.5)
    height = height - 0.02 * mark * engraved * words
    image = over(image, ink, mark * words * (1 - 0.7 * engraved))
    image = lit(draw, on, image, height, draw.uniform(0.1, 0.6))
    return stand(draw, at, image, on.fill(shape))


def nut(draw: Draw, at: Canvas) -> Scene:
    """A hexagon or square nut from above: chamfered corners, threaded bore, sometimes a flange or a locking ring."""
    on = placed(draw, at)
    sides = 4 + 2 * draw.integers(3).clamp(max=2) - 0 * on.pixel
    sides = torch.where(draw.chance(0.6) > 0, torch.full_like(sides, 6.0), sides)
    flange = draw.chance(0.3)
    size = (0.97 - 0.25 * flange) * (torch.pi / sides).cos() ** draw.uniform(0.7, 1)
    bore = draw.uniform(0.42, 0.62) * size
    flat, radius = on.polygon(sides, size), on.disc(0.0)
    head = torch.maximum(flat, radius - size * 1.12)
    shape = torch.minimum(head, torch.where(flange > 0, radius - draw.uniform(0.85, 0.98), head))
    cover = on.fill(torch.maximum(shape, bore - radius))
    crown = draw.uniform(0.86, 1.0) * size  # the cone that cuts the corners
    height = bevel(head, 0.06, 1.0) + 0.5 * (crown - radius).clamp(max=0) + bevel(shape, 0.05, 0.8)
    height = height - 0.6 * (bore * 1.14 - radius).clamp(min=0)
    turns, angle = draw.uniform(8, 20), torch.atan2(on.y, on.x)
    thread = (6.2832 * (radius - bore) / bore * turns + angle).sin() * smooth(bore * 1.2, bore * 1.17, radius)
    image = metal(draw, on) * (1 + 0.35 * thread - 0.3 * on.line(head, 0.02) * flange)
    ring = draw.chance(0.3) * on.fill((radius - bore * 1.25).abs() - 0.12 * bore)
    image = over(image, plastic(draw, on), ring)
    height = height + 0.1 * bevel((radius - bore * 1.25).abs() - 0.12 * bore, 0.05) * ring
    stamp = lettering(draw, around(on.turned(draw.uniform(0, 6)), (crown + bore) * 0.54).scaled(0.4), 5)
    height = height - 0.012 * stamp * draw.chance(0.5)
    rim = on.line(radius - crown, 0.015) * on.fill(head)
    image = lit(draw, on, image * (1 - 0.25 * rim), height, draw.uniform(0.2, 0.6))
    return stand(draw, at, image, cover)


def bearing(draw: Draw, at: Canvas) -> Scene:
    """A ball bearing from above: outer and inner ring, the balls in their cage, or a seal that hides them."""
    on = placed(draw, at)
    radius, outer = on.disc(0.0), 0.95
    bore = draw.uniform(0.25, 0.5)
    gap = outer - bore
    low, high = bore + gap * draw.uniform(0.2, 0.32), outer - gap * draw.uniform(0.17, 0.3)
    middle, half = (low + high) / 2, (high - low) / 2
    track = (radius - middle).abs() - half  # negative between the rings
    count = (torch.pi * middle / half * draw.uniform(0.5, 0.85)).floor().clamp(5, 18)
    place = folded(on.turned(draw.uniform(0, 6)), count).moved(middle, 0.0)
    ball = place.disc(half * draw.uniform(0.85, 1.1))
    steel = metal(draw, on)
    rivet = place.moved(0.0, torch.pi / count * middle).disc(half * 0.3)
    cage = torch.minimum((radius - middle).abs() - half * draw.uniform(0.25, 0.6), rivet)
    holder = over(steel * 0.3, either(draw, metal(draw, on), plastic(draw, on)), on.fill(cage))
    shine = (1 + 0.8 * place.scaled(half).x.clamp(-1, 1)) * colour(draw, (0.5, 0.7), (0.0, 0.08), (0.4, 0.75))
    inner = over(holder, shine, on.fill(ball))
    inner = inner + 0.6 * on.fill(place.moved(-0.3 * half, 0.3 * half).disc(half * 0.22))
    dome = bevel(ball, half, 0.9)
    sealed = draw.chance(0.35)
    seal = plastic(draw, on) * (1 - 0.3 * on.line(track + 0.25 * half, 0.02))
    words = lettering(draw, around(on.turned(draw.uniform(0, 6)), middle).scaled(middle * draw.uniform(0.6, 1.4)), 9)
    seal = over(seal, colour(draw, (0, 1), (0.0, 0.3), (0.05, 1.0)), draw.chance(0.7) * words)
    inner = torch.where(sealed > 0, seal, inner)
    cover = on.fill(torch.maximum(radius - outer, bore - radius))
    rings = torch.maximum(torch.maximum(radius - outer, bore - radius), -track)
    image = over(steel, inner, on.fill(track))
    image = image * (1 - 0.6 * on.line(track, 0.025))
    height = bevel(rings, draw.uniform(0.03, 0.1), 1.0) + torch.where(sealed > 0, bevel(track, 0.05, 0.6), dome)
    image = lit(draw, on, image, height, draw.uniform(0.2, 0.6))
    return stand(draw, at, image, cover)


def gear(draw: Draw, at: Canvas) -> Scene:
    """A spur gear: trapezoid teeth, rim, web with holes or spokes, hub, bore with a keyway."""
    on = placed(draw, at)
    radius, count = on.disc(0.0), 9 + draw.integers(32)
    tooth = draw.uniform(1.6, 2.6) / count
    tooth = tooth.clamp(max=0.2)
    turned = on.turned(draw.uniform(0, 6))
    swing = (torch.atan2(turned.y, turned.x) * count).cos()
    sharp = draw.uniform(0.9, 2.5)
    profile = 0.95 - tooth + tooth * torch.tanh(sharp * swing * 1.5) / torch.tanh(sharp * 1.5)
    flank = 0.55 * (radius - profile)
    bore, hub = draw.uniform(0.08, 0.2), draw.uniform(0.24, 0.34)
    root = 0.95 - 2 * tooth
    rim = root - draw.uniform(0.08, 0.16)
    arms = folded(turned, 3 + draw.integers(6))
    spokes = torch.maximum(torch.maximum(radius - rim, hub - radius), draw.uniform(0.05, 0.1) - arms.y.abs()) + 0.0
    spokes = torch.maximum(spokes, -arms.x)  # between the spokes, on the side of the fold
    discs = arms.moved((rim + hub) / 2, 0.0).disc((rim - hub) * draw.uniform(0.2, 0.42))
    web = either(draw, spokes, discs, discs, torch.full_like(radius, 1.0))
    keyway = turned.moved(bore, 0.0).box(bore * 0.35, bore * 0.3) + 9 * (1 - draw.chance(0.5))
    cut = torch.minimum(torch.minimum(radius - bore, keyway), web)
    shape = torch.maximum(flank, -cut)
    disc = torch.maximum(radius - rim, hub - radius)
    sunk = draw.chance(0.7) * draw.uniform(0.3, 1)
    height = bevel(shape, draw.uniform(0.015, 0.05), 1.0) - 0.05 * sunk * smooth(0, 0.04, -disc)
    either_way = either(draw, metal(draw, on), metal(draw, on), plastic(draw, on))
    image = either_way * (1 - 0.3 * on.line(disc, 0.02) * sunk) * (1 - 0.2 * sunk * on.fill(disc))
    words = lettering(draw, around(turned.turned(draw.uniform(0, 6)), (rim + root) / 2).scaled((root - rim) * 3.5), 7)
    height = height - 0.01 * draw.chance(0.5) * words
    image = lit(draw, on, image, height, draw.uniform(0.1, 0.6))
    return stand(draw, at, image, on.fill(shape))


def screw(draw: Draw, at: Canvas) -> Scene:
    """A screw from the side: hexagon, pan, countersunk or knurled socket head with its slot, shank, thread, point."""
    on = placed(draw, at)
    x, y = on.x, on.y.abs()
    core, deep = draw.uniform(0.11, 0.24), draw.uniform(0.03, 0.06)
    pitch = draw.uniform(0.05, 0.12)
    neck, high = draw.uniform(-0.8, -0.55), draw.uniform(1.7, 2.4) * (core + deep)
    start = torch.where(draw.chance(0.5) > 0, neck, draw.uniform(-0.5, 0.2))  # where the thread begins
    ridge = 2 * periodic((x - 0.12 * on.y / core * pitch) / pitch).abs()  # 0 in the groove, 1 on the crest
    threaded = smooth(start - 0.02, start + 0.02, x)
    taper = torch.where(draw.chance(0.5) > 0, smooth(0.95, 0.5, x), 1 - 0.3 * smooth(0.88, 0.95, x))
    width = (core + threaded * deep * ridge + (1 - threaded) * deep * draw.uniform(0.2, 1)) * (0.03 + 0.97 * taper)
    shank = torch.maximum((y - width) * 0.7, torch.maximum(neck - x, x - 0.95))

    t = ((x + 0.95) / (neck + 0.95)).clamp(0, 1)  # 0 at the top of the head, 1 at its seat
    dome, sunk = (
        high * (1 - (1 - t).square() * 0.97).clamp(min=0.01).sqrt(),
        core + deep + (high - core - deep) * (1 - t),
    )
    block = high * (0.92 + 0.08 * smooth(0, 0.2, t))
    kind = draw.integers(4)  # hexagon, pan, countersunk, socket
    side = torch.where(kind == 1, dome, torch.where(kind == 2, sunk, block))
    head = torch.maximum((y - side) * 0.8, torch.maximum(-0.95 - x, x - neck))
    slot = on.moved(-0.95, 0.0).box((neck + 0.95) * draw.uniform(0.25, 0.55), high * draw.uniform(0.1, 0.18))
    slot = torch.where((kind > 0) & (kind < 3), slot, torch.ones_like(slot))
    head = torch.maximum(head, -slot)
    washer = on.moved(neck + 0.02, 0.0).box(0.03, high * draw.uniform(1.05, 1.35), 0.02) + 9 * (1 - draw.chance(0.25))

    shape = torch.minimum(torch.minimum(shank, head), washer)
    round_ = lambda w: w * (1 - (y / (w + 1e-3)).clamp(max=1).square() * 0.98).sqrt()  # noqa: E731
    facets = high * (1 - smooth(0.42, 0.5, y / high) * 0.5 - 0.3 * smooth(0.46, 0.5, y / high))
    knurl = round_(high) + 0.02 * (on.y / high * 40).sin() * (y < high).float()
    on_head = torch.where(kind == 0, facets, torch.where(kind == 3, knurl, round_(side)))
    is_head, is_washer = on.fill(head), on.fill(washer)
    height = round_(width) + 0.5 * deep * threaded * ridge
    height = torch.where(x < neck, on_head, height) * (1 - is_washer) + is_washer * high
    dark = 1 - 0.45 * threaded * (1 - ridge) * (1 - is_head) - 0.4 * on.line(x - neck, 0.02)
    image = metal(draw, on.scaled(1.0, 0.5)) * dark * (1 - 0.35 * (y / (on_head + 0.2)).clamp(0, 1))
    image = over(image, plastic(draw, on), draw.chance(0.15) * is_head)
    image = lit(draw, on, image, 0.6 * height, draw.uniform(0.2, 0.6))
    return stand(draw, at, image, on.fill(shape))
