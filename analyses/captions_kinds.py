"""More kinds of products and surfaces, for pre-training alone; the more kinds of scans are in captions_organs.py.

None is a category of the catalogue, so none is in a test set or an auxiliary set. Nearly all are endless: lattice,
layout, materials and colours are drawn, so that no two images show the same thing.
"""

from __future__ import annotations

import torch
from captions_organs import ORGANS
from torch import Tensor

from headlens.data.procedural.backdrops import either, periodic, placed, stand
from headlens.data.procedural.canvas import Canvas, over
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.fields import cells, colour, hsv, noise, ramp, relief, smooth
from headlens.data.procedural.parts import bevel, lettering, lit, metal, outline, plastic
from headlens.data.procedural.scene import Category, Scene, ScenePainter
from headlens.data.procedural.textures import laid, surface


def lots(draw: Draw, column: Tensor, row: Tensor) -> Tensor:
    """A number in 0..1 for every cell of a lattice, by its column and row; every call draws others."""
    return torch.remainder((column * 12.9898 + row * 78.233 + draw.uniform(0, 6.2832)).sin() * 437.585, 1.0)


def lattice(at: Canvas, u: Tensor, v: Tensor, scale: Tensor) -> tuple[Canvas, Tensor, Tensor]:
    """Within its cell of a lattice, -0.5..0.5, every point; and its column and row. ``scale`` is cells per unit."""
    return Canvas(periodic(u), periodic(v), at.pixel * scale), (u + 0.5).floor(), (v + 0.5).floor()


def printed_paper(draw: Draw, at: Canvas) -> Scene:
    """Motifs on a skewed lattice, printed flat in two inks over stripes or checks."""
    at = laid(draw, at)
    n = draw.uniform(1.5, 5)
    v = at.y * n
    u = at.x * n * draw.uniform(0.7, 1.3) + draw.uniform(0, 1) * (v + 0.5).floor()
    cell, column, row = lattice(at, u, v, n)
    lot = lots(draw, column, row)
    cell = cell.turned((lot * 4).floor() * 1.5708 * draw.chance(0.5))
    size, other_size = draw.uniform(0.2, 0.48), draw.uniform(0.1, 0.4)
    one, other = outline(draw, cell.scaled(size)) * size, outline(draw, cell.scaled(other_size)) * other_size
    motif = torch.where(lot < draw.uniform(0, 0.7), other, one)
    motif = torch.where(draw.chance(0.35) > 0, motif.abs() - draw.uniform(0.02, 0.05), motif)
    paper = colour(draw, (0, 1), (0.0, 0.5), (0.5, 1.0))
    first, second = (colour(draw, (0, 1), (0.1, 0.95), (0.1, 0.9)) for _ in range(2))
    pitch = draw.uniform(3, 18)
    stripes = smooth(-0.1, 0.1, (at.x * pitch).sin())
    checks = 0.5 * stripes + 0.5 * smooth(-0.1, 0.1, (at.y * pitch).sin())
    ground = over(paper.expand(-1, -1, at.size, at.size), second, 0.6 * either(draw, 0 * checks, stripes, checks))
    image = over(ground, torch.where(lots(draw, column, row) < 0.5, first, second), cell.fill(motif))
    return surface(image * (1 + 0.03 * noise(draw, at, 50, 2) + 0.04 * noise(draw, at, 3, 2)))


def knit(draw: Draw, at: Canvas) -> Scene:
    """Stitches in columns, each of two slanted legs; plain, ribbed, striped, or with a motif in a second yarn."""
    at = laid(draw, at)
    at = at.bent(0.02 * noise(draw, at, 2, 2), 0.02 * noise(draw, at, 2, 2))
    n = draw.uniform(4, 12)
    u, v = at.x * n, at.y * n * draw.uniform(1.0, 1.5)
    across, column = periodic(u).abs(), (u + 0.5).floor()
    slant = v - draw.uniform(0.7, 1.2) * across
    leg, row = periodic(slant), (slant + 0.5).floor()
    thick = 1 - ((across - 0.25) / 0.27).square() - 0.5 * (2 * leg).square()
    wide, high = 2 + draw.integers(7), 2 + draw.integers(7)
    motif = (lots(draw, torch.remainder(column, wide), torch.remainder(row, high)) < 0.4).float()
    stripe = (lots(draw, torch.remainder(row, 4 + draw.integers(8)), 0 * row) < 0.35).float()
    one, two = (colour(draw, (0, 1), (0.05, 0.85), (0.2, 0.95)) for _ in range(2))
    second = either(draw, 0 * motif, motif, stripe)
    image = over(one.expand(-1, -1, at.size, at.size), two, second)
    rib = smooth(-0.2, 0.2, (column * draw.uniform(0.8, 2.2)).sin()) * draw.chance(0.4)
    fluff = noise(draw, at, 40, 2, 0.8)
    return surface(image * (0.35 + 0.8 * thick.clamp(0, 1)) * (1 - 0.4 * rib) * (1 + 0.12 * fluff))


def wicker(draw: Draw, at: Canvas) -> Scene:
    """Flat strands of cane plaited over and under each other, several at a time, with dark gaps between."""
    at = laid(draw, at)
    at = at.bent(0.015 * noise(draw, at, 5, 2), 0.015 * noise(draw, at, 5, 2))
    n, step = draw.uniform(2.5, 6), 1 + draw.integers(2)
    u, v = at.x * n, at.y * n * draw.uniform(0.6, 1.8)
    column, row = u.floor(), v.floor()
    over_under = torch.remainder(column + step * row + draw.integers(2), 2.0 + draw.integers(2)) < 1
    half = draw.uniform(0.44, 0.49)
    along, side = torch.where(over_under, v, u), torch.where(over_under, periodic(u + 0.5), periodic(v + 0.5))
    ends = torch.where(over_under, periodic(v + 0.5), periodic(u + 0.5))
    round_ = 1 - (side / half).square() * draw.uniform(0.3, 0.9) - draw.uniform(0.6, 1.8) * ends.square()
    fibre = noise(draw, Canvas(torch.where(over_under, at.x, at.y), along / n, at.pixel), 44, 1, stretch=14)
    cane = colour(draw, (0.05, 0.14), (0.3, 0.7), (0.45, 0.95))
    dyed = colour(draw, (0, 1), (0.1, 0.7), (0.2, 0.8))
    strand = torch.where(over_under, lots(draw, column, 0 * row), lots(draw, 0 * column + 9, row))
    image = over(cane * (0.75 + 0.4 * strand), dyed, draw.chance(0.4) * (strand < 0.3).float())
    image = image * round_.clamp(0.15, 1) * (1 + draw.uniform(0.05, 0.2) * fibre + 0.05 * (along * 9).sin())
    gap = smooth(half + 0.02, half - 0.04, side.abs())
    return surface(over(cane * draw.uniform(0.05, 0.25), image, gap))


def grains(draw: Draw, at: Canvas) -> Scene:
    """A heap of kernels, beads or pellets: one or several kinds, round or long, lit from one side."""
    at = laid(draw, at)
    at = at.bent(0.03 * noise(draw, at, 4, 2), 0.03 * noise(draw, at, 4, 2))
    hue, spread, rough = draw.uniform(), draw.uniform(0.0, 0.25), draw.uniform(0.0, 0.2)
    pale, light = draw.uniform(0.0, 0.8), draw.uniform(0.4, 0.95)
    long, n = draw.uniform(1.0, 1.8), draw.uniform(0.6, 1.8)
    image = hsv(hue, pale, 0.15 * light) + 0 * at.x
    grainy = 1 + rough * noise(draw, at, 30, 2, 0.8)
    for layer in range(2):  # those below, then those on top
        heap = at.turned(draw.uniform(0, 3.1416)).scaled(long / n, 1 / n)
        near, other, lot = cells(draw, heap, 8, 0.8)
        size = (0.42 + 0.14 * layer) * (0.8 + 0.3 * lot)
        edge = torch.minimum(size - near, 0.6 * (other - near))
        dome = (edge / 0.3).clamp(0, 1)
        dome = dome * (2 - dome)
        kind = torch.remainder(lot * 37, 1.0)
        body = hsv(hue + spread * (kind - 0.5), pale * (0.6 + 0.5 * kind), light * (0.65 + 0.4 * kind)) * grainy
        shade = relief(0.06 * dome, draw.fork("light"), 1.5)
        body = body * (0.45 + 0.55 * dome + 0.35 * shade) + draw.uniform(0.0, 0.5) * shade.clamp(min=0).square()
        image = over(image, body, smooth(0.0, 0.05, edge) * ((lot < 0.75).float() if layer else 1.0))
    return surface(image)


def embossed_sheet(draw: Draw, at: Canvas) -> Scene:
    """A sheet of one colour in relief: ribs, bumps on a lattice, hammer marks, peel, or two of these together."""
    at = laid(draw, at)
    n = draw.uniform(2.5, 10)
    v = at.y * n
    cell, column, row = lattice(at, at.x * n + 0.5 * draw.chance(0.5) * torch.remainder((v + 0.5).floor(), 2.0), v, n)
    cell = cell.turned(draw.uniform(0, 3.14) + 1.5708 * torch.remainder(column + row, 2.0) * draw.chance(0.5))
    size = draw.uniform(0.25, 0.48)
    bump = bevel(outline(draw, cell.scaled(size, size * draw.uniform(0.4, 1.0))) * size, 0.14) / n * 2
    near, other, _ = cells(draw, at, 10)
    hammered = 0.06 * smooth(0.0, 0.6, other - near)
    ribs = (at.x * draw.uniform(8, 40) + draw.uniform(0, 3) * noise(draw, at, 2)).sin()
    peel = noise(draw, at, 16, 3, 0.6)
    kinds = [bump, bump, hammered, 0.03 * ribs, 0.03 * peel]
    height = either(draw, *kinds) * draw.uniform(0.7, 1.6) + either(draw, *kinds) * draw.chance(0.4) * 0.6
    steel = colour(draw, (0.05, 0.65), (0.0, 0.15), (0.35, 0.85))
    tone = either(draw, steel, colour(draw, (0, 1), (0.1, 0.9), (0.3, 0.9)))
    shade = relief(height, draw, draw.uniform(0.8, 1.8))
    sheen = (at.x * draw.uniform(-2, 2) + at.y * draw.uniform(-2, 2) + draw.uniform(0, 6)).sin()
    image = tone * (0.85 + 0.4 * shade + 0.15 * sheen + draw.uniform(0.01, 0.06) * noise(draw, at, 50, 1))
    return surface(image + draw.uniform(0.0, 0.4) * shade.clamp(min=0).square())


def sponge(draw: Draw, at: Canvas) -> Scene:
    """Something full of pores of several sizes, soft or hard, in one colour."""
    at = laid(draw, at)
    at = at.bent(0.04 * noise(draw, at, 6, 2), 0.04 * noise(draw, at, 6, 2))
    tone = colour(draw, (0, 1), (0.1, 0.8), (0.35, 0.95))
    fine = noise(draw, at, 34, 2, 0.8)
    image = tone * (1 + 0.12 * noise(draw, at, 3, 3) + 0.12 * fine)
    deep, many = draw.uniform(0.35, 0.85), draw.uniform(0.3, 1.0)
    for n in (6, 15):
        near, _, lot = cells(draw, at.scaled(draw.uniform(0.7, 1.3), draw.uniform(0.7, 1.3)), n)
        size = 0.1 + 0.4 * lot * draw.uniform(0.5, 1)
        pore = smooth(size, size - 0.14, near + 0.08 * fine) * (torch.remainder(lot * 53, 1.0) < many)
        image = image * (1 - deep * pore) * (1 + 0.25 * relief(0.04 * pore, draw.fork("light"), 1.5))
    return surface(image)


def assembly(draw: Draw, at: Canvas) -> Scene:
    """A carrier with parts on it, anywhere: blocks, discs, rings, odd shapes, tubes between them, a name plate."""
    on = placed(draw, at)
    round_ = draw.uniform(0.0, 0.3)
    shape = either(draw, on.box(0.9, draw.uniform(0.5, 0.9), round_), on.disc(0.92), outline(draw, on))
    steel, moulded = metal(draw, on), plastic(draw, on)
    image, height = either(draw, steel, moulded), bevel(shape, 0.06)
    rough = steel / steel.mean((1, 2, 3), keepdim=True)
    inside = on.fill(shape + 0.03)
    for number in range(6):
        near = on.moved(draw.uniform(-0.65, 0.65), draw.uniform(-0.65, 0.65)).turned(draw.integers(4) * 1.5708)
        size = draw.uniform(0.12, 0.4)
        ring = (near.disc(size * 0.8)).abs() - size * 0.2
        block = near.box(size, size * draw.uniform(0.3, 1.0), size * draw.uniform(0.0, 0.3))
        bend = near.y - size * (near.x * draw.uniform(2, 7) + draw.uniform(0, 6)).sin()
        tube = torch.maximum(0.7 * bend.abs() - draw.uniform(0.03, 0.07), near.x.abs() - draw.uniform(0.3, 0.8))
        form = either(draw, near.disc(size), block, block, ring, tube)
        tone = colour(draw, (0, 1), (0.0, 0.9), (0.1, 0.95)) * (1 + draw.chance(0.5) * (rough - 1))
        cover = near.fill(form) * inside * (draw.chance(0.85) if number else 1.0)
        image = over(image * (1 - 0.5 * smooth(0.06, 0.0, form) * inside), tone, cover)
        image = image * (1 - 0.5 * near.line(form + 0.3 * size, 0.02) * draw.chance(0.4) * cover)
        height = height * (1 - cover) + cover * (0.08 + bevel(form, 0.06))
    plate = on.moved(draw.uniform(-0.4, 0.4), draw.uniform(-0.4, 0.4))
    ink = colour(draw, (0, 1), (0.0, 0.5), (0.05, 0.4))
    image = over(image, 0.9 - 0 * ink, draw.chance(0.5) * inside * plate.fill(plate.box(0.32, 0.13, 0.02)))
    image = over(image, ink, inside * draw.chance(0.7) * lettering(draw, plate.scaled(0.28), 6, 2))
    image = lit(draw, on, image, height, draw.uniform(0.1, 0.5))
    return stand(draw, at, image, on.fill(shape))


def control_panel(draw: Draw, at: Canvas) -> Scene:
    """Rows of keys, knobs, lamps, displays and slots on a case, in another order every time."""
    on = placed(draw, at)
    columns, rows = 2 + draw.integers(5), 1 + draw.integers(5)
    wide = 0.92 + 0 * on.pixel
    high = (wide * rows / columns * draw.uniform(0.8, 1.25)).clamp(0.3, 0.92)
    shape = on.box(wide, high, draw.uniform(0.0, 0.2))
    u, v = (on.x / wide + 1) * 0.5 * columns - 0.5, (on.y / high + 1) * 0.5 * rows - 0.5
    scale = columns / (2 * wide)
    cell, column, row = lattice(on, u, v, scale)
    cell = Canvas(cell.x, cell.y * (high / rows) / (wide / columns), cell.pixel)
    kind = (lots(draw, column, row) * draw.uniform(2, 6)).floor()
    room = 0.5 * (high / rows / (wide / columns)).clamp(max=1)  # the half height of a cell, in its width
    size = room * draw.uniform(0.5, 0.85)
    key, disc = cell.box(0.4, size, size * draw.uniform(0, 1)), cell.disc(size)
    slots = torch.maximum(cell.box(0.36, size), periodic(cell.y * 12).abs() / 12 - 0.02)
    form = torch.where(kind == 0, key, torch.where(kind == 1, disc, torch.where(kind == 2, slots, key)))
    form = torch.where(kind == 4, cell.disc(0.35 * size), torch.where(kind == 5, cell.box(0.44, size), form))
    lot = lots(draw, column, row)
    hue = draw.uniform() + draw.uniform(0, 1) * lot
    tone = hsv(hue, draw.uniform(0.0, 0.9) * lot, draw.uniform(0.3, 0.95) * (0.5 + 0.5 * lot))
    tone = torch.where((kind == 2) | (kind == 5), 0.08 * torch.ones_like(tone), tone)
    body = either(draw, metal(draw, on), plastic(draw, on), plastic(draw, on))
    words = lettering(draw, cell.scaled(0.3), 4) * ((kind == 0) | (kind == 5) | (kind == 3)).float()
    pointer = cell.turned(6.28 * lot).moved(0.0, -0.5 * size).box(0.03, 0.5 * size) + 9 * (kind != 1)
    ink = colour(draw, (0, 1), (0.0, 0.9), (0.6, 1.0))
    image = over(body * (1 - 0.5 * smooth(0.07, 0.0, form)), tone, cell.fill(form))
    image = over(image, ink, torch.maximum(words, cell.fill(pointer)))
    raised = 1 - 2 * ((kind == 2) | (kind == 5)).float()
    height = bevel(shape, 0.06) + raised * bevel(form, 0.12) / scale
    return stand(draw, at, lit(draw, on, image, height, draw.uniform(0.1, 0.5)), on.fill(shape))


def jar(draw: Draw, at: Canvas) -> Scene:
    """A container from the side: any profile from base to lip, a stopper, what is in it, a label around it."""
    on = placed(draw, at)
    y, base, neck = on.y, draw.uniform(0.35, 0.62), draw.uniform(0.15, 0.4)
    shoulder, soft = draw.uniform(-0.6, -0.1), draw.uniform(0.05, 0.35)
    waist = draw.chance(0.4) * draw.uniform(-0.08, 0.08) * (y * draw.uniform(3, 9)).sin()
    width = neck + (base - neck) * smooth(shoulder - soft, shoulder + soft, y) + waist
    width = width + 0.03 * smooth(0.05, 0.0, (y + 0.72).abs())
    width = width - 0.1 * smooth(0.8, 0.95, y).square()
    body = torch.maximum((on.x.abs() - width) * 0.85, torch.maximum(y - 0.93, -0.76 - y))
    stopper = on.moved(0.0, -0.83).box(neck * draw.uniform(0.8, 1.15), draw.uniform(0.08, 0.13), 0.03)
    across = (on.x / width).clamp(-1, 1)
    glass = colour(draw, (0, 1), (0.0, 0.6), (0.35, 0.95))
    filling = colour(draw, (0, 1), (0.2, 0.9), (0.15, 0.9)) * (1 + 0.08 * noise(draw, on, 6, 3))
    level = smooth(0.0, 0.02, y - draw.uniform(-0.5, 0.5)) * draw.chance(0.6)
    image = over(glass + 0 * on.x, filling, 0.85 * level)
    top, low = draw.uniform(-0.1, 0.2), draw.uniform(0.4, 0.8)
    band = on.fill(torch.maximum(y - low, top - y)) * draw.chance(0.75)
    paper, ink = colour(draw, (0, 1), (0.0, 0.6), (0.5, 1.0)), colour(draw, (0, 1), (0.0, 0.9), (0.05, 0.7))
    wound = Canvas(torch.asin(across * 0.999) * width, y - (top + low) / 2, on.pixel)
    print_ = lettering(draw, wound.moved(0.0, draw.uniform(-0.1, 0.1)).scaled(draw.uniform(0.25, 0.4)), 6, 2)
    stripe = on.line(wound.y - draw.uniform(-0.2, 0.2), draw.uniform(0.02, 0.1))
    image = over(image, over(over(paper, ink, stripe), ink, print_), band)
    image = image * (0.45 + 0.55 * (1 - across.square()).clamp(min=0.02).sqrt())
    gleam = smooth(0.12, 0.03, (across - draw.uniform(-0.7, 0.7)).abs()) * draw.uniform(0.1, 0.6)
    image = image + gleam * (1 - 0.6 * band)
    plug = plastic(draw, on) * (0.6 + 0.4 * (1 - across.square()).clamp(min=0.02).sqrt())
    plug = plug * (1 + 0.15 * draw.chance(0.5) * (on.x * 70).sin())
    image = over(image, plug, on.fill(stopper))
    return stand(draw, at, image, on.fill(torch.minimum(body, stopper)))


def blister_pack(draw: Draw, at: Canvas) -> Scene:
    """A card of foil with domes in rows, something of one kind in each; print between them."""
    on = at.posed(draw, 3.1416, (0.7, 0.95), 0.1)
    columns, rows = 2 + draw.integers(4), 1 + draw.integers(4)
    high = (0.92 * rows / columns * draw.uniform(0.8, 1.2)).clamp(0.3, 0.92)
    shape = on.box(0.94 + 0 * high, high + 0.02, 0.1)
    u, v = (on.x / 0.92 + 1) * 0.5 * columns - 0.5, (on.y / high + 1) * 0.5 * rows - 0.5
    scale = columns / (2 * 0.92 + 0 * high)
    cell = lattice(on, u, v, scale)[0]
    ratio = (high / rows) / (0.92 / columns)
    cell = Canvas(cell.x, cell.y * ratio, cell.pixel)
    room = 0.5 * ratio.clamp(max=1)
    size = room * draw.uniform(0.55, 0.8)
    cell = cell.turned(draw.chance(0.3) * draw.uniform(0, 3.14))
    oval = cell.box(size, size * draw.uniform(0.45, 0.8), size * 0.4)
    pill = either(draw, cell.disc(size * 0.85), oval, cell.ellipse(size, size * 0.6), cell.polygon(4, 0.7 * size))
    dome = pill - 0.15 * size
    foil = colour(draw, (0, 1), (0.0, 0.25), (0.5, 0.85)) * (1 + 0.08 * noise(draw, on, 40, 1))
    pressed = periodic((on.x + on.y) * draw.uniform(8, 20)).abs() + periodic((on.x - on.y) * draw.uniform(8, 20)).abs()
    foil = foil * (0.85 + draw.uniform(0, 0.4) * pressed)
    ink = colour(draw, (0, 1), (0.0, 0.9), (0.1, 0.6))
    words = lettering(draw, Canvas(on.x, v * 0.4, on.pixel).moved(0.0, 0.2).scaled(0.85), 16)
    foil = over(foil, ink, draw.chance(0.5) * 0.8 * words * (1 - cell.fill(dome)))
    one, two = (colour(draw, (0, 1), (0.0, 0.9), (0.3, 1.0)) for _ in range(2))
    half = draw.chance(0.4) * cell.fill(cell.x)
    image = over(foil * (1 - 0.3 * smooth(0.05, 0.0, dome.abs())), over(one + 0 * on.x, two, half), cell.fill(pill))
    image = image + 0.5 * smooth(0.08, 0.02, cell.moved(-0.3 * size, -0.3 * size).disc(0.1 * size)) * cell.fill(dome)
    height = bevel(shape, 0.04) + bevel(dome, 0.3 * size) / scale * draw.uniform(0.5, 1.2)
    image = lit(draw, on, image, height, draw.uniform(0.2, 0.6))
    return stand(draw, at, image, on.fill(shape))


def fruit(draw: Draw, at: Canvas) -> Scene:
    """A fruit, berry or vegetable: round, long or lobed, two tones, freckles or stripes, a stalk."""
    on = placed(draw, at)
    squash = draw.uniform(0.55, 1.0)
    bent = on.scaled(1.0, squash).bent(0.04 * noise(draw, on, 2, 2), 0.04 * noise(draw, on, 2, 2))
    angle, radius = torch.atan2(bent.y, bent.x), bent.disc(0.0)
    lobes = 2 + draw.integers(9)
    furrow = (lobes * angle + draw.uniform(0, 6)).cos()
    taper = 1 + draw.uniform(-0.25, 0.25) * bent.x
    shape = 0.75 * squash * (radius * taper - 0.86 - draw.uniform(0, 0.06) * furrow)
    one, two = colour(draw, (-0.1, 0.3), (0.3, 0.95), (0.4, 0.95)), colour(draw, (0.8, 1.3), (0.3, 0.95), (0.25, 0.9))
    tone = 0.5 + 0.5 * bent.x * draw.uniform(-1, 1) + 0.3 * noise(draw, on, 2, 3)
    image = ramp(tone, one, either(draw, one * 0.7, two))
    stripes = smooth(0.0, 0.6, (2 * lobes * angle + 3 * noise(draw, on, 4, 2)).sin()) * smooth(0.05, 0.3, radius)
    freckles = smooth(0.2, 0.1, cells(draw, on, 20)[0])
    pattern = either(draw, 0 * stripes, stripes, freckles, smooth(0.6, 1.2, noise(draw, on, 24, 2)))
    image = over(image, either(draw, one * 0.5, two, (one + 1) / 2), draw.uniform(0.3, 0.8) * pattern)
    image = image * (1 + draw.uniform(0, 0.12) * furrow + 0.05 * noise(draw, on, 30, 2))
    dome = (1 - (radius / 0.95).square()).clamp(min=0.01).sqrt()
    shade = (on.turned(draw.fork("light").uniform(0, 6.2832)).x / 0.9).clamp(-1, 1)
    image = image * (0.35 + 0.6 * dome - 0.25 * shade)
    pit = on.moved(draw.uniform(-0.3, 0.3), draw.uniform(-0.3, 0.3))
    image = image * (1 - 0.5 * smooth(0.25, 0.0, pit.disc(0.0)) * draw.chance(0.6))
    stalk = pit.turned(draw.uniform(0, 6.3)).moved(0.12, 0.0).box(0.14, 0.03, 0.02)
    image = over(image, colour(draw, (0.07, 0.3), (0.3, 0.7), (0.15, 0.5)), draw.chance(0.5) * on.fill(stalk))
    gleam = smooth(0.25, 0.0, on.moved(-0.35, -0.3 * squash).disc(0.0)) * draw.uniform(0, 0.5)
    return stand(draw, at, image + gleam, on.fill(shape))


def hoses(draw: Draw, at: Canvas) -> Scene:
    """Cables, hoses or ropes that run across each other, plain, ringed or twisted, with sleeves and ties."""
    on = at.posed(draw, 3.1416, (0.8, 1.2), 0.15)
    image, cover, height = 0.2 + 0 * on.x.expand(-1, 3, -1, -1), torch.zeros_like(on.x), torch.zeros_like(on.x)
    middle, bundle = draw.uniform(-0.3, 0.3), draw.uniform(0.1, 0.8)
    wave, phase = draw.uniform(1, 4), draw.uniform(0, 6)
    common = draw.uniform(0, 0.25) * (wave * on.x + phase).sin()
    for _ in range(6):
        own, bend, start = draw.uniform(0, 0.15), draw.uniform(1, 6), draw.uniform(0, 6)
        slope = own * bend * (bend * on.x + start).cos() + 0.25 * wave * (wave * on.x + phase).cos()
        across = on.y - middle - bundle * draw.uniform(-1, 1) - common - own * (bend * on.x + start).sin()
        across = across / (1 + slope.square()).sqrt()
        half = draw.uniform(0.04, 0.13)
        shown = on.fill(across.abs() - half) * draw.chance(0.8)
        tone = colour(draw, (0, 1), (0.0, 0.95), (0.08, 0.95))
        rings = (on.x * draw.uniform(40, 120) + draw.chance(0.5) * across / half * 1.5).sin()
        body = tone * (1 + draw.chance(0.5) * 0.2 * rings)
        sleeve = (on.x - draw.uniform(-0.8, 0.8)).abs() - draw.uniform(0.05, 0.3)
        body = over(body, tone.flip(1), draw.chance(0.4) * on.fill(sleeve))
        dome = (1 - (across / half).square()).clamp(min=0)
        dark = 1 - 0.6 * smooth(half + 0.06, half, across.abs())
        image, height = over(image * dark, body * (0.4 + 0.6 * dome.sqrt()), shown), over(height, half * dome, shown)
        cover = torch.maximum(cover, shown)
    tie = on.fill(periodic(on.x * draw.uniform(0.7, 1.5)).abs() - draw.uniform(0.03, 0.06))
    image = over(image, colour(draw, (0, 1), (0.0, 0.4), (0.05, 0.9)), draw.chance(0.5) * tie * cover)
    return stand(draw, at, lit(draw, on, image, height, draw.uniform(0.1, 0.5)), cover)


def label(draw: Draw, at: Canvas) -> Scene:
    """A printed label: frame, emblem, lines of text of several sizes, bars or a square code, in any arrangement."""
    on = at.posed(draw, 0.6, (0.75, 1.0), 0.1).turned(draw.integers(4) * 1.5708)
    high = draw.uniform(0.4, 0.95)
    shape = either(draw, on.box(0.95, high, 0.08), on.box(0.95, high, 0.0), on.ellipse(0.95, high))
    paper = colour(draw, (0, 1), (0.0, 0.5), (0.7, 1.0)) * (1 + 0.03 * noise(draw, on, 30, 2))
    ink, second = colour(draw, (0, 1), (0.0, 0.9), (0.05, 0.45)), colour(draw, (0, 1), (0.2, 0.95), (0.2, 0.9))
    block = on.moved(draw.uniform(-1, 1), draw.uniform(-1, 1) * high).turned(draw.integers(2) * 1.5708)
    image = over(paper, second, on.fill(block.box(draw.uniform(0.3, 1), draw.uniform(0.1, 0.5))) * draw.chance(0.7))
    image = over(image, ink, draw.chance(0.5) * on.line(shape + 0.07, draw.uniform(0.01, 0.03)))
    for columns, rows in ((7, 1), (14, 3), (22, 4)):
        text = on.moved(draw.uniform(-0.4, 0.4), draw.uniform(-0.7, 0.7) * high).scaled(draw.uniform(0.3, 0.7))
        image = over(image, either(draw, ink, ink, second), draw.chance(0.8) * lettering(draw, text, columns, rows))
    spot = on.moved(draw.uniform(-0.6, 0.6), draw.uniform(-0.5, 0.5) * high)
    size = draw.uniform(0.12, 0.3)
    emblem = outline(draw, spot.scaled(size)) * size
    image = over(
        image, second, draw.chance(0.6) * on.fill(torch.where(draw.chance(0.4) > 0, emblem.abs() - 0.02, emblem))
    )
    code = on.moved(draw.uniform(-0.6, 0.6), draw.uniform(-0.6, 0.6) * high)
    fine = draw.uniform(14, 28)
    column, row = (code.x * fine).floor(), (code.y * fine).floor()
    flat = draw.chance(0.5)
    bars = (lots(draw, column, row * flat) < 0.5).float()
    field = torch.where(flat > 0, code.box(0.26, 0.26), code.box(0.34, 0.16))
    image = over(image, over(torch.ones_like(image), 0.06, bars), draw.chance(0.75) * code.fill(field))
    crumple = 0.01 * noise(draw, on, 3, 3) * draw.uniform(0, 1)
    image = lit(draw, on, image, crumple + bevel(shape, 0.02), draw.uniform(0.0, 0.4))
    return stand(draw, at, image, on.fill(shape))


def _of(paint: ScenePainter, words: tuple[str, ...], *flaws: str, texture: bool = False) -> Category:
    return Category(paint.__name__, "industrial", words, paint, flaws, None, texture)


# fmt: off
KINDS_MORE: dict[str, Category] = {category.name: category for category in (
    _of(printed_paper, ("printed paper", "wallpaper", "gift wrap"), "scratch", "stain", "misprint", "cut", "hole",
        "worn", "discoloured", "residue", texture=True),
    _of(knit, ("knitted cloth", "pullover"), "hole", "thread", "stain", "cut", "discoloured", "worn", texture=True),
    _of(wicker, ("wicker", "woven cane"), "crack", "cut", "stain", "hole", "discoloured", "residue", texture=True),
    _of(grains, ("heap of grains", "pellets"), "contamination", "discoloured", "thread", "stain", texture=True),
    _of(embossed_sheet, ("embossed sheet", "textured plastic", "panel in relief"), "scratch", "dent", "crack",
        "stain", "worn", "hole", "residue", texture=True),
    _of(sponge, ("sponge", "porous material"), "cut", "stain", "contamination", "thread", "crack", texture=True),
    _of(assembly, ("assembly", "device", "mechanical unit"), "missing", "scratch", "deformed", "contamination",
        "crack", "residue", "stain", "dent"),
    _of(control_panel, ("control panel", "keypad"), "missing", "scratch", "misprint", "crack", "residue", "worn"),
    _of(jar, ("jar", "flask", "glass vial"), "crack", "scratch", "misprint", "stain", "missing", "residue"),
    _of(blister_pack, ("blister pack", "pack of pills"), "missing", "hole", "dent", "contamination", "cut"),
    _of(fruit, ("fruit", "vegetable", "berry"), "dent", "hole", "stain", "crack", "discoloured", "contamination"),
    _of(hoses, ("bundle of cables", "hoses", "ropes"), "cut", "missing", "deformed", "contamination", "worn"),
    _of(label, ("label", "sticker", "printed label"), "misprint", "scratch", "stain", "cut", "missing", "worn"),
)} | ORGANS
# fmt: on
"""By name, the products and surfaces first; of the same kind as the catalogue's, which they are not part of."""
